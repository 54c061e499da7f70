"""Anderson acceleration, type II, on differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.solvers.history import History
from deqrun.solvers.solver import Point, Solver, SolverState


@dataclass(frozen=True)
class Anderson(Solver):
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
    reject   None, or a factor > 1: a row whose ‖g_k‖ grew by more than it in one accelerated step goes back to the
             iterate before, takes a plain step from there, and forgets its differences (restarting: Walker & Ni
             2011, section 4). The rejected iterate still counts as a step and an evaluation.

    Raises ValueError on anything else.
    """

    memory: int = 5
    mixing: float = 1.0
    ridge: float | None = None
    start: float | None = None
    cap: float | None = None
    reject: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.memory, bool) or not isinstance(self.memory, int) or self.memory < 0:
            raise ValueError(f"Anderson memory must be a whole number >= 0, got {self.memory!r}.")
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
        return AndersonState(z, self.memory, ridge)

    def step(self, state: SolverState | None, point: Point) -> Tensor:
        assert isinstance(state, AndersonState)
        if self.memory == 0:
            return point.fz if self.mixing == 1 else torch.add(point.z, point.g, alpha=self.mixing)
        g, fz = point.g, point.fz
        if self.reject is not None:
            g, fz = state.reject(g, fz, self.reject)
        state.push(g, fz)
        if state.pushed == 1:
            return fz if self.mixing == 1 else torch.sub(fz, g, alpha=1 - self.mixing)
        weights = self._weights(state, point.residual)
        z = state.f.combination(weights)
        return z if self.mixing == 1 else z.sub_(state.g.combination(weights), alpha=1 - self.mixing)

    def _weights(self, state: AndersonState, residual: Tensor) -> Tensor:
        """Of the slots in z_{k+1}, (rows, slots): 1 of f(z_k), −γ_j of Δf_j; γ is 0 where a row takes a plain step."""
        gamma = state.least_squares()
        usable = None if state.on_host and math.isfinite(float(gamma.sum())) else gamma.isfinite().all(1)
        for further in (self._capped(gamma), self._begun(state, residual)):
            if further is not None:
                usable = further if usable is None else usable & further
        if usable is not None:
            gamma = torch.where(usable[:, None], gamma, 0.0)
        weights = gamma.to(residual.dtype).neg_()
        weights[:, state.now] = 1
        return weights

    def _capped(self, gamma: Tensor) -> Tensor | None:
        return None if self.cap is None else gamma.abs().sum(1) <= self.cap

    def _begun(self, state: AndersonState, residual: Tensor) -> Tensor | None:
        if self.start is None:
            return None
        state.begun |= residual < self.start
        return state.begun


