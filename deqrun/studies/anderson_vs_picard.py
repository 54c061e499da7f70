"""What does acceleration save, in evaluations and in seconds, and does accuracy notice?

Every solver goes over the same test samples from the same start, so that its savings are paired. A Jacobian product is
counted beside evaluations one for one: Newton's method makes them in place of iterates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.experiment.sweep import trace
from deqrun.report import Trajectory, numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, mean_interval, median_interval
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, Rule, Value, curves, values
from deqrun.report.charts.style import SOLVER_COLOURS
from deqrun.report.page_parts import Column
from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Picard, Solver, solve
from deqrun.studies.answering.context import Context, StudyRun, batch_of
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.timing import interleaved, median_ratio
from deqrun.studies.answering.wording import number, significant

SOLVERS: dict[str, Solver] = {
    "picard": Picard(),
    "damped picard": Picard(damping=0.5),
    "anderson 1": Anderson(memory=1),
    "anderson 5": Anderson(memory=5),
    "anderson 10": Anderson(memory=10),
    "delayed anderson": Anderson(memory=5, start=0.05),
    "broyden": Broyden(),
    "newton": NewtonKrylov(),
}
COLOURS = {
    "picard": SOLVER_COLOURS["picard"], "damped picard": "#56B4E9", "anderson 1": "#E69F00",
    "anderson 5": SOLVER_COLOURS["anderson"], "anderson 10": "#7A5195",
    "delayed anderson": "#5B5B5B", "broyden": SOLVER_COLOURS["broyden"], "newton": SOLVER_COLOURS["newton"],
}  # fmt: skip
DRAWN = ("picard", "damped picard", "anderson 1", "anderson 5", "broyden", "newton")
"""Curves of the figures; the others lie so near to these that they would hide them."""

FINEST = 1e-5
"""Tolerance of the recorded solves, near what float32 can reach."""

GIVEN_AWAY = 0.01
"""Accuracy counts as reached within one point of its end."""


@dataclass(frozen=True, eq=False)
class Solved:
    """One solver over the samples of all runs.

    cost      (n,) evaluations and products to the tolerance; inf where it was not reached
    residual  (E,) median residual known after 1, 2, … evaluations
    accuracy  (E,) share of right answers by then
    seconds   (R,) of a whole solve of a batch to the tolerance, in rounds that all solvers shared
    """

    name: str
    cost: NDArray[np.float64]
    residual: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    seconds: NDArray[np.float64]

    @property
    def reached(self) -> float:
        return float(np.isfinite(self.cost).mean())

    @property
    def accurate_from(self) -> int:
        """Evaluations from which on accuracy stays within GIVEN_AWAY of its end."""
        short = np.flatnonzero(self.accuracy < self.accuracy[-1] - GIVEN_AWAY)
        return int(short[-1]) + 2 if len(short) else 1


def answer(context: Context, *, steps: int, tol: float, repeats: int, timed: int) -> Answer:
    """Solve the test split with every solver. steps: at most; tol: to be reached; repeats and timed: of the clock."""
    parts = []
    for run in context.runs:
        parts.append(context.once(run.label, partial(_measured, run, steps, tol, repeats, timed)))
        context.progress(f"{run.label}: {len(SOLVERS)} solvers over the test split")
    return answer_of(_pooled(parts), tol, steps, timed)


def _measured(run: StudyRun, steps: int, tol: float, repeats: int, timed: int) -> dict[str, Any]:
    deq, dataset = run.model()
    split = dataset.load("test")
    budget = Budget(max_iter=steps, tol=min(tol, FINEST), norm=deq.budget.norm)
    found = {name: _record(trace(deq, dataset, split, solver, budget, len(split)), tol, steps)
             for name, solver in SOLVERS.items()}  # fmt: skip
    x, _ = batch_of(dataset, "test", timed, run.device)
    with torch.no_grad(), deq.cell.fixed_weights():
        f = deq.bind(x)
        once = {
            name: partial(solve, f, deq.start(f), solver=solver, budget=budget.with_(tol=tol))
            for name, solver in SOLVERS.items()
        }
        for name, seconds in interleaved(once, repeats).items():
            found[name]["seconds"] = seconds
    return found


def _record(trajectory: Trajectory, tol: float, steps: int) -> dict[str, Any]:
    spent = np.arange(1, steps + 2)
    residual, right = after_evaluations(trajectory, spent)
    reached = trajectory.residual <= tol
    first = reached.argmax(axis=0)
    cost = np.where(reached.any(axis=0), trajectory.cost[first, np.arange(trajectory.n)], -1)
    return {"cost": cost.tolist(), "residual": np.median(residual, axis=1).tolist(), "right": right.sum(1).tolist()}


def after_evaluations(
    trajectory: Trajectory, spent: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(E, n) residual and right answer of each sample's latest iterate whose residual cost at most `spent` (E,).

    Before the first one is known: residual 1, which is that of the start 0, and its answer.
    """
    cost, last = trajectory.cost, trajectory.last()
    known = np.arange(len(cost))[:, None] <= last
    counts = np.stack([((cost <= most) & known).sum(axis=0) for most in spent])  # iterates known by then
    place = np.maximum(counts - 1, 0)
    columns = np.arange(trajectory.n)
    return np.where(counts > 0, trajectory.residual[place, columns], 1.0), trajectory.correct[place, columns]


