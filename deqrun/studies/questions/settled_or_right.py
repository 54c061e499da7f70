"""Is a settled answer a right one?

Each run solves its test samples once, from the cell's own start, for the same number of iterations. A sample has
settled where the residual of its answer is within the tolerance. Settled and right are crossed, and the residual is
taken for a judge: the area under its receiver operating characteristic, P(a right answer has a lower residual than a
wrong one), is 1/2 where it tells nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.build import build_solver
from deqrun.experiment.sweep.trace import trace
from deqrun.inference import SHARE, Estimate, Told, auroc, claim, claim_statistic
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.solvers import Budget
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.context import Context, StudyRun, columns, first_of
from deqrun.studies.question import Question
from deqrun.studies.wording import among, percents, words

SAFE = 0.9
"""A settled answer is trusted where at least this share of them is right."""


@dataclass(frozen=True, eq=False)
class Ended:
    """Test samples of one variant, S seeds, where their solves ended.

    residual  (S, n) of the answer; inf where it was lost
    right     (S, n)
    """

    kind: str
    tol: float
    residual: NDArray[np.float64]
    right: NDArray[np.bool_]

    @property
    def settled(self) -> NDArray[np.bool_]:
        """(S, n) whether the residual is within the tolerance."""
        return np.asarray(self.residual <= self.tol)

    @property
    def area(self) -> Estimate:
        """The AUROC of a low residual for right answers."""

        def areas(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
            """(S, …) of scores and answers (S, 2, …, n)."""
            score, right = drawn[:, 0], drawn[:, 1] > 0.5
            found = [auroc(score[place], right[place]) for place in np.ndindex(score.shape[:-1])]
            return np.reshape(found, score.shape[:-1])

        return claim_statistic(areas, np.stack([-self.residual, self.right], axis=1), versus=0.5)

    @property
    def trusted(self) -> Estimate | None:
        """Share of the settled answers that is right; None where a seed has no settled one."""
        settled = self.settled
        if not settled.any(axis=1).all():
            return None
        return claim(self.right & settled, SHARE, settled, versus=SAFE)

    def share(self, settled: bool, right: bool) -> Estimate:
        """Share of all samples in one cell of the table of two by two."""
        return claim((self.settled == settled) & (self.right == right), SHARE)


def answer(context: Context, *, iterations: int, samples: int, tol: float) -> Answer:
    """Solve every run's samples once. iterations: of each; samples: of test; tol: at which a sample has settled."""
    found = []
    for kind, own in context.by_kind(_measured, iterations, samples).items():
        residual = np.array([[math.inf if one is None else one for one in part["residual"]] for part in own])
        found.append(Ended(kind, tol, residual, *columns(own, "right", dtype=bool)))
    return answer_of(found, iterations)


def _measured(run: StudyRun, iterations: int, samples: int) -> dict[str, Any]:
    deq, dataset = run.model()
    some = first_of(dataset.load("test"), samples)
    # Without a tolerance: a sample that stopped at one would tie with all others that did.
    budget = Budget(iterations, 0.0, norm=deq.budget.norm)
    trajectory = trace(deq, dataset, some, build_solver(run.settings), budget, run.settings.sweep.batch_size)
    at = trajectory.returned(iterations, "best")
    residual = trajectory.at("residual", at).astype(float)
    return {
        "residual": [float(one) if math.isfinite(one) else None for one in residual],
        "right": trajectory.at("correct", at).tolist(),
    }


def answer_of(found: Sequence[Ended], iterations: int) -> Answer:
    """The answer that these solves give."""
    return Answer(
        conclude(found),
        would_change=(
            "More iterations: a residual that has come to its rounding tells nothing.",
            "Training that teaches wrong answers not to rest, such as starts from anywhere.",
            "Samples that are harder than in training, on which more answers are wrong.",
        ),
        figures=[_figure(found, iterations)],
        tables=[_table(found, iterations)],
        numbers={one.kind: {"area": one.area, "trusted": one.trusted} for one in found},
    )


def conclude(found: Sequence[Ended]) -> Conclusion:
    """One family: of every variant the AUROC of the residual, and the share of settled answers that is right."""
    known = {one.kind: share for one in found if (share := one.trusted) is not None}
    areas, trusted = told_together(
        {one.kind: KeyFigure(f"{words(one.kind)}: AUROC of a low residual", one.area, "number") for one in found},
        {kind: KeyFigure(f"{words(kind)}: settled answers that are right", share) for kind, share in known.items()},
    )
    ordered = sorted(areas.values(), key=lambda area: -area.of.mean)
    return concluded(_verdict(areas, trusted), [*ordered, *trusted.values()])


def _verdict(areas: Figures, trusted: Figures) -> str:
    if too_few(areas, trusted):
        return "Not shown: too few seeds for a verdict about the recipes."
    safe, unsafe, told = those(trusted, Told.ABOVE), those(trusted, Told.BELOW), those(areas, Told.ABOVE)
    judge = f"; a low residual speaks for right answers in {among(told, len(areas))}" if told else ""
    percent = numbers.percent(SAFE, 0)
    if safe:
        word = "Yes" if len(safe) == len(areas) else "It depends"
        return f"{word}: over {percent} of settled answers are right in {among(safe, len(areas))}{judge}."
    if unsafe:
        word = "No" if len(unsafe) == len(areas) else "It depends"
        return f"{word}: fewer than {percent} of settled answers are right in {among(unsafe, len(areas))}{judge}."
    return f"Not shown: that settled answers are right is nowhere told{judge}."


def _figure(found: Sequence[Ended], iterations: int) -> Any:
    """Accuracy in each tenth of the samples, by rising residual."""
    points = []
    for one in found:
        order = np.argsort(one.residual, axis=1, kind="stable")
        ranked = np.take_along_axis(one.right, order, axis=1)
        for place, tenth in enumerate(np.array_split(ranked, 10, axis=1)):
            if tenth.shape[1]:
                points.append(Point.of(words(one.kind), 10.0 * (place + 1), claim(tenth, SHARE)))
    seeds, n = found[0].right.shape
    caption = (
        f"Test samples by rising residual after {iterations:,} iterations, a tenth of them at each point; "
        f"n = {n:,} in each of {seeds} seeds; 95 % intervals."
    )
    axes = Axis("samples by rising residual, %"), Axis("accuracy", percent=True)
    return curves("residual_tenths", "Accuracy by the residual of the answer", caption, points, *axes)


def _table(found: Sequence[Ended], iterations: int) -> AnswerTable:
    cells = (
        ("right, settled, %", True, True),
        ("right, not settled, %", False, True),
        ("wrong, settled, %", True, False),
        ("wrong, not settled, %", False, False),
    )
    return AnswerTable(
        f"Settled and right, on test, after {iterations:,} iterations",
        [
            Column("model", [words(one.kind) for one in found], words=True),
            *(Column(name, percents(one.share(settled, right) for one in found)) for name, settled, right in cells),
        ],
        f"Settled: a residual of at most {numbers.tolerance(found[0].tol)}. In brackets 95 % intervals.",
    )


QUESTION = Question("Is a settled answer a right one?", answer, of_any_run=True, pairs_seeds=False)
