"""Does a model that was trained to one tolerance work at another?

Every model is asked at every test tolerance, all from one trajectory for each: when to stop changes nothing about the
iterates. Two changes of accuracy are told, paired over the test samples: from a model's own training tolerance to the
tightest test tolerance, and to the loosest one that costs nothing on validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.build import build_solver
from deqrun.experiment.sweep.trace import trace
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.solvers import Budget
from deqrun.studies.concluding import Figures, those, told_together, too_few
from deqrun.studies.context import Context, StudyRun, columns
from deqrun.studies.question import Question
from deqrun.studies.wording import enumeration, percents, point_texts


@dataclass(frozen=True, eq=False)
class Model:
    """The models trained to one tolerance, S seeds of them; K test tolerances, falling.

    trained     the tolerance of training
    tested      (K,) tolerances
    validation  (S, K) accuracy on validation at each
    right       (S, K, n) right answers on test
    nfe         (K,) mean evaluations on test
    n_validation   samples of validation
    """

    trained: float
    tested: NDArray[np.float64]
    validation: NDArray[np.float64]
    right: NDArray[np.bool_]
    nfe: NDArray[np.float64]
    n_validation: int

    @property
    def name(self) -> str:
        return numbers.tolerance(self.trained)

    @property
    def own(self) -> int:
        """The place of the test tolerance nearest to the training's, by ratio."""
        return int(np.abs(np.log(self.tested / self.trained)).argmin())

    def accuracy(self, place: int) -> Estimate:
        return claim(self.right[:, place], SHARE)

    @property
    def tightened(self) -> Estimate:
        """Accuracy at the tightest test tolerance less accuracy at the training tolerance, paired."""
        return self._change(-1)

    @property
    def loosest(self) -> int:
        """The place of the loosest tolerance within one standard error of the best on validation, over all seeds."""
        accuracy = self.validation.mean(axis=0)
        best = accuracy.max()
        return int(np.flatnonzero(accuracy >= best - np.sqrt(best * (1 - best) / self.n_validation))[0])

    @property
    def loosened(self) -> Estimate:
        """Accuracy at the loosest tolerance that validation allows less accuracy at the training tolerance."""
        return self._change(self.loosest)

    def _change(self, place: int) -> Estimate:
        return claim(self.right[:, place].astype(float) - self.right[:, self.own], DIFFERENCE)


def answer(context: Context, *, tolerances: Sequence[float], steps: int) -> Answer:
    """Ask every run at every tolerance. tolerances: at test time; steps: of its own solver at most."""
    tested = sorted(tolerances, reverse=True)
    found = []
    for kind, own in context.by_kind(_measured, tested, steps).items():
        validation, right, nfe = columns(own, "validation", "right", "nfe")
        trained, n = context.of_kind(kind)[0].settings.budget.tol, int(own[0]["n_validation"])
        found.append(Model(trained, np.array(tested), validation, right.astype(bool), nfe.mean(axis=0), n))
    return answer_of(found)


def _measured(run: StudyRun, tested: Sequence[float], steps: int) -> dict[str, Any]:
    deq, dataset = run.model()
    budget = Budget(max_iter=steps, tol=min(tested), norm=deq.budget.norm)
    right, nfe = {}, []
    for split in ("validation", "test"):
        data = dataset.load(split)
        found = trace(deq, dataset, data, build_solver(run.settings), budget, run.settings.sweep.batch_size)
        everyone = np.arange(found.n)
        kept = [found.returned(steps, run.settings.budget.keep, tol) for tol in tested]
        right[split] = np.array([found.correct[place, everyone] for place in kept])
        nfe = [float(found.cost[found.stop(steps, tol), everyone].mean()) for tol in tested]
    return {
        "validation": right["validation"].mean(axis=1).tolist(),
        "n_validation": right["validation"].shape[1],
        "right": right["test"].astype(int).tolist(),
        "nfe": nfe,
    }


