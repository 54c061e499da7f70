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
from deqrun.experiment.sweep import trace
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, mean_interval
from deqrun.report.charts.answers import Axis, Point, Rule, Value, curves, values
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget, Picard
from deqrun.studies.answering.context import Context, StudyRun
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, points, significant

DRAWN = 80
"""Points of a curve at most."""


@dataclass(frozen=True, eq=False)
class Course:
    """Accuracy along the iterates of one variant on one task, its runs pooled.

    budget    iterations in training
    best      the iterate that validation chose, the mean over runs
    accuracy  (T+1,) test accuracy at each iterate
    change    (n,) of −1, 0, 1: right at the chosen iterate less right at the last
    residual  median residual of the last iterate
    """

    kind: str
    task: str
    budget: int
    best: float
    accuracy: NDArray[np.float64]
    change: NDArray[np.int64]
    residual: float
    runs: int = 1

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.task}" if self.task else self.kind

    @property
    def gap(self) -> MeanInterval:
        """accuracy at the chosen iterate − accuracy at the last, paired."""
        return mean_interval(self.change, runs=self.runs)

    @property
    def loses(self) -> bool:
        return self.gap.low > 0


def answer(context: Context, *, beyond: int, lengths: Sequence[int]) -> Answer:
    """Iterate every run's model. beyond: times its training budget; lengths: of data sets that have one."""
    found = []
    for kind in context.kinds:
        runs = context.of_kind(kind)
        tasks: Sequence[int | None] = lengths if "length" in runs[0].settings.dataset.parameters else [None]
        for length in tasks:
            parts = []
            for run in runs:
                name = f"{run.label}-{length or 'own'}"
                parts.append(context.once(name, partial(_measured, run, length, beyond)))
            found.append(_pooled(kind, length, runs[0].settings.budget.max_iter, parts))
            context.progress(f"{found[-1].name}: {len(found[-1].accuracy) - 1} iterations")
    return answer_of(found, beyond)


def _measured(run: StudyRun, length: int | None, beyond: int) -> dict[str, Any]:
    deq, dataset = run.model(length=length) if length else run.model()
    budget = Budget(max_iter=beyond * run.settings.budget.max_iter, tol=0.0, norm=deq.budget.norm)
    by_split = {}
    for split in ("validation", "test"):
        data = dataset.load(split)
        by_split[split] = trace(deq, dataset, data, Picard(), budget, run.settings.sweep.batch_size)
    chosen = overthinking(by_split["validation"].correct).best
    test = by_split["test"]
    residual = test.residual[test.last(), np.arange(test.n)]
    return {
        "best": chosen, "change": overthinking(test.correct, chosen).change.tolist(),
        "right": test.correct.sum(axis=1).tolist(), "residual": float(np.median(residual)),
    }  # fmt: skip


def _pooled(kind: str, length: int | None, budget: int, parts: Sequence[dict[str, Any]]) -> Course:
    change = np.concatenate([np.asarray(part["change"]) for part in parts])
    right = np.sum([part["right"] for part in parts], axis=0)
    task = f"{length} bits" if length else ""
    best = float(np.mean([part["best"] for part in parts]))
    residual = float(np.median([part["residual"] for part in parts]))
    return Course(kind.replace("_", " "), task, budget, best, right / len(change), change, residual, len(parts))


def answer_of(found: Sequence[Course], beyond: int) -> Answer:
    """The answer that these courses give."""
    return Answer(
        sentences=(_is_last_best(found), _worst(found), _against_budget(found)),
        would_change=(
            f"The last iterate is the one at {beyond} times the training budget, by plain iteration from the "
            f"model's own "
            f"start; the other is chosen on validation and compared on test, with intervals over its samples, so that "
            f"gaps of less than about a point are not told from none. Harder inputs than in training make gaps larger, "
            f"and so does a longer run of a model that does not settle."
        ),
        figures=[_gaps(found), *_courses(found)],
        tables=[_table(found)],
        numbers={one.name: {
            "training_budget": one.budget, "best_iterate": one.best, "accuracy": one.accuracy, "gap": one.gap,
            "last_residual": one.residual,
        } for one in found},
    )  # fmt: skip


