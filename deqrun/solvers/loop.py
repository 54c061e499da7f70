"""The only iteration loop: evaluates, measures, judges, keeps, drops finished rows, and asks the solver for a step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.layers import Layers, depth_of
from deqrun.solvers.picard import Picard
from deqrun.solvers.precision import warn_if_unreachable
from deqrun.solvers.solution import Budget, Solution
from deqrun.solvers.solver import Point, Solver, SolverState
from deqrun.solvers.trace import Trace

Observer = Callable[[int, Tensor, Tensor], None]

GROWTH_LIMIT = 1e8
"""A row has DIVERGED when ‖z_k‖-scale exceeds this many times that of its start: float32 then holds no digit of it."""

COMPACT_BELOW = 0.9
"""Finished rows leave once fewer than this share of the batch is active: copying the memory costs about a step."""

CUDA_CHECK_EVERY = 8
"""On CUDA the host asks only every so many steps whether rows are left, so that it never waits for the device."""


@torch.no_grad()
def solve(
    f: Callable[[Tensor], Tensor],
    z0: Tensor,
    *,
    solver: Solver | None = None,
    budget: Budget | None = None,
    observe: Observer | None = None,
) -> Solution:
    """Find z = f(z), each row of the batch by itself.

    f        (batch, …) -> (batch, …), or `Layers`. If it has `take(rows)`, returning f for those rows only, finished
             rows are dropped from the batch; otherwise they ride along unused.
    z0       (batch, …) start, any float dtype; the solver's state is float32 or wider.
    solver   default Picard().
    budget   default Budget().
    observe  called as observe(k, z_k, rows) at each iterate with the rows that have not stopped before k.

    Iterate k is the state after k solver steps, its residual ‖f(z_k) − z_k‖₂ / (‖f(z_k)‖₂ + ε) with ε the square root
    of the dtype's smallest normal number, so that the residual is free of scale. No gradient is recorded.
    Raises TypeError or ValueError on senseless arguments and where f changes shape, or writes into its input.
    """
    _check_start(z0)
    solver, budget = solver or Picard(), budget or Budget()
    _check_rows(budget, len(z0))
    _check_layers(f, solver)
    work = _Work.start(solver.adapt(f, z0), z0, solver, budget)
    for k in range(budget.max_iter + 1):
        point = work.evaluate(k)
        if k == 0:
            warn_if_unreachable(budget.tol, work.f.output_dtype)
        if observe is not None:
            work.show(point, observe)
        work.judge(point)
        if k == budget.max_iter:
            break
        point, finished = work.drop_finished(point)
        if finished:
            break
        with _full_precision(z0.device.type):
            work.z = solver.step(work.state, point)
    return work.solution()


def _full_precision(device: str) -> AbstractContextManager[object]:
    """Autocast is for the cell: the solver's own products stay in the state's dtype."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _check_rows(budget: Budget, batch: int) -> None:
    for name in ("max_iter", "tol"):
        value = getattr(budget, f"row_{name}")
        if value is not None and len(value) != batch:
            raise ValueError(f"Budget {name} has {len(value)} rows, but the batch has {batch}.")


def _check_layers(f: object, solver: Solver) -> None:
    if isinstance(f, Layers) and not solver.takes_layers:
        raise TypeError(
            f"{solver} looks for a fixed point, but this {type(f).__name__} is {f.depth} layers that follow one "
            "another; only Picard(damping=1.0) goes through them."
        )


def _check_start(z0: Tensor) -> None:
    if not isinstance(z0, Tensor):
        raise TypeError(f"z0 must be a torch tensor (batch, …), got {type(z0).__name__}.")
    if not z0.is_floating_point():
        raise TypeError(f"z0 must have a floating-point dtype, got {z0.dtype}.")
    if z0.dim() < 1:
        raise ValueError("z0 must have a batch dimension, (batch, …), got a tensor without dimensions.")


