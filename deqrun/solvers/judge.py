"""The residual of each row, and which rows stop: converged, out of budget, stalled or diverged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from deqrun.solvers.batch import Batch
from deqrun.solvers.device import at_hand
from deqrun.solvers.norms import max_norms, ordinary, row_norms
from deqrun.solvers.solution import Budget

GROWTH_LIMIT = 1e8
"""A row has DIVERGED when its ‖g‖ + ‖f(z)‖ exceeds this many times its start's: float32 then holds no digit of it."""

IMPROVEMENT = 0.999
"""Patience counts a residual as an improvement below this share of the best one before."""


class Judge:
    """What is known of the rows in the batch.

    residual  (n,) at iterate k; inf where it is not finite
    active    (n,) whether the row has not stopped
    diverged  (batch,) of all rows there have been
    """

    def __init__(self, batch: Batch, budget: Budget) -> None:
        z, count = batch.z, len(batch.z)
        self.budget = budget
        self.residual = torch.full((count,), torch.inf, dtype=z.dtype, device=z.device)
        self.active = torch.ones(count, dtype=torch.bool, device=z.device)
        self.diverged = torch.zeros(count, dtype=torch.bool, device=z.device)
        self._bounded: Tensor | None = None  # (n,) neither lost nor grown beyond all scale at z; None: all rows
        self._tol = budget.tol if budget.row_tol is None else budget.row_tol.to(z, non_blocking=True)
        self._max_iter = None if budget.row_max_iter is None else budget.row_max_iter.to(z.device, non_blocking=True)
        self._limit: Tensor | None = None  # (n,) size beyond which the row has diverged
        self._least_limit = 0.0  # of all rows there have been; 0 where looking would make the host wait
        self._epsilon = torch.finfo(z.dtype).tiny
        self._ordinary = ordinary(z.dtype)
        self._best = self.residual.clone() if budget.patience else None
        self._best_k = torch.zeros(count, dtype=torch.long, device=z.device) if budget.patience else None

    def measure(self, batch: Batch) -> None:
        """The residual of iterate k, and whether it is bounded."""
        norm_g, norm_f = self._sizes(batch)
        if self.budget.norm == "max":
            norm_g, norm_f = max_norms(batch.g), max_norms(batch.fz)
        residual = norm_g
        if self.budget.norm != "absolute":
            residual = norm_g / norm_f.add_(self._epsilon)
        elif batch.f.scale is not None:
            residual = norm_g * batch.f.scale[:, 0]
        if self._bounded is not None:
            residual = residual.nan_to_num(nan=torch.inf, posinf=torch.inf)
            self._spare(batch)
        self.residual = residual

    def _sizes(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """‖g‖ and ‖f(z)‖, by whose sum rows diverge. On a CPU one look at the sum says whether plain norms will do."""
        g, fz = batch.g, batch.fz
        if not batch.at_hand or not g.numel():
            norm_g, norm_f = row_norms(g), row_norms(fz)
            self._note_divergence(norm_g + norm_f, math.nan)
            return norm_g, norm_f
        norm_g, norm_f = torch.linalg.vector_norm(g, dim=1), torch.linalg.vector_norm(fz, dim=1)
        size = norm_g + norm_f
        least, most = torch.aminmax(size)
        if not (self._ordinary <= float(least) and float(most) <= 1 / self._ordinary):  # true for NaN
            norm_g, norm_f = row_norms(g), row_norms(fz)
            size = norm_g + norm_f
            most = size.amax()
        self._note_divergence(size, float(most))
        return norm_g, norm_f

    def _note_divergence(self, size: Tensor, most: float) -> None:
        """most: the largest size, NaN where the host is not to wait for the device."""
        if self._limit is None:
            self._limit = (size * GROWTH_LIMIT).clamp(max=torch.finfo(size.dtype).max)
            self._least_limit = float(self._limit.amin()) if at_hand(size) and len(size) else 0.0
        self._bounded = None
        if most <= self._least_limit:  # false for NaN
            return
        bounded = size <= self._limit
        if not (at_hand(bounded) and bool(bounded.all())):
            self._bounded = bounded

    def _spare(self, batch: Batch) -> None:
        """Let rows go on whose solver takes its last step back."""
        assert self._bounded is not None
        undone = None if batch.state is None else batch.state.undo(~self._bounded & self.active)
        if undone is not None:
            self._bounded = self._bounded | undone

    def judge(self, k: int, batch: Batch) -> None:
        """Stop rows that converged, diverged or stalled at iterate k, or whose budget ends there."""
        early = k < self.budget.min_iter
        going = torch.ones_like(self.active) if early else self.residual > self._tol
        if self._bounded is not None:
            going &= self._bounded
            lost = self.diverged.index_select(0, batch.rows) | (self.active & ~self._bounded)
            self.diverged.index_copy_(0, batch.rows, lost)
        if self._max_iter is not None:
            going &= self._max_iter > k
        if self.budget.patience is not None:
            stalled = self._stalled(k)
            going = going if early else going & ~stalled
        self.active = going if batch.whole else self.active & going

    def _stalled(self, k: int) -> Tensor:
        assert self._best is not None
        assert self._best_k is not None
        improved = self.residual < self._best * IMPROVEMENT
        self._best = torch.where(improved, self.residual, self._best)
        self._best_k = self._best_k.masked_fill(improved, k)
        return k - self._best_k >= (self.budget.patience or 0)

    def take(self, index: Tensor) -> None:
        """Keep only these rows."""
        self.residual, self.active = self.residual.index_select(0, index), self.active.index_select(0, index)
        if isinstance(self._tol, Tensor):
            self._tol = self._tol.index_select(0, index)
        self._max_iter, self._limit, self._best, self._best_k = (
            None if each is None else each.index_select(0, index)
            for each in (self._max_iter, self._limit, self._best, self._best_k)
        )
