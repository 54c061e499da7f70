"""Which states plain iteration returns to: fixed points, and limit cycles of small period."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.analysis.products import require_batch
from deqrun.arguments import require_count
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.norms import row_norms

__all__ = ["Cycles", "limit_cycles"]


@dataclass(frozen=True, eq=False)
class Cycles:
    """Where plain iteration came back to, per row.

    period    (batch,) long: 1 a fixed point, p >= 2 a cycle of p states, 0 neither within the periods tried
    distance  (batch,) ‖f^p(z) − z‖₂ / (‖z‖₂ + ε) at that p; where the period is 0 the smallest over the periods tried;
              inf for a row that has no finite one
    nfe       (batch,) long: evaluations of f until the row was decided
    """

    period: Tensor
    distance: Tensor
    nfe: Tensor


@torch.no_grad()
def limit_cycles(
    f: Callable[[Tensor], Tensor], z: Tensor, *, max_period: int = 16, tol: float = 1e-4, transient: int = 0
) -> Cycles:
    """The smallest p <= max_period for which f^p(z) and f^2p(z) both lie within tol of z, per row.

    A cycle of period p is back at its start after every lap. One lap alone would also count a state that merely
    passes by: a chaotic orbit that comes near its start once, or a drift that the second lap carries out of reach.
    A row that moves by less than tol / 2 a lap counts as at rest, as a residual of tol counts as converged.

    f           as for `solve`: (batch, …) -> (batch, …); if it has `take`, decided rows are dropped from the batch
    z           (batch, …) the states to return to, such as a stalled solve's. Take the last iterate of
                such a solve (Budget keep='last'): the one of lowest residual may lie beside the cycle.
    max_period  >= 1
    tol         >= 0; on the distance relative to ‖z‖₂ + ε, with the ε of the residual in `solve`
    transient   >= 0 plain iterations to take before the state to return to is noted

    At most transient + 2 max_period evaluations; a row is decided, and costs nothing more, once its period is
    confirmed, once no period is left to confirm, or once it is no longer finite.
    Raises TypeError or ValueError on senseless arguments.
    """
    require_batch(z)
    require_count("max_period", max_period, 1)
    require_count("transient", transient, 0)
    if isinstance(tol, bool) or not isinstance(tol, (int, float)) or not tol >= 0:
        raise ValueError(f"tol must be a number >= 0, got {tol!r}.")
    search = _Search(FlatMap(f, z), z, max_period, tol)
    for _ in range(transient):
        search.advance()
    search.note_start()
    for k in range(1, 2 * max_period + 1):
        if search.finished():
            break
        search.lap(k)
    return search.cycles()


class _Search:
    """The n rows still in the batch, and of every row the distance from its start after each step."""

    def __init__(self, f: FlatMap, z: Tensor, max_period: int, tol: float) -> None:
        self.f, self.max_period, self.tol = f, max_period, tol
        self.z = self.start = f.flatten(z)  # (n, D)
        self.scale = self.z.new_ones(len(z))  # (n,)
        self.rows = torch.arange(len(z), device=z.device)  # (n,) index into the original batch
        self.undecided = self.z.isfinite().all(dim=1)  # (n,)
        # (batch, 2P+1): after k steps in column k; inf where not known or not finite
        self.distance = self.z.new_full((len(z), 2 * max_period + 1), math.inf)
        self.nfe = torch.zeros_like(self.rows)  # (batch,)

    def finished(self) -> bool:
        """Whether every row is decided; those that are leave the batch where f can do without them."""
        count = int(self.undecided.sum())
        if count and self.f.can_take and count < len(self.rows):
            index = self.undecided.nonzero()[:, 0]
            self.f = self.f.take(index)
            self.z, self.start, self.scale = self.z[index], self.start[index], self.scale[index]
            self.rows, self.undecided = self.rows[index], self.undecided[index]
        return count == 0

    def advance(self) -> None:
        if not self.finished():
            self.z = self.f(self.z)
            self.nfe[self.rows[self.undecided]] += 1
            self.undecided &= self.z.isfinite().all(dim=1)

    def note_start(self) -> None:
        self.start = self.z
        self.scale = row_norms(self.z) + torch.finfo(self.z.dtype).tiny
        self.undecided = self.undecided & self.scale.isfinite()

    def lap(self, k: int) -> None:
        """Take step k from the start, and decide the rows that can be decided."""
        self.advance()
        distance = row_norms(self.z - self.start) / self.scale
        known = self.undecided & ~distance.isnan()
        self.distance[self.rows, k] = distance.masked_fill(~known, math.inf)
        first_lap, both_laps = self._returns(self.rows)
        hopeful = first_lap[:, k // 2 :].any(dim=1) | (k < self.max_period)
        self.undecided &= hopeful & ~both_laps.any(dim=1)

    def _returns(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Whether each row was back after p steps, and after p and 2p: two (rows, P) bool, p - 1 in columns."""
        back = (self.distance[rows] <= self.tol) & self.distance[rows].isfinite()
        first_lap = back[:, 1 : self.max_period + 1]
        return first_lap, first_lap & back[:, 2::2]

    def cycles(self) -> Cycles:
        _, both_laps = self._returns(torch.arange(len(self.distance), device=self.distance.device))
        found = both_laps.any(dim=1)
        period = torch.where(found, both_laps.int().argmax(dim=1) + 1, 0)
        nearest = self.distance[:, 1 : self.max_period + 1].amin(dim=1)
        at_period = self.distance.gather(1, period[:, None])[:, 0]
        return Cycles(period, torch.where(found, at_period, nearest), self.nfe)
