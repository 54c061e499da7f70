"""Verdicts of all studies in worlds whose outcome is known: their first words, their scope, and their form."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import cache

import pytest

from deqrun.inference import Told
from deqrun.report.answer import (
    MOST_BULLETS,
    MOST_FIGURES,
    MOST_WORDS,
    Answer,
    Origin,
    answer_json,
    answer_markdown,
    answer_text,
)
from deqrun.report.charts.style import unchecked
from deqrun.studies.question import questions
from tests.studies.worlds import OTHERS, WORLDS
from tests.usual import usual

ORIGIN = Origin("some", "small", "Does it?", "deqrun train study=some", "deqrun 0")


@cache
def answer(name: str, seeds: int) -> Answer:
    """Charts of a world of each question are compared with Vega-Lite's schema: the others have the same parts."""
    if name in OTHERS:
        return OTHERS[name][0]()
    with nullcontext() if seeds == 5 and name in FIRST else unchecked():
        return WORLDS[name][0](seeds)


FIRST = {name.split(",")[0]: name for name in reversed(WORLDS)}.values()
"""A world of each question: what fewer seeds than five change hangs on no other thing about the world."""

CASES = [
    pytest.param(name, seeds, marks=[pytest.mark.nightly] if seeds < 5 and name not in FIRST else [])
    for name in WORLDS
    for seeds in (1, 3, 5)
] + [(name, 1) for name in OTHERS]


def test_every_study_has_its_worlds() -> None:
    assert {name.split(",")[0] for name in (*WORLDS, *OTHERS)} == set(questions())


@pytest.mark.parametrize("name", WORLDS)
def test_five_seeds_tell_it(name: str) -> None:
    found = answer(name, 5)
    assert found.verdict.startswith(WORLDS[name][1])
    assert found.conclusion.scope == "Of the recipe, 5 seeds."


@pytest.mark.parametrize("name", usual(WORLDS, nightly={*WORLDS} - {*FIRST}))
def test_one_model_tells_it_of_this_model(name: str) -> None:
    found = answer(name, 1)
    assert found.verdict.startswith(WORLDS[name][1])
    assert found.conclusion.scope == "Of this model."


@pytest.mark.parametrize("name", usual(WORLDS, nightly={*WORLDS} - {*FIRST}))
def test_three_seeds_are_too_few(name: str) -> None:
    found = answer(name, 3)
    assert found.verdict.startswith("Not shown: too few seeds ")
    assert found.conclusion.scope == "Of the recipe, 3 seeds; a Yes or a No needs five."
    assert {figure.told for figure in found.conclusion.key} <= {None, Told.TOO_FEW}


@pytest.mark.parametrize("name", OTHERS)
def test_claims_of_other_units(name: str) -> None:
    _, first, scope = OTHERS[name]
    assert answer(name, 1).verdict.startswith(first)
    assert answer(name, 1).conclusion.scope == scope


@pytest.mark.parametrize(("name", "seeds"), CASES)
def test_the_form_of_a_verdict(name: str, seeds: int) -> None:
    found = answer(name, seeds)
    assert len(found.verdict.split()) <= MOST_WORDS == 25
    assert not set("()[]") & set(found.verdict)
    assert found.verdict.endswith(".")
    assert found.verdict.count(". ") == 0  # one sentence


@pytest.mark.parametrize(("name", "seeds"), CASES)
def test_the_form_of_an_answer(name: str, seeds: int) -> None:
    found = answer(name, seeds)
    key = found.conclusion.key
    assert 1 <= len(key) <= MOST_FIGURES == 6
    assert 1 <= len(found.would_change) <= MOST_BULLETS == 4
    assert len({figure.what for figure in key}) == len(key)
    assert found.conclusion.family >= sum(figure.told is not None for figure in key)
    written = json.loads(answer_json(found, ORIGIN))
    assert written["verdict"] == found.verdict
    assert written["comparisons"] == found.conclusion.family
    assert [one["what"] for one in written["key"]] == [figure.what for figure in key]
    for text in (answer_markdown(found, ORIGIN), answer_text(found)):
        assert found.verdict in text
        assert all(figure.value in text for figure in key)
        assert "nan" not in text.split()
        assert "inf" not in text.split()
    assert all(len(table.rows()) >= 1 for table in found.tables[:1] if found.numbers)
    assert all(f"n = {one.of.n:,}" in answer_text(found) for one in key if one.form != "exact")
