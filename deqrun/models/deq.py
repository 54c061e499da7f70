"""A deep equilibrium model: a cell, the solver that finds its fixed point, and the gradient through it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deqrun.gradients import Gradient
from deqrun.models.cell import BoundCell, Cell
from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.loop import Observer

__all__ = ["DEQ"]


class DEQ(nn.Module):
    """logits = readout(z*) with z* = f(z*; x) (Bai, Kolter & Koltun 2019, arXiv 1909.01377).

    Arguments, and attributes of the same names, which may be exchanged between calls:

        cell       f, with its injection and its read-out
        solver     finds z*
        budget     evaluations it may spend, and the residual at which a sample is done
        gradient   how a loss at z* reaches the parameters
    """

    def __init__(self, cell: Cell, solver: Solver, budget: Budget, gradient: Gradient) -> None:
        super().__init__()
        self.cell = cell
        self.solver = solver
        self.budget = budget
        self.gradient = gradient
        self.compilations: int | None = None  # graphs that training made of the cell, if it was compiled

    def bind(self, x: Tensor) -> BoundCell:
        """f(·; x) for one batch x (batch, *input_shape): features and dropout masks are computed here.

        float32 inputs are widened for a model in double precision.
        """
        widened = x.dtype == torch.float32 and self.cell.weights_dtype == torch.float64
        return self.cell.bind(x.double() if widened else x)

    def start(self, f: BoundCell) -> Tensor:
        """z_0 (batch, *state_shape) of f = bind(x): the cell's `initial_state`, which is 0 unless it says otherwise.

        On the injection's device, in the parameters' dtype but float32 at least.
        """
        return self.cell.initial_state(f.injection).to(self.cell.weights_dtype)

    def settle(
        self,
        f: BoundCell,
        z0: Tensor,
        gradient: Gradient | None = None,
        *,
        solver: Solver | None = None,
        budget: Budget | None = None,
        observe: Observer | None = None,
    ) -> tuple[Tensor, Solution]:
        """The equilibrium z (batch, *state_shape) of f from z0, and the solver's report.

        With gradients enabled z carries one, by `gradient`; otherwise f is only solved. gradient, solver and budget
        are the model's own unless given; observe is as in `deqrun.solvers.solve`.
        For callers that need f besides the answer, as a Jacobian penalty does; else call the model.
        """
        solver, budget = solver or self.solver, budget or self.budget
        if torch.is_grad_enabled():
            return (gradient or self.gradient).run(f, z0, solver, budget, observe)
        solution = solve(f, z0, solver=solver, budget=budget, observe=observe)
        return solution.z.to(z0.dtype), solution

    def forward(self, x: Tensor, gradient: Gradient | None = None) -> tuple[Tensor, Solution]:
        """(logits (batch, num_classes, *output_shape), Solution) of inputs x (batch, *input_shape)."""
        with self.cell.fixed_weights():
            f = self.bind(x)
            z, solution = self.settle(f, self.start(f), gradient)
        return self.cell.readout(z), solution
