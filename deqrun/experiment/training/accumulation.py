"""The gradient of one optimizer step, of a batch as a whole or of its parts, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from deqrun.datasets import Dataset
from deqrun.experiment.training.draws import Draws, Part, parts
from deqrun.experiment.training.objective import Batch, Forward
from deqrun.experiment.training.starts import Starts
from deqrun.experiment.training.steps import Stepping
from deqrun.models import DEQ
from deqrun.settings import TrainSettings
from deqrun.solvers import Solution

__all__ = ["accumulated"]


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

    forward   `deqrun.experiment.training.objective.forward`
    stepping  the precision of both passes
    Returns the `Forward` of the whole batch, after its backward pass.
    """
    if settings.accumulate == 1:
        with deq.cell.fixed_weights():  # around the backward pass, too: checkpointed iterations run again in it
            with stepping.autocast():
                made = forward(deq, dataset, batch, settings, step, draws, starts)
            stepping.backward(made.objective)
        return made
    # Each part by itself: its graph is gone before the next begins.
    before, done = draws.states(), []
    cut = parts(len(batch.x), -(-settings.batch_size // settings.accumulate))
    for part in cut:
        draws.rewind(before)
        rows = Batch(part.rows(batch.x), part.rows(batch.y), part.rows(batch.places))
        with deq.cell.fixed_weights():
            with stepping.autocast():
                made = forward(deq, dataset, rows, settings, step, draws, starts, part)
            stepping.backward(made.objective * part.share)
        done.append(_without_graph(made))
    return _joined(done, cut)


def _without_graph(made: Forward) -> Forward:
    z = made.z.detach()
    z.grad = made.z.grad
    penalty = None if made.penalty is None else made.penalty.detach()
    return made._replace(objective=made.objective.detach(), penalty=penalty, z=z)


def _joined(made: Sequence[Forward], cut: Sequence[Part]) -> Forward:
    """Of a whole batch, from its parts: means weigh samples, and rows stand in their order."""

    def mean(values: Sequence[Tensor | None]) -> Tensor | None:
        known = [value * part.share for value, part in zip(values, cut, strict=True) if value is not None]
        return torch.stack(known).sum() if known else None

    objective, loss = mean([one.objective for one in made]), mean([one.loss for one in made])
    assert objective is not None
    assert loss is not None
    z, gradients = torch.cat([one.z for one in made]), [one.z.grad for one in made if one.z.grad is not None]
    if len(gradients) == len(made):
        z.grad = torch.cat(gradients)
    return Forward(
        objective=objective,
        loss=loss,
        correct=torch.cat([one.correct for one in made]),
        solution=Solution.joined([one.solution for one in made]),
        penalty=mean([one.penalty for one in made]),
        z=z,
    )
