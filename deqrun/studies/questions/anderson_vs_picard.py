"""What does acceleration save, in evaluations and in seconds, and does accuracy notice?

Every solver goes over the same samples from the same start, so that its savings are paired. Validation chooses the
solver of fewest evaluations, and its interval holds for all solvers at once; the first half of the timed rounds of the
other seeds chooses the fastest, and the second half tells its seconds. A Jacobian product is counted beside evaluations
one for one: Newton's method makes them in place of iterates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.experiment.sweep.trace import trace
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, Unit, claim, claim_median
from deqrun.records.trajectory import Trajectory
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, Rule, Value, curves, values
from deqrun.report.charts.style import SOLVER_COLOURS
from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Picard, Secant, Solver, solve
from deqrun.studies.choosing import chosen_without, named
from deqrun.studies.concluding import as_family, concluded
from deqrun.studies.context import Context, StudyRun, batch_of, counts
from deqrun.studies.question import Question
from deqrun.studies.timing import interleaved
from deqrun.studies.wording import amounts, percents

SOLVERS: dict[str, Solver] = {
    "picard": Picard(),
    "damped picard": Picard(damping=0.5),
    "anderson 1": Anderson(memory=1),
    "anderson 5": Anderson(memory=5),
    "anderson 10": Anderson(memory=10),
    "delayed anderson": Anderson(memory=5, start=0.05),
    "broyden": Broyden(),
    "secant": Secant(),
    "newton": NewtonKrylov(),
}
COLOURS = SOLVER_COLOURS | {
    "damped picard": "#56B4E9",
    "anderson 1": "#E69F00",
    "anderson 5": SOLVER_COLOURS["anderson"],
}
DRAWN = ("picard", "damped picard", "anderson 1", "anderson 5", "broyden", "secant", "newton")
"""Curves of the figures; the others lie so near to these that they would hide them."""

FINEST = 1e-5
"""Tolerance of the recorded solves, near float32's limit."""

COMPLETE = 0.99
"""Share of validation samples that a solver must bring to the tolerance to be called fast."""

GIVEN_AWAY = 0.01
"""Accuracy counts as reached within one point of its end."""


@dataclass(frozen=True, eq=False)
class Solved:
    """One solver over the samples, S seeds.

    validation  (S, m) evaluations and products to the tolerance on validation; inf where it was not reached
    cost        (S, n) the same on test
    residual    (E,) median residual known after 1, 2, … evaluations
    accuracy    (E,) share of right answers by then
    seconds     (S, R) of a whole solve of a batch to the tolerance, in rounds that all solvers shared
    """

    name: str
    validation: NDArray[np.float64]
    cost: NDArray[np.float64]
    residual: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    seconds: NDArray[np.float64]

    @property
    def reached(self) -> Estimate:
        return claim(np.isfinite(self.cost), SHARE)

    @property
    def accurate_from(self) -> int:
        """Evaluations from which on accuracy stays within GIVEN_AWAY of its end."""
        short = np.flatnonzero(self.accuracy < self.accuracy[-1] - GIVEN_AWAY)
        return int(short[-1]) + 2 if len(short) else 1


def answer(context: Context, *, steps: int, tol: float, repeats: int, timed: int) -> Answer:
    """Solve both splits with every solver. steps: at most; tol: to be reached; repeats and timed: of the clock."""
    parts = context.of_runs(_measured, steps, tol)
    clock = [
        context.once(f"{run.label}-seconds", partial(_timed, run, steps, tol, repeats, timed)) for run in context.runs
    ]  # one at a time: seconds are compared
    return answer_of(_of_seeds(parts, clock), tol, steps, timed)


def _measured(run: StudyRun, steps: int, tol: float) -> dict[str, Any]:
    deq, dataset = run.model()
    budget = Budget(max_iter=steps, tol=min(tol, FINEST), norm=deq.budget.norm)
    splits = {split: dataset.load(split) for split in ("validation", "test")}
    return {
        name: {
            split: _record(trace(deq, dataset, data, solver, budget, len(data)), tol, steps)
            for split, data in splits.items()
        }
        for name, solver in SOLVERS.items()
    }


