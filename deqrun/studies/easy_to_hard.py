"""From easy to hard: a network trained on short strings is asked about longer ones. What does a length need?

Of every string the first iterate from which on its answer is right, and the first whose residual is at most a
tolerance: what an oracle and what a stopping rule would spend. Growth is told by b in evaluations ∝ length^b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.analysis.fates import first_converged
from deqrun.datasets import Split
from deqrun.experiment.sweep import trace
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, median_interval
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget, Picard
from deqrun.studies.answering.context import Context, StudyRun
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, number, share, significant

RESAMPLES = 2000

NEARLY = 0.1
"""An exponent so near to 1 is told as nearly proportional."""


@dataclass(frozen=True, eq=False)
class Length:
    """The strings of one length, of all runs: (n,) each; inf where it did not happen.

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
    runs: int = field(default=1, kw_only=True)


def answer(context: Context, *, lengths: Sequence[int], samples: int, iterations: int, tol: float) -> Answer:
    """Ask every run at every length. samples: of each; iterations: at most; tol: at which a string is done."""
    found = []
    for length in sorted(lengths):
        parts = [
            context.once(f"{run.label}-{length}", partial(_measured, run, length, samples, iterations, tol))
            for run in context.runs
        ]
        found.append(_pooled(length, parts))
        context.progress(f"{length} bits: {numbers.percent(found[-1].right.mean())} right")
    trained = int(context.runs[0].settings.dataset.parameters["length"])
    return answer_of(found, trained, iterations, tol)


def _measured(run: StudyRun, length: int, samples: int, iterations: int, tol: float) -> dict[str, Any]:
    deq, dataset = run.model(length=length, n_train=1, n_validation=1, n_test=max(samples, 1))
    data = dataset.load("test")
    found = trace(deq, dataset, Split(data.inputs, data.targets), Picard(), Budget(max_iter=iterations, tol=0.0), 64)
    stop = first_converged(found.residual, tol)
    reached = stop < len(found.residual)
    at = np.where(reached, stop, 0)
    everyone = np.arange(found.n)
    return {
        "settled": settled_from(found.correct).tolist(),
        "stopped": np.where(reached, found.nfe[at, everyone], -1).tolist(),
        "right": found.correct[-1].tolist(), "right_when_stopped": (found.correct[at, everyone] & reached).tolist(),
    }  # fmt: skip


