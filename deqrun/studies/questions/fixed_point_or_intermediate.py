"""Is the last iterate the best one?

Accuracy of the read-out at every iterate of plain iteration, far beyond the training budget. The iterate that does best
on validation is compared with the last one on test, sample by sample: the overthinking gap of
`deqrun.analysis.fates.overthinking`, unbiased, since the choice was made elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.analysis.fates import overthinking
from deqrun.experiment.sweep.trace import trace
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Rule, Value, curves, values
from deqrun.solvers import Budget, Picard
from deqrun.studies.choosing import of_the_chosen
from deqrun.studies.concluding import as_family, concluded
from deqrun.studies.context import Context, StudyRun, columns
from deqrun.studies.courses import bands, course_points, courses, packed_course
from deqrun.studies.question import Question
from deqrun.studies.wording import among, percents, point_texts, words

MARGIN = 0.02
"""A gap that is told to be smaller counts as none."""


@dataclass(frozen=True, eq=False)
class Course:
    """Accuracy along the iterates of one variant on one task, S seeds.

    budget    iterations in training
    best      (S,) the iterate that validation chose
    right     (S, T+1, n) right answers on test at each iterate
    residual  (S,) median residual of the last iterate
    """

    kind: str
    task: str
    budget: int
    best: NDArray[np.int64]
    right: NDArray[np.bool_]
    residual: NDArray[np.float64]

    @property
    def name(self) -> str:
        return f"{words(self.kind)}, {self.task}" if self.task else words(self.kind)

    @property
    def gap(self) -> Estimate:
        """Accuracy at the chosen iterate − accuracy at the last, paired."""
        chosen = of_the_chosen(self.best, lambda best: self.right[:, best])
        return claim(chosen.astype(float) - self.right[:, -1], DIFFERENCE)

    def accuracy(self, t: int) -> Estimate:
        return claim(self.right[:, t], SHARE)


def answer(context: Context, *, beyond: int, lengths: Sequence[int]) -> Answer:
    """Iterate every run's model. beyond: times its training budget; lengths: of data sets that have one."""
    asked: list[tuple[str, int | None, list[tuple[str, StudyRun]]]] = []
    for kind in context.kinds:
        runs = context.of_kind(kind)
        tasks: Sequence[int | None] = lengths if "length" in runs[0].settings.dataset.parameters else [None]
        asked += [(kind, length, [(f"{run.label}-{length or 'own'}", run) for run in runs]) for length in tasks]
    parts = context.each(
        {name: partial(_measured, run, length, beyond) for _, length, named in asked for name, run in named}
    )
    found = []
    for kind, length, named in asked:
        own = [parts[name] for name, _ in named]
        best, residual = columns(own, "best", "residual")
        task = f"{length} bits" if length else ""
        found.append(Course(kind, task, named[0][1].settings.budget.max_iter, best, courses(own), residual))
    return answer_of(found, beyond)


def _measured(run: StudyRun, length: int | None, beyond: int) -> dict[str, Any]:
    deq, dataset = run.model(length=length) if length else run.model()
    budget = Budget(max_iter=beyond * run.settings.budget.max_iter, tol=0.0, norm=deq.budget.norm)
    validation, test = (
        trace(deq, dataset, dataset.load(split), Picard(), budget, run.settings.sweep.batch_size)
        for split in ("validation", "test")
    )
    return {
        "best": overthinking(validation.correct).best,
        **packed_course(test.correct),
        "residual": float(np.median(test.at("residual", test.last()))),
    }


def answer_of(found: Sequence[Course], beyond: int) -> Answer:
    """The answer that these courses give."""
    return Answer(
        conclude(found),
        would_change=(
            f"A longer run: the last iterate is the one at {beyond} times the training budget, by plain iteration.",
            "Harder inputs than in training make gaps larger.",
            "More seeds: whether a network keeps its answer hangs on its seed as much as on its recipe.",
        ),
        figures=[_gaps(found), *_courses(found)],
        tables=[_table(found)],
        numbers={
            one.name: {
                "training_budget": one.budget,
                "best_iterate": one.best,
                "accuracy": one.right.mean(axis=(0, 2)),
                "accuracy_by_seed": one.right[:, [one.budget, -1]].mean(axis=2),
                "gap": one.gap,
                "last_residual": one.residual,
            }
            for one in found
        },
    )