def _timed(run: StudyRun, steps: int, tol: float, repeats: int, timed: int) -> dict[str, Any]:
    deq, dataset = run.model()
    x, _ = batch_of(dataset, "test", timed, run.device)
    budget = Budget(max_iter=steps, tol=tol, norm=deq.budget.norm)
    with torch.no_grad(), deq.cell.fixed_weights():
        f = deq.bind(x)
        once = {name: partial(solve, f, deq.start(f), solver=solver, budget=budget) for name, solver in SOLVERS.items()}
        return dict(interleaved(once, repeats))


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

    Before the first one is known: residual 1, as of the start 0, and its answer.
    """
    cost, last = trajectory.cost, trajectory.last()
    known = np.arange(len(cost))[:, None] <= last
    counts = np.stack([((cost <= most) & known).sum(axis=0) for most in spent])  # iterates known by then
    place = np.maximum(counts - 1, 0)
    columns = np.arange(trajectory.n)
    return np.where(counts > 0, trajectory.residual[place, columns], 1.0), trajectory.correct[place, columns]


def _of_seeds(parts: Sequence[dict[str, Any]], clock: Sequence[dict[str, Any]]) -> list[Solved]:
    found = []
    for name in SOLVERS:
        (validation,) = counts([part[name]["validation"] for part in parts], "cost")
        test = [part[name]["test"] for part in parts]
        (cost,) = counts(test, "cost")
        right = np.mean([one["right"] for one in test], axis=0) / cost.shape[1]
        residual = np.exp(np.mean([np.log(np.maximum(one["residual"], 1e-12)) for one in test], axis=0))
        seconds = np.array([one[name] for one in clock])
        found.append(Solved(name, validation, cost, residual, right, seconds))
    return found


def answer_of(found: Sequence[Solved], tol: float, steps: int, timed: int) -> Answer:
    """The answer that these solves give; the first of them is plain iteration, with which the others are compared."""
    return Answer(
        conclude(found, tol),
        would_change=(
            "Another spectral radius: near 0 there is nothing to save, near 1 a lot.",
            f"Another cell or machine: the cheaper a cell, the more a solver weighs; batches have {timed} samples.",
            f"Looser tolerances than {numbers.tolerance(tol)} save less, tighter ones more.",
            f"More than {steps:,} steps.",
        ),
        figures=_figures(found, tol),
        tables=[_table(found, tol)],
        numbers={
            "tol": tol,
            "solvers": {
                one.name: {
                    "cost": one.cost,
                    "residual": one.residual,
                    "accuracy": one.accuracy,
                    "seconds": one.seconds,
                    "relative_cost": relative_cost(one.cost, found[0].cost),
                    "relative_seconds": relative_seconds(one, found[0]),
                    "accurate_from": one.accurate_from,
                }
                for one in found
            },
        },
    )


def relative_cost(cost: NDArray[np.float64], base: NDArray[np.float64], among: int = 1) -> Estimate:
    """Median over samples of the cost over the base's, paired, beside 1; 1 where neither reaches the tolerance.

    among  solvers of which this one was chosen
    """
    return claim_median(_ratios(cost, base), versus=1.0, among=among)


def _ratios(cost: NDArray[np.float64], base: NDArray[np.float64]) -> NDArray[np.float64]:
    both, neither = np.isfinite(base), np.isinf(base) & np.isinf(cost)
    return np.where(neither, 1.0, np.where(both, cost / np.where(both, base, 1.0), 0.0))


def relative_seconds(one: Solved, base: Solved, rounds: slice = slice(None)) -> Estimate:
    """Median over rounds of the seconds over the base's, paired, beside 1."""
    return claim_median(one.seconds[:, rounds] / base.seconds[:, rounds], 1.0, Unit.ROUNDS)


