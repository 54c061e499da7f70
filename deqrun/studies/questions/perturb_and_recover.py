"""Does a state that is disturbed midway find back, and in how many steps?

Every test sample is iterated to its end, then taken to one iterate and disturbed there: reset to its start, moved by
noise of the state's own size, or swapped for another sample's state (`deqrun.analysis.perturbation`). It has returned
if it stays near its former end, and its answer if the read-out is again the end's; the undisturbed control says
what it takes without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.analysis.perturbation import recovery
from deqrun.inference import SHARE, Estimate, Told, claim, claim_median
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Value, values
from deqrun.solvers import Budget, Picard
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.context import Context, StudyRun, batch_of, columns, counts
from deqrun.studies.question import Question
from deqrun.studies.wording import amounts, enumeration, percents, words

KINDS = {"reset": "reset to the start", "noise": "noise", "swap": "another sample's state"}

MOST = 0.9
"""A share of answers from which on a variant is said to find back."""


@dataclass(frozen=True, eq=False)
class Disturbed:
    """The samples of one variant after one disturbance, S seeds: (S, n) each.

    returned   whether the state came back for good
    steps      to the answer's return; inf where it did not return
    control    the same undisturbed
    """

    kind: str
    disturbance: str
    returned: NDArray[np.bool_]
    steps: NDArray[np.float64]
    control: NDArray[np.float64]

    @property
    def back(self) -> Estimate:
        return claim(self.returned, SHARE, versus=MOST)

    @property
    def answer_back(self) -> Estimate:
        return claim(np.isfinite(self.steps), SHARE, versus=MOST)

    @property
    def name(self) -> str:
        return words(self.kind)


def answer(context: Context, *, samples: int, at: int, noise: float, iterations: int) -> Answer:
    """Disturb every run's states. at: the iterate; noise: its size; iterations: plain ones, to an end and back."""
    found = [
        _of_seeds(kind, disturbance, own)
        for kind, own in context.by_kind(_measured, samples, at, noise, iterations).items()
        for disturbance in KINDS
    ]
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
                f,
                deq.start(f),
                at,
                kind,
                size=noise,
                solver=Picard(),
                budget=budget,
                readout=deq.cell.readout,
                asked=dataset.asked(targets),
            )
            steps, control = one.disturbed.answer_steps, one.control.answer_steps
            assert steps is not None
            assert control is not None
            found[kind] = {
                "returned": one.disturbed.returned.tolist(),
                "steps": [s if s <= iterations else -1 for s in steps.tolist()],
                "control": [s if s <= iterations else -1 for s in control.tolist()],
            }
    return found


def _of_seeds(kind: str, disturbance: str, parts: Sequence[dict[str, Any]]) -> Disturbed:
    own = [part[disturbance] for part in parts]
    (returned,) = columns(own, "returned", dtype=bool)
    return Disturbed(kind, disturbance, returned, *counts(own, "steps", "control"))


def answer_of(found: Sequence[Disturbed], at: int, noise: float, iterations: int) -> Answer:
    """The answer that these disturbances give."""
    return Answer(
        conclude(found),
        would_change=(
            f"Another moment or size: one disturbance at iterate {at}, noise {noise:g} times the state.",
            f"More than {iterations:,} plain iterations to come back.",
            "A looser distance: a state is back within a hundredth of its former end, for good.",
            "Models that do not settle lose their state even undisturbed, while their answer may return.",
        ),
        figures=[_figure(found)],
        tables=[_table(found)],
        numbers={
            f"{one.kind}/{one.disturbance}": {
                "state_back": one.back,
                "answer_back": one.answer_back,
                "steps": one.steps,
                "control": one.control,
            }
            for one in found
        },
    )


def conclude(found: Sequence[Disturbed]) -> Conclusion:
    """One family: of every variant the share of samples whose answer returns after each of the disturbances."""
    kinds = list(dict.fromkeys(one.kind for one in found))
    shares = {kind: all_back([one for one in found if one.kind == kind]) for kind in kinds}
    (back,) = told_together(
        {
            kind: KeyFigure(f"{words(kind)}: answers back after every disturbance", share)
            for kind, share in shares.items()
        }
    )
    swaps = [one for one in found if one.disturbance == "swap" and back[one.kind].told is Told.ABOVE]
    steps = [
        KeyFigure(f"{one.name}: steps back from another sample's state", claim_median(one.steps), "number", "steps")
        for one in swaps
    ]
    return concluded(_verdict(back), [*back.values(), *steps])


def all_back(found: Sequence[Disturbed]) -> Estimate:
    """Share of samples whose answer returns after each of one variant's disturbances, beside MOST."""
    return claim(np.logical_and.reduce([np.isfinite(one.steps) for one in found]), SHARE, versus=MOST)


def _verdict(shares: Figures) -> str:
    back, lost = those(shares, Told.ABOVE), those(shares, Told.BELOW)
    if len(back) == len(shares):
        return "Yes: over nine answers in ten return after every disturbance, in every variant."
    if len(lost) == len(shares):
        return "No: in every variant under nine answers in ten return after every disturbance."
    if back and lost:
        return f"It depends on the training: {enumeration(back)} find back, {enumeration(lost)} lose answers."
    if back:
        return f"It depends: {enumeration(back)} find back; for the others it is not told."
    if lost:
        return f"It depends: {enumeration(lost)} lose answers; for the others it is not told."
    if too_few(shares):
        return "Not shown: too few seeds for a Yes or a No about the recipe."
    return "Not shown: whether nine answers in ten return after every disturbance is not told."


def _figure(found: Sequence[Disturbed]) -> Any:
    rows = [Value.of(one.name, one.answer_back, KINDS[one.disturbance]) for one in found]
    seeds, n = found[0].returned.shape
    caption = (
        f"Share of samples whose answer is again that of their end, for good; n = {n:,} in each of {seeds} seeds; "
        "95 % intervals."
    )
    axis = Axis("answers that return", percent=True, domain=(0.0, 1.0))
    return values("answers_back", "Answers that return after a disturbance", caption, rows, axis)


def _table(found: Sequence[Disturbed]) -> AnswerTable:
    return AnswerTable(
        "After a disturbance",
        [
            Column("model", [one.name for one in found], words=True),
            Column("disturbance", [KINDS[one.disturbance] for one in found], words=True),
            Column("answer returns, %", percents(one.answer_back for one in found)),
            Column("state returns, %", percents(one.back for one in found)),
            Column("steps to the answer, median", amounts(claim_median(one.steps) for one in found)),
            Column("undisturbed", amounts(claim_median(one.control) for one in found)),
            Column("n", [f"{one.returned.shape[1]:,}" for one in found]),
        ],
        "In brackets 95 % intervals; 'none' where in some seed fewer than half return.",
    )


QUESTION = Question("Does a disturbed state find back?", answer, of_any_run=True)
