"""Answers as people and machines read them: key figures in words, of what a verdict is, tables, and the page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from deqrun.inference import Estimate, Told, Unit
from deqrun.report.answer import (
    Answer,
    AnswerTable,
    AskedRun,
    Conclusion,
    KeyFigure,
    Origin,
    answer_html,
    answer_json,
    answer_markdown,
    answer_text,
    plain,
    write_answer,
)
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.report.page_parts import Column

MINUS = "\N{MINUS SIGN}"
ORIGIN = Origin(
    "some", "small", "Does it <b>?", "deqrun train study=some", "deqrun 0", [AskedRun("a", "runs/a b", "x")]
)


def figure(
    form: str,
    mean: float,
    low: float,
    high: float,
    told: Told | None = None,
    versus: float = 0.0,
    unit: str = "",
    own: tuple[float, ...] = (),
) -> KeyFigure:
    return KeyFigure("it", Estimate(mean, low, high, 1200, Unit.SEEDS, 5, 0.01, versus, own), form, unit, told)


@pytest.mark.parametrize(
    ("key", "value", "interval", "tells"),
    [
        (figure("share", 0.7234, 0.671, 0.7704), "72.3 %", "67.1 to 77.0", ""),
        (figure("share", 0.97, 0.95, 0.98, Told.ABOVE, 0.9), "97.0 %", "95.0 to 98.0", "above 90 %"),
        (figure("points", 0.0142, -0.003, 0.03, Told.NOT), "+1.4 points", f"{MINUS}0.3 to +3.0", "not told from 0"),
        (
            figure("points", -0.2, -0.3, -0.1, Told.BELOW),
            f"{MINUS}20.0 points",
            f"{MINUS}30.0 to {MINUS}10.0",
            "below 0",
        ),
        (figure("times", 0.583, 0.5, 0.75, Told.BELOW, 1.0), "0.583 times", "0.500 to 0.750", "below 1"),
        (figure("number", 12.44, 11.9, 13.0, unit="steps"), "12.4 steps", "11.9 to 13", ""),
        (figure("exact", 4.25, 4.25, 4.25, unit="times"), "4.25 times", "–", ""),
        (figure("share", 0.5, 0.4, 0.6, Told.TOO_FEW), "50.0 %", "40.0 to 60.0", "too few seeds"),
        (figure("number", math.nan, -math.inf, math.inf, unit="steps"), "– steps", "–", ""),
    ],
)
def test_a_key_figure_in_words(key: KeyFigure, value: str, interval: str, tells: str) -> None:
    assert (key.value, key.interval, key.tells) == (value, interval, tells)


@pytest.mark.parametrize(
    ("unit", "count", "scope"),
    [
        (Unit.SAMPLES, 1, "Of this model."),
        (Unit.SAMPLES, 2, "Of these 2 models."),
        (Unit.SEEDS, 3, "Of the recipe, 3 seeds; a Yes or a No needs five."),
        (Unit.SEEDS, 5, "Of the recipe, 5 seeds."),
        (Unit.RECIPES, 12, "Of recipes like these, 12 of them."),
        (Unit.ROUNDS, 1, "Of this model on this machine."),
    ],
)
def test_of_what_a_verdict_is(unit: Unit, count: int, scope: str) -> None:
    key = KeyFigure("it", Estimate(0.5, 0.4, 0.6, 10, unit, count))
    assert Conclusion("Yes.", (key,)).scope == scope


@pytest.mark.parametrize(("seeds", "each"), [(1, "4 models, one seed"), (2, "8 models, 2 seeds")])
def test_few_seeds_of_several_recipes_are_so_many_models(seeds: int, each: str) -> None:
    key = KeyFigure("it", Estimate(0.5, 0.4, 0.6, 10, Unit.SAMPLES, seeds))
    assert Conclusion("Yes.", (key,), recipes=4).scope == f"Of these {each} of each recipe."


def answer(seeds: tuple[int, ...] = (3, 7), family: int = 3) -> Answer:
    key = (
        figure("share", 0.97, 0.95, 0.98, Told.ABOVE, 0.9, own=(0.96, 0.98)),
        figure("number", math.inf, -math.inf, math.inf, own=(12.0, math.inf)),
        figure("exact", 4.25, 4.25, 4.25),
    )
    named = (key[0], KeyFigure("other | one", key[1].of, "number"), KeyFigure("ratio", key[2].of, "exact", "times"))
    whole = Conclusion("Yes: it <does> & so.", named, family)
    drawn = [curves(name, "Title", "So.", [Point("a", 1, 1), Point("a", 2, 3)], Axis("x"), Axis("y")) for name in "ab"]
    table = AnswerTable("In full", [Column("name", ["<b>"], words=True), Column("value", ["1"])], "So & so.")
    numbers = {"array": np.array([1.0, math.nan]), "estimate": key[1].of, 3: (True, math.inf)}
    return Answer(whole, ["More <seeds>.", "Less."], drawn, [table], numbers, seeds)


def test_tables_of_key_figures_and_of_seeds() -> None:
    table = answer().key_table
    assert [column.heading for column in table.columns] == ["figure", "value", "95 % interval", "n", "seeds", "told"]
    assert table.rows() == [
        ("it", "97.0 %", "95.0 to 98.0", "1,200", "5", "above 90 %"),
        ("other | one", "none", "–", "1,200", "5", ""),
        ("ratio", "4.25 times", "–", "–", "5", ""),
    ]
    assert table.note == "Of the recipe, 5 seeds. Told at 5 % for all 3 comparisons together (Holm)."
    assert answer(family=1).key_table.note == answer(family=0).key_table.note == "Of the recipe, 5 seeds."
    seeds = answer().seeds_table
    assert seeds is not None
    assert [column.heading for column in seeds.columns] == ["figure", "seed 3", "seed 7"]
    assert seeds.rows() == [
        ("it", "96.0 %", "98.0 %"),
        ("other | one", "12", "none"),
    ]  # a ratio has no seeds of its own
    assert answer(seeds=(3,)).seeds_table is None
    assert answer(seeds=(1, 2, 3)).seeds_table is None


def test_recipes_are_counted_as_recipes() -> None:
    key = (KeyFigure("ρ", Estimate(0.9, 0.5, 1.0, 36, Unit.RECIPES, 12), "number"),)
    headings = [column.heading for column in Answer(Conclusion("Yes.", key), [], []).key_table.columns]
    assert headings == ["figure", "value", "95 % interval", "n", "recipes"]


def test_markdown_has_the_verdict_first_and_its_limits_below() -> None:
    text = answer_markdown(answer(), ORIGIN)
    order = [
        "# Does it <b>?",
        "**Yes: it <does> & so.**",
        "| it | 97.0 % | 95.0 to 98.0 | 1,200 | 5 | above 90 % |",
        r"| other \| one |",
        "![Title](figures/a.png)",
        "Seeds apart:",
        "What would change it:",
        "- More <seeds>.",
        "- Less.",
        "    deqrun train study=some",
        "![Title](figures/b.png)",
        "### In full",
        "So & so.",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_the_page_has_the_same_and_is_escaped() -> None:
    page = answer_html(answer(), ORIGIN)
    order = [
        "<h1>Does it &lt;b&gt;?</h1>",
        "Yes: it &lt;does&gt; &amp; so.",
        "95.0 to 98.0",
        'data-spec="spec-a"',
        "Seeds apart",
        "<li>More &lt;seeds&gt;.</li>",
        'data-spec="spec-b"',
        "In full",
        'href="runs/a%20b/report.html"',
    ]
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert "<does>" not in page
    assert "Seeds apart" not in answer_html(answer(seeds=(3,)), ORIGIN)


def test_a_terminal_shows_verdict_key_figures_and_scope() -> None:
    assert answer_text(answer()).splitlines() == [
        "Yes: it <does> & so.",
        "",
        "  it",
        "      97.0 %  [95.0 to 98.0]  n = 1,200  (above 90 %)",
        "  other | one",
        "      none  n = 1,200",
        "  ratio",
        "      4.25 times",
        "",
        "Of the recipe, 5 seeds. Told at 5 % for all 3 comparisons together (Holm).",
    ]


def test_json_says_what_is_not_finite_by_null() -> None:
    content = json.loads(answer_json(answer(), ORIGIN))
    assert content["numbers"]["array"] == [1.0, None]
    assert content["numbers"]["3"] == [True, None]
    assert content["numbers"]["estimate"]["high"] is None
    assert (content["verdict"], content["comparisons"]) == ("Yes: it <does> & so.", 3)
    assert content["key"][0] | {"p": None} == {
        "what": "it",
        "text": "97.0 %",
        "told": "above 90 %",
        "mean": 0.97,
        "low": 0.95,
        "high": 0.98,
        "n": 1200,
        "unit": "seeds",
        "seeds": 5,
        "p": None,
        "versus": 0.9,
        "own": [0.96, 0.98],
    }
    assert content["key"][1]["own"] == [12, None]
    assert content["seeds"] == [3, 7]
    assert plain(np.float32(0.5)) == 0.5
    assert plain({"a": [np.int64(3), {"b": math.nan}]}) == {"a": [3, {"b": None}]}


def test_what_is_written(tmp_path: Path) -> None:
    page = write_answer(tmp_path, answer(), ORIGIN)
    assert page == tmp_path / "report.html"
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {"answer.json", "answer.md", "report.html", "figures/a.png", "figures/b.png"}
