"""Operator splitting for monotone maps f(z) = σ(W z + b) with I − W ⪰ m I: convergence without ‖W‖ < 1.

The fixed point of f is the zero of a sum of monotone operators, 0 ∈ (I − W) z − b + ∂g(z), where σ is the proximal
operator of g (Winston & Kolter 2020, Monotone operator equilibrium networks, arXiv 2006.08591, Theorem 1). It exists
and is unique, and the solvers here reach it from every start. They need more of f than f(z): its parts, see `SplitMap`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.solver import Point, S, Solver, SolverState


class Constants(NamedTuple):
    """How monotone M = I − W is: ⟨v, M v⟩ >= monotonicity · ‖v‖² and >= cocoercivity · ‖M v‖² for every v; both > 0."""

    monotonicity: float
    cocoercivity: float


class SplitMap(Protocol):
    """The interface that splitting solvers need of f(z) = prox(affine(z), 1), beside `take` where rows may be dropped.

    States are (rows, …), and every row is treated alone. `resolvent` is asked for by `PeacemanRachford` only, always
    with the same alpha within a solve, so that a factorisation may be kept; `constants` only where alpha is None.

    A state may be more than the affine part acts on, as in an adjoint problem: then a method `primal` gives
    the latter, (rows, …) -> (rows, …), and affine(z) = W primal(z) + b. Without it the two are the same.
    """

    def __call__(self, z: Tensor) -> Tensor:
        """f(z)."""

    def affine(self, z: Tensor) -> Tensor:
        """W z + b."""

    def resolvent(self, v: Tensor, alpha: float) -> Tensor:
        """(I + alpha (I − W))⁻¹ (v + alpha b)."""

    def prox(self, v: Tensor, alpha: float) -> Tensor:
        """argmin_z ½‖z − v‖² + alpha g(z), with σ = prox(·, 1); for σ = ReLU it is ReLU whatever alpha is."""

    def constants(self) -> Constants:
        """Of I − W; the same for every row."""


class _FlatSplitMap(FlatMap):
    """f on flat states, evaluated as prox(affine(z), 1); the last value of affine is kept for the solver's step."""

    affine_value: Tensor

    def __init__(self, f: Callable[[Tensor], Tensor], like: Tensor, alpha: float) -> None:
        super().__init__(f, like)
        self.alpha = alpha

    def __call__(self, z: Tensor) -> Tensor:
        self.affine_value = self.part("affine", z.to(self._dtype))
        dtype_of_f = self.output_dtype  # where the precision of f is lost; prox has the state's
        fz = self.part("prox", self.affine_value, 1.0)
        self.output_dtype = dtype_of_f
        return fz

    def primal(self, z: Tensor) -> Tensor:
        return self.part("primal", z) if hasattr(self.f, "primal") else z

    def resolvent(self, v: Tensor) -> Tensor:
        return self.part("resolvent", v, self.alpha)

    def prox(self, v: Tensor) -> Tensor:
        return self.part("prox", v, self.alpha)

    def rescale(self, scale: Tensor) -> None:
        super().rescale(scale)
        self.affine_value = self.affine_value / scale

    def take(self, rows: Tensor) -> _FlatSplitMap:
        taken = super().take(rows)
        taken.affine_value = self.affine_value[rows]
        return taken


@dataclass(frozen=True)
class _Splitting(Solver[S, _FlatSplitMap]):
    """Checks alpha and f's structure."""

    alpha: float | None = None

    parts: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"{type(self).__name__} alpha must be a finite number above 0 or None, got {self.alpha}.")

    @abstractmethod
    def best_alpha(self, constants: Constants) -> float:
        """The step size of the best proven rate."""

    def adapt(self, f: Callable[[Tensor], Tensor], z0: Tensor) -> _FlatSplitMap:
        if not callable(f):
            return super().adapt(f, z0)
        parts = (*self.parts, "constants") if self.alpha is None else self.parts
        missing = [name for name in parts if not callable(getattr(f, name, None))]
        if missing:
            raise TypeError(
                f"{type(self).__name__}(alpha={self.alpha}) needs a map with the methods {', '.join(parts)}, as that "
                f"of a monotone model, but this {type(f).__name__} has no {', '.join(missing)}; Picard, Anderson and "
                "Broyden take any map."
            )
        alpha = self.best_alpha(cast(SplitMap, f).constants()) if self.alpha is None else self.alpha
        return _FlatSplitMap(f, z0, alpha)