def settled_from(correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n,) first iterate from which on every answer of (T+1, n) is right; −1 where the last one is wrong."""
    wrong = ~correct
    last_wrong = np.where(wrong.any(axis=0), len(wrong) - 1 - wrong[::-1].argmax(axis=0), -1)
    return np.where(wrong[-1], -1, last_wrong + 1)


def _pooled(length: int, parts: Sequence[dict[str, Any]]) -> Length:
    def column(name: str) -> NDArray[np.float64]:
        values = np.concatenate([np.asarray(part[name], dtype=float) for part in parts])
        return np.where(values < 0, np.inf, values)

    right = [np.concatenate([part[name] for part in parts]).astype(bool) for name in ("right", "right_when_stopped")]
    return Length(length, column("settled"), column("stopped"), *right, runs=len(parts))


def answer_of(found: Sequence[Length], trained: int, iterations: int, tol: float) -> Answer:
    """The answer that these lengths give."""
    return Answer(
        sentences=(_reach(found, trained), _growth(found), _stopping(found, tol)),
        would_change=(
            f"Strings are random, and a string counts as right when all of its parities are. Evaluations are of plain "
            f"iteration, {iterations:,} at most, from the cell's start: a kernel of three positions carries what it "
            f"knows one position per convolution, so that a length L cannot do with fewer than about L over the "
            f"reach of "
            f"one evaluation. Other seeds and shorter training may fail at lengths where this one does not."
        ),
        figures=_figures(found, trained),
        tables=[_table(found)],
        numbers={str(one.length): {
            "settled": one.settled, "stopped": one.stopped, "right": accuracy_interval(one.right, one.runs),
            "right_when_stopped": accuracy_interval(one.right_when_stopped, one.runs),
        } for one in found} | {"exponent": exponent(found)},
    )  # fmt: skip


def exponent(found: Sequence[Length], seed: int = 0) -> MeanInterval:
    """b of settled ∝ length^b by least squares on the medians' logarithms, with its bootstrap interval over strings.

    Lengths of which fewer than half of the strings are right in the end have no median, and are left out.
    """
    usable = [one for one in found if np.isfinite(np.median(one.settled)) and np.median(one.settled) > 0]
    if len(usable) < 2:
        return MeanInterval(np.nan, -np.inf, np.inf, len(usable))
    logs = np.log([one.length for one in usable])
    generator = np.random.default_rng(seed)

    def slope(medians: NDArray[np.float64]) -> float:
        return float(np.polyfit(logs, np.log(np.maximum(medians, 1)), 1)[0])

    drawn = []
    for _ in range(RESAMPLES):
        medians = [float(np.median(generator.choice(one.settled, len(one.settled)))) for one in usable]
        if np.isfinite(medians).all():
            drawn.append(slope(np.asarray(medians)))
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (-np.inf, np.inf)
    whole = slope(np.array([np.median(one.settled) for one in usable]))
    return MeanInterval(whole, float(low), float(high), sum(len(one.settled) for one in usable))


def _reach(found: Sequence[Length], trained: int) -> str:
    longest = found[-1]
    solved = [one.length for one in found if accuracy_interval(one.right, one.runs).mean >= 0.99]
    far = share(accuracy_interval(longest.right, longest.runs))
    if longest.length in solved:
        return (
            f"Trained on {trained} bits, the network solves strings of {longest.length} bits: {far} are right in "
            f"the end."
        )
    if solved:
        return (
            f"Trained on {trained} bits, the network solves strings of up to {max(solved)} bits; of "
            f"{longest.length} bits {far} are right in the end."
        )
    return (
        f"Trained on {trained} bits, the network solves no length: of {longest.length} bits {far} are right in the end."
    )


def _growth(found: Sequence[Length]) -> str:
    b = exponent(found)
    if not np.isfinite(b.mean):
        return "Too few lengths are solved to say how evaluations grow with length."
    other = "slower than the length" if b.mean < 1 else "faster than the length"
    near = "nearly in proportion to the length" if abs(b.mean - 1) <= NEARLY else other
    word = "in proportion to the length" if b.low <= 1 <= b.high else near
    ends = [one for one in (found[0], found[-1]) if np.isfinite(np.median(one.settled))]
    medians = [f"{significant(float(np.median(one.settled)))} for {one.length} bits" for one in ends]
    return (
        f"The evaluations from which on the answer is right grow {word}, as its power {number(b)}: "
        f"{enumeration(medians)} in the median."
    )


def _stopping(found: Sequence[Length], tol: float) -> str:
    """What a stopping rule would spend, and whether it stops at the right answer."""
    longest = found[-1]
    goal = numbers.tolerance(tol)
    done = float(np.isfinite(longest.stopped).mean())
    if done < 0.5:
        return (
            f"A residual of {goal} is no sign that it is done: of {longest.length} bits it is reached by "
            f"{numbers.percent(done)} of the strings only."
        )
    spent, needed = median_interval(longest.stopped), float(np.median(longest.settled))
    when = accuracy_interval(longest.right_when_stopped, longest.runs)
    more = f", {spent.mean / needed:.2f} times what the answer needs" if np.isfinite(needed) and needed > 0 else ""
    return (
        f"Stopping at a residual of {goal} spends {number(spent, 'evaluations')} on {longest.length} bits{more}, "
        f"and is right for {share(when)}."
    )


def _figures(found: Sequence[Length], trained: int) -> list[Any]:
    drawn, right = [], []
    for one in found:
        for name, values in (
            ("answer right from there on", one.settled),
            ("residual within the tolerance", one.stopped),
        ):
            middle = median_interval(values)
            if np.isfinite(middle.mean) and middle.mean > 0:
                drawn.append(Point(name, one.length, middle.mean, middle.low, middle.high, f"n = {middle.n}"))
        answers = {"at the last iterate": one.right, "within the tolerance": one.right_when_stopped}
        for name, right_there in answers.items():
            accuracy = accuracy_interval(right_there, one.runs)
            right.append(Point(name, one.length, accuracy.mean, accuracy.low, accuracy.high, f"n = {accuracy.n}"))
    x, rule = Axis("length, bits", log=True), [Rule(f"trained on {trained}", x=float(trained))]
    n = len(found[0].settled)
    return [
        curves("evaluations_length", "Evaluations that a length needs",
               f"Medians over n = {n:,} strings of each length, with 95 % intervals.",
               drawn, x, Axis("evaluations", log=True), rules=rule),
        curves("accuracy_length", "Accuracy against length",
               f"n = {n:,} strings of each length; bands: 95 % intervals.", right, x,
                Axis("strings right at every position", percent=True, domain=(0.0, 1.0)), rules=rule),
    ]  # fmt: skip


def _table(found: Sequence[Length]) -> AnswerTable:
    def medians(values: Sequence[NDArray[np.float64]]) -> list[str]:
        each = [median_interval(one) for one in values]
        return [f"{significant(m.mean)} [{significant(m.low)}, {significant(m.high)}]" for m in each]

    def shares(values: Sequence[NDArray[np.bool_]]) -> list[str]:
        each = [accuracy_interval(right, one.runs) for right, one in zip(values, found, strict=True)]
        return [f"{100 * s.mean:.1f} [{100 * s.low:.1f}, {100 * s.high:.1f}]" for s in each]

    return AnswerTable(
        "By length",
        [
            Column("bits", [f"{one.length}" for one in found]),
            Column("right in the end, %", shares([one.right for one in found])),
            Column("evaluations to the answer", medians([one.settled for one in found])),
            Column("evaluations to the tolerance", medians([one.stopped for one in found])),
            Column("right there, %", shares([one.right_when_stopped for one in found])),
            Column("n", [f"{len(one.right):,}" for one in found]),
        ],
        "Medians and shares with 95 % intervals over the strings; 'none' where fewer than half get there.",
    )


QUESTION = Question("How many evaluations does a longer problem need?", answer)
