"""Does noise at test time help?

Each run solves its samples from B normal starts, without noise and with noise of several levels in every step
(`deqrun.solvers.Noisy`). The noise is judged at equal draws, depth, starts and way to put answers together, so at equal
compute, and over the same samples; and draws with noise beside one start without noise that is iterated as long as all
of them together. Of all levels, depths and ways validation chooses the cell of largest gain, for each seed on the other
seeds, and only this one is told on test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.sweep.breadth import AGGREGATIONS
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.studies.choosing import chosen_of, of_the_chosen
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.context import Context
from deqrun.studies.drawn import SPLITS, drawn, gathered
from deqrun.studies.question import Question
from deqrun.studies.wording import among, percents, point_texts, words


class Cell(NamedTuple):
    """A level of the noise, iterations of each draw, and a way to put all draws together."""

    level: float
    depth: int
    way: str

    @property
    def words(self) -> str:
        return f"noise {self.level:g}, {self.depth} iterations, by {self.way}"


@dataclass(frozen=True, eq=False)
class Shaken:
    """Answers of B draws of one variant, S seeds, on both splits.

    levels   of the noise, the first 0
    depths   (D,) iterations
    correct  by split, level and way, (S, D, n): of all B draws together
    singles  by split, (S, B, D, n) each draw without noise by itself
    ends     by level, mean number of distinct ends of a test sample; NaN: not known
    """

    kind: str
    levels: tuple[float, ...]
    depths: tuple[int, ...]
    correct: dict[str, dict[float, dict[str, NDArray[np.bool_]]]]
    singles: dict[str, NDArray[np.bool_]]
    ends: dict[float, float]

    @property
    def draws(self) -> int:
        return int(self.singles["test"].shape[1])

    @property
    def cells(self) -> list[Cell]:
        """Every cell with noise beside which one start has the same compute."""
        return [
            Cell(level, depth, way)
            for level in self.levels
            if level > 0
            for depth in self.depths
            if depth * self.draws in self.depths
            for way in self.correct["test"][level]
        ]

    def over_none(self, cell: Cell, split: str) -> NDArray[np.float64]:
        """(S, n): right with noise less right without, the same starts put together in the same way."""
        place, right = self.depths.index(cell.depth), self.correct[split]
        return np.subtract(right[cell.level][cell.way][:, place], right[0.0][cell.way][:, place], dtype=np.float64)

    def over_depth(self, cell: Cell, split: str) -> NDArray[np.float64]:
        """(S, n): right with noise less the mean start without, iterated as long as all draws together."""
        shaken = self.correct[split][cell.level][cell.way][:, self.depths.index(cell.depth)]
        deep = self.singles[split][:, :, self.depths.index(cell.depth * self.draws)]
        return np.asarray(shaken.astype(float) - deep.mean(axis=1))

    def chosen(self, beside: str) -> list[Cell]:
        """For each seed the cell of the largest gain over `none` or `depth` on the other seeds' validation."""
        measure = getattr(self, f"over_{beside}")
        return chosen_of(self.cells, [measure(cell, "validation").mean(axis=1) for cell in self.cells])

    def gain(self, beside: str) -> Estimate:
        """Of the chosen cells over `none` or `depth`, on test."""
        measure = getattr(self, f"over_{beside}")
        return claim(of_the_chosen(self.chosen(beside), lambda cell: measure(cell, "test")), DIFFERENCE)

    def told_of(self, beside: str) -> Cell:
        """The cell that most seeds are told by."""
        chosen = self.chosen(beside)
        return max(chosen, key=chosen.count)


def answer(
    context: Context, *, iterations: Sequence[int], draws: int, noise: Sequence[float], samples: int, tol: float
) -> Answer:
    """Draw every run's samples. noise: levels; samples: of a split; tol: at which a draw without noise stops."""
    depths, levels = tuple(sorted(iterations)), tuple(sorted({0.0, *map(float, noise)}))
    found = []
    for kind, own in context.by_kind(drawn, depths, draws, samples, tol, levels).items():
        correct = {
            split: {level: {way: gathered(own, split, way, level)[:, -1] for way in AGGREGATIONS} for level in levels}
            for split in SPLITS
        }
        singles = {split: gathered(own, split, "singles", 0.0) for split in SPLITS}
        ends = {
            level: float(np.mean([np.nan if (e := part["test"][str(level)]["ends"]) is None else e for part in own]))
            for level in levels
        }
        found.append(Shaken(kind, levels, depths, correct, singles, ends))
    return answer_of(found)


