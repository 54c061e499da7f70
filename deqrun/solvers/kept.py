"""The iterate that each row returns: its best, or its last."""

from __future__ import annotations

import torch
from torch import Tensor

from deqrun.solvers.batch import Batch


class Kept:
    """The kept iterate of each row in the batch, and of the rows that have left it.

    best       whether the iterate of lowest residual is kept, else the last one
    z          (n, D) kept iterates; (m, D), m > n, after rows have left without a copy
    at         (n,) places of the batch's rows in z; None: z is in the batch's order
    residual   (n,) of the kept iterate
    k          (n,) its index
    """

    def __init__(self, batch: Batch, best: bool) -> None:
        self.best, self.z = best, batch.z
        self.at: Tensor | None = None
        self.residual = torch.full((len(batch.z),), torch.inf, dtype=batch.z.dtype, device=batch.z.device)
        self.k = torch.zeros(len(batch.z), dtype=torch.long, device=batch.z.device)
        self._own = False  # whether z is memory that no iterate shares
        self._left: tuple[Tensor, Tensor] | None = None  # (iterates (batch, …), k (batch,)), once rows have left

    def keep(self, k: int, batch: Batch, residual: Tensor, active: Tensor) -> None:
        """Keep iterate k in the active rows where it is the one to keep."""
        keep = active
        if self.best:
            better = residual < self.residual
            keep = better if batch.whole else keep & better
        if not batch.at_hand:  # by masks, which make no host wait
            kept = self.z if self.at is None else self._in_order()
            self.z, self.at = torch.where(keep[:, None], batch.z, kept), None
            self.residual = torch.where(keep, residual, self.residual)
            self.k.masked_fill_(keep, k)
            return
        count = int(keep.count_nonzero())
        if count == keep.shape[0]:
            # Every iterate is new memory, so holding a reference is enough.
            self.z, self.at, self._own = batch.z, None, False
            self.residual = residual
            self.k.fill_(k)
        elif count:
            if self.at is not None or not self._own:
                self.z, self.at, self._own = self._in_order(), None, True
            rows = keep.nonzero()[:, 0]
            self.z.index_copy_(0, rows, batch.z.index_select(0, rows))
            self.residual = torch.where(keep, residual, self.residual)
            self.k.masked_fill_(keep, k)

    def _in_order(self) -> Tensor:
        """The kept iterates of the batch's rows, in new memory."""
        return self.z.clone() if self.at is None else self.z[self.at]

    def leave(self, batch: Batch, leaving: Tensor, staying: Tensor) -> None:
        """Write out the rows that leave, before the batch takes the others."""
        self._write_out(batch, leaving)
        self.residual, self.k = self.residual.index_select(0, staying), self.k.index_select(0, staying)
        self.at = staying if self.at is None else self.at.index_select(0, staying)

    def _write_out(self, batch: Batch, rows: Tensor) -> None:
        if self._left is None:
            self._left = batch.f.given(self._in_order()), self.k.clone()
            return
        places = batch.rows[rows]
        self._left[0][places] = batch.f.given(self.z[rows if self.at is None else self.at[rows]], rows)
        self._left[1][places] = self.k[rows]

    def result(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Kept iterates (batch, …), and their indices (batch,), of all rows there have been."""
        self._write_out(batch, torch.arange(len(batch.rows), device=batch.rows.device))
        assert self._left is not None
        return self._left
