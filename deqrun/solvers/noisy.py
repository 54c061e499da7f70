"""A solver whose iterates are shaken in proportion to their size: for searching at test time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.norms import row_norms
from deqrun.solvers.perturbed import Moved, PerturbedState
from deqrun.solvers.solver import Point, Solver


@dataclass(frozen=True)
class Noisy(Moved):
    """z_{k+1} = s(z_k) + level · rms(s(z_k)) · ε_k with s(z_k) another solver's step, rms(z) = ‖z‖₂ / √D, ε ~ N(0, I).

    The noise is relative to the state, so it means the same for cells of any scale, and y ↦ f(s y) / s is shaken as f
    is. Where the cell normalises its state to a root mean square of 1, as post-norm cells do, it is the absolute noise
    of the Probabilistic TRM (arXiv 2605.19943) and of Equilibrium Reasoners (arXiv 2605.21488).

    The step is shaken and f is not: each iterate's residual is its own. With noise a residual stays near the level,
    so the budget ends a solve rather than the tolerance. Solvers with memory learn from the iterates that were reached,
    as `Picard`, `Anderson` and `Secant` do; `Broyden` takes its own step to have been made, so its secant pairs are
    off by the noise.

    solver  whose steps are shaken
    level   standard deviation of the noise over the state's root mean square, >= 0
    draw    (k, z) -> ε_k (batch, D) for the whole batch, on the device and in the dtype of z (rows, D)

    Raises ValueError for another level.
    """

    solver: Solver[Any, Any]
    level: float
    draw: Callable[[int, Tensor], Tensor]

    def __post_init__(self) -> None:
        if not 0 <= self.level < math.inf:
            raise ValueError(f"Noisy level must be a finite number >= 0, got {self.level}.")

    @property
    def takes_layers(self) -> bool:
        """Layers may be shaken, too: each iterate is the next layer's value and noise."""
        return self.solver.takes_layers

    @property
    def scale_free(self) -> bool:
        return self.solver.scale_free

    def moved(self, state: PerturbedState, point: Point[FlatMap], taken: Tensor) -> Tensor:
        if self.level == 0:
            return taken
        noise = self.draw(point.k, taken)
        if len(noise) != len(taken):
            noise = noise[state.rows]
        size = row_norms(taken) * (self.level / math.sqrt(max(1, taken.shape[1])))
        return torch.addcmul(taken, noise, size[:, None])