@dataclass(frozen=True)
class ForwardBackward(_Splitting[None]):
    """z_{k+1} = prox(z_k − alpha (z_k − W z_k − b), alpha): a step along the affine part, then the proximal operator.

    For σ = ReLU: z_{k+1} = σ((1 − alpha) z_k + alpha (W z_k + b)). (Winston & Kolter 2020, Algorithm 1.)

    alpha  > 0; it converges from every start for alpha < 2 β, with β the cocoercivity of I − W, at least m / L² where
           L = ‖I − W‖₂ (the paper's bound is 2 m / L²). None: β, where ‖z_k − z*‖ <= (1 − m β)^{k/2} ‖z_0 − z*‖.

    Costs nothing beside the loop's evaluation of f, whose affine part it takes over: iterate k costs k evaluations.
    Raises ValueError on another alpha, and in `solve` TypeError where f has not the parts (see `SplitMap`).
    """

    parts = ("affine", "prox")

    def best_alpha(self, constants: Constants) -> float:
        return constants.cocoercivity

    def init(self, z: Tensor) -> None:
        return None

    def step(self, state: None, point: Point[_FlatSplitMap]) -> Tensor:
        f = point.f
        return f.prox(torch.lerp(f.primal(point.z), f.affine_value, f.alpha))


@dataclass(frozen=True)
class PeacemanRachford(_Splitting["_Reflected"]):
    """Reflections at both operators in turn, from u_0 = z_0 (Winston & Kolter 2020, Algorithm 2):

        u_{k+1/2} = 2 z_k − u_k                  z_{k+1/2} = (I + alpha (I − W))⁻¹ (u_{k+1/2} + alpha b)
        u_{k+1} = 2 z_{k+1/2} − u_{k+1/2}        z_{k+1} = prox(u_{k+1}, alpha)

    alpha  > 0; it converges from every start for any. None: √(β / m), with m the monotonicity and β the cocoercivity
           of I − W, where ‖z_k − z*‖ <= ((1 − √(m β)) / (1 + √(m β)))^{k/2} ‖u_0 − u*‖ if z_0 = prox(z_0, alpha), as
           0 is for ReLU; u* = z* − alpha (z* − W z* − b).

    A resolvent counts as an evaluation of f: iterate k costs k of them beside the loop's, 2 k in all.
    Raises ValueError on another alpha, and in `solve` TypeError where f has not the parts (see `SplitMap`).
    """

    parts = ("affine", "resolvent", "prox")

    def best_alpha(self, constants: Constants) -> float:
        return math.sqrt(constants.cocoercivity / constants.monotonicity)

    def init(self, z: Tensor) -> _Reflected:
        return _Reflected(z)

    def step(self, state: _Reflected, point: Point[_FlatSplitMap]) -> Tensor:
        half = 2 * point.f.primal(point.z) - state.u
        state.u = 2 * point.f.resolvent(half) - half
        state.nfe += point.active
        return point.f.prox(state.u)


class _Reflected(SolverState):
    """u (rows, D) of `PeacemanRachford`."""

    nfe: Tensor

    def __init__(self, z: Tensor) -> None:
        self.u = z
        self.nfe = torch.zeros(len(z), dtype=torch.long, device=z.device)

    def take(self, rows: Tensor) -> None:
        self.u, self.nfe = self.u[rows], self.nfe[rows]
