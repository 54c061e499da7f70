"""Damped, shaken steps: against loops written by hand, and the statistics that they must have."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Perturbed, Picard, Solver, solve
from tests.problems import residual_of


class Affine:
    """f(z) = W z + b, b of each row its own, with `take`; counts rows evaluated."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias, self.evaluated = weight, bias, [0]

    def __call__(self, z: Tensor) -> Tensor:
        self.evaluated[0] += len(z)
        return z @ self.weight.T + self.bias

    def take(self, rows: Tensor) -> Affine:
        taken = Affine(self.weight, self.bias[rows])
        taken.evaluated = self.evaluated
        return taken


def affine(rows: int = 6) -> Affine:
    draw = torch.Generator().manual_seed(0)
    weight = 0.2 * torch.randn(5, 5, generator=draw, dtype=torch.float64)
    return Affine(weight, torch.randn(rows, 5, generator=draw, dtype=torch.float64))


def zeros(rows: int = 6) -> Tensor:
    return torch.zeros(rows, 5, dtype=torch.float64)


def whole(max_iter: int) -> Budget:
    return Budget(max_iter=max_iter, tol=0.0, keep="last")


def test_equals_the_loop_of_its_definition() -> None:
    f, solver, z = affine(), Perturbed(Picard(), damping=0.8, noise=0.1, seed=3), zeros()
    expected = [z]
    for k in range(7):
        z = 0.2 * z + 0.8 * f(z) + 0.1 * solver.draw(k, z, 6)
        expected.append(z)
    seen: list[Tensor] = []
    solution = solve(f, zeros(), solver=solver, budget=whole(7), observe=lambda k, z, rows: seen.append(z))
    torch.testing.assert_close(torch.stack(seen), torch.stack(expected), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(solution.z, expected[-1], rtol=1e-13, atol=1e-15)
    for k, state in enumerate(expected):
        torch.testing.assert_close(solution.residuals[k], residual_of(f(state), state), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "solver", [Picard(), Anderson(memory=3), Broyden(), Broyden(line_search=True), NewtonKrylov()], ids=repr
)
def test_without_damping_and_noise_it_is_the_solver_itself(solver: Solver) -> None:
    bare = solve(affine(), zeros(), solver=solver, budget=whole(6))
    wrapped = solve(affine(), zeros(), solver=Perturbed(solver, damping=1.0, noise=0.0), budget=whole(6))
    assert torch.equal(bare.z, wrapped.z)
    assert torch.equal(bare.residuals, wrapped.residuals)
    assert torch.equal(bare.jvps, wrapped.jvps)


def test_damping_alone_is_damped_picard() -> None:
    damped = solve(affine(), zeros(), solver=Picard(0.7), budget=whole(9))
    wrapped = solve(affine(), zeros(), solver=Perturbed(Picard(), damping=0.7, noise=0.0), budget=whole(9))
    torch.testing.assert_close(wrapped.z, damped.z, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("solver", [Picard(), Anderson(), Broyden(), NewtonKrylov()], ids=repr)
def test_damped_solvers_still_converge(solver: Solver) -> None:
    f, budget = affine(), Budget(max_iter=80, tol=1e-10)
    solution = solve(f, zeros(), solver=Perturbed(solver, damping=0.95, noise=0.0), budget=budget)
    assert bool(solution.converged.all())
    exact = torch.linalg.solve(torch.eye(5, dtype=torch.float64) - f.weight, f.bias.T).T
    torch.testing.assert_close(solution.z, exact, rtol=1e-8, atol=1e-9)


def test_noise_is_normal_with_the_given_deviation() -> None:
    """f = 3 everywhere: z_k − 3 is the last step's noise, of mean 0 and deviation ½, within 5 standard errors."""
    solver = Perturbed(Picard(), damping=1.0, noise=0.5, seed=7)
    n = 400 * 100
    found = solve(lambda z: torch.full_like(z, 3.0), torch.zeros(400, 100), solver=solver, budget=whole(4)).z - 3
    assert abs(float(found.mean())) < 5 * 0.5 / math.sqrt(n)
    assert abs(float(found.std()) - 0.5) < 5 * 0.5 / math.sqrt(2 * n)
    assert abs(float((found.abs() < 0.5).double().mean()) - 0.6827) < 5 * math.sqrt(0.6827 * 0.3173 / n)


def test_the_state_hovers_about_the_fixed_point_as_an_autoregression_does() -> None:
    """f(z) = ½ z + 1 about z* = 2: z_{k+1} − 2 = a (z_k − 2) + σ ε, a = 1 − λ + λ/2, of variance σ² / (1 − a²)."""
    damping, noise, n = 0.6, 0.1, 50 * 200
    solver = Perturbed(Picard(), damping=damping, noise=noise, seed=1)
    z = solve(lambda z: 0.5 * z + 1, torch.zeros(50, 200, dtype=torch.float64), solver=solver, budget=whole(60)).z
    deviation = noise / math.sqrt(1 - (1 - damping / 2) ** 2)
    assert abs(float(z.mean()) - 2) < 5 * deviation / math.sqrt(n)
    assert abs(float(z.std()) - deviation) < 5 * deviation / math.sqrt(2 * n)


def test_each_seed_and_iterate_has_its_own_noise() -> None:
    draws = [Perturbed(seed=seed).draw(k, torch.zeros(1), 10_000) for seed in (0, 1) for k in (0, 1, 2)]
    correlations = torch.corrcoef(torch.stack(draws)) - torch.eye(6)
    assert float(correlations.abs().max()) < 5 / math.sqrt(10_000)
    assert torch.equal(draws[1], Perturbed(seed=0).draw(1, torch.zeros(1), 10_000))


def test_rows_that_leave_take_their_noise_with_them() -> None:
    """Rows with a budget of 2 leave the batch; the others go on as if they had stayed."""
    solver = Perturbed(Picard(), damping=0.9, noise=0.1, seed=5)
    steps = torch.tensor([2, 9, 2, 9, 2, 2])
    budget = Budget.per_row(max_iter=steps, tol=0.0, keep="last")
    f = affine()
    some = solve(f, zeros(), solver=solver, budget=budget)
    every = solve(affine(), zeros(), solver=solver, budget=whole(9))
    torch.testing.assert_close(some.z[steps == 9], every.z[steps == 9], rtol=1e-12, atol=1e-14)
    assert f.evaluated[0] == int((steps + 1).sum())


@pytest.mark.parametrize("solver", [Anderson(), Broyden(line_search=True), NewtonKrylov(line_search=True)], ids=repr)
def test_every_evaluation_is_counted(solver: Solver) -> None:
    """A line search's last trial is elsewhere than where the perturbed step goes, so it is one more."""
    f = affine()
    solution = solve(f, zeros(), solver=Perturbed(solver, damping=0.9, noise=0.01), budget=whole(5))
    assert int(solution.nfe.sum()) == f.evaluated[0]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"damping": 0.0}, r"damping must be in \(0, 1\], got 0.0"),
        ({"damping": 1.1}, r"damping must be in \(0, 1\], got 1.1"),
        ({"noise": -0.1}, "noise must be a finite number >= 0, got -0.1"),
        ({"noise": math.nan}, "noise must be a finite number >= 0, got nan"),
    ],
)
def test_senseless_parameters_are_refused(parameters: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Perturbed(**parameters)


def test_only_solvers_are_perturbed() -> None:
    with pytest.raises(TypeError, match="solver must be a Solver, got str"):
        Perturbed("picard")  # type: ignore[arg-type]
