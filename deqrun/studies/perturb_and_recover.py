"""Does a state that is disturbed midway find back, and in how many steps?

Every test sample is iterated to its end, then taken to one iterate and disturbed there: reset to its start, moved by
noise of the state's own size, or swapped for another sample's state (`deqrun.analysis.perturbation`). It has returned
if it stays near its former end, and its answer if the read-out is again that of the end; the undisturbed control says
what it takes without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.analysis.perturbation import recovery
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, median_interval
from deqrun.report.charts.answers import Axis, Value, values
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget, Picard
from deqrun.studies.answering.context import Context, StudyRun, batch_of
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, number, share, significant

KINDS = {"reset": "reset to the start", "noise": "noise", "swap": "another sample's state"}


@dataclass(frozen=True, eq=False)
class Disturbed:
    """The samples of one variant after one disturbance, its runs pooled: (n,) each.

    returned, answered   whether state and answer came back for good
    steps                to the answer's return; inf where it did not return
    control              the same undisturbed
    """

    kind: str
    disturbance: str
    returned: NDArray[np.bool_]
    answered: NDArray[np.bool_]
    steps: NDArray[np.float64]
    control: NDArray[np.float64]
    runs: int = 1

    @property
    def back(self) -> MeanInterval:
        return accuracy_interval(self.returned, self.runs)

    @property
    def answer_back(self) -> MeanInterval:
        return accuracy_interval(self.answered, self.runs)

    @property
    def took(self) -> MeanInterval:
        return median_interval(self.steps)

    @property
    def name(self) -> str:
        return self.kind.replace("_", " ")


def answer(context: Context, *, samples: int, at: int, noise: float, iterations: int) -> Answer:
    """Disturb every run's states. at: the iterate; noise: its size; iterations: plain ones, to an end and back."""
    found = []
    for kind in context.kinds:
        parts = [
            context.once(run.label, partial(_measured, run, samples, at, noise, iterations))
            for run in context.of_kind(kind)
        ]
        found += [_pooled(kind, disturbance, parts) for disturbance in KINDS]
        context.progress(f"{kind}: {len(KINDS)} disturbances")
    return answer_of(found, at, noise, iterations)


def _measured(run: StudyRun, samples: int, at: int, noise: float, iterations: int) -> dict[str, Any]:
    deq, dataset = run.model()
    x, targets = batch_of(dataset, "test", samples, run.device)
    budget = Budget(max_iter=iterations, tol=0.0)
    found = {}
    with deq.cell.fixed_weights():
        f = deq.bind(x)
        for kind in KINDS:
            one = recovery(
                f, deq.start(f), at, kind, size=noise, solver=Picard(), budget=budget, readout=deq.cell.readout,
                asked=dataset.asked(targets),
            )  # fmt: skip
            steps, control = one.disturbed.answer_steps, one.control.answer_steps
            assert steps is not None
            assert control is not None
            found[kind] = {
                "returned": one.disturbed.returned.tolist(),
                "steps": [s if s <= iterations else -1 for s in steps.tolist()],
                "control": [s if s <= iterations else -1 for s in control.tolist()],
            }
    return found


def _pooled(kind: str, disturbance: str, parts: Sequence[dict[str, Any]]) -> Disturbed:
    own = [part[disturbance] for part in parts]
    returned, steps, control = (np.concatenate([np.asarray(one[name], dtype=float) for one in own])
                                for name in ("returned", "steps", "control"))  # fmt: skip
    steps, control = (np.where(column < 0, np.inf, column) for column in (steps, control))
    return Disturbed(kind, disturbance, returned.astype(bool), np.isfinite(steps), steps, control, len(parts))


def answer_of(found: Sequence[Disturbed], at: int, noise: float, iterations: int) -> Answer:
    """The answer that these disturbances give."""
    return Answer(
        sentences=(_finds_back(found), _states(found), _how_long(found)),
        would_change=(
            f"One disturbance, at iterate {at}, of one size (noise {noise:g} times the state), with {iterations:,} "
            f"plain "
            f"iterations to come back; back is within a hundredth of the former end, and for good. An end that is no "
            f"fixed point cannot be stayed at, so a model that does not settle loses its state here even undisturbed, "
            f"while its answer may return."
        ),
        figures=[_figure(found)],
        tables=[_table(found)],
        numbers={f"{one.kind}/{one.disturbance}": {
            "state_back": one.back, "answer_back": one.answer_back, "steps": one.steps, "control": one.control,
        } for one in found},
    )  # fmt: skip


def _finds_back(found: Sequence[Disturbed]) -> str:
    kinds = list(dict.fromkeys(one.kind for one in found))
    worst = {
        kind: min((one for one in found if one.kind == kind), key=lambda one: one.answer_back.mean) for kind in kinds
    }
    good = [kind for kind in kinds if worst[kind].answer_back.mean >= 0.95]
    word = "Yes" if len(good) == len(kinds) else "No" if not good else "It depends on the training"
    parts = [
        f"{share(worst[kind].answer_back)} with {worst[kind].name} after {KINDS[worst[kind].disturbance]}"
        for kind in kinds
    ]
    return f"{word}: after the disturbance that is worst for it the answer returns for {enumeration(parts)}."


def _states(found: Sequence[Disturbed]) -> str:
    parts = []
    for kind in dict.fromkeys(one.kind for one in found):
        own = [one for one in found if one.kind == kind]
        parts.append(f"{numbers.percent(min(one.back.mean for one in own))} with {own[0].name}")
    return f"The state itself is back at its former end, at worst, for {enumeration(parts)}."


def _how_long(found: Sequence[Disturbed]) -> str:
    parts = [
        f"{number(one.took, 'steps')} with {one.name}"
        for one in found
        if one.disturbance == "swap" and np.isfinite(one.took.mean)
    ]
    if not parts:
        return "From another sample's state no answer returns in the median sample."
    return f"From another sample's state the answer takes, in the median sample, {enumeration(parts)}."


def _figure(found: Sequence[Disturbed]) -> Any:
    rows = [
        Value(one.name, one.answer_back.mean, one.answer_back.low, one.answer_back.high, KINDS[one.disturbance])
        for one in found
    ]
    n = len(found[0].returned)
    caption = f"Share of samples whose answer is again that of their end, for good; n = {n:,}; 95 % intervals."
    axis = Axis("answers that return", percent=True, domain=(0.0, 1.0))
    return values("answers_back", "Answers that return after a disturbance", caption, rows, axis)


def _table(found: Sequence[Disturbed]) -> AnswerTable:
    def shares(each: Sequence[MeanInterval]) -> list[str]:
        return [f"{100 * s.mean:.1f} [{100 * s.low:.1f}, {100 * s.high:.1f}]" for s in each]

    def medians(each: Sequence[NDArray[np.float64]]) -> list[str]:
        return [significant(float(np.median(column))) for column in each]

    return AnswerTable(
        "After a disturbance",
        [
            Column("model", [one.name for one in found], words=True),
            Column("disturbance", [KINDS[one.disturbance] for one in found], words=True),
            Column("answer returns, %", shares([one.answer_back for one in found])),
            Column("state returns, %", shares([one.back for one in found])),
            Column("steps to the answer, median", medians([one.steps for one in found])),
            Column("undisturbed", medians([one.control for one in found])),
            Column("n", [f"{len(one.returned):,}" for one in found]),
        ],
        "In brackets Wilson's 95 % intervals; 'none' where fewer than half return.",
    )


QUESTION = Question("Does a disturbed state find back?", answer, of_any_run=True)