def conclude(found: Sequence[Course]) -> Conclusion:
    """One family: the gap of every model and task."""
    gaps = as_family(
        [KeyFigure(f"{one.name}: lost by going on to the last iterate", one.gap, "points") for one in found]
    )
    ordered = sorted(zip(found, gaps, strict=True), key=lambda pair: (pair[1].told is not Told.ABOVE, -pair[1].of.mean))
    losing = list(dict.fromkeys(words(one.kind) for one, gap in ordered if gap.told is Told.ABOVE))
    return concluded(_verdict(losing, len({one.kind for one in found}), gaps), [gap for _, gap in ordered])


def _verdict(losing: Sequence[str], kinds: int, gaps: Sequence[KeyFigure]) -> str:
    if losing:
        every = all(gap.told is Told.ABOVE for gap in gaps)
        word = "No" if every else "It depends on the training"
        others = "" if len(losing) == kinds else "; for the others it is not told"
        return f"{word}: an earlier iterate is better for {among(losing, kinds)}{others}."
    if any(gap.told is Told.TOO_FEW for gap in gaps):
        return "Not shown: too few seeds for a Yes or a No about the recipe."
    if all(gap.of.high < MARGIN for gap in gaps):
        return "Yes: for no model and task is an earlier iterate better by two points."
    return "Not shown: for no model and task is an earlier iterate told to be better."


def _gaps(found: Sequence[Course]) -> Any:
    rows = [Value.of(one.name, gap, note=f"n = {gap.n:,}") for one in found for gap in [one.gap]]
    caption = "Test accuracy at the iterate that validation chose, less that at the last one; 95 % intervals."
    axis = Axis("accuracy lost by going on", percent=True)
    return values(
        "gaps", "What going on to the last iterate costs", caption, rows, axis, rules=[Rule("nothing", x=0.0)]
    )


def _courses(found: Sequence[Course]) -> list[Any]:
    figures = []
    groups: dict[str, list[Course]] = {}
    for one in found:
        first = words(one.kind).split(" ")[0]
        groups.setdefault(f"{first}, {one.task}" if one.task else first, []).append(one)
    for number, (title, group) in enumerate(groups.items()):
        drawn = [point for one in group for point in course_points(one.name, one.right)]
        seeds, _, n = group[0].right.shape
        caption = f"Test samples of {title}, n = {n:,}; mean, and bands {bands(seeds)}."
        axes = Axis("iterate", log=True), Axis("accuracy", percent=True, domain=(0.0, 1.0))
        figures.append(curves(f"accuracy_{number}", "Accuracy at every iterate", caption, drawn, *axes))
    return figures


def _table(found: Sequence[Course]) -> AnswerTable:
    return AnswerTable(
        "The iterate that validation chose, and the last one",
        [
            Column("model and task", [one.name for one in found], words=True),
            Column("training budget", [f"{one.budget}" for one in found]),
            Column("chosen iterates", [", ".join(map(str, one.best)) for one in found]),
            Column("at training budget, %", percents(one.accuracy(one.budget) for one in found)),
            Column("last, %", percents(one.accuracy(-1) for one in found)),
            Column("gap, points", point_texts(one.gap for one in found)),
            Column("last residual", [numbers.residual(float(np.median(one.residual))) for one in found]),
            Column("n", [f"{one.right.shape[2]:,}" for one in found]),
        ],
        "Gap: accuracy at the chosen iterate less that at the last, on test, paired. In brackets 95 % intervals.",
    )


QUESTION = Question("Is the last iterate the best one?", answer, of_any_run=True)
