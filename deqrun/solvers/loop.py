"""The only iteration loop: evaluates, measures, judges, keeps, drops finished rows, and asks the solver for a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.layers import Layers, depth_of
from deqrun.solvers.norms import power_of_two, row_norms
from deqrun.solvers.picard import Picard
from deqrun.solvers.precision import warn_if_unreachable
from deqrun.solvers.solution import Budget, Solution
from deqrun.solvers.solver import Point, Solver, SolverState
from deqrun.solvers.trace import Trace

Observer = Callable[[int, Tensor, Tensor], None]

GROWTH_LIMIT = 1e8
"""A row has DIVERGED when ‖z_k‖-scale exceeds this many times its start's: float32 then holds no digit of it."""

COMPACT_BELOW = 0.9
"""Where the solver has a memory, finished rows leave once fewer than this share of the batch is active: copying the
memory costs about a step. Where it has none they leave at once, after a step that costs less than copying what it
reads."""

CUDA_CHECK_EVERY = 8
"""On CUDA the host asks only every so many steps whether rows are left, so that it never waits for the device."""


PER_ROW = (
    "z",
    "residual",
    "rows",
    "active",
    "diverged",
    "kept_residual",
    "kept_k",
    "kept_at",
    "tol",
    "max_iter",
    "limit",
    "anchor",
    "anchor_k",
)
"""Attributes of the loop that have an entry for each row in the batch."""


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

    Iterate k is the state after k solver steps, its residual ‖f(z_k) − z_k‖₂ / (‖f(z_k)‖₂ + ε) with ε the dtype's
    smallest normal number, so that the residual is free of scale. So is the solve: of y ↦ f(s y) / s it has the same
    steps, status and residuals, as far as the dtype reaches. No gradient is recorded.
    Raises TypeError or ValueError on senseless arguments and where f changes shape, or writes into its input.
    """
    # Refuse senseless arguments before f is called.
    _check_start(z0)
    solver, budget = solver or Picard(), budget or Budget()
    _check_rows(budget, len(z0))
    _check_layers(f, solver)

    # Iterate 0 is evaluated here: its scale decides how the whole solve is scaled.
    work = _Work.start(solver.adapt(f, z0), z0, solver, budget)
    for k in range(budget.max_iter + 1):
        # Measure iterate k, show it, and decide which rows stop there and which iterate each keeps.
        work.evaluate(k)
        if k == 0:
            warn_if_unreachable(budget.tol, work.f.output_dtype)
        if observe is not None:
            work.show(k, observe)
        work.judge(k)
        if k == budget.max_iter or not work.rows_left(k):
            break
        # With memory a step costs more than the copy that drops rows, so they go before it; without, after it.
        if work.state is not None:
            work.drop_finished()
        with _full_precision(z0.device.type):
            work.z = solver.step(work.state, work.point(k))
        if work.state is None:
            work.drop_finished()
    return work.solution()


def _extreme(z: Tensor, fz: Tensor) -> Tensor | None:
    """(rows, 1) the power of two by which each row is brought to the scale 1; None where none is far from it.

    The scale is f(z_0)'s, or where that is 0 the start's own.
    """
    size = row_norms(fz)
    if z.device.type != "cpu" or not bool((size > 0).all()):
        size = torch.where(size > 0, size, row_norms(z))
    low = _ordinary(z.dtype)
    far = ((size < low) & (size > 0)) | ((size > 1 / low) & size.isfinite())
    return torch.where(far, power_of_two(size), 1.0)[:, None] if bool(far.any()) else None


def _ordinary(dtype: torch.dtype) -> float:
    """The fourth root of the smallest normal number, 3e-10 in float32: squares of residuals are then far above it."""
    return float(torch.finfo(dtype).tiny ** 0.25)


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
    """The rows still in the batch (n of them, flat), and the records of all rows."""

    f: FlatMap
    state: SolverState | None
    budget: Budget
    z: Tensor  # (n, D), and at it:
    fz: Tensor  # (n, D)
    g: Tensor  # (n, D)
    residual: Tensor  # (n,)
    bounded: Tensor | None  # (n,) not diverged at z; None: all rows
    rows: Tensor  # (n,) index into the original batch
    active: Tensor  # (n,) not stopped yet
    diverged: Tensor  # (n,)
    kept_z: Tensor  # (n, D), or more rows, those of the batch being at kept_at (n,)
    kept_at: Tensor | None
    kept_residual: Tensor  # (n,)
    kept_k: Tensor  # (n,)
    trace: Trace
    tol: float | Tensor  # (n,)
    max_iter: Tensor | None  # (n,) where each row has its own
    all_active: bool
    crowded: bool = False  # finished rows should leave
    epsilon: float = 0.0
    ordinary: float = 0.0  # least scale at which squares of residuals are ordinary numbers; the largest is its inverse
    kept_is_own: bool = False  # kept_z is memory that no iterate shares
    out: tuple[Tensor, Tensor, Tensor] | None = None  # kept iterates (batch, …), kept_k, diverged, once rows have left
    limit: Tensor | None = None  # (n,) norm beyond which the row has diverged
    least_limit: float = 0.0  # of all rows there have been; 0 where the host is not to wait for the device
    anchor: Tensor | None = None  # (n,) residual that patience compares with
    anchor_k: Tensor | None = None  # (n,)

    @classmethod
    def start(cls, f: FlatMap, z0: Tensor, solver: Solver, budget: Budget) -> _Work:
        batch = z0.shape[0]
        z = f.flatten(z0)
        fz = f.at(z, 0)
        scale = _extreme(z, fz) if solver.scale_free else None
        if scale is not None:
            f.rescale(scale)
            z, fz = z / scale, fz / scale
        inf = torch.full((batch,), torch.inf, dtype=z.dtype, device=z.device)
        zeros = torch.zeros(batch, dtype=torch.long, device=z.device)
        rows = torch.arange(batch, device=z.device)
        return cls(
            f=f,
            state=solver.init(z),
            budget=budget,
            z=z,
            fz=fz,
            g=z,
            residual=inf,
            bounded=None,
            rows=rows,
            active=torch.ones(batch, dtype=torch.bool, device=z.device),
            diverged=torch.zeros(batch, dtype=torch.bool, device=z.device),
            kept_z=z,
            kept_at=None,
            kept_residual=inf,
            kept_k=zeros,
            trace=Trace(depth=depth_of(f.f)),
            tol=budget.tol if budget.row_tol is None else budget.row_tol.to(z),
            max_iter=None if budget.row_max_iter is None else budget.row_max_iter.to(z.device),
            all_active=True,
            epsilon=torch.finfo(z.dtype).tiny,
            ordinary=_ordinary(z.dtype),
            anchor=inf.clone() if budget.patience else None,
            anchor_k=zeros.clone() if budget.patience else None,
        )

    def evaluate(self, k: int) -> None:
        """Evaluate f at iterate k and measure its residual; of iterate 0 its value is there already."""
        if k:
            self.fz = self.f.at(self.z, k)
        self.g = torch.sub(self.fz, self.z, out=None if self.state is None else self.state.room())
        norm_g, norm_f = self._sizes()
        residual = norm_g
        if self.budget.norm == "relative":
            residual = norm_g / norm_f.add_(self.epsilon)
        elif self.f.scale is not None:
            residual = norm_g * self.f.scale[:, 0]
        if self.bounded is not None:
            residual = residual.nan_to_num(nan=torch.inf, posinf=torch.inf)
        self.residual = residual
        known = residual if self.all_active else residual.masked_fill(~self.active, torch.nan)
        self.trace.add(self.rows, known, self.state)

    def _sizes(self) -> tuple[Tensor, Tensor]:
        """‖g‖ and ‖f(z)‖, by whose sum rows diverge. On a CPU one look at that says whether plain norms will do."""
        if self.z.device.type != "cpu" or not self.z.numel():
            norm_g, norm_f = row_norms(self.g), row_norms(self.fz)
            self._note_divergence(norm_g + norm_f, math.nan)
            return norm_g, norm_f
        norm_g, norm_f = torch.linalg.vector_norm(self.g, dim=1), torch.linalg.vector_norm(self.fz, dim=1)
        size = norm_g + norm_f
        least, most = torch.aminmax(size)
        if not (self.ordinary <= float(least) and float(most) <= 1 / self.ordinary):  # true for NaN
            norm_g, norm_f = row_norms(self.g), row_norms(self.fz)
            size = norm_g + norm_f
            most = size.amax()
        self._note_divergence(size, float(most))
        return norm_g, norm_f

    def _note_divergence(self, size: Tensor, most: float) -> None:
        """most: the largest size, NaN where the host is not to wait for the device."""
        if self.limit is None:
            self.limit = (size * GROWTH_LIMIT).clamp(max=torch.finfo(size.dtype).max)
            self.least_limit = float(self.limit.amin()) if size.device.type == "cpu" and len(size) else 0.0
        self.bounded = None
        if most <= self.least_limit:  # false for NaN
            return
        bounded = size <= self.limit
        if not (bounded.device.type == "cpu" and bool(bounded.all())):
            self.bounded = bounded

    def point(self, k: int) -> Point:
        """The arguments of the solver's step."""
        return Point(k, self.z, self.fz, self.g, self.residual, self.f, self.active)

    def judge(self, k: int) -> None:
        """Keep iterate k where it is the one to keep; stop rows that converged, diverged or stalled at it."""
        keep = self.active
        if self.budget.keep == "best":
            better = self.residual < self.kept_residual
            keep = better if self.all_active else keep & better
        self._keep(k, keep)
        going = self.residual > self.tol
        if self.bounded is not None:
            going &= self.bounded
            self.diverged |= self.active & ~self.bounded
        if self.max_iter is not None:
            going &= self.max_iter > k
        if self.budget.patience is not None:
            going &= ~self._stalled(k)
        self.active = going if self.all_active else self.active & going

    def _keep(self, k: int, keep: Tensor) -> None:
        if keep.device.type != "cpu":
            kept = self.kept_z if self.kept_at is None else self._kept_rows()
            self.kept_z, self.kept_at = torch.where(keep[:, None], self.z, kept), None
            self.kept_residual = torch.where(keep, self.residual, self.kept_residual)
            self.kept_k.masked_fill_(keep, k)
            return
        count = int(keep.count_nonzero())
        if count == keep.shape[0]:
            # Every iterate is new memory, so holding a reference is enough.
            self.kept_z, self.kept_at, self.kept_is_own = self.z, None, False
            self.kept_residual = self.residual
            self.kept_k.fill_(k)
        elif count:
            if self.kept_at is not None or not self.kept_is_own:
                self.kept_z, self.kept_at, self.kept_is_own = self._kept_rows(), None, True
            rows = keep.nonzero()[:, 0]
            self.kept_z.index_copy_(0, rows, self.z.index_select(0, rows))
            self.kept_residual = torch.where(keep, self.residual, self.kept_residual)
            self.kept_k.masked_fill_(keep, k)

    def _kept_rows(self) -> Tensor:
        """The kept iterates of the rows of the batch, in new memory."""
        return self.kept_z.clone() if self.kept_at is None else self.kept_z[self.kept_at]

    def _stalled(self, k: int) -> Tensor:
        assert self.anchor is not None
        assert self.anchor_k is not None
        improved = self.residual < self.anchor * 0.999
        self.anchor = torch.where(improved, self.residual, self.anchor)
        self.anchor_k = self.anchor_k.masked_fill(improved, k)
        return k - self.anchor_k >= (self.budget.patience or 0)

    def show(self, k: int, observe: Observer) -> None:
        if self.all_active:
            observe(k, self.f.given(self.z), self.rows)
        else:
            index = self.active.nonzero()[:, 0]
            observe(k, self.f.given(self.z[index], index), self.rows[index])

    def rows_left(self, k: int) -> bool:
        """Whether any row goes on, and whether those that don't should leave."""
        self.crowded = False
        if self.z.is_cuda and k % CUDA_CHECK_EVERY:
            self.all_active = False
            return True
        count, size = int(self.active.count_nonzero()), self.active.shape[0]
        self.all_active = count == size
        self.crowded = self.f.can_take and count < size * (1 if self.state is None else COMPACT_BELOW)
        return count > 0

    def drop_finished(self) -> None:
        """Drop finished rows from the batch where that pays."""
        if not self.crowded:
            return
        self._write_out(self.active.logical_not().nonzero()[:, 0])
        index = self.active.nonzero()[:, 0]
        self.f = self.f.take(index)
        for name in PER_ROW:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value.index_select(0, index))
        if self.kept_at is None:
            self.kept_at = index
        if self.state is None:
            self.fz = self.g = self.z  # those of the iterate before are not asked for again
        else:
            self.fz, self.g = self.fz.index_select(0, index), self.g.index_select(0, index)
            self.state.take(index)
        self.all_active = True

    def _write_out(self, rows: Tensor | None = None) -> None:
        """Into `out`, of these rows of the batch; None: of all."""
        if self.out is None:
            self.out = self.f.given(self._kept_rows()), self.kept_k.clone(), self.diverged.clone()
            return
        if rows is None:
            rows = torch.arange(len(self.rows), device=self.rows.device)
        places = self.rows[rows]
        self.out[0][places] = self.f.given(self.kept_z[rows if self.kept_at is None else self.kept_at[rows]], rows)
        self.out[1][places] = self.kept_k[rows]
        self.out[2][places] = self.diverged[rows]

    def solution(self) -> Solution:
        self._write_out()
        assert self.out is not None
        z, kept, diverged = self.out
        return self.trace.solution(z, kept, diverged, self.budget)
