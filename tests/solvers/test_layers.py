"""Layers in the place of one map, against products written down by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deqrun.gradients import Implicit, OneStep, Unrolled, equilibrium
from deqrun.solvers import Anderson, Broyden, Budget, Layers, NewtonKrylov, Perturbed, Picard, Solver, Status, solve

FACTORS = (2.0, 0.5, 4.0)


class Scalings(Layers):
    """Layer k multiplies by factors[k], a number or a tensor (batch, 1)."""

    def __init__(self, factors: tuple[float | Tensor, ...] = FACTORS) -> None:
        self.factors = factors
        self.depth = len(factors)
        self.called: list[int] = []

    def layer(self, z: Tensor, k: int) -> Tensor:
        if k >= self.depth:
            return z
        self.called.append(k)
        return self.factors[k] * z


def start() -> Tensor:
    return torch.tensor([[3.0, -4.0], [1.0, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize("max_iter", range(7))
def test_iterates_residuals_and_evaluations(max_iter: int) -> None:
    """z_k is the product of the first k factors times z_0; layer k changes it by the share |1 − 1/factor|."""
    f = Scalings()
    seen: list[Tensor] = []
    budget = Budget(max_iter, 0.0, keep="last")
    solution = solve(f, start(), budget=budget, observe=lambda k, z, rows: seen.append(z.clone()))
    products, changes = [1.0, 2.0, 1.0, 4.0], [0.5, 1.0, 0.75, 0.0]
    reached = min(max_iter, 3)
    assert torch.equal(solution.z, products[reached] * start())
    assert torch.equal(torch.stack(seen), torch.stack([p * start() for p in products[: reached + 1]]))
    assert solution.residuals[:, 0].tolist() == changes[: reached + 1]
    assert solution.nfes[:, 1].tolist() == [1, 2, 3, 3][: reached + 1]
    assert solution.nfe.tolist() == [min(max_iter + 1, 3)] * 2
    assert f.called == list(range(min(max_iter + 1, 3)))
    expected = Status.CONVERGED if max_iter >= 3 else Status.EXHAUSTED
    assert solution.status.tolist() == [int(expected)] * 2


@pytest.mark.parametrize(
    "solver", [Anderson(), Broyden(), NewtonKrylov(), Picard(damping=0.5), Perturbed(Picard(), 0.9, 0.0)]
)
def test_only_plain_iteration_goes_through_layers(solver: Solver) -> None:
    f = Scalings()
    with pytest.raises(TypeError, match=r"looks for a fixed point.*3 layers.*only Picard\(damping=1.0\)"):
        solve(f, start(), solver=solver)
    assert f.called == []


@pytest.mark.parametrize("gradient", [Implicit(), OneStep()])
def test_a_gradient_at_a_fixed_point_is_refused(gradient: Implicit | OneStep) -> None:
    with pytest.raises(TypeError, match=r"3 layers that follow one another, and no map.*Unrolled"):
        equilibrium(Scalings(), start(), gradient=gradient)


@pytest.mark.parametrize("checkpoint", [0, 2])
@pytest.mark.parametrize("steps", [2, 3, 5])
def test_the_gradient_by_each_factor_is_the_product_of_the_others(steps: int, checkpoint: int) -> None:
    factors = tuple(torch.tensor(factor, dtype=torch.float64, requires_grad=True) for factor in FACTORS)
    gradient = Unrolled(steps=steps, checkpoint=checkpoint)
    z, solution = equilibrium(Scalings(factors), start(), budget=Budget(steps, 0.0), gradient=gradient)
    z.sum().backward()
    product = 1.0 if steps == 2 else 4.0
    assert torch.equal(z, product * start())
    for k, factor in enumerate(factors):
        expected = None if k >= steps else torch.tensor(product / FACTORS[k] * 2.0, dtype=torch.float64)
        assert (factor.grad is None) == (expected is None)
        if expected is not None and factor.grad is not None:
            torch.testing.assert_close(factor.grad, expected)
    assert solution.nfe.tolist() == [3, 3]  # with 2 steps a third layer tells the residual
    assert solution.residuals[:, 0].tolist() == [0.5, 1.0, 0.75, 0.0, 0.0, 0.0][: steps + 1]
    assert solution.converged.tolist() == [steps >= 3] * 2


def test_a_module_with_parts_called_alike_is_still_one_map() -> None:
    class Halving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.depth = nn.Identity(), 7

        def forward(self, z: Tensor) -> Tensor:
            return self.layer(z) / 2

    solution = solve(Halving(), start(), solver=Anderson(), budget=Budget(3, 0.0, norm="absolute", keep="last"))
    assert solution.z.abs().max() < 1e-12