def _pooled(parts: Sequence[dict[str, Any]]) -> list[Solved]:
    found = []
    for name in SOLVERS:
        cost = np.concatenate([np.asarray(part[name]["cost"], dtype=float) for part in parts])
        right = np.sum([part[name]["right"] for part in parts], axis=0)
        residual = np.exp(np.mean([np.log(np.maximum(part[name]["residual"], 1e-12)) for part in parts], axis=0))
        seconds = np.concatenate([part[name]["seconds"] for part in parts])
        found.append(Solved(name, np.where(cost < 0, np.inf, cost), residual, right / len(cost), seconds))
    return found


def answer_of(found: Sequence[Solved], tol: float, steps: int, timed: int) -> Answer:
    """The answer that these solves give; the first of them is what the others are compared with."""
    picard, *others = found
    savings = {one.name: relative_cost(one, picard) for one in others}
    seconds = {one.name: median_ratio(one.seconds, picard.seconds) for one in others}
    return Answer(
        sentences=(
            _fewest(picard, others, savings, tol), _fastest(others, savings, seconds, tol), _accuracy(found, savings),
        ),
        would_change=(
            f"One model and one task, on a CPU, in float32: how much is saved depends on the spectral radius, near 0 "
            f"there is nothing to save and near 1 a lot. Seconds are whole solves of a batch of {timed} samples, in "
            f"which what a solver does itself weighs more the cheaper the cell is. A solver was given {steps} steps. "
            f"Looser tolerances than {numbers.tolerance(tol)} save less, tighter ones more."
        ),
        figures=_figures(found, savings, seconds, tol),
        tables=[_table(found, savings, seconds, tol)],
        numbers={"tol": tol, "solvers": {one.name: {
            "cost": one.cost, "residual": one.residual, "accuracy": one.accuracy, "seconds": one.seconds,
            "relative_cost": savings.get(one.name), "relative_seconds": seconds.get(one.name),
            "accurate_from": one.accurate_from,
        } for one in found}},
    )  # fmt: skip


def relative_cost(one: Solved, base: Solved) -> MeanInterval:
    """Median over samples of its cost over the base's, paired; samples that neither brings there are left out."""
    either = np.isfinite(one.cost) | np.isfinite(base.cost)
    if not either.any():
        return MeanInterval(np.inf, np.inf, np.inf, 0)
    pairs = zip(one.cost[either], base.cost[either], strict=True)
    return median_interval([0.0 if np.isinf(b) else a / b for a, b in pairs])


def _fewest(picard: Solved, others: Sequence[Solved], savings: dict[str, MeanInterval], tol: float) -> str:
    goal = f"a residual of {numbers.tolerance(tol)}"
    best = min(others, key=lambda one: savings[one.name].mean)
    saved = savings[best.name]
    if saved.high < 1:
        return (
            f"To {goal} {best.name} needs the fewest evaluations, {number(saved)} times plain iteration's in "
            f"the median sample ({significant(float(np.median(best.cost)))} instead of "
            f"{significant(float(np.median(picard.cost)))}), and reaches it for {numbers.percent(best.reached)} of the "
            f"samples where plain iteration does for {numbers.percent(picard.reached)}."
        )
    return (
        f"To {goal} no solver is shown to need fewer evaluations than plain iteration with its median of "
        f"{significant(float(np.median(picard.cost)))}: the nearest, {best.name}, needs {number(saved)} of them."
    )


def _fastest(
    others: Sequence[Solved], savings: dict[str, MeanInterval], seconds: dict[str, MeanInterval], tol: float
) -> str:
    fewest = min(others, key=lambda one: savings[one.name].mean)
    complete = [one for one in others if one.reached >= 0.99] or list(others)
    fastest = min(complete, key=lambda one: seconds[one.name].mean)
    time = seconds[fastest.name]
    verdict = "faster than" if time.high < 1 else "slower than" if time.low > 1 else "not told apart from"
    text = (
        f"By the clock the fastest of the others is {fastest.name}, {verdict} plain iteration: {number(time)} its time"
    )
    if fastest is not fewest:
        text += f"; {fewest.name}, which needs the fewest evaluations, takes {number(seconds[fewest.name])}"
    return text + "."


