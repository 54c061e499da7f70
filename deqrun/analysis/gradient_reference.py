"""The gradient that an audit compares with, and the finite differences that it is itself compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from deqrun.gradients.equilibrium import equilibrium
from deqrun.gradients.gradient import Map
from deqrun.gradients.implicit import Implicit
from deqrun.solvers import Anderson, Budget, Solver, solve


@dataclass(frozen=True)
class Problem:
    """L(θ) = loss(z*(θ)) with z* = f(z*; θ) from z0; θ are the parameters as one vector."""

    f: Map
    loss: Callable[[Tensor], Tensor]
    parameters: list[Tensor]
    z0: Tensor

    def gradient_of(self, value: Tensor) -> Tensor:
        """dvalue/dθ (P,); 0 where the value does not depend on a parameter."""
        if not value.requires_grad:
            return torch.cat([torch.zeros_like(p).flatten() for p in self.parameters])
        gradients = torch.autograd.grad(value, self.parameters, allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in gradients])

    @contextmanager
    def moved(self, change: Tensor) -> Iterator[None]:
        """Within the context θ is θ + change, (P,); afterwards it is as before, to the bit."""
        before = [p.detach().clone() for p in self.parameters]
        parts = change.split([p.numel() for p in self.parameters])
        try:
            with torch.no_grad():
                for p, part in zip(self.parameters, parts, strict=True):
                    p.add_(part.view_as(p))
            yield
        finally:
            with torch.no_grad():
                for p, old in zip(self.parameters, before, strict=True):
                    p.copy_(old)

    def in_float64(self) -> Problem | None:
        """The same problem on float64 copies; None where a copy would still compute with the original's tensors."""
        memo: dict[int, object] = {}
        try:
            f, loss = copy.deepcopy((self.f, self.loss), memo)
            for copied in memo.values():
                if isinstance(copied, Tensor) and copied.is_floating_point():
                    copied.data = copied.data.double()
            parameters = [memo[id(p)] for p in self.parameters]
            twin = Problem(f, loss, parameters, self.z0.detach().double())  # type: ignore[arg-type]
            value = twin.loss(twin.f(twin.z0))
            left = torch.autograd.grad(value, self.parameters, allow_unused=True) if value.requires_grad else ()
        except (KeyError, RuntimeError, TypeError):  # not copied; holds a tensor with a history; computes in one dtype
            return None
        return twin if all(gradient is None for gradient in left) else None


@dataclass(frozen=True)
class AuditReference:
    """The gradient that the modes are compared with, and the evidence for it.

    dtype               in which it was computed
    converged           whether every row's forward and adjoint solve reached the tolerance
    residual            of the equilibrium, the largest over rows
    adjoint_residual    of its adjoint, the largest over rows
    norm                ‖g‖
    differences         (L(θ + h d) − L(θ − h d)) / 2h for each direction d
    derivatives         ⟨g, d⟩ for each
    """

    dtype: torch.dtype
    converged: bool
    residual: float
    adjoint_residual: float
    norm: float
    differences: tuple[float, ...]
    derivatives: tuple[float, ...]

    @property
    def difference_error(self) -> float:
        """‖differences − derivatives‖ / ‖derivatives‖ over the directions."""
        differences, derivatives = (torch.tensor(t, dtype=torch.float64) for t in (self.differences, self.derivatives))
        return float((differences - derivatives).norm() / derivatives.norm())

    @property
    def sentence(self) -> str:
        """The lines above the rows."""
        state = "converged" if self.converged else "NOT converged"
        return (
            f"Reference: implicit, {str(self.dtype).removeprefix('torch.')}, {state} (residual {self.residual:.1e}, "
            f"adjoint {self.adjoint_residual:.1e}), off central differences by {self.difference_error:.1e} "
            f"over {len(self.differences)} directions."
        )


class Truth(NamedTuple):
    """The truth, in float64: the reference's equilibrium, and its gradient (P,)."""

    z: Tensor
    gradient: Tensor


def measure_reference(
    problem: Problem,
    z: Tensor,
    solver: Solver | None,
    precise: Budget | None,
    directions: int,
    generator: torch.Generator | None,
) -> tuple[AuditReference, Truth]:
    """The reference of `audit`, at the fixed point that the solver finds from z."""
    problem = replace(problem, z0=z)
    problem = problem.in_float64() or problem
    dtype = problem.z0.dtype
    tol = 1e-12 if dtype == torch.float64 else 1e-6
    precise = precise or Budget(max_iter=5000, tol=tol, patience=500)
    with torch.enable_grad():
        z, solution = equilibrium(
            problem.f, problem.z0, solver=solver, budget=precise, gradient=Implicit(Anderson(), precise)
        )
        gradient = problem.gradient_of(problem.loss(z))
    adjoint = solution.adjoint or solution
    pairs = _finite_differences(problem, z.detach(), gradient, solver, precise, directions, generator)
    reference = AuditReference(
        dtype=dtype,
        converged=bool(solution.converged.all() and adjoint.converged.all()),
        residual=float(solution.residual.max()),
        adjoint_residual=float(adjoint.residual.max()),
        norm=float(gradient.norm()),
        differences=tuple(difference for difference, _ in pairs),
        derivatives=tuple(derivative for _, derivative in pairs),
    )
    return reference, Truth(z.detach().double(), gradient.double())


@torch.no_grad()
def _finite_differences(
    problem: Problem,
    z: Tensor,
    gradient: Tensor,
    solver: Solver | None,
    precise: Budget,
    directions: int,
    generator: torch.Generator | None,
) -> list[tuple[float, float]]:
    """(central difference of L, ⟨g, d⟩) per direction; each solve starts at z*, to stay at this fixed point.

    The step is relative to ‖θ‖, the cube root of the tolerance: there the rounding of L and the third derivative
    weigh the same.
    """
    generator = generator or torch.Generator(gradient.device).manual_seed(0)
    theta = torch.cat([p.flatten() for p in problem.parameters])
    accuracy = max(precise.tol, torch.finfo(gradient.dtype).eps)
    step = accuracy ** (1 / 3) * float(theta.norm() or 1)
    pairs = []
    for _ in range(directions):
        direction = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype, device=gradient.device)
        direction /= direction.norm()
        values = []
        for change in (step * direction, -step * direction):
            with problem.moved(change):
                there = solve(problem.f, z, solver=solver, budget=precise).z.to(z.dtype)
                values.append(float(problem.loss(there)))
        pairs.append(((values[0] - values[1]) / (2 * step), float(gradient @ direction)))
    return pairs