class AndersonState(SolverState):
    """Two rings of memory + 1 slots. Slot k % (memory + 1) takes in g_k and f(z_k); a step later, in their place,
    Δg_k and Δf_k. So nothing is copied, and one combination of the ring of f is the next iterate.

    The products Δg_j · g_k are taken anew in each step. They could be had without, from Δg_j · g_{k−1} + Δg_j · Δg_k,
    but to the rounding of the larger g only. Where differences are nearly dependent the digits lost are the ones that
    count: small nonlinear problems took several times the steps.

    g, f   the rings
    unit   (rows, slots, slots) float64; Gram matrix of the Δg scaled to unit length, its diagonal 1 + ridge; of the
           identity in the slot of g_k
    scale  (rows, slots) float64; 1/‖Δg_j‖, 0 in the slot of g_k
    fresh  (rows,) how many of the latest differences a row may use; None while all rows may use all
    pushed how many g_k have come in
    """

    def __init__(self, z: Tensor, memory: int, ridge: float) -> None:
        rows = len(z)
        self.memory, self.ridge, self.on_host = memory, ridge, z.device.type == "cpu"
        self.tiny = torch.finfo(z.dtype).tiny
        self.g, self.f = (History(memory + 1 if memory else 0, z) for _ in range(2))
        self.unit = torch.eye(memory + 1, dtype=torch.float64, device=z.device).repeat(rows, 1, 1)
        self.scale = torch.zeros(rows, memory + 1, dtype=torch.float64, device=z.device)
        self.begun = torch.zeros(rows, dtype=torch.bool, device=z.device)
        self.fresh: Tensor | None = None
        self.pushed = 0

    @property
    def count(self) -> int:
        """Slots that have been filled."""
        return min(self.pushed, self.memory + 1)

    @property
    def now(self) -> int:
        """The slot of the latest g_k."""
        return (self.pushed - 1) % (self.memory + 1)

    def room(self) -> Tensor | None:
        return self.g[self.pushed % (self.memory + 1)] if self.memory else None

    def reject(self, g: Tensor, fz: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """(g, f) to go on from: those before, in rows whose residual grew by more than `factor`."""
        if self.fresh is None:
            self.fresh = torch.zeros(len(g), dtype=torch.long, device=g.device)
            return g, fz
        last_g, last_f = self.g[self.now], self.f[self.now]
        before, after = (torch.linalg.vector_norm(v, dim=1) for v in (last_g, g))
        grew = ~(after <= factor * before) & (self.fresh > 0)  # a plain step is not undone: it would come again
        self.fresh = (self.fresh + 1).clamp(max=self.memory).masked_fill(grew, 0)
        if self.on_host and not bool(grew.any()):
            return g, fz
        return torch.where(grew[:, None], last_g, g), torch.where(grew[:, None], last_f, fz)

    def push(self, g: Tensor, fz: Tensor) -> None:
        """Take in g_k and f(z_k); the ones before become differences, with which the least squares grows."""
        before = self.now
        self.pushed += 1
        now = self.now
        if g.data_ptr() != self.g[now].data_ptr():
            self.g[now].copy_(g)
        self.f[now].copy_(fz)
        if self.pushed == 1:
            return
        newest = self.g[before]
        torch.sub(g, newest, out=newest)
        torch.sub(fz, self.f[before], out=self.f[before])
        self._enter(self.g.products(newest, self.count).double(), before, now)

    def _enter(self, row: Tensor, before: int, now: int) -> None:
        """Let the products of the newest Δg with all slots into the Gram matrix."""
        count = self.count
        # The square of a length underflows before the length does: such a difference is as good as none.
        scale = row[:, before].clamp(min=self.tiny).rsqrt_()
        self.scale[:, before] = scale
        if self.pushed > count:
            self.scale[:, now] = 0
            self.unit[:, now] = 0
            self.unit[:, :, now] = 0
            self.unit[:, now, now] = 1
        entries = (row * scale[:, None]).mul_(self.scale[:, :count])
        self.unit[:, before, :count] = entries
        self.unit[:, :count, before] = entries
        self.unit[:, before, before] = 1 + self.ridge

    def least_squares(self) -> Tensor:
        """γ (rows, slots), float64, 0 in the slot of g_k: the ridged normal equations, columns of unit length."""
        count = self.count
        unit, scale = self.unit[:, :count, :count], self.scale[:, :count]
        right = self.g.products(self.g[self.now], count) * scale
        if self.fresh is not None:
            # A difference that a row may not use is a column of the identity: its γ comes out 0.
            age = (self.now - 1 - torch.arange(count, device=unit.device)) % (self.memory + 1)
            usable = age < self.fresh[:, None]
            unit = torch.where(
                usable[:, :, None] & usable[:, None, :], unit, torch.eye(count, dtype=unit.dtype, device=unit.device)
            )
            right = torch.where(usable, right, 0.0)
        return torch.linalg.solve_ex(unit.mT, right)[0].mul_(scale)

    def take(self, rows: Tensor) -> None:
        self.g.take(rows)
        self.f.take(rows)
        self.unit, self.scale = self.unit[rows], self.scale[rows]
        self.begun = self.begun[rows]
        self.fresh = None if self.fresh is None else self.fresh[rows]
