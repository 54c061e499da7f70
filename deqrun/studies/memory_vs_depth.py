"""What does depth cost in training: bytes that a step saves for its backward pass, and seconds?

Bytes are counted exactly, as storages that autograd holds, at the peak of forward and backward pass
(`deqrun.analysis.cost`). A checkpointed backward pass evaluates one segment again, and holds what that saves beside
the states between segments; PyTorch keeps this from being seen, so it is added: the segment's iterations times what
an unrolled iteration saves. Every gradient is given the same plain iterations. Not among the bytes: weights'
gradients, the optimizer's state, and what a solver keeps during the solve, of which nothing is saved.
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
from deqrun.models import DEQ
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget, Picard
from deqrun.studies.answering.context import Context, StudyRun, batch_of
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.timing import interleaved, median_ratio
from deqrun.studies.answering.wording import enumeration, number, significant

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
    relative  seconds over those of unrolled iterations of that depth, in rounds that all gradients shared
    """

    gradient: str
    depth: int
    peak: int
    relative: MeanInterval


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
    """What one more unrolled iteration saves."""
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
    deepest = max(step.depth for step in steps)
    last = {step.gradient: step for step in steps if step.depth == deepest}
    return Answer(
        sentences=(_bytes(steps, last, deepest), _seconds(last, deepest), _checkpointing(last, deepest)),
        would_change=(
            f"Bytes are those of this cell at a batch of {batch_size}, in float32: they are proportional to the batch, "
            f"and the ratio between gradients is that of the cell's activations, whatever the machine. Seconds are "
            f"ratios of {repeats} interleaved rounds on a CPU, and follow from the adjoint's steps, here 24 at most to "
            f"1e-3: an ill-conditioned equilibrium makes the implicit gradient slower, and solves that stop at a "
            f"tolerance make all but the unrolled one faster."
        ),
        figures=_figures(steps, batch_size),
        tables=[_table(steps)],
        numbers={"steps": steps},
    )  # fmt: skip


def growth(steps: Sequence[Step], gradient: str) -> float:
    """Bytes per iteration, between the smallest and the largest depth."""
    own = sorted((step.depth, step.peak) for step in steps if step.gradient == gradient)
    (low, few), (high, many) = own[0], own[-1]
    return (many - few) / (high - low) if high > low else 0.0


def _bytes(steps: Sequence[Step], last: dict[str, Step], deepest: int) -> str:
    constant = [name for name in GRADIENTS if growth(steps, name) == 0]
    unrolled, implicit = last["unrolled"], last["implicit"]
    text = (
        f"Back-propagation through the iterations holds {_mib(growth(steps, 'unrolled'))} more for each of them, "
        f"{_mib(unrolled.peak)} at depth {deepest}"
    )
    if "implicit" in constant:
        less = unrolled.peak / implicit.peak
        others = [name for name in constant if name != "implicit"]
        same = f" (nor do {enumeration(others)})" if others else ""
        return (
            f"{text}; the implicit gradient holds {_mib(implicit.peak)} and does not grow with depth{same}: "
            f"{less:.1f} times less."
        )
    return f"{text}, and the implicit gradient grows too, by {_mib(growth(steps, 'implicit'))} per iteration."


def _seconds(last: dict[str, Step], deepest: int) -> str:
    implicit = last["implicit"].relative
    verdict = "less" if implicit.high < 1 else "more" if implicit.low > 1 else "no detectably different"
    others = [f"{name} {number(last[name].relative)}" for name in ("phantom", "one-step")]
    return (
        f"A step with the implicit gradient takes {verdict} time than the unrolled one at depth {deepest}, "
        f"{number(implicit, 'times as much')}; {enumeration(others)}."
    )


def _checkpointing(last: dict[str, Step], deepest: int) -> str:
    unrolled, checkpointed, implicit = last["unrolled"], last["checkpointed"], last["implicit"]
    share = checkpointed.peak / unrolled.peak
    against = checkpointed.peak / implicit.peak
    return (
        f"Checkpointing every √{deepest} iterations gets the memory down to {significant(share)} of the unrolled one, "
        f"for {number(checkpointed.relative, 'times its seconds')}, and is left with {against:.1f} times the implicit "
        f"gradient's."
    )


def _mib(size: float) -> str:
    return f"{significant(size / MIB)} MiB"


def _figures(steps: Sequence[Step], batch_size: int) -> list[Figure]:
    x = Axis("depth (iterations)", log=True)
    held = [Point(step.gradient, step.depth, step.peak / MIB, note=f"{step.peak:,} bytes") for step in steps]
    relative = [
        Point(s.gradient, s.depth, s.relative.mean, s.relative.low, s.relative.high)
        for s in steps
        if s.gradient != "unrolled"
    ]
    return [
        curves("bytes_depth", "Bytes held for the backward pass", f"Peak of a training step of {batch_size} samples, "
               "counted exactly.", held, x, Axis("MiB", log=True)),
        curves("seconds_depth", "Seconds of a training step, over those of unrolled iterations",
               "Medians of interleaved rounds; bands: 95 % intervals.", relative, x, Axis("times unrolled")),
    ]  # fmt: skip


def _table(steps: Sequence[Step]) -> AnswerTable:
    depths = sorted({step.depth for step in steps})
    at = {(step.gradient, step.depth): step for step in steps}
    columns = [Column("depth", [f"{depth:,}" for depth in depths])]
    for name in GRADIENTS:
        columns.append(Column(f"{name}, MiB", [significant(at[name, d].peak / MIB) for d in depths]))
    for name in list(GRADIENTS)[1:]:
        found = [at[name, d].relative for d in depths]
        columns.append(Column(f"{name}, times", [f"{one.mean:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in found]))
    note = "Times: seconds of a step over those of the unrolled one, medians with their 95 % intervals."
    return AnswerTable("Bytes and seconds by depth", columns, note)


QUESTION = Question("What does depth cost in training?", answer, of_any_run=True)
