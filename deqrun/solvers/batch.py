"""The rows that are still in the batch: their states, values and memory, and when finished ones leave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deqrun.solvers.device import HOST_CHECK_EVERY, at_hand, parted
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.norms import ordinary, power_of_two, row_norms
from deqrun.solvers.solver import Point, Solver, SolverState

COMPACT_BELOW = 0.9
"""Where the solver has a memory, finished rows leave once fewer than this share of the batch is active: copying the
memory costs about a step. Where it has none they leave at once, after a step that costs less than copying what it
reads."""


class Batch:
    """n rows, flat: iterate k, its value and its residual vector, and the solver's memory.

    f       the map on flat states
    state   the solver's memory; None if it has none
    z       (n, D) iterate k
    fz, g   (n, D) f(z) and f(z) − z
    rows    (n,) place of each row in the whole batch
    whole   whether every row is active, so that no mask is needed
    shown   (n, D) on an accelerator the iterates that an observer saw last; None: all rows are active
    at_hand whether the host reads numbers without waiting for a device
    """

    def __init__(self, f: FlatMap, z0: Tensor, solver: Solver[Any, Any], *, observed: bool = False) -> None:
        """observed: whether records are made on the way, whose copy to the host is a wait of its own."""
        z = f.flatten(z0)
        # Iterate 0 is evaluated here: its scale decides how the whole solve is scaled.
        fz = f.at(z, 0)
        scale = _extreme(z, fz) if solver.scale_free else None
        if scale is not None:
            f.rescale(scale)
            z, fz = z / scale, fz / scale
        self.f, self.solver = f, solver
        self.z, self.fz, self.g = z, fz, z
        self.state: SolverState | None = solver.init(z)
        self.rows = torch.arange(len(z), device=z.device)
        self.at_hand = at_hand(z)
        # With the copy of the records an observed solve still has one wait in HOST_CHECK_EVERY steps.
        self._first_look = (2 if observed else 1) * HOST_CHECK_EVERY
        self.whole = True
        self.shown: Tensor | None = None
        self._count = len(z)  # active rows, when the host last looked
        self._crowded = False  # finished rows should leave

    def evaluate(self, k: int) -> None:
        """f(z_k) and g_k; of iterate 0 the value is there already."""
        if k:
            self.fz = self.f.at(self.z, k)
        # Into the solver's own memory where it has a slot for g, so that no g is copied.
        self.g = torch.sub(self.fz, self.z, out=None if self.state is None else self.state.room())

    def step(self, k: int, residual: Tensor, active: Tensor) -> None:
        """Iterate k + 1."""
        self.z = self.solver.step(self.state, Point(k, self.z, self.fz, self.g, residual, self.f, active))

    def rows_left(self, k: int, active: Tensor) -> bool:
        """Whether any row goes on; notes whether the others should leave."""
        self._crowded = False
        if not self.at_hand and (k < self._first_look or k % HOST_CHECK_EVERY):
            self.whole = False  # not known; looking would make the host wait
            return True
        count, size = int(active.count_nonzero()), active.shape[0]
        self._count = count
        self.whole = count == size
        self._crowded = self.f.can_take and count < size * (1 if self.state is None else COMPACT_BELOW)
        return count > 0

    def leaving(self, active: Tensor) -> tuple[Tensor, Tensor] | None:
        """(rows that leave, rows that stay), places in the batch; None where it does not pay."""
        if not self._crowded:
            return None
        return parted(active, self._count)

    def take(self, index: Tensor) -> None:
        """Keep only these rows."""
        self.f = self.f.take(index)
        self.z, self.rows = self.z.index_select(0, index), self.rows.index_select(0, index)
        self.shown = None
        if self.state is None:
            self.fz = self.g = self.z  # the last value and residual vector are not asked for again
        else:
            self.fz, self.g = self.fz.index_select(0, index), self.g.index_select(0, index)
            self.state.take(index)
        self.whole = True


def _extreme(z: Tensor, fz: Tensor) -> Tensor | None:
    """(rows, 1) the power of two by which each row is brought to the scale 1; None where none is far from it.

    The scale is f(z_0)'s, or where that is 0 the start's own. On an accelerator, where to look is to wait, rows near 1
    are divided by 1.
    """
    size, looks = row_norms(fz), at_hand(z)
    if not looks or not bool((size > 0).all()):
        size = torch.where(size > 0, size, row_norms(z))
    low = ordinary(z.dtype)
    far = ((size < low) & (size > 0)) | ((size > 1 / low) & size.isfinite())
    return None if looks and not bool(far.any()) else torch.where(far, power_of_two(size), 1.0)[:, None]
