"""From easy to hard: a network trained on short strings is asked about longer ones. What does a length need?

Of every string the first iterate from which on its answer is right, and the first whose residual is at most a
tolerance: the evaluations of an oracle and of a stopping rule. Growth is told by b in evaluations ∝ length^b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.analysis.fates import first_converged
from deqrun.experiment.sweep.trace import trace
from deqrun.inference import (
    LEAST_SEEDS,
    SHARE,
    Estimate,
    Told,
    Unit,
    claim,
    claim_median,
    of_seeds,
    p_value,
    resampled,
    told,
)
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.solvers import Budget, Picard
from deqrun.studies.context import Context, StudyRun, columns, counts
from deqrun.studies.question import Question
from deqrun.studies.wording import amounts, percents

RESAMPLES = 400

DIGITS = 6
"""Of an exponent: behind them is rounding."""

MOST = 0.9
"""A share of strings from which on a length is called solved."""


@dataclass(frozen=True, eq=False)
class Length:
    """The strings of one length, S seeds: (S, n) each; inf where it did not happen.

    settled  evaluations to the iterate from which on the answer is right
    stopped  evaluations that tell a residual within the tolerance
    right    whether the answer at the last iterate is right
    right_when_stopped   and at the one where the residual is first within the tolerance
    """

    length: int
    settled: NDArray[np.float64]
    stopped: NDArray[np.float64]
    right: NDArray[np.bool_]
    right_when_stopped: NDArray[np.bool_]

    @property
    def solved(self) -> Estimate:
        return claim(self.right, SHARE, versus=MOST)

    @property
    def solved_when_stopped(self) -> Estimate:
        return claim(self.right_when_stopped, SHARE, versus=MOST)


def answer(context: Context, *, lengths: Sequence[int], samples: int, iterations: int, tol: float) -> Answer:
    """Ask every run at every length. samples: of each; iterations: at most; tol: at which a string is done."""
    asked = {
        f"{run.label}-{length}": partial(_measured, run, length, samples, iterations, tol)
        for length in sorted(lengths)
        for run in context.runs
    }
    parts = context.each(asked)
    found = [_of_seeds(length, [parts[f"{run.label}-{length}"] for run in context.runs]) for length in sorted(lengths)]
    trained = int(context.runs[0].settings.dataset.parameters["length"])
    return answer_of(found, trained, iterations, tol)


def _measured(run: StudyRun, length: int, samples: int, iterations: int, tol: float) -> dict[str, Any]:
    deq, dataset = run.model(length=length, n_train=1, n_validation=1, n_test=max(samples, 1))
    found = trace(deq, dataset, dataset.load("test"), Picard(), Budget(max_iter=iterations, tol=0.0), 64)
    stop = first_converged(found.residual, tol)
    reached = stop < len(found.residual)
    at = np.where(reached, stop, 0)
    everyone = np.arange(found.n)
    return {
        "settled": settled_from(found.correct).tolist(),
        "stopped": np.where(reached, found.nfe[at, everyone], -1).tolist(),
        "right": found.correct[-1].tolist(),
        "right_when_stopped": (found.correct[at, everyone] & reached).tolist(),
    }


def settled_from(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n,) first iterate from which on every answer of (T+1, n) is right; −1 where the last one is wrong."""
    wrong = ~correct
    last_wrong = np.where(wrong.any(axis=0), len(wrong) - 1 - wrong[::-1].argmax(axis=0), -1)
    return np.where(wrong[-1], -1, last_wrong + 1)


def _of_seeds(length: int, parts: Sequence[dict[str, Any]]) -> Length:
    settled, stopped = counts(parts, "settled", "stopped")
    right, right_when_stopped = columns(parts, "right", "right_when_stopped", dtype=bool)
    return Length(length, settled, stopped, right, right_when_stopped)


def answer_of(found: Sequence[Length], trained: int, iterations: int, tol: float) -> Answer:
    """The answer that these lengths give."""
    return Answer(
        conclude(found, trained, tol),
        would_change=(
            f"A budget beyond {iterations:,} plain iterations, or another start.",
            "A wider kernel: a cell of kernel 3 carries its knowledge a few positions per evaluation.",
            "Shorter training, which may fail at lengths where this one does not.",
        ),
        figures=_figures(found, trained),
        tables=[_table(found)],
        numbers={
            str(one.length): {
                "settled": one.settled,
                "stopped": one.stopped,
                "right": one.solved,
                "right_when_stopped": one.solved_when_stopped,
            }
            for one in found
        }
        | {"exponent": exponent(found)},
    )


