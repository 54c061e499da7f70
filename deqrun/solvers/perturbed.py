"""A solver whose steps are damped and shaken: for training, so that the equilibrium attracts from all around."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from deqrun.solvers.device import generator
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.line_search import SearchedMap
from deqrun.solvers.picard import Picard
from deqrun.solvers.solver import Point, Solver, SolverState


class Moved(Solver["PerturbedState", FlatMap]):
    """A solver whose iterates are another solver's, moved after each step; its costs are the other's.

    A subclass has the attribute `solver`, and `moved`.
    """

    solver: Solver[Any, Any]

    def adapt(self, f: Callable[[Tensor], Tensor], z0: Tensor) -> FlatMap:
        return self.solver.adapt(f, z0)

    def init(self, z: Tensor) -> PerturbedState:
        return PerturbedState(self.solver.init(z), z)

    def step(self, state: PerturbedState, point: Point[FlatMap]) -> Tensor:
        taken = self.solver.step(state.inner, point)
        if isinstance(point.f, SearchedMap):
            state.lost = state.lost + point.active  # the search's value of f is at a state that is not gone to
        state.count()
        return self.moved(state, point, taken)

    @abstractmethod
    def moved(self, state: PerturbedState, point: Point[FlatMap], taken: Tensor) -> Tensor:
        """Iterate k+1 from the step s(z_k) that was taken, (rows, D)."""


@dataclass(frozen=True)
class Perturbed(Moved):
    """z_{k+1} = (1 − damping) z_k + damping · s(z_k) + noise · ε_k with s(z_k) another solver's step, ε_k ~ N(0, I).

    Over `Picard` this is the update of Equilibrium Reasoners (Huang, Geng & Kolter 2026, arXiv 2605.21488, whose code
    has damping 0.95 and noise 0.01). The steps are perturbed, f is not: each iterate's residual is its own true one,
    and with noise it does not go to 0, so that the budget ends a solve, not the tolerance.

    solver   whose steps are perturbed. `Picard` and `Anderson` work with the iterates that were reached; `Broyden`
             takes its own step to have been made, so that its secant pairs are off by the perturbation.
    damping  in (0, 1]; 1 is undamped.
    noise    standard deviation of every number of the state, on the state's own scale; >= 0, 0 is none.
    seed     of ε_k, which depends on it, on k and on the row's place in the batch only: the same solve again is shaken
             alike, and no row's noise depends on which others have stopped.
    part     (first, size) where the batch is a part of a larger one, which begins there at its row `first`: the noise
             of a row is the noise it has in the larger batch. None: it is none.

    Raises ValueError on other parameters, TypeError where solver is none.
    """

    solver: Solver[Any, Any] = field(default_factory=Picard)
    damping: float = 0.95
    noise: float = 0.01
    seed: int = 0
    part: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Solver):
            raise TypeError(f"Perturbed solver must be a Solver, got {type(self.solver).__name__} {self.solver!r}.")
        if not 0 < self.damping <= 1:
            raise ValueError(f"Perturbed damping must be in (0, 1], got {self.damping}.")
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"Perturbed noise must be a finite number >= 0, got {self.noise}.")

    @property
    def scale_free(self) -> bool:
        """Not with noise, whose size is given on the state's own scale."""
        return self.noise == 0 and self.solver.scale_free

    def moved(self, state: PerturbedState, point: Point[FlatMap], taken: Tensor) -> Tensor:
        return self.move(point.k, point.z, taken, state.rows, state.batch)

    def move(self, k: int, z: Tensor, taken: Tensor, rows: Tensor | None = None, batch: int | None = None) -> Tensor:
        """Iterate k+1 from iterate k and the unperturbed step s(z_k), both (rows, …); differentiable by both.

        rows, batch   places of these rows in the whole batch and its size; None: these are all
        """
        moved = taken if self.damping == 1 else torch.lerp(z, taken, self.damping)
        if self.noise == 0:
            return moved
        shaken = self.draw(k, z, len(z) if batch is None else batch)
        if rows is not None and len(rows) != len(shaken):
            shaken = shaken[rows]
        return torch.add(moved, shaken, alpha=self.noise)

    def draw(self, k: int, like: Tensor, batch: int) -> Tensor:
        """ε_k (batch, …), beyond the batch of `like`'s shape, in its dtype and on its device."""
        # A seed for each k: gradient checkpointing comes by an iterate again, and has to find the same noise.
        digest = sha256(f"{self.seed}/{k}".encode()).digest()
        source = generator(like.device, int.from_bytes(digest[:8], "big") >> 1)
        first, size = self.part or (0, batch)
        drawn = torch.randn(size, *like.shape[1:], generator=source, dtype=like.dtype, device=like.device)
        return drawn if self.part is None else drawn[first : first + batch]


class PerturbedState(SolverState):
    """The memory of the solver that is perturbed, and where the rows still at work are in the batch."""

    def __init__(self, inner: SolverState | None, z: Tensor) -> None:
        self.inner, self.batch = inner, len(z)
        self.rows = torch.arange(len(z), device=z.device)
        self.lost = torch.zeros_like(self.rows)
        self.count()

    def count(self) -> None:
        """Take over the other solver's costs."""
        if self.inner is not None:
            self.nfe = None if self.inner.nfe is None else self.inner.nfe + self.lost
            self.jvps = self.inner.jvps

    def room(self) -> Tensor | None:
        return None if self.inner is None else self.inner.room()

    def undo(self, lost: Tensor) -> Tensor | None:
        return None if self.inner is None else self.inner.undo(lost)

    def take(self, rows: Tensor) -> None:
        self.rows, self.lost = self.rows[rows], self.lost[rows]
        if self.inner is not None:
            self.inner.take(rows)
            self.count()
