"""Broyden's and Anderson's step from one history, each where it is at its best."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.arguments import require_count
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
        norm = torch.linalg.vector_norm(g, dim=1).double()
        state.push(z, g)
        if not state.count:
            state.note_norm(norm)
            return point.fz
        broyden = state.broyden(state.steps.products(g, state.count).double())
        anderson, forecast = state.anderson(state.changes.products(g, state.count).double(), norm)
        state.judge(norm, forecast)
        weights = state.usable(torch.where(state.linear[:, None], anderson, broyden)).to(g.dtype).neg_()
        direction = state.steps.combination(weights, onto=g)
        direction = state.changes.combination(weights, onto=direction, in_place=True)
        size = torch.linalg.vector_norm(direction, dim=1).double()
        far = (norm > NEAR * torch.linalg.vector_norm(z + g, dim=1)) & ~state.linear & (size > CAP * norm)
        length = torch.where(far, CAP * norm / size, 1.0).to(direction.dtype)
        return direction.mul_(length[:, None]).add_(z)


class SecantState(SolverState):
    """Two rings of `memory` slots, Δz in `steps` and Δg in `changes`, and their products.

    ss, sy, yy  (rows, memory, memory) float64; products of the Δz, of Δz with Δg, of the Δg
    forecast    (rows,) float64; ρ of the iterate before
    last_norm   (rows,) float64; ‖g‖ of the iterate before
    falling     (rows,) how often in a row ρ did not rise
    linear      (rows,) whether the latest step is Anderson's
    broke       (rows,) whether a forecast has failed
    accelerated (rows,) whether the latest step is not the plain one
    undone      (rows,) whether the next step goes back to the iterate before; None: in no row
    """

    def __init__(self, z: Tensor, memory: int) -> None:
        rows = len(z)
        self.memory = memory
        self.epsilon = torch.finfo(z.dtype).eps
        self.steps, self.changes = History(memory, z), History(memory, z)
        self.ss = torch.zeros(rows, memory, memory, dtype=torch.float64, device=z.device)
        self.sy, self.yy = torch.zeros_like(self.ss), torch.zeros_like(self.ss)
        self.z = self.g = z
        self.forecast = torch.full((rows,), torch.inf, dtype=torch.float64, device=z.device)
        self.last_norm = self.forecast
        self.falling = torch.zeros(rows, dtype=torch.long, device=z.device)
        self.linear = torch.zeros(rows, dtype=torch.bool, device=z.device)
        self.broke = torch.zeros_like(self.linear)
        self.accelerated = torch.zeros_like(self.linear)
        self.undone: Tensor | None = None
        self.pushed = 0

    @property
    def count(self) -> int:
        """Differences at hand."""
        return min(self.pushed - 1, self.memory)

    def undo(self, lost: Tensor) -> Tensor | None:
        self.undone = lost & self.accelerated
        return self.undone

    def go_back(self, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """(z, g) to go on from: those before, in rows whose last step is undone."""
        if self.undone is None:
            return z, g
        back = self.undone[:, None]
        return torch.where(back, self.z, z), torch.where(back, self.g, g)

    def usable(self, weights: Tensor) -> Tensor:
        """γ, 0 in rows where it is not finite, or whose last step was undone; notes which steps are accelerated."""
        usable = weights.isfinite().all(1)
        if self.undone is not None:
            usable &= ~self.undone
            self.undone = None
        self.accelerated = usable
        return weights.masked_fill(~usable[:, None], 0.0)

    def push(self, z: Tensor, g: Tensor) -> None:
        """Take in z_k and g_k, whose memory nobody writes to any more."""
        last_z, last_g = self.z, self.g
        self.z, self.g = z, g
        self.pushed += 1
        if self.pushed == 1:
            return
        newest, count = (self.pushed - 2) % self.memory, self.count
        step, change = self.steps[newest], self.changes[newest]
        torch.sub(z, last_z, out=step)
        torch.sub(g, last_g, out=change)
        for products, row, column in (
            (self.ss, self.steps.products(step, count), None),
            (self.yy, self.changes.products(change, count), None),
            (self.sy, self.changes.products(step, count), self.steps.products(change, count)),
        ):
            products[:, newest, :count] = row.double()
            products[:, :count, newest] = (row if column is None else column).double()

    def broyden(self, right: Tensor) -> Tensor:
        """γ (rows, count) of Broyden's step, right = Sᵀg."""
        count = right.shape[1]
        age = ((self.pushed - 2) - torch.arange(count, device=right.device)) % self.memory
        ss = self.ss[:, :count, :count]
        matrix = self.sy[:, :count, :count] + ss * (age[:, None] < age)
        scale, usable = _lengths(ss)
        matrix = matrix * scale[:, :, None] * scale[:, None] + torch.diag_embed((~usable).double())
        return torch.linalg.solve_ex(matrix, scale * right)[0] * scale

    def anderson(self, right: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """γ (rows, count) of Anderson's step, right = Yᵀg, and ρ = ‖g − Y γ‖ (rows,), by ridged normal equations."""
        count = right.shape[1]
        scale, _ = _lengths(self.yy[:, :count, :count])
        unit = self.yy[:, :count, :count] * scale[:, :, None] * scale[:, None]
        right = scale * right
        ridged = unit.clone()
        ridged.diagonal(dim1=1, dim2=2).fill_(1 + 10 * self.epsilon)
        gamma = torch.linalg.solve_ex(ridged, right)[0]
        left = (unit * gamma[:, None]).sum(2) - 2 * right
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
        self.forecast = forecast
        self.note_norm(norm)

    def note_norm(self, norm: Tensor) -> None:
        self.last_norm = norm

    def take(self, rows: Tensor) -> None:
        self.steps.take(rows)
        self.changes.take(rows)
        for name in ("ss", "sy", "yy", "z", "g", "forecast", "last_norm", "falling", "linear", "broke", "accelerated"):
            setattr(self, name, getattr(self, name)[rows])
        self.undone = None if self.undone is None else self.undone[rows]


def _lengths(gram: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, count) one over the lengths of the columns, and whether they are usable; 0 where they are not."""
    squared = gram.diagonal(dim1=1, dim2=2)
    usable = squared > 0
    return torch.where(usable, squared.rsqrt(), 0.0), usable
