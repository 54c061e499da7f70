"""The fate of every sample: where its iteration ends, when it was first right, and its loss by thinking on.

`fates` looks at states; the rest takes recorded trajectories: residual (T+1, n), NaN after a row stopped, and correct
(T+1, n), held after it. An event that did not happen within the T iterates is given as T + 1, "later than all that was
seen": so medians, order, and the share that happened by iterate k, `(event <= k).mean()`, come out right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.analysis.cycles import limit_cycles
from deqrun.solvers import Solution

__all__ = ["Fate", "Fates", "Overthinking", "fates", "first_converged", "first_correct", "overthinking"]


class Fate(IntEnum):
    """Where a sample's iteration ended; `sentence` is for a person to read."""

    FIXED_POINT = 0
    CYCLE = 1
    DRIFT = 2
    DIVERGENCE = 3

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Fate.FIXED_POINT: "It came to rest.",
    Fate.CYCLE: "Plain iteration returns to it after a few steps, again and again.",
    Fate.DRIFT: "It still moves, and does not return within the periods tried: slow, quasi-periodic, or chaotic.",
    Fate.DIVERGENCE: "Its state became non-finite or grew beyond all scale of its start.",
}


@dataclass(frozen=True, eq=False)
class Fates:
    """Per sample, on the CPU.

    fate      (batch,) codes of Fate, uint8
    period    (batch,) long: 1 at a fixed point, p >= 2 on a cycle, 0 otherwise
    distance  (batch,) ‖f^p(z) − z‖ / (‖z‖ + ε) at that p, the smallest over the periods tried where there is none; for
              samples that the solver reported as converged their residual, inf for those that diverged
    nfe       (batch,) long: evaluations spent on finding out
    """

    fate: Tensor
    period: Tensor
    distance: Tensor
    nfe: Tensor

    def share(self, fate: Fate) -> float:
        """Fraction of the samples with this fate; NaN where there are none."""
        return float((self.fate == int(fate)).double().mean())


def fates(
    f: Callable[[Tensor], Tensor], solution: Solution, *, max_period: int = 16, tol: float = 1e-4, transient: int = 0
) -> Fates:
    """Where each sample of a finished solve ended, told from its last state.

    FIXED_POINT where the solve converged, or plain iteration from the last state stays within `tol` of it; DIVERGENCE
    where it diverged, or its state is not finite; CYCLE where plain iteration returns to the state after 2 …
    `max_period` steps, twice (`deqrun.solvers.limit_cycles`, which the other arguments are for); else DRIFT.

    f         the map that was solved; with `take`, only undecided samples are evaluated
    solution  of a solve with Budget(keep="last"), so that z is where the sample has got to

    A cycle is one of plain iteration, whatever the solver: an accelerated solve can wander where iteration rests.
    Raises ValueError where an undecided sample's state is not its last one.
    """
    converged, diverged = solution.converged, solution.diverged | ~solution.z.flatten(1).isfinite().all(1)
    open_rows = (~converged & ~diverged).nonzero()[:, 0]
    if bool((solution.kept != solution.steps)[open_rows].any()):
        raise ValueError('fates needs the last iterates: solve with Budget(keep="last"), not keep="best".')
    period = converged.long()
    distance = torch.where(diverged, torch.inf, solution.residual)
    nfe = torch.zeros_like(period)
    if len(open_rows):
        found = _cycles(f, solution.z, open_rows, max_period, tol, transient)
        period[open_rows], nfe[open_rows] = found[0], found[2]
        distance[open_rows] = found[1].to(distance)
    fate = torch.full_like(period, int(Fate.DRIFT), dtype=torch.uint8)
    fate[period == 1], fate[period > 1] = int(Fate.FIXED_POINT), int(Fate.CYCLE)
    fate[diverged & ~converged] = int(Fate.DIVERGENCE)
    return Fates(fate.cpu(), period.cpu(), distance.cpu(), nfe.cpu())


def _cycles(
    f: Callable[[Tensor], Tensor], z: Tensor, rows: Tensor, max_period: int, tol: float, transient: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(period, distance, nfe) of these rows; without `take` the others ride along, from a state that is finite."""
    if hasattr(f, "take"):
        found = limit_cycles(f.take(rows), z[rows], max_period=max_period, tol=tol, transient=transient)
        return found.period, found.distance, found.nfe
    found = limit_cycles(f, z, max_period=max_period, tol=tol, transient=transient)
    return found.period[rows], found.distance[rows], found.nfe[rows]


def first_correct(correct: NDArray[np.bool_]) -> NDArray[np.intp]:
    """(n,) first iterate whose answer is right, min {k : correct[k]}; T + 1 where none is. correct: (T+1, n)."""
    return _first(np.asarray(correct, dtype=bool))


def first_converged(residual: NDArray[Any], tol: float) -> NDArray[np.intp]:
    """(n,) first iterate whose residual is a number at most `tol`; T + 1 where none is. residual: (T+1, n)."""
    known = np.asarray(residual)
    return _first((known <= tol) & np.isfinite(known))


def _first(happened: NDArray[np.bool_]) -> NDArray[np.intp]:
    return np.where(happened.any(axis=0), happened.argmax(axis=0), len(happened))


@dataclass(frozen=True)
class Overthinking:
    """The accuracy lost by going on from iterate `best` to the last one, T.

    best      the iterate of highest accuracy, or the one that was given
    accuracy  (T+1,) share of right answers at each iterate
    gap       accuracy[best] − accuracy[T]
    change    (n,) of −1, 0, 1: correct[best] − correct[T], whose mean is the gap and whose bootstrap its interval
    lost      (n,) bool: right at some iterate, and wrong at the last
    """

    best: int
    accuracy: NDArray[np.float64]
    change: NDArray[np.int8]
    lost: NDArray[np.bool_]

    @property
    def gap(self) -> float:
        return float(self.change.mean())


def overthinking(correct: NDArray[np.bool_], best: int | None = None) -> Overthinking:
    """The overthinking gap max_t accuracy(t) − accuracy(T) of correct (T+1, n).

    best  the iterate to compare with, chosen on validation: then the gap is unbiased, and may be negative. Default:
          the first of highest accuracy of these very samples, whose gap is never negative, and too large by what the
          maximum over T + 1 noisy accuracies gains.

    Raises ValueError where `best` is no iterate, or there are no samples. The effect in networks that iterate: Bansal,
    Schwarzschild et al. 2022 (arXiv 2202.05826), whose curves of accuracy over iterations this sums up.
    """
    right = np.asarray(correct, dtype=bool)
    if right.ndim != 2 or right.size == 0:
        raise ValueError(f"correct must be (iterates, samples) with at least one of each, got {right.shape}.")
    accuracy = right.mean(axis=1)
    chosen = int(accuracy.argmax()) if best is None else best
    if not 0 <= chosen < len(right):
        raise ValueError(f"best must be an iterate, 0 to {len(right) - 1}, got {chosen}.")
    change = right[chosen].astype(np.int8) - right[-1].astype(np.int8)
    return Overthinking(chosen, accuracy, change, right.any(axis=0) & ~right[-1])
