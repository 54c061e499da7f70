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

FALLING = 2
"""Forecasts in a row that must not rise before an Anderson step is taken."""

CAP, NEAR = 10.0, 0.01
"""A Broyden step is at most CAP plain steps long while ‖g‖ > NEAR ‖f(z)‖."""


@dataclass(frozen=True)
class Secant(Solver["SecantState", FlatMap]):
    """Broyden's good method with a sliding window, and Anderson's steps where the map looks linear, row by row.

    With g_k = f(z_k) − z_k, S and Y the last `memory` differences of z and of g, both methods are

        z_{k+1} = f(z_k) − (S + Y) γ,

        Broyden   (SᵀY + L) γ = Sᵀg_k,  L the part of SᵀS where the row's step is newer than the column's,
        Anderson  γ = argmin ‖g_k − Y γ‖,

    the first Byrd, Nocedal & Schnabel 1994 (Representations of quasi-Newton matrices and their use in limited memory
    methods, theorem 6.2 with B_0 = −I), the second type II (Fang & Saad 2009, Two classes of multisecant methods). To
    the window's end the first is Broyden's method; beyond, the oldest step leaves instead of all.

    Anderson is the faster on linear maps, Broyden the safer elsewhere. On a linear map the forecast
    ρ_k = min ‖g_k − Y γ‖ does not rise while the window holds, and ‖g_{k+1}‖ = ‖J r‖ with ‖r‖ = ρ_k after an Anderson
    step. So a row takes Anderson's step once ρ has not risen twice in a row, and Broyden's for good once an Anderson
    step left ‖g_{k+1}‖ > 1.2 ρ_k. A Broyden step is at most ten times ‖g‖ long while ‖g‖ > 0.01 ‖f(z)‖. After an
    accelerated step at whose end f is not finite, or beyond all scale, the row goes back and takes the plain step.

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
        z, g = state.go_back(point.z, point.g)
        norm = widened(torch.linalg.vector_norm(g, dim=1))
        state.push(z, g)
        if not state.count:
            state.last_norm = norm
            return point.fz
        broyden = state.broyden()
        anderson, forecast = state.anderson(norm)
        state.judge(norm, forecast)
        weights = state.usable(torch.where(state.linear[:, None], anderson, broyden))
        direction = state.direction(weights, g)
        size = widened(torch.linalg.vector_norm(direction, dim=1))
        far = (norm > NEAR * torch.linalg.vector_norm(z + g, dim=1)) & ~state.linear & (size > CAP * norm)
        if not state.on_host or bool(far.any()):
            direction.mul_(torch.where(far, CAP * norm / size, 1.0).to(direction.dtype)[:, None])
        return direction.add_(z)


class SecantState(SolverState):
    """One ring: slot 2j holds Δz of difference j, slot 2j + 1 its Δg, and the last two slots g_k and g_{k−1} in turn.

    So one pass over the ring gives the products of Δz, Δg and g with every difference, and another the step.

    gram        (rows, 2 memory, 2 memory) float64; products of the slots with one another
    right       (rows, 2 count) float64; products of the slots with g_k
    forecast    (rows,) float64; ρ of the iterate before
    last_norm   (rows,) float64; ‖g‖ of the iterate before
    falling     (rows,) how often in a row ρ did not rise
    linear      (rows,) whether the latest step is Anderson's
    broke       (rows,) whether a forecast has failed
    accelerated (rows,) whether the latest step is not the plain one
    undone      (rows,) whether the next step goes back to the iterate before; None: in no row
    """

    def __init__(self, z: Tensor, memory: int) -> None:
        rows, device = len(z), z.device
        self.memory, self.on_host = memory, at_hand(z)
        self.epsilon = torch.finfo(z.dtype).eps
        self.ring = History(2 * memory + 2, z)
        self.gram = torch.zeros(rows, 2 * memory, 2 * memory, dtype=wide(device), device=device)
        self.z = z
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
        return 2 * self.memory + k % 2

    def room(self) -> Tensor | None:
        return self.ring[self._slot(self.pushed)] if self.memory else None

    def undo(self, lost: Tensor) -> Tensor | None:
        self.undone = lost & self.accelerated
        return self.undone

    def go_back(self, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(z, g) to go on from: those before, in rows whose last step is undone."""
        if self.undone is None:
            return z, g
        back = self.undone[:, None]
        return torch.where(back, self.z, z), torch.where(back, self.ring[self._slot(self.pushed - 1)], g)

    def push(self, z: Tensor, g: Tensor) -> None:
        """Take in z_k, whose memory nobody writes to any more, and g_k."""
        k, last_z = self.pushed, self.z
        now, self.z = self._slot(k), z
        self.pushed += 1
        if g is not self.ring[now]:
            self.ring[now].copy_(g)
        if not k:
            return
        newest, count = 2 * ((k - 1) % self.memory), 2 * self.count
        torch.sub(z, last_z, out=self.ring[newest])
        torch.sub(g, self.ring[self._slot(k - 1)], out=self.ring[newest + 1])
        found = widened(self.ring.several_products((newest, newest + 1, now), count))
        self.right = found[:, 2]
        self.gram[:, newest : newest + 2, :count] = found[:, :2]
        self.gram[:, :count, newest : newest + 2] = found[:, :2].mT

    def broyden(self) -> Tensor:
        """γ (rows, count) of Broyden's step."""
        count = self.count
        gram, right = self.gram[:, : 2 * count, : 2 * count], self.right[:, 0::2]
        ss = gram[:, 0::2, 0::2]
        matrix = torch.addcmul(gram[:, 0::2, 1::2], ss, self._newer(count))
        scale, unusable = _lengths(ss)
        matrix = matrix * scale[:, :, None] * scale[:, None]
        matrix.diagonal(dim1=1, dim2=2).add_(unusable)
        return torch.linalg.solve_ex(matrix, scale * right)[0] * scale

    def _newer(self, count: int) -> Tensor:
        """(count, count) 1 where the row's difference is newer than the column's."""
        age = ((self.pushed - 2) - torch.arange(count, device=self.gram.device)) % self.memory
        return (age[:, None] < age).to(self.gram.dtype)

    def anderson(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """γ (rows, count) of Anderson's step, and ρ = ‖g − Y γ‖ (rows,), by ridged normal equations."""
        count = 2 * self.count
        yy, right = self.gram[:, 1:count:2, 1:count:2], self.right[:, 1::2]
        scale, _ = _lengths(yy)
        unit = yy * scale[:, :, None] * scale[:, None]
        right = scale * right
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
        fell = forecast <= self.forecast + rounding
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

    def direction(self, weights: Tensor, g: Tensor) -> Tensor:
        """g − (S + Y) γ (rows, D), γ (rows, count)."""
        both = weights.to(g.dtype).neg_().repeat_interleave(2, dim=1)
        return self.ring.combination(both, onto=g)

    def take(self, rows: Tensor) -> None:
        self.ring.take(rows)
        names = ("gram", "right", "z", "forecast", "last_norm", "falling", "linear", "broke", "accelerated", "undone")
        for name in names:
            value = getattr(self, name, None)
            if value is not None:
                setattr(self, name, value[rows])


def _lengths(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, count) one over the lengths of the columns, 0 where they are not usable, and 1 where they are not."""
    squared = gram.diagonal(dim1=1, dim2=2)
    usable = squared > 0
    return torch.where(usable, squared.rsqrt(), 0.0), (~usable).to(gram.dtype)
