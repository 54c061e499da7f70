"""Broyden's and Anderson's step from one history, each where it is at its best."""

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

ROOM = 10
"""Differences that there is room for at first. Most solves need no more, and each takes two states of memory."""

TRUST = 1.2
"""By how much ‖g_{k+1}‖ may exceed Anderson's forecast before the row is Broyden's for good."""

FELL, FALLING = 0.8, 2
"""An Anderson step is taken after FALLING forecasts in a row of at most FELL times the one before."""

APART = 8.0
"""Steps between two differences from which on Broyden's triangle holds for them in full."""

CAP, NEAR = 10.0, 0.01
"""A Broyden step is at most CAP plain steps long while ‖g‖ > NEAR ‖f(z)‖."""


@dataclass(frozen=True)
class Secant(Solver["SecantState", FlatMap]):
    """Broyden's method with a sliding window, milder between neighbours, and Anderson's steps where f looks linear.

    With g_k = f(z_k) − z_k, S, Y and U the last `memory` differences of z, of g and of f(z), S + Y = U, all steps are

        z_{k+1} = f(z_k) − U γ,

        Broyden   (SᵀY + L) γ = Sᵀg_k,  L_ij = min(1, (i − j) / 8) s_i · s_j for i newer than j, else 0,
        Anderson  γ = argmin ‖g_k − Y γ‖.

    With s_i · s_j in full the first is Broyden's method (Byrd, Nocedal & Schnabel 1994, Representations of quasi-Newton
    matrices and their use in limited memory methods, theorem 6.2 with B_0 = −I), whose matrix maps only the newest
    step to its difference of g; without L its matrix does so for every step in the window (type I of Fang & Saad 2009,
    Two classes of multisecant methods), which wanders where the map bends. The factor lies between: differences of
    neighbouring steps agree, distant ones do not. The newest step's equation holds for every factor. Beyond the
    window the oldest step leaves instead of all.

    Anderson (type II there) is the faster on linear maps, Broyden the safer elsewhere. On a linear map the forecast
    ρ_k = min ‖g_k − Y γ‖ does not rise while the window holds, and ‖g_{k+1}‖ = ‖J r‖ with ‖r‖ = ρ_k after an Anderson
    step. So a row takes Anderson's step while ρ has fallen by a fifth in each of the last two steps, and Broyden's for
    good once an Anderson step left ‖g_{k+1}‖ > 1.2 ρ_k. A Broyden step is at most ten times ‖g‖ long while
    ‖g‖ > 0.01 ‖f(z)‖. After an accelerated step at whose end f is not finite, or beyond all scale, the row goes back
    and takes the plain step.

    memory   differences kept, >= 0, two states in memory each; 0 is Picard iteration. Room for more than ten is
             taken only in solves of more than ten steps. Memory 20 solves no more of the problems of
             scripts/hard_cells.py than 16, and its small systems cost more.

    Raises ValueError on anything else.
    """

    memory: int = 16

    def __post_init__(self) -> None:
        require_count("Secant memory", self.memory, 0)

    def init(self, z: Tensor) -> SecantState:
        return SecantState(z, self.memory)

    def step(self, state: SecantState, point: Point[FlatMap]) -> Tensor:
        if self.memory == 0:
            return point.fz
        z, g, fz = state.go_back(point.z, point.g, point.fz)
        norm = widened(torch.linalg.vector_norm(g, dim=1))
        state.push(z, g, fz)
        if not state.count:
            state.last_norm = norm
            return point.fz
        weights = state.usable(state.weights(norm))
        direction = state.f_combination(weights, g)
        size = widened(torch.linalg.vector_norm(direction, dim=1))
        far = (size > CAP * norm) & ~state.linear
        if not state.on_host or bool(far.any()):
            far &= norm > NEAR * torch.linalg.vector_norm(fz, dim=1)
            direction.mul_(torch.where(far, CAP * norm / size, 1.0).to(direction.dtype)[:, None])
        return direction.add_(z)