def _is_last_best(found: Sequence[Course]) -> str:
    losing = [one.name for one in found if one.loses]
    keeping = [one.name for one in found if not one.loses]
    if not losing:
        return (
            f"Yes: for none of {len(found)} models and tasks is an earlier iterate detectably better than the last one."
        )
    if not keeping:
        return f"No: for each of {len(found)} models and tasks an earlier iterate is better than the last one."
    return (
        f"It depends on the training: an earlier iterate is better than the last one for {enumeration(losing)}, "
        f"and not "
        f"detectably for {enumeration(keeping)}."
    )


def _worst(found: Sequence[Course]) -> str:
    worst = max(found, key=lambda one: one.gap.mean)
    if not worst.loses:
        return f"The largest gap is {points(worst.gap)}, of {worst.name}, and may be none."
    return (
        f"The most is lost by {worst.name}: {points(worst.gap)}, from iterate {significant(worst.best)} on to iterate "
        f"{len(worst.accuracy) - 1}, where the median residual is {numbers.residual(worst.residual)}."
    )


def _against_budget(found: Sequence[Course]) -> str:
    """What going on beyond the training budget does, over all."""
    parts = [
        f"{one.name} from {numbers.percent(float(one.accuracy[one.budget]))} to "
        f"{numbers.percent(float(one.accuracy[-1]))}"
        for one in found
    ]
    return f"From the training budget on to the end accuracy goes, for {enumeration(parts)}."


def _gaps(found: Sequence[Course]) -> Any:
    rows = [Value(one.name, one.gap.mean, one.gap.low, one.gap.high, note=f"n = {one.gap.n:,}") for one in found]
    caption = "Test accuracy at the iterate that validation chose, less that at the last one; paired 95 % intervals."
    axis = Axis("accuracy lost by going on", percent=True)
    return values(
        "gaps", "What going on to the last iterate costs", caption, rows, axis, rules=[Rule("nothing", x=0.0)]
    )


def _courses(found: Sequence[Course]) -> list[Any]:
    figures = []
    groups: dict[str, list[Course]] = {}
    for one in found:
        groups.setdefault(f"{one.kind.split(' ')[0]}, {one.task}" if one.task else one.kind.split(" ")[0], []).append(
            one
        )
    for number, (title, group) in enumerate(groups.items()):
        drawn = [
            Point(one.name, float(t), *_bounds(one, int(t)))
            for one in group
            for t in np.unique(np.geomspace(1, len(one.accuracy) - 1, DRAWN).round())
        ]
        caption = f"Test samples of {title}, n = {len(group[0].change):,}; bands: Wilson's 95 % intervals."
        axes = Axis("iterate", log=True), Axis("accuracy", percent=True)
        figures.append(curves(f"accuracy_{number}", "Accuracy at every iterate", caption, drawn, *axes))
    return figures


def _bounds(one: Course, t: int) -> tuple[float, float, float]:
    n, share = len(one.change), float(one.accuracy[t])
    found = accuracy_interval(np.arange(n) < round(share * n))
    return found.mean, found.low, found.high


def _table(found: Sequence[Course]) -> AnswerTable:
    gaps = [one.gap for one in found]
    return AnswerTable(
        "The iterate that validation chose, and the last one",
        [
            Column("model and task", [one.name for one in found], words=True),
            Column("training budget", [f"{one.budget}" for one in found]),
            Column("chosen iterate", [significant(one.best) for one in found]),
            Column("at training budget", [numbers.percent(float(one.accuracy[one.budget])) for one in found]),
            Column("highest", [numbers.percent(float(one.accuracy.max())) for one in found]),
            Column("last", [numbers.percent(float(one.accuracy[-1])) for one in found]),
            Column("gap, points", [f"{100 * g.mean:.1f} [{100 * g.low:.1f}, {100 * g.high:.1f}]" for g in gaps]),
            Column("last residual", [numbers.residual(one.residual) for one in found]),
            Column("n", [f"{g.n:,}" for g in gaps]),
        ],
        "Gap: accuracy at the chosen iterate less that at the last, on test, paired, with its 95 % interval. "
        "Highest: over "
        "all iterates on test, too good by what a maximum of noise gains.",
    )  # fmt: skip


QUESTION = Question("Is the last iterate the best one?", answer, of_any_run=True)
