"""The gradient of the implicit function theorem, its linear system solved as a fixed point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deqrun.arguments import require_instance
from deqrun.gradients.gradient import Gradient, Map, recording, refuse_second_derivative, rooted
from deqrun.gradients.twice import eager
from deqrun.solvers import Budget, Secant, Solution, Solver, solve
from deqrun.solvers.device import at_hand
from deqrun.solvers.linearization import Linearization


@dataclass(frozen=True)
class Implicit(Gradient):
    """dL/dθ = uᵀ ∂f(z*; θ)/∂θ with u = Jᵀu + ∂L/∂z*, J = ∂f/∂z at z* (Bai et al. 2019, Theorem 1).

    The adjoint u is itself a fixed point: any solver finds it, starting from ∂L/∂z*, each row by itself. One
    evaluation of f at z* is recorded and its graph serves every product Jᵀu, so memory does not grow with the steps.
    The gradient is as good as z* and u are: read `solution.residual` and `solution.adjoint.residual`.
    A splitting solver needs a monotone model's f, which can take its adjoint apart, too: f.adjoint_at(f(z)).

    solver  of the adjoint; None: Secant().
    budget  of the adjoint; None: Budget(max_iter=100, tol=1e-6).
    start   where the adjoint's solve begins, (batch, …) like z; None: at ∂L/∂z*.

    A start changes the cost of the solve, not its limit. It pays where the same rows come again with nearly the same
    weights and a loss of the same scale, as in full-batch training: `replace(gradient, start=solution.adjoint.z)`. It
    is given anew each time and never remembered, since the adjoints of one shuffled batch are no guess for the next.
    Rows where start is not finite, or where ∂L/∂z* is 0 and so u is, begin at ∂L/∂z* all the same.

    Raises TypeError where a parameter is something else, ValueError where start has another shape than z.
    Differentiating the gradient again raises RuntimeError.
    """

    solver: Solver | None = None
    budget: Budget | None = None
    start: Tensor | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_instance("Implicit solver", self.solver, Solver)
        require_instance("Implicit budget", self.budget, Budget)
        require_instance("Implicit start", self.start, Tensor)

    def attach(self, f: Map, z: Tensor, solution: Solution) -> Tensor:
        if self.start is not None and self.start.shape != z.shape:
            raise ValueError(
                f"Implicit start must have the state's shape {tuple(z.shape)}, got {tuple(self.start.shape)}."
            )
        with recording(), eager():
            z_in = rooted(z)
            value = f(z_in)
        if not value.requires_grad:
            return z
        parts = f.adjoint_at(value.detach()) if hasattr(f, "adjoint_at") else None
        result = _AtEquilibrium.apply(value, z, self, _AdjointMap(Linearization(z_in, value), parts), solution)
        assert isinstance(result, Tensor)
        return result

    def _adjoint(self, linearization: _AdjointMap, v: Tensor) -> Solution:
        """The solve of u = Jᵀu + v."""
        begin = v if self.start is None else _usable(self.start.detach(), v)
        budget = self.budget or Budget(max_iter=100, tol=1e-6)
        return solve(linearization.step(v), begin, solver=self.solver or Secant(), budget=budget)


def _usable(start: Tensor, v: Tensor) -> Tensor:
    """start, in v's dtype; v in rows where start is not finite or v is 0, whose u = 0 no relative residual finds."""
    start = start.to(v)
    good = start.flatten(1).isfinite().all(1) & (v.flatten(1) != 0).any(1)
    return torch.where(good.view(-1, *[1] * (v.dim() - 1)), start, v)


@dataclass(frozen=True)
class _AdjointMap:
    """f at z*, recorded once, for the products u ↦ Jᵀu of the adjoint solve.

    parts   of u ↦ Jᵀu + v and v: that map with the parts that a splitting solver needs; None where f has not said how
    """

    at: Linearization
    parts: Callable[[Map, Tensor], Map] | None

    def step(self, v: Tensor) -> Map:
        """u ↦ Jᵀu + v."""

        def step(u: Tensor) -> Tensor:
            return self.product(u) + v

        return step if self.parts is None else self.parts(step, v)

    def product(self, u: Tensor) -> Tensor:
        """Jᵀu; where a solver differentiates it by u, as NewtonKrylov does, that derivative is Jᵀ again."""
        if torch.is_grad_enabled() and u.requires_grad:
            product = _Transposed.apply(u, self)
            assert isinstance(product, Tensor)
            return product
        return self.at.vjp(u)

    def forward_product(self, w: Tensor) -> Tensor:
        """J w, by differentiating u ↦ Jᵀu; 0 without that, since f may have no second derivative."""
        if at_hand(w):
            return self.at.jvp(w) if bool(w.any()) else torch.zeros_like(w)
        # To look whether w is 0 is to wait: that is left for an f that has none.
        try:
            return self.at.jvp(w)
        except RuntimeError:
            if bool(w.any()):
                raise
            return torch.zeros_like(w)


class _Transposed(torch.autograd.Function):
    """u ↦ Jᵀu, whose backward pass is w ↦ J w, whose backward pass is v ↦ Jᵀv."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, linearization: _AdjointMap) -> Tensor:
        ctx.linearization = linearization
        return linearization.product(u)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Untransposed.apply(grads[0], ctx.linearization), None


class _Untransposed(torch.autograd.Function):
    """w ↦ J w."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, linearization: _AdjointMap) -> Tensor:
        ctx.linearization = linearization
        return linearization.forward_product(w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.linearization.product(grads[0]), None


class _AtEquilibrium(torch.autograd.Function):
    """Value z*; backward hands u instead of v to the graph of f(z*)."""

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, z: Tensor, gradient: Implicit, linearization: _AdjointMap, solution: Solution
    ) -> Tensor:
        ctx.gradient, ctx.linearization, ctx.solution = gradient, linearization, solution
        # Inside a checkpointed region what the graph saved is computed anew for each backward pass, and every product
        # is one. Reading back a saved tensor makes that happen once; the one that comes back then carries the
        # linearization of the new computation, which nothing has to be done for again.
        mark = z.new_empty(0)
        mark.linearization = linearization  # type: ignore[attr-defined]
        ctx.save_for_backward(mark)
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        refuse_second_derivative("implicit")
        (mark,) = ctx.saved_tensors
        adjoint = ctx.gradient._adjoint(getattr(mark, "linearization", ctx.linearization), grads[0])
        ctx.solution.adjoint = adjoint
        return adjoint.z.to(grads[0].dtype), None, None, None, None