@dataclass
class _Work:
    """The rows still in the batch (n of them, flat), and what has been kept and recorded of all of them."""

    f: FlatMap
    state: SolverState | None
    budget: Budget
    z: Tensor  # (n, D)
    rows: Tensor  # (n,) index into the original batch
    active: Tensor  # (n,) not stopped yet
    diverged: Tensor  # (n,)
    kept_z: Tensor  # (n, D)
    kept_residual: Tensor  # (n,)
    kept_k: Tensor  # (n,)
    out_z: Tensor  # (batch, D)
    out_kept: Tensor  # (batch,)
    out_diverged: Tensor  # (batch,)
    trace: Trace
    tol: float | Tensor  # (n,)
    max_iter: Tensor | None  # (n,) where each row has its own
    all_active: bool
    limit: Tensor | None = None  # (n,) norm beyond which the row has diverged
    anchor: Tensor | None = None  # (n,) residual that patience compares with
    anchor_k: Tensor | None = None  # (n,)

    @classmethod
    def start(cls, f: FlatMap, z0: Tensor, solver: Solver, budget: Budget) -> _Work:
        batch = z0.shape[0]
        z = f.flatten(z0)
        inf = torch.full((batch,), torch.inf, dtype=z.dtype, device=z.device)
        zeros = torch.zeros(batch, dtype=torch.long, device=z.device)
        rows = torch.arange(batch, device=z.device)
        return cls(
            f=f, state=solver.init(z), budget=budget, z=z, rows=rows,
            active=torch.ones(batch, dtype=torch.bool, device=z.device),
            diverged=torch.zeros(batch, dtype=torch.bool, device=z.device),
            kept_z=z, kept_residual=inf, kept_k=zeros, out_z=z.clone(), out_kept=zeros.clone(),
            out_diverged=torch.zeros(batch, dtype=torch.bool, device=z.device),
            trace=Trace(depth=depth_of(f.f)), tol=budget.tol if budget.row_tol is None else budget.row_tol.to(z),
            max_iter=None if budget.row_max_iter is None else budget.row_max_iter.to(z.device),
            all_active=True, anchor=inf.clone() if budget.patience else None,
            anchor_k=zeros.clone() if budget.patience else None,
        )  # fmt: skip

    def evaluate(self, k: int) -> Point:
        """Evaluate f at iterate k and measure its residual."""
        fz = self.f.at(self.z, k)
        g = fz - self.z
        norm_g = torch.linalg.vector_norm(g, dim=1)
        norm_f = torch.linalg.vector_norm(fz, dim=1)
        self._note_divergence(norm_g + norm_f)
        tiny = torch.finfo(g.dtype).tiny ** 0.5
        residual = norm_g / (norm_f + tiny) if self.budget.norm == "relative" else norm_g
        residual = torch.nan_to_num(residual, nan=torch.inf, posinf=torch.inf)
        known = residual if self.all_active else residual.masked_fill(~self.active, torch.nan)
        self.trace.add(self.rows, known, self.state)
        return Point(k, self.z, fz, g, residual, self.f, self.active)

    def _note_divergence(self, size: Tensor) -> None:
        if self.limit is None:
            self.limit = (size * GROWTH_LIMIT).clamp(max=torch.finfo(size.dtype).max)
        self.unbounded = ~(size <= self.limit)  # true for NaN, too

    def judge(self, point: Point) -> None:
        """Keep iterate k where it is the one to keep; stop rows that converged, diverged or stalled at it."""
        residual, keep = point.residual, self.active
        if self.budget.keep == "best":
            keep = keep & (residual < self.kept_residual)
        self._keep(point, keep)
        stop = (residual <= self.tol) | self.unbounded
        if self.max_iter is not None:
            stop |= self.max_iter <= point.k
        self.diverged |= self.active & self.unbounded
        if self.budget.patience is not None:
            stop |= self._stalled(point)
        self.active = self.active & ~stop

    def _keep(self, point: Point, keep: Tensor) -> None:
        on_host = keep.device.type == "cpu"
        if on_host and bool(keep.all()):
            # Every iterate is new memory, so holding a reference is enough.
            self.kept_z, self.kept_residual = point.z, point.residual
            self.kept_k = torch.full_like(self.kept_k, point.k)
        elif not on_host or bool(keep.any()):
            self.kept_z = torch.where(keep[:, None], point.z, self.kept_z)
            self.kept_residual = torch.where(keep, point.residual, self.kept_residual)
            self.kept_k = self.kept_k.masked_fill(keep, point.k)

    def _stalled(self, point: Point) -> Tensor:
        assert self.anchor is not None
        assert self.anchor_k is not None
        improved = point.residual < self.anchor * 0.999
        self.anchor = torch.where(improved, point.residual, self.anchor)
        self.anchor_k = self.anchor_k.masked_fill(improved, point.k)
        return point.k - self.anchor_k >= (self.budget.patience or 0)

    def show(self, point: Point, observe: Observer) -> None:
        if self.all_active:
            observe(point.k, self.f.unflatten(point.z), self.rows)
        else:
            index = self.active.nonzero()[:, 0]
            observe(point.k, self.f.unflatten(point.z[index]), self.rows[index])

    def drop_finished(self, point: Point) -> tuple[Point, bool]:
        """Drop finished rows from the batch where that pays; True if none is left."""
        point = point._replace(active=self.active)
        if self.z.is_cuda and point.k % CUDA_CHECK_EVERY:
            self.all_active = False
            return point, False
        count, size = int(self.active.sum()), len(self.active)
        self.all_active = count == size
        if count and self.f.can_take and count < COMPACT_BELOW * size:
            point = self._take(point, self.active.nonzero()[:, 0])
        return point, count == 0

    def _take(self, point: Point, index: Tensor) -> Point:
        self._write_out()
        self.f = self.f.take(index)
        self.rows, self.active, self.diverged = self.rows[index], self.active[index], self.diverged[index]
        self.kept_z, self.kept_residual = self.kept_z[index], self.kept_residual[index]
        self.kept_k, self.all_active = self.kept_k[index], True
        for name in ("limit", "anchor", "anchor_k", "tol", "max_iter"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value[index])
        if self.state is not None:
            self.state.take(index)
        z, fz, g = point.z[index], point.fz[index], point.g[index]
        return Point(point.k, z, fz, g, point.residual[index], self.f, self.active)

    def _write_out(self) -> None:
        self.out_z[self.rows] = self.kept_z
        self.out_kept[self.rows] = self.kept_k
        self.out_diverged[self.rows] = self.diverged

    def solution(self) -> Solution:
        self._write_out()
        return self.trace.solution(self.f.unflatten(self.out_z), self.out_kept, self.out_diverged, self.budget)
