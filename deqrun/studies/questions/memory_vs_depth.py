"""What does depth cost in training: bytes that a step saves for its backward pass, and seconds?

Bytes are counted exactly, as storages that autograd holds, at the peak of forward and backward pass
(`deqrun.analysis.cost`). A checkpointed backward pass evaluates one segment again, and holds what that saves beside
the states between segments; PyTorch keeps this from being seen, so it is added: the segment's iterations times what
an unrolled iteration saves. Every gradient is given the same plain iterations. Not among the bytes: weights'
gradients, the optimizer's state, and a solver's memory during the solve, of which nothing is saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from deqrun.analysis.cost import saved_for_backward
from deqrun.datasets import Dataset
from deqrun.gradients import Gradient, Implicit, OneStep, Phantom, Unrolled
from deqrun.inference import Estimate, Told, Unit, told_by_name
from deqrun.models import DEQ
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.solvers import Budget, Picard
from deqrun.studies.context import Context, StudyRun, batch_of
from deqrun.studies.question import Question
from deqrun.studies.timing import interleaved, median_ratio
from deqrun.studies.wording import amounts

GRADIENTS: dict[str, Callable[[int], Gradient]] = {
    "unrolled": lambda depth: Unrolled(),
    "checkpointed": lambda depth: Unrolled(checkpoint=segment(depth)),
    "phantom": lambda depth: Phantom(steps=5, damping=0.5),
    "one-step": lambda depth: OneStep(),
    "implicit": lambda depth: Implicit(Picard(), Budget(max_iter=24, tol=1e-3)),
}
MIB = 2**20


def segment(depth: int) -> int:
    """√depth, rounded up: the iterations between two checkpoints that need the least memory."""
    return math.isqrt(depth - 1) + 1


@dataclass(frozen=True)
class Step:
    """A training step of one gradient at one depth.

    peak      most bytes that were held for backward passes at one moment
    relative  seconds over the seconds of unrolled iterations of that depth, in rounds that all gradients shared
    """

    gradient: str
    depth: int
    peak: int
    relative: Estimate


def answer(context: Context, *, depths: Sequence[int], batch_size: int, repeats: int) -> Answer:
    """Measure a training step at every depth. depths: solver steps, rising; repeats: of the clock."""
    run = context.runs[0]
    steps = []
    for depth in sorted(depths):
        found = context.once(f"{run.label}-{depth}", partial(_measured, run, depth, batch_size, repeats))
        steps += [
            Step(name, depth, one["peak"], median_ratio(one["seconds"], found["unrolled"]["seconds"]))
            for name, one in found.items()
        ]
        context.progress(f"depth {depth}: {len(found)} gradients")
    return answer_of(steps, batch_size, repeats)


def _measured(run: StudyRun, depth: int, batch_size: int, repeats: int) -> dict[str, Any]:
    deq, dataset = run.model()
    deq.train()
    deq.solver, deq.budget = Picard(), Budget(max_iter=depth, tol=0.0, keep="last")
    x, y = batch_of(dataset, "train", batch_size, run.device)
    steps = {name: partial(_step, deq, dataset, x, y, make(depth)) for name, make in GRADIENTS.items()}
    found: dict[str, Any] = {}
    for name, step in steps.items():
        with saved_for_backward() as saved:
            step()
        found[name] = {"peak": saved.peak}
    found["checkpointed"]["peak"] += segment(depth) * _bytes_per_iteration(deq, dataset, x, y)
    for name, seconds in interleaved(steps, repeats).items():
        found[name]["seconds"] = seconds
    return found


def _bytes_per_iteration(deq: DEQ, dataset: Dataset, x: Tensor, y: Tensor) -> int:
    """Bytes that one more unrolled iteration saves for backward."""
    peaks = []
    for depth in (2, 3):
        with saved_for_backward() as saved:
            _step(deq, dataset, x, y, Unrolled(steps=depth))
        peaks.append(saved.peak)
    return peaks[1] - peaks[0]


def _step(deq: DEQ, dataset: Dataset, x: Tensor, y: Tensor, gradient: Gradient) -> None:
    """Forward and backward pass of one training step; no weight is changed."""
    deq.zero_grad(set_to_none=True)
    with deq.cell.fixed_weights():
        f = deq.bind(x)
        z, _ = deq.settle(f, deq.start(f), gradient)
        dataset.loss(deq.cell.readout(z), y).mean().backward()


def answer_of(steps: Sequence[Step], batch_size: int, repeats: int) -> Answer:
    """The answer that these steps give."""
    return Answer(
        conclude(steps),
        would_change=(
            f"Bytes are proportional to the batch, here {batch_size}; their ratios follow from the cell's activations.",
            "An ill-conditioned equilibrium: the adjoint's steps, here 24 at most to 1e-3, then cost more.",
            "Solves that stop at a tolerance make every gradient but the unrolled one faster.",
            f"Another machine: seconds are ratios of {repeats} interleaved rounds in one process.",
        ),
        figures=_figures(steps, batch_size),
        tables=[_table(steps)],
        numbers={"steps": steps},
    )


def growth(steps: Sequence[Step], gradient: str) -> float:
    """Bytes per iteration, between the smallest and the largest depth."""
    own = sorted((step.depth, step.peak) for step in steps if step.gradient == gradient)
    (low, few), (high, many) = own[0], own[-1]
    return (many - few) / (high - low) if high > low else 0.0


def conclude(steps: Sequence[Step]) -> Conclusion:
    """Bytes are counted, not estimated. One family: the seconds of every gradient beside the unrolled one's."""
    deepest = max(step.depth for step in steps)
    last = {step.gradient: step for step in steps if step.depth == deepest}
    names = [name for name in ("implicit", "checkpointed", "phantom", "one-step") if name in last]
    sides = told_by_name({name: last[name].relative for name in names})
    implicit = last["implicit"]
    ratio = last["unrolled"].peak / implicit.peak
    key = [
        _exact("unrolled: MiB more for each iteration", growth(steps, "unrolled") / MIB, "MiB"),
        _exact(f"unrolled over implicit at depth {deepest}, bytes", ratio, "times"),
        *(
            KeyFigure(
                f"{name} over unrolled at depth {deepest}, seconds", last[name].relative, "times", told=sides[name]
            )
            for name in names
        ),
    ]
    if len({step.depth for step in steps}) == 1:
        return Conclusion("Not shown: one depth tells nothing of how memory grows.", tuple(key[1:]), len(sides))
    verdict = _verdict(growth(steps, "implicit") == 0, ratio, deepest, sides["implicit"])
    return Conclusion(verdict, tuple(key), len(sides))


