"""Does a model that was trained to one tolerance work at another?

Every model is asked at every test tolerance, all from one trajectory for each: when to stop changes nothing about the
iterates. Accuracy at the model's own training tolerance is compared with that at the tightest, paired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.build import build_solver
from deqrun.experiment.sweep import trace
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, mean_interval
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget
from deqrun.studies.answering.context import Context, StudyRun
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, points, significant


@dataclass(frozen=True, eq=False)
class Model:
    """The models trained to one tolerance, their runs pooled; K test tolerances, falling.

    trained    the tolerance of training
    tested     (K,) tolerances
    right      (K, n) right answers at each
    nfe        (K,) mean evaluations
    converged  (K,) share of samples that get there
    """

    trained: float
    tested: NDArray[np.float64]
    right: NDArray[np.bool_]
    nfe: NDArray[np.float64]
    converged: NDArray[np.float64]
    runs: int = 1

    @property
    def own(self) -> int:
        """The place of the test tolerance nearest to that of training, by ratio."""
        return int(np.abs(np.log(self.tested / self.trained)).argmin())

    @property
    def tightened(self) -> MeanInterval:
        """Accuracy at the tightest test tolerance less that at the training tolerance, paired."""
        return mean_interval(self.right[-1].astype(float) - self.right[self.own], runs=self.runs)

    @property
    def loosened(self) -> MeanInterval:
        """Accuracy at the loosest test tolerance less that at the training tolerance, paired."""
        return mean_interval(self.right[0].astype(float) - self.right[self.own], runs=self.runs)

    @property
    def loosest(self) -> int:
        """The place of the loosest test tolerance that costs no point of accuracy beside the best one of all."""
        accuracy = self.right.mean(axis=1)
        return int(np.flatnonzero(accuracy >= accuracy.max() - 0.01)[0])


def answer(context: Context, *, tolerances: Sequence[float], steps: int) -> Answer:
    """Ask every run at every tolerance. tolerances: at test time; steps: of its own solver at most."""
    tested = sorted(tolerances, reverse=True)
    found = []
    for kind in context.kinds:
        runs = context.of_kind(kind)
        parts = [context.once(run.label, partial(_measured, run, tested, steps)) for run in runs]
        context.progress(f"trained to {numbers.tolerance(runs[0].settings.budget.tol)}: {len(tested)} tolerances")
        found.append(_pooled(runs[0].settings.budget.tol, tested, parts))
    return answer_of(found)


def _measured(run: StudyRun, tested: Sequence[float], steps: int) -> dict[str, Any]:
    deq, dataset = run.model()
    budget = Budget(max_iter=steps, tol=min(tested), norm=deq.budget.norm)
    split = dataset.load("test")
    found = trace(deq, dataset, split, build_solver(run.settings), budget, run.settings.sweep.batch_size)
    everyone = np.arange(found.n)
    stops = [found.stop(steps, tol) for tol in tested]
    kept = [found.returned(steps, run.settings.budget.keep, tol) for tol in tested]
    reached = [found.residual[stop, everyone] <= tol for stop, tol in zip(stops, tested, strict=True)]
    return {
        "right": [found.correct[place, everyone].tolist() for place in kept],
        "nfe": [float(found.cost[stop, everyone].mean()) for stop in stops],
        "converged": [float(one.mean()) for one in reached],
    }


def _pooled(trained: float, tested: Sequence[float], parts: Sequence[dict[str, Any]]) -> Model:
    right = np.concatenate([np.asarray(part["right"], dtype=bool) for part in parts], axis=1)
    nfe, converged = (np.mean([part[name] for part in parts], axis=0) for name in ("nfe", "converged"))
    return Model(trained, np.asarray(tested, dtype=float), right, nfe, converged, len(parts))


def answer_of(found: Sequence[Model]) -> Answer:
    """The answer that these models give."""
    return Answer(
        sentences=(_tightening(found), _loosening(found), _training(found)),
        would_change=(
            "One cell and one task, with the solver of training; at test time the other samples of the same data. "
            "A task "
            "that needs many iterations punishes loose tolerances earlier than digits do, and a model trained with few "
            "evaluations can come to depend on stopping there. Differences of less than about a point are not told "
            "from none with so few samples."
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={numbers.tolerance(one.trained): {
            "tested": one.tested, "accuracy": one.right.mean(axis=1), "nfe": one.nfe, "converged": one.converged,
            "tightened": one.tightened, "loosened": one.loosened,
        } for one in found},
    )  # fmt: skip


def _tightening(found: Sequence[Model]) -> str:
    """Does solving more exactly than in training change the answers?"""
    better = [one for one in found if one.tightened.low > 0]
    worse = [one for one in found if one.tightened.high < 0]
    tightest = numbers.tolerance(found[0].tested[-1])
    if not better and not worse:
        most = max(found, key=lambda one: abs(one.tightened.mean))
        return (
            f"Yes, upwards: solved to {tightest} no model answers detectably otherwise than at its training tolerance; "
            f"the largest change is {points(most.tightened)}, of the one trained to {numbers.tolerance(most.trained)}."
        )
    parts = [f"{numbers.tolerance(one.trained)} ({points(one.tightened)})" for one in [*better, *worse]]
    word = "for the better" if not worse else "for the worse" if not better else "for better or worse"
    return (
        f"Not quite: solving to {tightest} changes answers {word} where training had a tolerance of "
        f"{enumeration(parts)}."
    )


def _loosening(found: Sequence[Model]) -> str:
    """How loose a tolerance costs nothing, by model."""
    parts = [
        f"{numbers.tolerance(one.tested[one.loosest])} when trained to {numbers.tolerance(one.trained)}"
        for one in found
    ]
    return f"Within a point of its best each stays down to a test tolerance of {enumeration(parts)}."


def _training(found: Sequence[Model]) -> str:
    """What the training tolerance itself costs, at the tightest test tolerance."""
    loose, tight = max(found, key=lambda one: one.trained), min(found, key=lambda one: one.trained)
    if loose is tight:
        return "With one training tolerance there is nothing to compare it with."
    both = min(loose.right.shape[1], tight.right.shape[1])
    runs = tight.runs if tight.right.shape == loose.right.shape else 1
    change = mean_interval(tight.right[tight.own, :both].astype(float) - loose.right[loose.own, :both], runs=runs)
    verdict = "gains" if change.low > 0 else "loses" if change.high < 0 else "changes detectably nothing"
    return (
        f"Training to {numbers.tolerance(tight.trained)} rather than {numbers.tolerance(loose.trained)} {verdict}: "
        f"{points(change)}, each at its own tolerance, for {significant(float(tight.nfe[tight.own]))} evaluations "
        f"instead of {significant(float(loose.nfe[loose.own]))}."
    )


def _figures(found: Sequence[Model]) -> list[Any]:
    accuracy, cost = [], []
    for one in found:
        name = f"trained to {numbers.tolerance(one.trained)}"
        for k, tol in enumerate(one.tested):
            share = accuracy_interval(one.right[k], one.runs)
            accuracy.append(Point(name, float(tol), share.mean, share.low, share.high))
            cost.append(Point(name, float(tol), float(one.nfe[k])))
    n = found[0].right.shape[1]
    x = Axis("test tolerance", log=True)
    return [
        curves("accuracy_tolerance", "Accuracy against the test tolerance",
               f"Test samples, n = {n:,}; bands: 95 % intervals.", accuracy, x,
               Axis("accuracy", percent=True)),
        curves("evaluations_tolerance", "Evaluations against the test tolerance", f"Mean over n = {n:,} test samples.",
               cost, x, Axis("evaluations")),
    ]  # fmt: skip


def _table(found: Sequence[Model]) -> AnswerTable:
    tested = found[0].tested
    columns = [Column("test tolerance", [numbers.tolerance(float(tol)) for tol in tested])]
    for one in found:
        texts = []
        for k in range(len(tested)):
            share = accuracy_interval(one.right[k], one.runs)
            mark = "*" if k == one.own else ""
            texts.append(f"{100 * share.mean:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]{mark}")
        columns.append(Column(f"trained to {numbers.tolerance(one.trained)}, %", texts))
    for one in found:
        columns.append(Column(f"evals, {numbers.tolerance(one.trained)}", [numbers.mean(float(v)) for v in one.nfe]))
    note = "Accuracy with 95 % intervals, and mean evaluations. * the training tolerance."
    return AnswerTable("Training tolerance and test tolerance", columns, note)


QUESTION = Question("Does a model trained to one tolerance work at another?", answer, of_any_run=True)