def answer_of(found: Sequence[Shaken]) -> Answer:
    """The answer that these draws give."""
    return Answer(
        conclude(found),
        would_change=(
            "Training with noise along the path, train.path_noise: these networks may never have seen any.",
            "Other levels: noise that is too small changes no answer, noise that is too large loses it.",
            "More draws: noise pays through the choice among them.",
        ),
        figures=_figures(found),
        tables=[_levels_table(found)],
        numbers={
            one.kind: {
                "over_none": one.gain("none"),
                "over_depth": one.gain("depth"),
                "chosen": [cell._asdict() for cell in one.chosen("none")],
                "cells_tried_on_validation": len(one.cells),
            }
            for one in found
        },
    )


def conclude(found: Sequence[Shaken]) -> Conclusion:
    """One family: of every variant the gain of noise at equal draws, and of noisy draws over depth alone."""

    def gains(beside: str, over: str) -> Figures:
        what = {one.kind: f"{words(one.kind)}: {one.told_of(beside).words}, {over}" for one in found}
        return {one.kind: KeyFigure(what[one.kind], one.gain(beside), "points") for one in found}

    groups = told_together(gains("none", "over none"), gains("depth", "over one start of as many iterations"))
    key = [figure for group in groups for figure in sorted(group.values(), key=lambda figure: -figure.of.mean)]
    return concluded(_verdict(*groups), key)


def _verdict(over_none: Figures, over_depth: Figures) -> str:
    if too_few(over_none, over_depth):
        return "Not shown: too few seeds for a verdict about the recipes."
    helped, hurt, beats = those(over_none, Told.ABOVE), those(over_none, Told.BELOW), those(over_depth, Told.ABOVE)
    more = f"; noisy draws beat depth alone in {among(beats, len(over_none))}" if beats else ""
    if helped:
        word = "Yes" if len(helped) == len(over_none) else "It depends"
        return f"{word}: noise helps in {among(helped, len(over_none))}{more}."
    if len(hurt) == len(over_none):
        return f"No: noise costs accuracy in every variant{more}."
    return f"Not shown: noise is nowhere told to help{more}."


def _figures(found: Sequence[Shaken]) -> list[Any]:
    """Accuracy at the largest depth by level, of each way, for every variant."""
    figures = []
    for number, one in enumerate(found):
        points = [
            Point.of(
                way, level, claim(one.correct["test"][level][way][:, -1], SHARE), f"{one.depths[-1]} iterations each"
            )
            for way in AGGREGATIONS
            for level in one.levels
        ]
        seeds, _, _, n = one.singles["test"].shape
        caption = (
            f"{words(one.kind).capitalize()}: {one.draws} draws of {one.depths[-1]} iterations, n = {n:,} test samples "
            f"in each of {seeds} seeds; 95 % intervals."
        )
        axes = Axis("noise of each step, over the state's root mean square"), Axis("accuracy", percent=True)
        figures.append(curves(f"noise_{number}", "Accuracy against the noise of each step", caption, points, *axes))
    return figures


def _levels_table(found: Sequence[Shaken]) -> AnswerTable:
    """At every level, all draws after all iterations, by vote; gains over no noise."""
    rows = [(one, level) for one in found for level in one.levels]
    gains = [claim(one.over_none(Cell(level, one.depths[-1], "vote"), "test"), DIFFERENCE) for one, level in rows]
    return AnswerTable(
        "All draws after all iterations, by vote, on test",
        [
            Column("model", [words(one.kind) for one, _ in rows], words=True),
            Column("noise", [f"{level:g}" for _, level in rows]),
            Column("accuracy, %", percents(claim(one.correct["test"][v]["vote"][:, -1], SHARE) for one, v in rows)),
            Column("over no noise, points", point_texts(gains)),
            Column("distinct ends", [f"{one.ends[level]:.2f}" for one, level in rows]),
        ],
        "In brackets 95 % intervals, each by itself: of many rows one in 20 leaves 0 out by chance.",
    )


def _check(ask: Mapping[str, Any]) -> str | None:
    """A level above 0, and a depth whose product with the draws is a depth: the fault in words."""
    depths = set(ask["iterations"])
    if not any(level > 0 for level in ask["noise"]):
        return "ask.noise with a level above 0"
    if ask["draws"] > 1 and any(depth * ask["draws"] in depths for depth in depths):
        return None
    return "ask.draws above 1, and ask.iterations with the product of some of its depths and ask.draws"


QUESTION = Question("Does noise at test time help?", answer, of_any_run=True, check=_check)