def _exact(what: str, value: float, unit: str) -> KeyFigure:
    return KeyFigure(what, Estimate(value, value, value, 1, Unit.ROUNDS), "exact", unit)


def _verdict(constant: bool, ratio: float, deepest: int, seconds: Told) -> str:
    faster = {Told.ABOVE: "in more time", Told.BELOW: "in less time"}.get(seconds, "in a time not told apart")
    if not constant:
        return f"Both grow: unrolling holds {ratio:.1f} times the implicit gradient's bytes at depth {deepest}."
    return (
        f"Unrolling pays for depth in bytes; the implicit gradient does not, and holds {ratio:.1f} times less at depth "
        f"{deepest}, {faster}."
    )


def _figures(steps: Sequence[Step], batch_size: int) -> list[Figure]:
    x = Axis("depth (iterations)", log=True)
    held = [Point(step.gradient, step.depth, step.peak / MIB, note=f"{step.peak:,} bytes") for step in steps]
    relative = [
        Point(s.gradient, s.depth, s.relative.mean, s.relative.low, s.relative.high)
        for s in steps
        if s.gradient != "unrolled"
    ]
    return [
        curves(
            "bytes_depth",
            "Bytes held for the backward pass",
            f"Peak of a training step of {batch_size} samples, counted exactly.",
            held,
            x,
            Axis("MiB", log=True),
        ),
        curves(
            "seconds_depth",
            "Seconds of a training step, over those of unrolled iterations",
            "Medians of interleaved rounds; bands: 95 % intervals.",
            relative,
            x,
            Axis("times unrolled"),
        ),
    ]


def _table(steps: Sequence[Step]) -> AnswerTable:
    depths = sorted({step.depth for step in steps})
    at = {(step.gradient, step.depth): step for step in steps}
    columns = [Column("depth", [f"{depth:,}" for depth in depths])]
    for name in GRADIENTS:
        columns.append(Column(f"{name}, MiB", [numbers.significant(at[name, d].peak / MIB) for d in depths]))
    for name in list(GRADIENTS)[1:]:
        columns.append(Column(f"{name}, times", amounts(at[name, d].relative for d in depths)))
    note = "Times: seconds of a step over those of the unrolled one, medians with their 95 % intervals."
    return AnswerTable("Bytes and seconds by depth", columns, note)


QUESTION = Question("What does depth cost in training?", answer, of_any_run=True)