def exponent(found: Sequence[Length], seed: int = 0) -> Estimate:
    """b of settled ∝ length^b by least squares on the logarithms of the medians, of each seed; beside 1.

    Lengths of which in some seed fewer than half of the strings are right in the end have no median, and are left out.
    """
    usable = [
        one for one in found if np.isfinite(medians := np.median(one.settled, axis=1)).all() and medians.min() > 0
    ]
    seeds, n = found[0].settled.shape
    unit = Unit.SEEDS if seeds >= LEAST_SEEDS else Unit.SAMPLES
    if len(usable) < 2:
        return Estimate(np.nan, -np.inf, np.inf, n, unit, seeds, 1.0, 1.0)
    logs = np.log([one.length for one in usable])

    def slopes(tables: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        medians = np.array([np.median(table, axis=1) for table in tables])  # (lengths, S)
        with np.errstate(invalid="ignore"):
            slope = (logs - logs.mean()) @ np.log(np.maximum(medians, 1)) / ((logs - logs.mean()) ** 2).sum()
        return np.asarray(slope.round(DIGITS))

    own = slopes([one.settled for one in usable])
    generator = np.random.default_rng(seed)
    drawn = np.array(
        [slopes([one.settled[:, generator.integers(n, size=n)] for one in usable]).mean() for _ in range(RESAMPLES)]
    )
    mean = float(own.mean())
    over_strings = resampled(mean, drawn)
    if unit is Unit.SEEDS:
        return of_seeds(own, over_strings, n, versus=1.0)
    return Estimate(mean, *over_strings(0.05), n, unit, seeds, p_value(mean, over_strings, 1.0), 1.0)


def conclude(found: Sequence[Length], trained: int, tol: float) -> Conclusion:
    """One family: which lengths are solved, whether the longest is when it stops by itself, and b beside 1."""
    longest = found[-1]
    b, stopped = exponent(found), longest.solved_when_stopped
    *lengths, power, stops = told([one.solved for one in found] + [b, stopped])
    reach = [one.length for one, side in zip(found, lengths, strict=True) if side is Told.ABOVE]
    ends = [found[0], longest] if len(found) > 1 else [longest]
    key = [
        KeyFigure(f"{longest.length} bits right in the end", longest.solved, told=lengths[-1]),
        KeyFigure("b in evaluations ∝ length^b", b, "number", told=power),
        KeyFigure(f"{longest.length} bits right at a residual of {numbers.tolerance(tol)}", stopped, told=stops),
        *(
            KeyFigure(f"evaluations that settle {one.length} bits, median", claim_median(one.settled), "number")
            for one in ends
        ),
        KeyFigure(f"evaluations to that residual, {longest.length} bits", claim_median(longest.stopped), "number"),
    ]
    return Conclusion(_verdict(reach, trained, power, b, Told.TOO_FEW in lengths), tuple(key[:6]), len(found) + 2)


def _verdict(reach: Sequence[int], trained: int, power: Told, b: Estimate, too_few: bool) -> str:
    if too_few:
        return "Not shown: too few seeds for a verdict about the recipe."
    if not reach:
        return f"Not shown: trained on {trained} bits, no length is told to be solved."
    grow = {
        Told.ABOVE: f"evaluations grow faster than the length, as its power {b.mean:.2f}",
        Told.BELOW: f"evaluations grow slower than the length, as its power {b.mean:.2f}",
    }.get(power, "that evaluations grow otherwise than the length is not told")
    return f"Trained on {trained} bits, up to {max(reach)} bits are solved; {grow}."


def _figures(found: Sequence[Length], trained: int) -> list[Any]:
    drawn, right = [], []
    for one in found:
        for name, values in (
            ("answer right from there on", one.settled),
            ("residual within the tolerance", one.stopped),
        ):
            middle = claim_median(values)
            if np.isfinite(middle.mean) and middle.mean > 0:
                drawn.append(Point(name, one.length, middle.mean, max(middle.low, 0.5), middle.high, f"n = {middle.n}"))
        answers = {"at the last iterate": one.solved, "within the tolerance": one.solved_when_stopped}
        for name, share in answers.items():
            right.append(Point.of(name, one.length, share, f"n = {share.n}"))
    x, rule = Axis("length, bits", log=True), [Rule(f"trained on {trained}", x=float(trained))]
    seeds, n = found[0].settled.shape
    caption = f"n = {n:,} strings of each length in each of {seeds} seeds"
    return [
        curves(
            "evaluations_length",
            "Evaluations that a length needs",
            f"Medians; {caption}; 95 % intervals.",
            drawn,
            x,
            Axis("evaluations", log=True),
            rules=rule,
        ),
        curves(
            "accuracy_length",
            "Accuracy against length",
            f"{caption[0].upper()}{caption[1:]}; 95 % intervals.",
            right,
            x,
            Axis("strings right at every position", percent=True, domain=(0.0, 1.0)),
            rules=rule,
        ),
    ]


def _table(found: Sequence[Length]) -> AnswerTable:
    return AnswerTable(
        "By length",
        [
            Column("bits", [f"{one.length}" for one in found]),
            Column("right in the end, %", percents(one.solved for one in found)),
            Column("evaluations to the answer", amounts(claim_median(one.settled) for one in found)),
            Column("evaluations to the tolerance", amounts(claim_median(one.stopped) for one in found)),
            Column("right there, %", percents(one.solved_when_stopped for one in found)),
            Column("n", [f"{one.right.shape[1]:,}" for one in found]),
        ],
        "Medians over the strings, and shares of them, with 95 % intervals; 'none' where in some seed fewer than half "
        "get there.",
    )


QUESTION = Question("How many evaluations does a longer problem need?", answer)
