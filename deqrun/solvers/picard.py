"""Plain and damped fixed-point iteration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.solver import Point, Solver


@dataclass(frozen=True)
class Picard(Solver[None, FlatMap]):
    """z_{k+1} = z_k + damping · (f(z_k) − z_k).

    damping=1 is plain iteration (Banach 1922; Picard): it converges at the rate of the spectral radius ρ(∂f/∂z) when
    that is below 1. 0 < damping < 1 (Krasnoselskii 1955; Mann 1953) converges for any ∂f/∂z whose eigenvalues have
    real part below 1, if small enough; 1 < damping <= 2 over-relaxes.

    Raises ValueError unless 0 < damping <= 2.
    """

    damping: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 2:
            raise ValueError(f"Picard damping must be in (0, 2], got {self.damping}.")

    @property
    def takes_layers(self) -> bool:
        return self.damping == 1

    def init(self, z: Tensor) -> None:
        return None

    def step(self, state: None, point: Point[FlatMap]) -> Tensor:
        if self.damping == 1:
            return point.fz
        return torch.add(point.z, point.g, alpha=self.damping)
