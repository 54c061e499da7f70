"""A cell compiled by torch.compile is a map like any other."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from deqrun.gradients import Implicit, equilibrium
from deqrun.solvers import Anderson, Budget

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler"
)


class Cell(nn.Module):
    """f(z) = tanh(W z + b), ‖W‖₂ = 0.9."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(0.9 * weight / torch.linalg.matrix_norm(weight, 2))
        self.bias = nn.Parameter(torch.linspace(-1, 1, 8))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(nn.functional.linear(z, self.weight, self.bias))


@pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=[needs_compiler, pytest.mark.nightly])]
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, when its compiler is loaded,
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # and when it looks at f's input
def test_a_compiled_cell_is_solved_and_differentiated_as_the_plain_one(backend: str) -> None:
    """It is evaluated without a graph by the solver, and with one for the implicit gradient.

    `aot_eager` captures the graphs of both as the default backend does, and writes no machine code for them.
    """
    found = []
    for compiled in (False, True):
        torch.compiler.reset()
        cell, budget = Cell(), Budget(max_iter=60, tol=1e-5)
        f = torch.compile(cell, backend=backend) if compiled else cell
        z, solution = equilibrium(
            f, torch.zeros(3, 8), solver=Anderson(), budget=budget, gradient=Implicit(Anderson(), budget)
        )
        z.square().sum().backward()
        assert bool(solution.converged.all())
        assert cell.weight.grad is not None
        found.append((z.detach(), cell.weight.grad))
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-4)
