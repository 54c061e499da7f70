"""Plain iteration whose step shrinks where the residual makes no progress."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.arguments import require_count
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.solver import Point, Solver, SolverState

__all__ = ["Damped", "DampedState"]


@dataclass(frozen=True)
class Damped(Solver["DampedState", FlatMap]):
    """z_{k+1} = z_k + λ_k (f(z_k) − z_k), each row with a step size λ_k of its own that only shrinks.

    λ_0 = damping. A step makes progress where it brings the residual below `progress` times the lowest before. After
    `patience` steps in a row without progress λ becomes max(shrink · λ, least), and the count begins anew.

    Where plain iteration contracts by `progress` in `patience` steps this is plain iteration. Plain iteration circles
    or cycles where ∂f/∂z has eigenvalues outside of the unit disc. If their real parts are below 1, every small enough
    λ contracts (Krasnoselskii 1955; Mann 1953), and λ shrinks until it does. No λ helps against an eigenvalue above 1.
    Fixed-point reasoning models end oscillations at test time by patience, too (Movahedi et al. 2026, arXiv
    2606.18206); the rule and its constants here are this module's own.

    damping   λ_0, in (0, 1].
    shrink    in (0, 1).
    patience  >= 1 steps.
    progress  in (0, 1].
    least     λ never falls below, in (0, damping].

    Raises ValueError on anything else.
    """

    damping: float = 1.0
    shrink: float = 0.7
    patience: int = 10
    progress: float = 0.999
    least: float = 0.1

    def __post_init__(self) -> None:
        require_count("Damped patience", self.patience, 1)
        for name, low, high in (("damping", 0, 1), ("progress", 0, 1), ("least", 0, self.damping)):
            if not low < getattr(self, name) <= high:
                raise ValueError(f"Damped {name} must be in ({low}, {high:g}], got {getattr(self, name)}.")
        if not 0 < self.shrink < 1:
            raise ValueError(f"Damped shrink must be in (0, 1), got {self.shrink}.")

    def init(self, z: Tensor) -> DampedState:
        return DampedState(z, self.damping)

    def step(self, state: DampedState, point: Point[FlatMap]) -> Tensor:
        length = state.next_length(point.residual, self)
        return torch.addcmul(point.z, length[:, None], point.g)


class DampedState(SolverState):
    """length (rows,) λ; lowest (rows,) residual; idle (rows,) steps in a row without progress."""

    def __init__(self, z: Tensor, damping: float) -> None:
        self.length = torch.full((len(z),), damping, dtype=z.dtype, device=z.device)
        self.lowest = torch.full_like(self.length, torch.inf)
        self.idle = torch.zeros(len(z), dtype=torch.long, device=z.device)

    def next_length(self, residual: Tensor, rule: Damped) -> Tensor:
        """λ_k (rows,) of the step from an iterate of this residual (rows,)."""
        progressed = residual < rule.progress * self.lowest
        self.lowest = torch.minimum(self.lowest, residual)
        self.idle = torch.where(progressed, 0, self.idle + 1)
        spent = self.idle >= rule.patience
        self.length = torch.where(spent, (rule.shrink * self.length).clamp(min=rule.least), self.length)
        self.idle = self.idle.masked_fill(spent, 0)
        return self.length

    def take(self, rows: Tensor) -> None:
        self.length, self.lowest, self.idle = self.length[rows], self.lowest[rows], self.idle[rows]
