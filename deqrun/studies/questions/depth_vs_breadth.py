"""Where does breadth pay, and does the residual pick the right start?

Each run solves its samples from B normal starts, put together by their mean, by vote, or by the lowest residual
(`deqrun.analysis.breadth`). B starts of k iterations cost as much as one start of B·k, so that breadth is compared with
depth at equal compute, over the same samples. Of all such cells validation chooses the one of largest gain, for each
seed on the other seeds, and only this one is told on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.studies.choosing import chosen_of, of_the_chosen
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.context import Context
from deqrun.studies.drawn import SPLITS, drawn, gathered
from deqrun.studies.question import Question
from deqrun.studies.wording import among, percents, point_texts, words

WAYS = ("mean", "vote", "residual")
"""The ways that this question compares: `which_start_is_right` asks about the others, too."""


class Cell(NamedTuple):
    """Several starts of so many iterations each, put together in one way."""

    breadth: int
    depth: int
    way: str

    @property
    def words(self) -> str:
        return f"{self.breadth} starts of {self.depth} by {self.way}, over one of {self.breadth * self.depth}"


@dataclass(frozen=True, eq=False)
class Grid:
    """Answers of B starts of one variant, S seeds, on both splits.

    depths   (D,) iterations
    correct  by split and way, (S, B, D, n): entry b − 1 of the first b starts
    singles  by split, (S, B, D, n) each start by itself
    """

    kind: str
    breadths: tuple[int, ...]
    depths: tuple[int, ...]
    correct: dict[str, dict[str, NDArray[np.bool_]]]
    singles: dict[str, NDArray[np.bool_]]

    @property
    def cells(self) -> list[Cell]:
        """Every cell of several starts beside which one start has the same compute."""
        return [
            Cell(breadth, depth, way)
            for breadth in self.breadths
            if breadth > 1
            for depth in self.depths
            if breadth * depth in self.depths
            for way in self.correct["test"]
        ]

    def gains(self, cell: Cell, split: str) -> NDArray[np.float64]:
        """(S, n): right with several starts less the mean of these starts, each iterated as long as all together."""
        broad = self.correct[split][cell.way][:, cell.breadth - 1, self.depths.index(cell.depth)]
        deep = self.singles[split][:, : cell.breadth, self.depths.index(cell.breadth * cell.depth)]
        return np.asarray(broad.astype(float) - deep.mean(axis=1))

    @property
    def chosen(self) -> list[Cell]:
        """For each seed the cell of the largest gain on the other seeds' validation."""
        return chosen_of(self.cells, [self.gains(cell, "validation").mean(axis=1) for cell in self.cells])

    @property
    def gain(self) -> Estimate:
        """Of the chosen cells, on test."""
        return claim(of_the_chosen(self.chosen, lambda cell: self.gains(cell, "test")), DIFFERENCE)

    @property
    def told_of(self) -> Cell:
        """The cell that most seeds are told by."""
        return max(self.chosen, key=self.chosen.count)

    @property
    def undecided(self) -> Estimate:
        """Share of samples that some starts answer rightly and others don't, with all starts after all iterations."""
        last = self.singles["test"][:, :, -1]
        return claim(last.any(axis=1) & ~last.all(axis=1), SHARE)

    def at_end(self, way: str) -> NDArray[np.bool_]:
        """(S, n) with all starts after all iterations."""
        return self.correct["test"][way][:, -1, -1]

    @property
    def picked(self) -> Estimate:
        """The start of lowest residual, less the mean start, after all iterations."""
        return claim(self.at_end("residual").astype(float) - self.singles["test"][:, :, -1].mean(axis=1), DIFFERENCE)


def answer(context: Context, *, iterations: Sequence[int], breadth: Sequence[int], samples: int, tol: float) -> Answer:
    """Start every run's samples. iterations: depths; breadth: numbers of starts; samples: of a split; tol: to stop."""
    depths, breadths = tuple(sorted(iterations)), tuple(sorted(breadth))
    found = []
    for kind, own in context.by_kind(drawn, depths, max(breadths), samples, tol).items():
        correct = {split: {way: gathered(own, split, way) for way in WAYS} for split in SPLITS}
        singles = {split: gathered(own, split, "singles") for split in SPLITS}
        found.append(Grid(kind, breadths, depths, correct, singles))
    return answer_of(found)


def answer_of(found: Sequence[Grid]) -> Answer:
    """The answer that these starts give."""
    return Answer(
        conclude(found),
        would_change=(
            "Breadth can only help where different starts reach different answers.",
            "Starts of another scale: these are normal numbers of the scale that the run's sweep has.",
            "A looser tolerance: starts that have reached it can't be told apart by their residual.",
        ),
        figures=_figures(found),
        tables=[_cells_table(found), _ends_table(found)],
        numbers={
            one.kind: {
                "chosen": [cell._asdict() for cell in one.chosen],
                "gain": one.gain,
                "undecided": one.undecided,
                "picked": one.picked,
                "cells_tried_on_validation": len(one.cells),
            }
            for one in found
        },
    )