class SecantState(SolverState):
    """One ring: slot 2j holds Δf of difference j, slot 2j + 1 its Δg, and three more hold g_k or g_{k−1}, Δz, and the
    other g.

    So the newest Δz and g meet all differences in one pass over the ring, and the step is another over half of it. The
    products of the newest Δg follow from g_k's and g_{k−1}'s: they round to the larger g, which is not much longer than
    Δg unless f hardly contracts.

    Small systems have rows of unit length, ŝ_i = Δz_i / ‖Δz_i‖ and ŷ_i = Δg_i / ‖Δg_i‖; all are in float64:

    su, sy      (rows, memory, memory) products ŝ_i · Δf_j for i newer than or as old as j, ŝ_i · Δg_j
    yy          (rows, memory, memory) products ŷ_i · ŷ_j, the diagonal 1 + ridge
    of_s, of_y  (rows, memory) 1/‖Δz_i‖, 1/‖Δg_i‖; 0 where there is no length
    right_s, right_y  (rows, count) products of Δz and of Δg with g_k
    room_for    differences that the ring has room for; it grows when more of them come
    triangle    (memory, memory) how much of L holds, by age: row and column 0 are the oldest difference's
    forecast    (rows,) ρ of the iterate before
    last_norm   (rows,) ‖g‖ of the iterate before

    falling     (rows,) how often in a row ρ fell by a fifth
    linear      (rows,) whether the latest step is Anderson's
    broke       (rows,) whether a forecast has failed
    accelerated (rows,) whether the latest step is not the plain one
    undone      (rows,) whether the next step goes back to the iterate before; None: in no row
    """

    def __init__(self, z: Tensor, memory: int) -> None:
        rows, device = len(z), z.device
        self.memory, self.on_host = memory, at_hand(z)
        self.epsilon = torch.finfo(z.dtype).eps
        self.ridge = 10 * self.epsilon
        self.room_for = min(memory, ROOM)
        self.ring = History(2 * self.room_for + 3, z)
        self.su = torch.zeros(rows, memory, memory, dtype=wide(device), device=device)
        self.sy, self.yy = torch.zeros_like(self.su), torch.zeros_like(self.su)
        self.of_s = torch.zeros(rows, memory, dtype=wide(device), device=device)
        self.of_y = torch.zeros_like(self.of_s)
        self.right_s = self.right_y = self.of_s[:, :0]
        age = torch.arange(memory, dtype=wide(device), device=device)
        self.triangle = ((age[:, None] - age) / APART).clamp_(0, 1)
        self.z, self.fz = z, z
        self.forecast = torch.full((rows,), torch.inf, dtype=wide(device), device=device)
        self.last_norm = self.forecast
        self.falling = torch.zeros(rows, dtype=torch.long, device=device)
        self.linear = torch.zeros(rows, dtype=torch.bool, device=device)
        self.broke, self.accelerated = torch.zeros_like(self.linear), torch.zeros_like(self.linear)
        self.undone: Tensor | None = None
        self.pushed = 0

    @property
    def count(self) -> int:
        """Differences at hand."""
        return min(self.pushed - 1, self.memory)

    def _slot(self, k: int) -> int:
        """The slot of g_k."""
        return 2 * self.room_for + 2 * (k % 2)

    def room(self) -> Tensor | None:
        return self.ring[self._slot(self.pushed)] if self.memory else None

    def undo(self, lost: Tensor) -> Tensor | None:
        self.undone = lost & self.accelerated
        return self.undone

    def go_back(self, z: Tensor, g: Tensor, fz: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(z, g, f(z)) to go on from: those before, in rows whose last step is undone."""
        if self.undone is None:
            return z, g, fz
        back, last_g = self.undone[:, None], self.ring[self._slot(self.pushed - 1)]
        return torch.where(back, self.z, z), torch.where(back, last_g, g), torch.where(back, self.fz, fz)

    def push(self, z: Tensor, g: Tensor, fz: Tensor) -> None:
        """Take in z_k and f(z_k), whose memory nobody writes to any more, and g_k."""
        k, last_z, last_fz = self.pushed, self.z, self.fz
        # A longer solve takes room for more differences before the first would be overwritten.
        if k > self.room_for < self.memory:
            more = min(self.room_for, self.memory - self.room_for)
            self.ring = self.ring.inserted(2 * self.room_for, 2 * more)
            self.room_for += more
        now, self.z, self.fz = self._slot(k), z, fz
        self.pushed += 1
        if g is not self.ring[now]:
            self.ring[now].copy_(g)
        if not k:
            return
        # Write the newest differences over the oldest.
        newest, count, step = (k - 1) % self.memory, self.count, 2 * self.room_for + 1
        torch.sub(z, last_z, out=self.ring[step])
        torch.sub(fz, last_fz, out=self.ring[2 * newest])
        dg = torch.sub(g, self.ring[self._slot(k - 1)], out=self.ring[2 * newest + 1])
        # Multiply Δz and g with all of them; Δz_j = Δf_j − Δg_j.
        of_step, of_g = self.ring.pair_products(step, now, 2 * count)
        before_s, before_y = self.right_s, self.right_y
        of_g = widened(of_g)
        self.right_y = of_g[:, 1::2]
        self.right_s = of_g[:, 0::2] - self.right_y
        squared = widened(of_step[:, 2 * newest]) - of_step[:, 2 * newest + 1]
        of_s = _inverse_length(squared)
        of_y = _inverse_length(widened(torch.linalg.vector_norm(dg, dim=1)).square_())
        self.of_s[:, newest], self.of_y[:, newest] = of_s, of_y
        # The products of Δg = g_k − g_{k−1} with the older ones; its products with the newest are taken by themselves.
        old = before_s.shape[1]
        torch.mul(self.right_s[:, :old] - before_s, self.of_s[:, :old], out=self.sy[:, :old, newest])
        between = (self.right_y[:, :old] - before_y).mul_(self.of_y[:, :old]).mul_(of_y[:, None])
        self.yy[:, :old, newest], self.yy[:, newest, :old] = between, between
        self.yy[:, newest, newest].fill_(1 + self.ridge)
        # A step without length has the equation γ = 0.
        torch.mul(of_step[:, 0::2], of_s[:, None], out=self.su[:, newest, :count])
        torch.mul(of_step[:, 1::2], of_s[:, None], out=self.sy[:, newest, :count])
        self.sy[:, newest, newest].add_(of_s == 0)

    def weights(self, norm: Tensor) -> Tensor:
        """γ (rows, count) of this step, Anderson's or Broyden's; on the host the other system is left out unless some
        row needs it."""
        if self.on_host and bool(self.broke.all()):
            self.linear, self.last_norm = torch.zeros_like(self.broke), norm
            return self.broyden()
        anderson, forecast = self.anderson(norm)
        self.judge(norm, forecast)
        if self.on_host and bool(self.linear.all()):
            return anderson
        return torch.where(self.linear[:, None], anderson, self.broyden())

    def broyden(self) -> Tensor:
        """γ (rows, count) of Broyden's step. Rows have unit length, so that the largest pivot is the best one."""
        count = self.count
        su, sy = self.su[:, :count, :count], self.sy[:, :count, :count]
        # s · y + L = (1 − l) s · y + l s · u, where l is how much of the triangle holds.
        matrix = torch.lerp(sy, su, self._newer(count))
        return torch.linalg.solve_ex(matrix, self.of_s[:, :count] * self.right_s)[0]

    def _newer(self, count: int) -> Tensor:
        """(count, count) how much of L holds: 0 where the row's difference is not newer than the column's, rising to 1
        where it is APART steps newer."""
        newest = (self.pushed - 2) % self.memory
        if newest == count - 1:
            return self.triangle[:count, :count]
        return self.triangle.roll((newest + 1, newest + 1), (0, 1))

    def anderson(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """γ (rows, count) of Anderson's step, and ρ = ‖g − Y γ‖ (rows,), by ridged normal equations.

        Of (Ŷᵀ Ŷ + δ) γ̂ = Ŷᵀ g is ρ² = ‖g‖² − γ̂ · (Ŷᵀ g + δ γ̂).
        """
        count = self.count
        scale = self.of_y[:, :count]
        right = scale * self.right_y
        gamma = torch.linalg.solve_ex(self.yy[:, :count, :count].mT, right)[0]
        squared = norm.square() - (right.add_(gamma, alpha=self.ridge).mul_(gamma)).sum(1)
        return gamma * scale, squared.clamp_(min=0).sqrt_()

    def judge(self, norm: Tensor, forecast: Tensor) -> None:
        """Whether this step is Anderson's, from the forecasts, which rounding leaves √ε ‖g‖ of error."""
        rounding = self.epsilon**0.5 * self.last_norm
        failed = self.linear & ~(norm <= TRUST * self.forecast + rounding)
        self.broke = self.broke | (failed if self.undone is None else failed | self.undone)
        fell = forecast <= FELL * self.forecast + rounding
        self.falling = torch.where(fell, self.falling + 1, 0)
        self.linear = (self.falling >= FALLING) & ~self.broke
        self.forecast, self.last_norm = forecast, norm

    def usable(self, weights: Tensor) -> Tensor:
        """γ, 0 in rows where it is not finite, or whose last step was undone; notes which steps are accelerated."""
        if self.on_host and self.undone is None and math.isfinite(float(weights.sum())):
            self.accelerated = torch.ones_like(self.broke)
            return weights
        usable = weights.isfinite().all(1)
        if self.undone is not None:
            usable &= ~self.undone
            self.undone = None
        self.accelerated = usable
        return weights.masked_fill_(~usable[:, None], 0.0)

    def f_combination(self, weights: Tensor, g: Tensor) -> Tensor:
        """g − U γ (rows, D), γ (rows, count)."""
        return self.ring.combination(weights.to(g.dtype).neg_(), every=2, onto=g)

    def take(self, rows: Tensor) -> None:
        self.ring.take(rows)
        for name in TAKEN:
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[rows])


TAKEN = (
    *("su", "sy", "yy", "of_s", "of_y", "right_s", "right_y", "z", "fz", "forecast", "last_norm"),
    *("falling", "linear", "broke", "accelerated", "undone"),
)
"""The fields of SecantState that have rows, except the ring."""


def _inverse_length(squared: Tensor) -> Tensor:
    """(rows,) one over the length, from its square; 0 where that is not positive."""
    return torch.where(squared > 0, squared.rsqrt(), 0.0)
