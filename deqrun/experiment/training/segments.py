"""Supervision in segments: several optimizer steps on one batch, each from the state that the last solve left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from deqrun.experiment.ranks import gathered, several
from deqrun.experiment.training.accumulation import rows_worked_on
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.objective import Batch, Forward
from deqrun.settings import TrainSettings

__all__ = ["fewest_segments", "in_segments"]

Take = Callable[[Batch], tuple[Forward, Tensor]]


def in_segments(take: Take, batch: Batch, settings: TrainSettings, draws: Draws) -> tuple[Forward, Tensor]:
    """The steps on one batch: `train.segments` = N times `take`, the deep supervision of HRM and TRM.

        z_0 by train.start;    segment i: z_i = solve from z_{i−1},  loss at z_i,  backward,  optimizer step

    The state is handed on without its graph, so memory is one segment's. Of N segments of K plain iterations the last
    ends after N · K iterations, of which each segment's are by other weights. Source: Wang et al. 2025 (HRM, arXiv
    2506.21734), Jolicoeur-Martineau 2025 (TRM, arXiv 2510.04871).

    With `train.halt_exploration` a sample ends where the halting head says so, and takes no more part in the batch.

    take  forward and backward pass of a batch and an optimizer step: the pass, and the norm of its gradient
    Returns each sample's figures of its last segment, with the evaluations (`nfe`) of all its segments, and the last
    norm.
    """
    if settings.halt_exploration is not None:
        return _halting(take, batch, settings, fewest_segments(len(batch.x), settings, draws))
    made, norm = take(batch)
    if settings.segments == 1:
        return made, norm
    # Evaluations add up over the segments; every other figure is of the last one.
    nfe = made.solution.nfe
    for _ in range(1, settings.segments):
        made, norm = take(batch._replace(begin=_carried(made, len(batch.x), settings)))
        nfe = nfe + made.solution.nfe
    return made._replace(solution=replace(made.solution, nfe=nfe)), norm


def fewest_segments(size: int, settings: TrainSettings, draws: Draws) -> Tensor:
    """(size,) of each sample the segments before which the head may not end it, long, on the host.

    1 and, with the probability `train.halt_exploration`, one of 2 … N, each as likely: then the head learns of states
    beyond the one where it would have stopped (HRM, section 2.4; TRM's code).
    """
    drawn = torch.randint(2, settings.segments + 1, (size,), generator=draws.halts)
    return torch.where(torch.rand(size, generator=draws.halts) < (settings.halt_exploration or 0.0), drawn, 1)


def _halting(take: Take, batch: Batch, settings: TrainSettings, fewest: Tensor) -> tuple[Forward, Tensor]:
    """Segments in which samples end one by one: the next batch is the samples that are left, in their order.

    A sample ends after segment i >= fewest where the head's logit is above 0, which is a probability above ½.
    """
    whole, left = len(batch.x), torch.arange(len(batch.x))
    spent, ended, losses = torch.zeros(whole, dtype=torch.long), [], []
    # One optimizer step a segment, on the samples that have not ended.
    for segment in range(1, settings.segments + 1):
        made, norm = take(batch)
        assert made.halt is not None
        # States, decisions and evaluations of all rows at every rank, which may get other rows next.
        mine = rows_worked_on(len(batch.x), settings)
        halt = _of_all(made.halt, mine, len(left)).cpu()
        spent[left] += _of_all(made.solution.nfe, mine, len(left)).cpu()
        ends = ((halt > 0) & (fewest[left] <= segment)) | (segment == settings.segments)
        done = ends[mine].nonzero()[:, 0].to(made.z.device)
        rows = made.rows(done)
        nfe = spent[left[mine]].to(rows.solution.nfe)[done]
        ended.append(rows._replace(solution=replace(rows.solution, nfe=nfe)))
        losses.append(_of_all(made.losses, mine, len(left))[ends])
        # The rest go on, and weigh in the objective as much as before.
        if bool(ends.all()):
            break
        stay = (~ends).nonzero()[:, 0]
        states = _of_all(made.z.detach(), mine, len(left))
        batch = batch.rows(stay)._replace(begin=states[stay], share=len(stay) / whole)
        left = left[stay]
    # Each sample as it ended; objective and penalty are the last segment's.
    return ended[-1].with_rows(ended)._replace(loss=torch.cat(losses).mean()), norm


def _carried(made: Forward, size: int, settings: TrainSettings) -> Tensor:
    """(size, *state_shape) the states that a pass left; of other ranks' rows, which this one does not use, 0."""
    z = made.z.detach()
    if len(z) == size:
        return z
    states = z.new_zeros(size, *z.shape[1:])
    states[rows_worked_on(size, settings).to(z.device)] = z
    return states


def _of_all(values: Tensor, mine: Tensor, size: int) -> Tensor:
    """(size, …) the values of all rows, from those of each rank's own, `mine`; on the values' device."""
    if not several():
        return values
    # Each rank sends its rows with their places.
    found = torch.zeros(size, *values.shape[1:], dtype=values.dtype)
    for rows, part in gathered((mine, values.cpu())):
        found[rows] = part
    return found.to(values.device)
