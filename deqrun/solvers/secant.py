"""Broyden's and Anderson's step from one history, each where it is at its best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.arguments import require_count
from deqrun.solvers.device import at_hand, wide, widened
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.history import History
from deqrun.solvers.solver import Point, Solver, SolverState

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

    memory   differences kept, >= 0, two states in memory each; 0 is Picard iteration.

    Raises ValueError on anything else.
    """

    memory: int = 20

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

    ss, sy, yy  (rows, memory, memory) float64; products Δz_i · Δz_j for i newer than j, Δz_i · Δg_j, Δg_i · Δg_j
    right_s, right_y  (rows, count) float64; products of Δz and of Δg with g_k
    forecast    (rows,) float64; ρ of the iterate before
    last_norm   (rows,) float64; ‖g‖ of the iterate before
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
        self.ring = History(2 * memory + 3, z)
        self.ss = torch.zeros(rows, memory, memory, dtype=wide(device), device=device)
        self.sy, self.yy = torch.zeros_like(self.ss), torch.zeros_like(self.ss)
        self.right_s = self.right_y = self.ss[:, :0, 0]
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
        return 2 * self.memory + 2 * (k % 2)

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
        now, self.z, self.fz = self._slot(k), z, fz
        self.pushed += 1
        if g is not self.ring[now]:
            self.ring[now].copy_(g)
        if not k:
            return
        # Write the newest differences over the oldest.
        newest, count, step = (k - 1) % self.memory, self.count, 2 * self.memory + 1
        torch.sub(z, last_z, out=self.ring[step])
        torch.sub(fz, last_fz, out=self.ring[2 * newest])
        dg = torch.sub(g, self.ring[self._slot(k - 1)], out=self.ring[2 * newest + 1])
        # Multiply Δz and g with all of them; Δz_j = Δf_j − Δg_j.
        of_step, of_g = (widened(found) for found in self.ring.pair_products(step, now, 2 * count))
        before_s, before_y = self.right_s, self.right_y
        self.right_y, of_step_y = of_g[:, 1::2], of_step[:, 1::2]
        self.right_s = of_g[:, 0::2] - self.right_y
        self.ss[:, newest, :count] = of_step[:, 0::2] - of_step_y
        # The products of Δg = g_k − g_{k−1} with the older ones; its products with the newest are taken by themselves.
        old = before_s.shape[1]
        self.sy[:, :old, newest] = self.right_s[:, :old] - before_s
        self.sy[:, newest, :count] = of_step_y
        between = self.right_y[:, :old] - before_y
        self.yy[:, :old, newest], self.yy[:, newest, :old] = between, between
        self.yy[:, newest, newest] = widened(torch.linalg.vector_norm(dg, dim=1)).square_()

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
        """γ (rows, count) of Broyden's step."""
        count = self.count
        ss = self.ss[:, :count, :count]
        matrix = torch.addcmul(self.sy[:, :count, :count], ss, self._newer(count))
        # Rows of unit length, so that the largest pivot is the best one.
        scale, unusable = _lengths(ss)
        matrix *= scale[:, :, None]
        matrix.diagonal(dim1=1, dim2=2).add_(unusable)
        return torch.linalg.solve_ex(matrix, scale * self.right_s)[0]

    def _newer(self, count: int) -> Tensor:
        """(count, count) how much of L holds: 0 where the row's difference is not newer than the column's, rising to 1
        where it is APART steps newer."""
        age = ((self.pushed - 2) - torch.arange(count, device=self.ss.device)) % self.memory
        return ((age - age[:, None]) / APART).clamp_(0, 1).to(self.ss.dtype)

    def anderson(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """γ (rows, count) of Anderson's step, and ρ = ‖g − Y γ‖ (rows,), by ridged normal equations."""
        count = self.count
        yy = self.yy[:, :count, :count]
        scale, _ = _lengths(yy)
        unit = yy * scale[:, :, None] * scale[:, None]
        right = scale * self.right_y
        ridged = unit.clone()
        ridged.diagonal(dim1=1, dim2=2).fill_(1 + 10 * self.epsilon)
        gamma = torch.linalg.solve_ex(ridged, right)[0]
        left = torch.bmm(unit, gamma[:, :, None])[:, :, 0].sub_(right, alpha=2)
        squared = norm.square() + (left * gamma).sum(1)
        return gamma * scale, squared.clamp(min=0).sqrt()

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
    *("ss", "sy", "yy", "right_s", "right_y", "z", "fz", "forecast", "last_norm"),
    *("falling", "linear", "broke", "accelerated", "undone"),
)
"""The fields of SecantState that have rows, except the ring."""


def _lengths(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, count) one over the lengths of the columns, 0 where they are not usable, and 1 where they are not."""
    squared = gram.diagonal(dim1=1, dim2=2)
    usable = squared > 0
    return torch.where(usable, squared.rsqrt(), 0.0), (~usable).to(gram.dtype)
