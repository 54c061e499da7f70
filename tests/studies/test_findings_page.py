"""docs/findings.md, read as a person reads it: no verdict or table says what the figures beside it contradict."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

from deqrun.studies.question import questions

PAGE = Path(__file__).parents[2] / "docs" / "findings.md"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Row:
    """A key figure as the page shows it."""

    figure: str
    value: float
    low: float
    high: float
    told: str


@dataclass(frozen=True)
class Section:
    """A question with its verdict and its key figures."""

    question: str
    verdict: str
    scope: str
    rows: list[Row]


def number(text: str) -> float:
    found = re.search(r"[−+-]?[\d,.]+(?:e[−+-]?\d+)?", text)
    return float(found[0].replace(MINUS, "-").replace(",", "")) if found else float("nan")


def row(line: str) -> Row:
    cells = [cell.strip() for cell in line.strip("|\n").split(" | ")]
    figure, value, interval = (cell.strip("| ") for cell in cells[:3])
    low, high = interval.split(" to ") if " to " in interval else ("", "")
    told = cells[5].strip("| ") if len(cells) > 5 else ""
    return Row(figure, number(value), number(low), number(high), told)


def sections() -> list[Section]:
    found = []
    for text in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        question, _, rest = text.partition("\n\n**")
        if not rest:
            continue
        verdict, _, rest = rest.partition("**")
        table, _, after = rest.strip().partition("\n\n")
        scope, _, _ = after.partition("\n\n")
        rows = [row(line) for line in table.splitlines()[2:] if line.startswith("|")]
        found.append(Section(question.strip(), verdict, scope, rows))
    return found


SECTIONS = sections()


def test_every_study_has_its_answer() -> None:
    asked = {import_module(f"deqrun.studies.questions.{name}").QUESTION.asks for name in questions()}
    assert {section.question for section in SECTIONS} == asked


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.question)
def test_a_verdict_is_short(section: Section) -> None:
    assert len(section.verdict.split()) <= 25
    assert not set("()[]") & set(section.verdict)
    assert 1 <= len(section.rows) <= 6


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.question)
def test_what_is_told_agrees_with_the_interval_beside_it(section: Section) -> None:
    """The reference value and the interval are both on the page, rounded: half of the last digit is allowed."""
    for one in section.rows:
        assert not one.low > one.value
        assert not one.high < one.value
        slack = 0.051 if "%" in one.told or "points" in one.figure else 1e-9
        if one.told.startswith("above"):
            assert one.low >= number(one.told) - slack, one
        if one.told.startswith("below"):
            assert one.high <= number(one.told) + slack, one


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.question)
def test_a_verdict_claims_no_more_than_its_figures_tell(section: Section) -> None:
    """Yes, No and It depends rest on a figure that is told, or on every gap being small; Not shown rests on none."""
    told = [one.told for one in section.rows if one.told.startswith(("above", "below"))]
    asked = [one.told for one in section.rows if one.told]
    word = section.verdict.split(":")[0]
    if word in ("Yes", "No", "It depends", "It depends on the training", "In part"):
        small = "two points" in section.verdict and all(one.high < 2.0 for one in section.rows if one.told)
        assert told or small
        assert "too few seeds" not in asked
    elif word == "Not shown":
        assert "not told" in section.verdict or "not shown" in section.verdict.lower()
    for better, side in (("saves evaluations", "below 1"), ("breadth pays", "above 0"), ("loses accuracy", "below 0")):
        if better in section.verdict and "not told" not in section.verdict.split(";")[0]:
            assert any(one.told.startswith(side) or "saved" in one.figure for one in section.rows if one.told), side


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.question)
def test_a_claim_about_a_recipe_has_its_seeds(section: Section) -> None:
    if section.scope.startswith("Of the recipe"):
        found = re.search(r"(\d+) seeds", section.scope)
        assert found
        decided = section.verdict.split(":")[0] in ("Yes", "No", "It depends", "In part")
        assert int(found[1]) >= (5 if decided else 3)
    else:
        assert section.scope.startswith(("Of this model", "Of these", "Of recipes"))