def conclude(found: Sequence[Grid]) -> Conclusion:
    """One family: the gain of the cell that validation chose, and whether the residual picks, of every variant."""
    lowest = "lowest residual over the mean start"
    gains, picks = told_together(
        {one.kind: KeyFigure(f"{words(one.kind)}: {one.told_of.words}", one.gain, "points") for one in found},
        {one.kind: KeyFigure(f"{words(one.kind)}: {lowest}", one.picked, "points") for one in found},
    )
    ordered = sorted(gains, key=lambda kind: (gains[kind].told is not Told.ABOVE, -gains[kind].of.mean))
    return concluded(_verdict(gains, picks), [figures[kind] for figures in (gains, picks) for kind in ordered])


def _verdict(gains: Figures, picks: Figures) -> str:
    if too_few(gains, picks):
        return "Not shown: too few seeds for a verdict about the recipes."
    paying, losing, picking = those(gains, Told.ABOVE), those(gains, Told.BELOW), those(picks, Told.ABOVE)
    more = f"; the residual picks better than chance in {among(picking, len(gains))}" if picking else ""
    if paying:
        word = "Yes" if len(paying) == len(gains) else "It depends"
        return f"{word}: breadth pays in {among(paying, len(gains))}{more}."
    if len(losing) == len(gains):
        return f"No: depth is better in every variant{more}."
    return f"Not shown: breadth is nowhere told to pay{more}."


def _figures(found: Sequence[Grid]) -> list[Any]:
    figures = []
    for number, one in enumerate(found):
        points = []
        for breadth in one.breadths:
            for place, depth in enumerate(one.depths):
                right = one.singles if breadth == 1 else {"test": one.correct["test"]["residual"]}
                share = claim(right["test"][:, breadth - 1, place], SHARE)
                name = f"{breadth} start" + ("s" if breadth > 1 else "")
                points.append(Point.of(name, float(breadth * depth), share, f"{depth} iterations each"))
        seeds, *_, n = one.singles["test"].shape
        caption = (
            f"{words(one.kind).capitalize()}: n = {n:,} test samples in each of {seeds} seeds; the start of lowest "
            "residual answers; 95 % intervals."
        )
        axes = Axis("starts times iterations", log=True), Axis("accuracy", percent=True)
        figures.append(curves(f"breadth_{number}", "Accuracy against compute, by breadth", caption, points, *axes))
    return figures


def _cells_table(found: Sequence[Grid]) -> AnswerTable:
    """Of every product of starts and iterations the cell that validation chose, on test."""
    rows = []
    for one in found:
        for cost in sorted({cell.breadth * cell.depth for cell in one.cells}):
            cells = [cell for cell in one.cells if cell.breadth * cell.depth == cost]
            best = max(cells, key=lambda cell: float(one.gains(cell, "validation").mean()))
            rows.append((one, cost, best))
    return AnswerTable(
        "Depth and breadth at equal compute, on test",
        [
            Column("model", [words(one.kind) for one, *_ in rows], words=True),
            Column("starts times iterations", [f"{cost}" for _, cost, _ in rows]),
            Column("starts", [f"{cell.breadth}" for *_, cell in rows]),
            Column("by", [cell.way for *_, cell in rows], words=True),
            Column(
                "more than one start, points",
                point_texts(claim(one.gains(cell, "test"), DIFFERENCE) for one, _, cell in rows),
            ),
        ],
        "Starts and aggregation chosen on validation. In brackets 95 % intervals, each by itself: of many rows one in "
        "20 leaves 0 out by chance.",
    )


def _ends_table(found: Sequence[Grid]) -> AnswerTable:
    def shares(way: str) -> list[str]:
        return percents(claim(one.at_end(way), SHARE) for one in found)

    some = [claim(one.singles["test"][:, :, -1].any(axis=1), SHARE) for one in found]
    mean = [one.singles["test"][:, :, -1].mean() for one in found]
    return AnswerTable(
        "All starts after all iterations, on test",
        [
            Column("model", [words(one.kind) for one in found], words=True),
            *(Column(f"by {way}, %", shares(way)) for way in WAYS),
            Column("mean start, %", [numbers.percent(float(value)).removesuffix(" %") for value in mean]),
            Column("some start right, %", percents(some)),
            Column("the start decides, %", percents(one.undecided for one in found)),
        ],
        "The start decides: samples that some starts answer rightly and others don't. In brackets 95 % intervals.",
    )


def _check(ask: Mapping[str, Any]) -> str | None:
    """Breadth needs a depth beside which it stands: the fault in words."""
    depths = set(ask["iterations"])
    if any(breadth > 1 and breadth * depth in depths for breadth in ask["breadth"] for depth in depths):
        return None
    return "ask.iterations with the product of some of its depths and a number of starts above 1 in ask.breadth"


QUESTION = Question(
    "Where does breadth pay, and does the residual pick the right start?", answer, of_any_run=True, check=_check
)