def _accuracy(found: Sequence[Solved], savings: dict[str, MeanInterval]) -> str:
    needed = {one.name: one.accurate_from for one in found}
    picard = found[0]
    best = min(found, key=lambda one: needed[one.name])
    plain = needed[picard.name]
    end = numbers.percent(picard.accuracy[-1])
    if needed[best.name] < plain:
        return (
            f"Accuracy asks for less: within a point of its end, {end}, it stays from {plain} evaluations of plain "
            f"iteration on, and from {needed[best.name]} of {best.name}."
        )
    return (
        f"Accuracy does not need the acceleration: within a point of its end, {end}, it stays from {plain} evaluations "
        f"of plain iteration on, and no solver is there sooner."
    )


def _figures(
    found: Sequence[Solved], savings: dict[str, MeanInterval], seconds: dict[str, MeanInterval], tol: float
) -> list[Figure]:
    n = len(found[0].cost)
    drawn = [one for one in found if one.name in DRAWN]
    most = _interesting(drawn)
    residuals = [Point(one.name, e + 1, float(r)) for one in drawn for e, r in enumerate(one.residual[:most])]
    right = [Point(one.name, e + 1, float(a)) for one in drawn for e, a in enumerate(one.accuracy[:most])]
    x = Axis("evaluations and Jacobian products", log=True)
    relative = [
        Value(name, found_[name].mean, found_[name].low, found_[name].high, series)
        for name in savings
        for series, found_ in (("evaluations", savings), ("seconds", seconds))
        if np.isfinite(found_[name].mean)
    ]
    return [
        curves("residual_evaluations", "Residual against evaluations", f"Median over the test samples, n = {n:,}.",
               residuals, x, Axis("residual", log=True), rules=[Rule(f"{numbers.tolerance(tol)}", y=tol)],
               colours=COLOURS),
        values("relative_cost", "What each solver needs, relative to plain iteration",
               f"To a residual of {numbers.tolerance(tol)}; medians with 95 % intervals, evaluations paired over "
               "samples, seconds over rounds.", relative, Axis("times plain iteration's"),
               rules=[Rule("plain", x=1.0)]),
        curves("accuracy_evaluations", "Accuracy against evaluations", f"Test samples, n = {n:,}.", right, x,
               Axis("accuracy", percent=True), colours=COLOURS),
    ]  # fmt: skip


def _interesting(found: Sequence[Solved]) -> int:
    """Evaluations to draw: until every curve has come to its end, or all of them."""
    ends = [int(np.flatnonzero(np.diff(one.residual, prepend=np.inf))[-1]) + 2 for one in found]
    return min(max(ends), max(len(one.residual) for one in found))


def _table(
    found: Sequence[Solved], savings: dict[str, MeanInterval], seconds: dict[str, MeanInterval], tol: float
) -> AnswerTable:
    def interval(value: MeanInterval | None) -> str:
        if value is None:
            return "1"
        return f"{significant(value.mean)} [{significant(value.low)}, {significant(value.high)}]"

    base = found[0]
    saved = [_saved(one, base) for one in found]
    return AnswerTable(
        f"To a residual of {numbers.tolerance(tol)}",
        [
            Column("solver", [one.name for one in found], words=True),
            Column("evaluations, median", [significant(float(np.median(one.cost))) for one in found]),
            Column("reached", [numbers.percent(one.reached) for one in found]),
            Column("times picard's evaluations", [interval(savings.get(one.name)) for one in found]),
            Column("saved per sample, mean", saved),
            Column("times picard's seconds", [interval(seconds.get(one.name)) for one in found]),
            Column("accurate from", [f"{one.accurate_from}" for one in found]),
        ],
        "Evaluations include Jacobian products, one for one. Ratios are medians with 95 % intervals. Saved: mean "
        "difference where both arrive, with its bootstrap interval over samples. Accurate from: evaluations after "
        "which accuracy stays within a point of its end.",
    )  # fmt: skip


def _saved(one: Solved, base: Solved) -> str:
    both = np.isfinite(one.cost) & np.isfinite(base.cost)
    if one is base or not both.any():
        return numbers.UNKNOWN
    found = mean_interval(base.cost[both] - one.cost[both])
    return f"{significant(found.mean)} [{significant(found.low)}, {significant(found.high)}]"


QUESTION = Question("What does acceleration save over plain iteration?", answer, of_any_run=True)