def conclude(found: Sequence[Solved], tol: float) -> Conclusion:
    """One family: evaluations and seconds of the solver that validation chose, and of the one chosen as fastest."""
    picard, *others = found
    names = [one.name for one in others]
    ratios = np.array([np.median(_ratios(one.validation, picard.validation), axis=1) for one in others])  # (K, S)
    fewest = others[int(ratios.mean(axis=1).argmin())]
    rounds = picard.seconds.shape[1]
    first, rest = slice(0, max(1, rounds // 2)), slice(rounds // 2 if rounds > 1 else 0, None)
    slow = np.array([np.median(one.seconds[:, first] / picard.seconds[:, first], axis=1) for one in others])
    slow += np.where(np.array([np.isfinite(one.validation).mean() for one in others]) < COMPLETE, np.inf, 0)[:, None]
    fastest = chosen_without(-slow.T) if np.isfinite(slow).any() else np.zeros(len(picard.cost), dtype=np.intp)
    quick = _of(others, fastest)
    reached = claim(np.isfinite(fewest.cost).astype(float) - np.isfinite(picard.cost), DIFFERENCE)
    goal, few, (fast, *_) = numbers.tolerance(tol), fewest.name, named(names, fastest)
    family = {
        f"{few} over plain iteration, evaluations to {goal}": relative_cost(fewest.cost, picard.cost, len(others)),
        f"{fast} over plain iteration, seconds": relative_seconds(quick, picard, rest),
        f"{few} over plain iteration, samples that reach it": reached,
    }
    if few != fast:
        family[f"{few} over plain iteration, seconds"] = relative_seconds(fewest, picard, rest)
    told = as_family([KeyFigure(name, one, "points" if one is reached else "times") for name, one in family.items()])
    medians = [
        KeyFigure("evaluations of plain iteration, median", claim_median(picard.cost), "number"),
        KeyFigure(f"evaluations of {few}, median", claim_median(fewest.cost), "number"),
    ]
    return concluded(_verdict(few, fast, [figure.told for figure in told]), [*told, *medians])


def _of(others: Sequence[Solved], chosen: NDArray[np.intp]) -> Solved:
    """The solver that was chosen for each seed, as one."""
    first = others[chosen[0]]
    rows = {
        name: np.array([getattr(others[place], name)[seed] for seed, place in enumerate(chosen)])
        for name in ("validation", "cost", "seconds")
    }
    return replace(first, **rows)


def _verdict(fewest: str, fastest: str, sides: Sequence[Told | None]) -> str:
    evaluations, seconds, reached = sides[:3]
    if evaluations is Told.TOO_FEW:
        return "Not shown: too few seeds for a verdict about the recipe."
    time = f"{fastest} saves time" if seconds is Told.BELOW else "no solver is told to save time"
    if evaluations is Told.BELOW and reached is Told.BELOW:
        return f"It depends: {fewest} saves evaluations, and reaches the tolerance for fewer samples; {time}."
    if evaluations is Told.BELOW:
        return f"Yes: {fewest} saves evaluations over plain iteration; by the clock {time}."
    if evaluations is Told.ABOVE:
        return f"No: the cheapest, {fewest}, needs more evaluations than plain iteration; by the clock {time}."
    return f"Not shown: no solver is told to save evaluations; by the clock {time}."


def _figures(found: Sequence[Solved], tol: float) -> list[Figure]:
    picard, *others = found
    seeds, n = picard.cost.shape
    drawn = [one for one in found if one.name in DRAWN]
    most = _interesting(drawn)
    residuals = [Point(one.name, e + 1, float(r)) for one in drawn for e, r in enumerate(one.residual[:most])]
    right = [Point(one.name, e + 1, float(a)) for one in drawn for e, a in enumerate(one.accuracy[:most])]
    x = Axis("evaluations and Jacobian products", log=True)
    relative = [
        Value.of(one.name, estimate, series)
        for one in others
        for series, estimate in (
            ("evaluations", relative_cost(one.cost, picard.cost)),
            ("seconds", relative_seconds(one, picard)),
        )
        if np.isfinite([estimate.mean, estimate.low, estimate.high]).all()
    ]
    caption = f"n = {n:,} test samples in each of {seeds} seeds"
    return [
        curves(
            "residual_evaluations",
            "Residual against evaluations",
            f"Median; {caption}.",
            residuals,
            x,
            Axis("residual", log=True),
            rules=[Rule(f"{numbers.tolerance(tol)}", y=tol)],
            colours=COLOURS,
        ),
        values(
            "relative_cost",
            "Cost of each solver, relative to plain iteration",
            f"To a residual of {numbers.tolerance(tol)}; medians with 95 % intervals, evaluations paired over "
            "samples, seconds over rounds.",
            relative,
            Axis("times plain iteration's"),
            rules=[Rule("plain", x=1.0)],
        ),
        curves(
            "accuracy_evaluations",
            "Accuracy against evaluations",
            f"Mean; {caption}.",
            right,
            x,
            Axis("accuracy", percent=True),
            colours=COLOURS,
        ),
    ]


def _interesting(found: Sequence[Solved]) -> int:
    """Evaluations to draw: until every curve has come to its end, or all of them."""
    ends = [int(np.flatnonzero(np.diff(one.residual, prepend=np.inf))[-1]) + 2 for one in found]
    return min(max(ends), max(len(one.residual) for one in found))


def _table(found: Sequence[Solved], tol: float) -> AnswerTable:
    picard, *others = found
    return AnswerTable(
        f"To a residual of {numbers.tolerance(tol)}",
        [
            Column("solver", [one.name for one in found], words=True),
            Column("evaluations, median", amounts(claim_median(one.cost) for one in found)),
            Column("reached, %", percents(one.reached for one in found)),
            Column(
                "times picard's evaluations", ["1", *amounts(relative_cost(one.cost, picard.cost) for one in others)]
            ),
            Column("times picard's seconds", ["1", *amounts(relative_seconds(one, picard) for one in others)]),
            Column("accurate from", [f"{one.accurate_from}" for one in found]),
        ],
        "Evaluations include Jacobian products, one for one. In brackets 95 % intervals, each by itself. Accurate "
        "from: evaluations after which accuracy stays within a point of its end.",
    )


QUESTION = Question("What does acceleration save over plain iteration?", answer, of_any_run=True)
