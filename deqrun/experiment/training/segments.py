"""Supervision in segments: several optimizer steps on one batch, each from the state that the last solve left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from deqrun.experiment.training.accumulation import rows_worked_on
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.objective import Batch, Forward
from deqrun.settings import TrainSettings

__all__ = ["in_segments"]


def in_segments(
    take: Callable[[Batch], tuple[Forward, Tensor]], batch: Batch, settings: TrainSettings, draws: Draws
) -> tuple[Forward, Tensor]:
    """The steps on one batch: `train.segments` = N times `take`, the deep supervision of HRM and TRM.

        z_0 by train.start;    segment i: z_i = solve from z_{i−1},  loss at z_i,  backward,  optimizer step

    The state is handed on without its graph, so memory is one segment's. Of N segments of K plain iterations the last
    ends after N · K iterations, of which each segment's are by other weights. Source: Wang et al. 2025 (HRM, arXiv
    2506.21734), Jolicoeur-Martineau 2025 (TRM, arXiv 2510.04871).

    take  forward and backward pass of a batch and an optimizer step: the pass, and the norm of its gradient
    Returns the last pass and norm; its `nfe` are the evaluations of all segments.
    """
    made, norm = take(batch)
    nfe = made.solution.nfe
    for _ in range(1, settings.segments):
        made, norm = take(batch._replace(begin=_carried(made, len(batch.x), settings)))
        nfe = nfe + made.solution.nfe
    return (made, norm) if settings.segments == 1 else (_with_evaluations(made, nfe), norm)


def _carried(made: Forward, size: int, settings: TrainSettings) -> Tensor:
    """(size, *state_shape) the states that a pass left; of other ranks' rows, which this one does not use, 0."""
    z = made.z.detach()
    if len(z) == size:
        return z
    states = z.new_zeros(size, *z.shape[1:])
    states[rows_worked_on(size, settings).to(z.device)] = z
    return states


def _with_evaluations(made: Forward, nfe: Tensor) -> Forward:
    return made._replace(solution=replace(made.solution, nfe=nfe))