def answer_of(found: Sequence[Model]) -> Answer:
    """The answer that these models give."""
    return Answer(
        conclude(found),
        would_change=(
            "A task that needs many iterations punishes loose tolerances earlier than digits do.",
            "Only the solver of training was asked; another one stops at other iterates.",
            "Networks that train longer settle better, and depend less on where they stop.",
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={
            one.name: {
                "tested": one.tested,
                "accuracy": one.right.mean(axis=(0, 2)),
                "nfe": one.nfe,
                "tightened": one.tightened,
                "loosened": one.loosened,
            }
            for one in found
        },
    )


def conclude(found: Sequence[Model]) -> Conclusion:
    """One family: each model solved to the tightest tolerance. The loosest one that validation allows is shown."""
    tightest = numbers.tolerance(float(found[0].tested[-1]))
    change = f"solved to {tightest}: change of accuracy"
    (changes,) = told_together(
        {
            one.name: KeyFigure(f"trained to {one.name}, {change}", one.tightened, "points")
            for one in found
            if one.own != len(one.tested) - 1
        }
    )
    last = min(found, key=lambda one: one.trained)
    loose = numbers.tolerance(float(last.tested[last.loosest]))
    title = f"trained to {last.name}, solved to {loose}, the loosest that validation allows: change"
    key = [*[*changes.values()][:5], KeyFigure(title, last.loosened, "points")]
    return Conclusion(_verdict(changes, tightest), tuple(key), len(changes))


def _verdict(changes: Figures, tightest: str) -> str:
    if too_few(changes):
        return "Not shown: too few seeds for a verdict about the recipes."
    worse, better = those(changes, Told.BELOW), those(changes, Told.ABOVE)
    if worse and better:
        gains = f"gains after training to {enumeration(better)}, and loses after {enumeration(worse)}"
        return f"It depends: solving to {tightest} {gains}."
    if worse:
        return f"No: solving to {tightest} loses accuracy where training stopped at {enumeration(worse)}."
    if better:
        return f"Yes: solving to {tightest} even gains accuracy where training stopped at {enumeration(better)}."
    return f"Not shown: no training tolerance's accuracy is told to change when solved to {tightest}."


def _figures(found: Sequence[Model]) -> list[Figure]:
    accuracy, cost = [], []
    for one in found:
        for k, tol in enumerate(one.tested):
            accuracy.append(Point.of(f"trained to {one.name}", float(tol), one.accuracy(k)))
            cost.append(Point(f"trained to {one.name}", float(tol), float(one.nfe[k])))
    seeds, _, n = found[0].right.shape
    x = Axis("test tolerance", log=True)
    caption = f"Test samples, n = {n:,} in each of {seeds} seeds"
    return [
        curves(
            "accuracy_tolerance",
            "Accuracy against the test tolerance",
            f"{caption}; bands: 95 % intervals.",
            accuracy,
            x,
            Axis("accuracy", percent=True),
        ),
        curves(
            "evaluations_tolerance",
            "Evaluations against the test tolerance",
            f"{caption}; mean.",
            cost,
            x,
            Axis("evaluations"),
        ),
    ]


def _table(found: Sequence[Model]) -> AnswerTable:
    tested = found[0].tested
    columns = [Column("test tolerance", [numbers.tolerance(float(tol)) for tol in tested])]
    for one in found:
        texts = percents(one.accuracy(k) for k in range(len(tested)))
        marked = [text + ("*" if k == one.own else "") for k, text in enumerate(texts)]
        columns.append(Column(f"trained to {one.name}, %", marked))
    for one in found:
        columns.append(Column(f"evaluations, {one.name}", [numbers.mean(float(v)) for v in one.nfe]))
    loosened = ", ".join(
        f"{one.name}: {numbers.tolerance(float(one.tested[one.loosest]))} ({text})"
        for one, text in zip(found, point_texts(one.loosened for one in found), strict=True)
    )
    note = (
        f"* the training tolerance. In brackets 95 % intervals. Loosest tolerance that validation allows, and what it "
        f"changes on test, in points: {loosened}."
    )
    return AnswerTable("Training tolerance and test tolerance", columns, note)


QUESTION = Question("Does a model trained to one tolerance work at another?", answer, of_any_run=True)
