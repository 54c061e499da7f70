"""The gradient of one optimizer step, of a batch as a whole, or of its parts: one after the other, or by rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from deqrun.datasets import Dataset
from deqrun.experiment.ranks import add_up, several
from deqrun.experiment.training.draws import Draws, Part, parts, rows_of_rank
from deqrun.experiment.training.objective import Batch, Forward
from deqrun.experiment.training.starts import Starts
from deqrun.experiment.training.steps import Stepping
from deqrun.models import DEQ
from deqrun.models.rows import part_of_batch
from deqrun.settings import TrainSettings

__all__ = ["accumulated", "rows_worked_on"]

MEANS = ("objective", "loss", "penalty")
"""Figures of a `Forward` that are means over the samples."""


def accumulated(
    forward: Callable[..., Forward],
    deq: DEQ,
    dataset: Dataset,
    batch: Batch,
    settings: TrainSettings,
    step: int,
    draws: Draws,
    starts: Starts,
    stepping: Stepping,
) -> Forward:
    """Forward and backward pass of a batch: the gradients of its mean objective are added to the parameters'.

    With `train.accumulate` = k > 1 the batch is worked on in parts of batch_size / k samples, rounded up. The objective
    of a part is a mean over its samples, so it weighs as many samples as the part has, out of the whole batch's: the
    sum is the objective of the whole batch, up to the order of summation, if the model couples no samples. Every part
    makes the draws of the whole batch and takes its rows of them; dropout alone draws for each part by itself.

    With several ranks each works on its rows of every part, and the gradients are added up over the ranks. So is the
    objective; the figures of samples stay the rank's own.

    forward   `deqrun.experiment.training.objective.forward`
    stepping  the precision of both passes
    Returns the `Forward` of the whole batch, after its backward pass; of the rank's rows, where there are several.
    """
    if settings.accumulate == 1 and not several():
        with deq.cell.fixed_weights():  # around the backward pass, too: checkpointed iterations run again in it
            with stepping.autocast():
                made = forward(deq, dataset, batch, settings, step, draws, starts)
            stepping.backward(made.objective)
        return made
    # Each part by itself: its graph is gone before the next begins.
    before, done = draws.states(), []
    cut = parts(len(batch.x), -(-settings.batch_size // settings.accumulate))
    mine = [rows_of_rank(part) for part in cut]
    for whole, part in zip(cut, mine, strict=True):
        draws.rewind(before)
        rows = batch.rows(slice(part.first, part.end))
        with deq.cell.fixed_weights(), _within(whole, part):
            with stepping.autocast():
                made = forward(deq, dataset, rows, settings, step, draws, starts, part)
            stepping.backward(made.objective * part.share)
        done.append(made.rows(slice(0, 0) if part.idle else slice(None)))  # of an idle part no sample counts
    joined = _joined(done, mine)
    return _added_up(joined, deq) if several() else joined


def rows_worked_on(size: int, settings: TrainSettings) -> Tensor:
    """Rows of a batch of `size` whose figures `accumulated` gives, in its order: all, or this rank's; long."""
    cut = parts(size, -(-settings.batch_size // settings.accumulate))
    mine = [part for part in map(rows_of_rank, cut) if not part.idle]
    return torch.cat([torch.arange(part.first, part.end) for part in mine] or [torch.arange(0)])


def _within(whole: Part, part: Part) -> AbstractContextManager[None]:
    """Within, dropout draws for the whole part, of which a rank has these rows."""
    first, size = whole.first, whole.end - whole.first
    return part_of_batch(part.first - first, part.end - first, size, 0.0 if part.idle else 1.0)


def _added_up(made: Forward, deq: DEQ) -> Forward:
    """Of the whole batch: gradients, objective, loss and penalty are added up over the ranks."""
    add_up([parameter.grad for parameter in deq.parameters() if parameter.grad is not None])
    means: dict[str, Any] = {name: mean.clone() for name in MEANS if (mean := getattr(made, name)) is not None}
    add_up(list(means.values()))
    return made._replace(**means)


def _joined(made: Sequence[Forward], cut: Sequence[Part]) -> Forward:
    """Of a whole batch, from its parts: means weigh samples, and rows stand in their order."""

    def mean(name: str) -> Tensor | None:
        pairs = zip((getattr(one, name) for one in made), cut, strict=True)
        known = [value * part.share for value, part in pairs if value is not None]
        return torch.stack(known).sum() if known else None

    means: dict[str, Any] = {name: mean(name) for name in MEANS}
    return made[0].with_rows(made)._replace(**means)
