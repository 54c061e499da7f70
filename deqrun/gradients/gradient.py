"""The interface of a gradient mode, and the parts that modes share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.loop import Observer

Map = Callable[[Tensor], Tensor]


class Gradient(ABC):
    """How a loss at the equilibrium reaches every tensor that f closes over."""

    def run(
        self, f: Map, z0: Tensor, solver: Solver | None, budget: Budget | None, observe: Observer | None = None
    ) -> tuple[Tensor, Solution]:
        """Solve without recording, then attach the gradient to the answer."""
        solution = solve(f, z0, solver=solver, budget=budget, observe=observe)
        z = solution.z.to(z0.dtype)
        return (self.attach(f, z, solution) if torch.is_grad_enabled() else z), solution

    @abstractmethod
    def attach(self, f: Map, z: Tensor, solution: Solution) -> Tensor:
        """A tensor of z's value whose backward pass reaches the tensors that f closes over."""


@contextmanager
def recording() -> Iterator[None]:
    """Grad mode, for the evaluations that carry the gradient."""
    forget_casts()
    with torch.enable_grad():
        yield


def forget_casts() -> None:
    """Drop autocast's cast weights, which may come from a solve without grad mode.

    Such a cast has no history, and PyTorch up to the end of 2025 takes it from the cache in grad mode, too: the weight
    would silently get no gradient (pytorch/pytorch issue 112583, mended in pull request 165068).
    """
    torch.clear_autocast_cache()


def relax(z: Tensor, fz: Tensor, damping: float) -> Tensor:
    """z + damping · (f(z) − z) from f(z), in z's dtype; operation by operation the step of `Picard`."""
    fz = fz.to(z.dtype)
    return fz if damping == 1 else torch.add(z, fz - z, alpha=damping)


def state_dtype(z: Tensor) -> torch.dtype:
    """The dtype in which iterates are kept: z's, but float32 at least."""
    return torch.promote_types(z.dtype, torch.float32)


class _Root(torch.autograd.Function):
    """The identity whose input gets no gradient."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        return None, None


def rooted(z: Tensor) -> Tensor:
    """z as the root of a new graph, to be differentiated by.

    Not a leaf: in a leaf every backward pass would leave, and add up, a gradient of the state's size for nobody.
    """
    root = z.new_empty(0).requires_grad_()
    result = _Root.apply(root, z.detach())
    assert isinstance(result, Tensor)
    return result


class _Substitute(torch.autograd.Function):
    """The value of one tensor with the gradient of another: y = value, ∂y/∂carrier = I."""

    @staticmethod
    def forward(ctx: Any, carrier: Tensor, value: Tensor, name: str) -> Tensor:
        ctx.name = name
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative(ctx.name)
        return grads[0], None, None


def substitute(carrier: Tensor, value: Tensor, name: str) -> Tensor:
    """`value`, differentiated once as if it were `carrier`; `name` of the gradient for the message on a second time."""
    result = _Substitute.apply(carrier, value, name)
    assert isinstance(result, Tensor)
    return result


def refuse_second_derivative(name: str) -> None:
    """RuntimeError in a backward pass that is itself recorded: a second pass would find part of the truth."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"The {name} gradient can be differentiated only once (create_graph=True was given); "
            "gradient=Unrolled() can be differentiated twice."
        )
