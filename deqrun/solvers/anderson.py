"""Anderson acceleration, type II, on differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.arguments import require_count
from deqrun.solvers.device import at_hand, wide, widened
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.history import History
from deqrun.solvers.solver import Point, Solver, SolverState


@dataclass(frozen=True)
class Anderson(Solver["AndersonState", FlatMap]):
    """Anderson acceleration in its difference form (Anderson 1965; Walker & Ni 2011, eq. 2.2 and Algorithm AA).

    With g_k = f(z_k) − z_k, Δg_j = g_{j+1} − g_j, Δf_j = f(z_{j+1}) − f(z_j) over the last `memory` steps,

        γ = argmin ‖g_k − Σ_j γ_j Δg_j‖²,     z_{k+1} = f(z_k) − Σ_j γ_j Δf_j − (1 − mixing)(g_k − Σ_j γ_j Δg_j),

    which equals Σ α_i f(z_i), α minimising ‖Σ α_i g_i‖² under Σ α_i = 1, but is solved where it is well conditioned.
    The normal equations are float64, their columns scaled to unit length, `ridge` added to that unit diagonal: it is
    relative to the scale of the residuals.

    memory   number of differences kept, >= 0; 0 is Picard iteration.
    mixing   β in (0, 2]; 1 takes the accelerated f, below 1 damps.
    ridge    >= 0, relative; None: 10 times the state's machine epsilon, the rounding of the Gram matrix itself.
    start    None, or the residual below which acceleration begins, per row (plain steps before).
    cap      None, or the largest Σ_j |γ_j| allowed, > 0; a row beyond it takes a plain step.
    reject   None, or a factor > 1: a row whose ‖g_k‖ grew by more than it in one accelerated step, or is not finite
             after it, goes back to the iterate before, takes a plain step from there, and forgets its differences
             (restarting: Walker & Ni 2011, section 4). The rejected iterate still counts as a step and an evaluation.

    Raises ValueError on anything else.
    """

    memory: int = 5
    mixing: float = 1.0
    ridge: float | None = None
    start: float | None = None
    cap: float | None = None
    reject: float | None = None

    def __post_init__(self) -> None:
        require_count("Anderson memory", self.memory, 0)
        if not 0 < self.mixing <= 2:
            raise ValueError(f"Anderson mixing must be in (0, 2], got {self.mixing}.")
        if self.ridge is not None and not self.ridge >= 0:
            raise ValueError(f"Anderson ridge must be >= 0, got {self.ridge}.")
        for name, lowest in (("start", 0), ("cap", 0), ("reject", 1)):
            value = getattr(self, name)
            if value is not None and not value > lowest:
                raise ValueError(f"Anderson {name} must be > {lowest} or null, got {value}.")

    def init(self, z: Tensor) -> AndersonState:
        ridge = 10 * torch.finfo(z.dtype).eps if self.ridge is None else self.ridge
        return AndersonState(z, self.memory, ridge, rejects=self.reject is not None)

    def step(self, state: AndersonState, point: Point[FlatMap]) -> Tensor:
        if self.memory == 0:
            return point.fz if self.mixing == 1 else torch.add(point.z, point.g, alpha=self.mixing)
        g, fz = point.g, point.fz
        if self.reject is not None:
            g, fz = state.reject(g, fz, self.reject)
        state.push(g, fz)
        if not state.count:
            return fz if self.mixing == 1 else torch.sub(fz, g, alpha=1 - self.mixing)
        state.least_squares()
        self._guard(state, point.residual)
        weights = state.weights if state.f.padded else state.weights[:, : state.count]
        z = state.f.combination(weights, onto=fz)
        if self.mixing != 1:
            z.sub_(state.g.combination(weights, onto=g), alpha=1 - self.mixing)
        return z

    def _guard(self, state: AndersonState, residual: Tensor) -> None:
        """A plain step, all γ 0, in rows whose γ are not finite, are beyond the cap, or have not begun."""
        weights = state.weights
        usable = None if state.on_host and math.isfinite(float(weights.sum())) else weights.isfinite().all(1)
        for further in (self._capped(weights), self._begun(state, residual)):
            if further is not None:
                usable = further if usable is None else usable & further
        if usable is not None:
            weights.masked_fill_(~usable[:, None], 0.0)

    def _capped(self, weights: Tensor) -> Tensor | None:
        return None if self.cap is None else weights.abs().sum(1) <= self.cap

    def _begun(self, state: AndersonState, residual: Tensor) -> Tensor | None:
        if self.start is None:
            return None
        state.begun |= residual < self.start
        return state.begun


class AndersonState(SolverState):
    """Two rings of `memory` slots: slot k % memory holds Δg_k, and Δf_k. The ring of g has two extra
    slots, which hold g_k and g_{k−1} in turn. So no g is copied, and one product reads its slot and the newest Δg's.

    The products Δg_j · g_k are taken anew in each step. They could be had without, from Δg_j · g_{k−1} + Δg_j · Δg_k,
    but to the rounding of the larger g only. Where differences are nearly dependent the digits lost are the ones that
    count: small nonlinear problems took several times the steps.

    g, f     the rings
    last_f   (rows, D); f(z_k), in the memory that the loop has it in
    unit     (rows, memory, memory) float64; products of the Δg scaled to unit length, the diagonal 1 + ridge
    scale    (rows, memory) float64; 1/‖Δg_j‖
    right    (rows, count); Δg_j · g_k
    weights  (rows, slots of f); −γ_j
    fresh    (rows,) how many of the latest differences a row may use; None while all rows may use all
    pushed   how many g_k have come in
    """

    def __init__(self, z: Tensor, memory: int, ridge: float, rejects: bool) -> None:
        rows = len(z)
        self.rejects = rejects
        self.memory, self.ridge, self.on_host = memory, ridge, at_hand(z)
        self.tiny = torch.finfo(z.dtype).tiny
        self.g, self.f = History(memory + 2 if memory else 0, z), History(memory, z)
        self.last_f = z
        self._hold(torch.zeros(rows, memory, memory, dtype=wide(z.device), device=z.device))
        self.scale = torch.zeros(rows, memory, dtype=wide(z.device), device=z.device)
        self.weights = z.new_zeros(rows, self.f.width)
        self.begun = torch.zeros(rows, dtype=torch.bool, device=z.device)
        self.fresh: Tensor | None = None
        self.pushed = 0

    def _hold(self, unit: Tensor) -> None:
        self.unit = unit
        self._rows, self._columns = unit.unbind(1), unit.unbind(2)
        self._diagonal = unit.diagonal(dim1=1, dim2=2).unbind(1)

    @property
    def count(self) -> int:
        """Differences at hand."""
        return min(self.pushed - 1, self.memory)

    @property
    def newest(self) -> int:
        """The slot of the newest difference."""
        return (self.pushed - 2) % self.memory

    def _slot(self, k: int) -> int:
        """That of g_k."""
        return self.memory + k % 2

    def room(self) -> Tensor | None:
        return self.g[self._slot(self.pushed)] if self.memory else None

    def undo(self, lost: Tensor) -> Tensor | None:
        return lost & self._accelerated() if self.rejects else None

    def _accelerated(self) -> Tensor:
        """(rows,) whether the last step was no plain one."""
        return (self.weights != 0).any(1)

    def reject(self, g: Tensor, fz: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """(g, f) to go on from: those before, in rows whose last step was accelerated, the residual growing by more
        than `factor`."""
        if self.fresh is None:
            self.fresh = torch.zeros(len(g), dtype=torch.long, device=g.device)
            return g, fz
        last_g, last_f = self.g[self._slot(self.pushed - 1)], self.last_f
        before, after = (torch.linalg.vector_norm(v, dim=1) for v in (last_g, g))
        grew = ~(after <= factor * before) & self._accelerated()  # a plain step is not undone: it would come again
        self.fresh = (self.fresh + 1).clamp(max=self.memory).masked_fill(grew, 0)
        if self.on_host and not bool(grew.any()):
            return g, fz
        return torch.where(grew[:, None], last_g, g), torch.where(grew[:, None], last_f, fz)

    def push(self, g: Tensor, fz: Tensor) -> None:
        """Take in g_k and f(z_k); with those before they make differences, with which the least squares grows."""
        k, last_f = self.pushed, self.last_f
        now, self.last_f = self._slot(k), fz
        self.pushed += 1
        if g is not self.g[now]:
            self.g[now].copy_(g)
        if not k:
            return
        newest, count = self.newest, self.count
        torch.sub(g, self.g[self._slot(k - 1)], out=self.g[newest])
        torch.sub(fz, last_f, out=self.f[newest])
        row, self.right = self.g.pair_products(newest, now, count)
        # The square of a length underflows before the length does: such a difference is as good as none.
        scale = widened(row.select(1, newest)).clamp(min=self.tiny).rsqrt_()
        self.scale.select(1, newest).copy_(scale)
        entries = torch.mul(row, scale[:, None]).mul_(self._first(self.scale))
        self._first(self._rows[newest]).copy_(entries)
        self._first(self._columns[newest]).copy_(entries)
        self._diagonal[newest].fill_(1 + self.ridge)

    def _first(self, of_slots: Tensor) -> Tensor:
        """(rows, memory) -> (rows, count)."""
        count = self.count
        return of_slots if count == self.memory else of_slots[:, :count]

    def least_squares(self) -> None:
        """−γ into `weights`: by the ridged normal equations, columns of unit length."""
        count = self.count
        unit = self.unit if count == self.memory else self.unit[:, :count, :count]
        scale = self._first(self.scale)
        right = scale * self.right
        if self.fresh is not None:
            # A difference that a row may not use is a column of the identity: its γ comes out 0.
            age = (self.newest - torch.arange(count, device=unit.device)) % self.memory
            usable = age < self.fresh[:, None]
            identity = torch.eye(count, dtype=unit.dtype, device=unit.device)
            unit = torch.where(usable[:, :, None] & usable[:, None, :], unit, identity)
            right = torch.where(usable, right, 0.0)
        gamma = torch.linalg.solve_ex(unit.mT, right)[0]
        torch.mul(gamma, scale, out=self.weights[:, :count]).neg_()

    def take(self, rows: Tensor) -> None:
        self.g.take(rows)
        self.f.take(rows)
        self.last_f = self.last_f[rows]
        self._hold(self.unit[rows])
        self.scale, self.weights = self.scale[rows], self.weights[rows]
        self.begun = self.begun[rows]
        self.fresh = None if self.fresh is None else self.fresh[rows]
