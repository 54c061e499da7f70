"""Is the answer at the equilibrium better than the answer after no iteration, or after one?

A model may read its answer off the first states, and iterate to no effect: arXiv 2607.11116 compares the answers
before and after the loop in 19 trained recursive models, and finds +0.00 points in 18 of them. Here each model is read
out after 0 iterations, after 1, and where its training solve ends, on the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.sweep.trace import trace
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Value, values
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.context import Context, StudyRun, columns, some_of
from deqrun.studies.question import Question
from deqrun.studies.wording import enumeration, percents, point_texts, words

MATTERS = 0.005
"""Of accuracy, half a point: a gain that stays below it is no use of the iterations."""


@dataclass(frozen=True, eq=False)
class Begun:
    """One recipe, S seeds on the same n samples: right answers after no iteration, after one, and in the end.

    first, second, last  (S, n)
    """

    kind: str
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]
    last: NDArray[np.bool_]

    @property
    def over_start(self) -> Estimate:
        """Accuracy in the end less accuracy of the start, paired."""
        return claim(self.last.astype(float) - self.first, DIFFERENCE)

    @property
    def over_one(self) -> Estimate:
        """Accuracy in the end less accuracy after one iteration, paired."""
        return claim(self.last.astype(float) - self.second, DIFFERENCE)


def answer(context: Context, *, samples: int) -> Answer:
    """Read every model out at its start, after one iteration, and in the end. samples: of the test split, at most."""
    parts = context.by_kind(_measured, samples)
    return answer_of([Begun(kind, *columns(own, "first", "second", "last")) for kind, own in parts.items()])


def _measured(run: StudyRun, samples: int) -> dict[str, Any]:
    deq, dataset = run.model()
    some = some_of(dataset.load("test"), samples)
    found = trace(deq, dataset, some, deq.solver, deq.budget, run.settings.sweep.batch_size)
    kept = found.correct_at(deq.budget.max_iter, deq.budget.keep)
    after_one = found.correct[min(1, found.iterates - 1)]
    return {"first": found.correct[0].tolist(), "second": after_one.tolist(), "last": kept.tolist()}


def answer_of(found: Sequence[Begun]) -> Answer:
    """The answer that these models give."""
    return Answer(
        conclude(found),
        would_change=(
            "Harder tasks: where one step suffices, more cannot help.",
            "A start that sees the input: most cells here begin at 0, which knows nothing of it.",
            "Training that asks for an answer at the first state, as supervision in segments does.",
        ),
        figures=[_figure(found)],
        tables=[_table(found)],
        numbers={one.kind: {"over_start": one.over_start, "over_one": one.over_one} for one in found},
    )


def conclude(found: Sequence[Begun]) -> Conclusion:
    """One family: of each recipe the gain over one iteration and over none."""
    less = "equilibrium less"
    ones, starts = told_together(
        {one.kind: KeyFigure(f"{words(one.kind)}: {less} one iteration", one.over_one, "points") for one in found},
        {one.kind: KeyFigure(f"{words(one.kind)}: {less} the start", one.over_start, "points") for one in found},
    )
    return concluded(_verdict(ones), [*ones.values(), *starts.values()])


def _verdict(gains: Figures) -> str:
    if too_few(gains):
        return "Not shown: too few seeds for a verdict about the recipes."
    grows = those({kind: gain for kind, gain in gains.items() if gain.of.mean >= MATTERS}, Told.ABOVE)
    small = all(abs(gain.of.mean) < MATTERS for gain in gains.values())
    falls = those(gains, Told.BELOW)
    everywhere = "every variant" if len(gains) > 1 else "this model"
    if len(grows) == len(gains):
        return f"Yes: the equilibrium is right more often than one iteration in {everywhere}."
    if falls and not grows:
        return f"No: the equilibrium is right less often than one iteration in {enumeration(falls)}."
    if grows:
        loses = f", and to lose in {len(falls)}" if falls else ""
        among = f"{len(grows)} of {len(gains)} variants"
        return f"It depends: the equilibrium is told to beat one iteration in {among}{loses}."
    close = "; measured, they differ by under half a point" if small else ""
    return f"Not shown: the equilibrium is not told to beat one iteration in {everywhere}{close}."


def _figure(found: Sequence[Begun]) -> Any:
    shown = []
    for one in found:
        for name, right in (("0 iterations", one.first), ("1 iteration", one.second), ("the end", one.last)):
            shown.append(Value.of(words(one.kind), claim(right.astype(float), SHARE), name))
    caption = "Test accuracy of the start, after one iteration, and where the training solve ends; 95 % intervals."
    axis = Axis("test accuracy", percent=True)
    return values("start_end", "The start, one iteration, and the end", caption, shown, axis)


def _table(found: Sequence[Begun]) -> AnswerTable:
    def shares(name: str) -> list[str]:
        return percents(claim(getattr(one, name).astype(float), SHARE) for one in found)

    return AnswerTable(
        "Accuracy before and after the loop",
        [
            Column("variant", [words(one.kind) for one in found], words=True),
            Column("0 iterations, %", shares("first")),
            Column("1 iteration, %", shares("second")),
            Column("the end, %", shares("last")),
            Column("gain over 0, points", point_texts(one.over_start for one in found)),
            Column("gain over 1, points", point_texts(one.over_one for one in found)),
            Column("under half a point", ["yes" if abs(one.over_one.mean) < MATTERS else "no" for one in found]),
        ],
        "Gains are paired by sample. In brackets 95 % intervals. Last column: is the measured gain over 1 so small?",
    )


QUESTION = Question("Is the equilibrium better than its first iterate?", answer, of_any_run=True)
