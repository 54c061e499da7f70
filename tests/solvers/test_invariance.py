"""What must not matter: the unit of the state, its shape, its layout, and what the solver solved before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deqrun.solvers import Budget, Status, solve
from tests.problems import ExpandingOutliers, LinearSymmetric, Problem, RowMap, TanhNetwork, Trajectory
from tests.solvers.conftest import SOLVERS, SolverCase

EVERY_SOLVER = pytest.mark.parametrize("any_solver", SOLVERS, ids=repr)
EVERY_UNIT = pytest.mark.parametrize("exponent", [-20, 20])


def in_units(f: RowMap, unit: float) -> RowMap:
    """z ↦ c f(z / c): the same problem in another unit. A power of two changes no digit of any float."""
    return RowMap(lambda z, *parameters: unit * f.function(z / unit, *parameters), f.parameters)


@pytest.mark.pairs
@EVERY_UNIT
def test_the_unit_of_the_state_does_not_matter(
    problem: Problem, case: SolverCase, dtype: torch.dtype, exponent: int
) -> None:
    unit, budget = 2.0**exponent, Budget(max_iter=10, tol=1e-3)
    f, z0 = problem.f(3), problem.start(3, dtype)
    plain = solve(f, z0, solver=case.solver, budget=budget)
    scaled = solve(in_units(f, unit), unit * z0, solver=case.solver, budget=budget)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    assert torch.equal(scaled.steps, plain.steps)
    assert torch.equal(scaled.status, plain.status)
    torch.testing.assert_close(scaled.z / unit, plain.z, rtol=rtol, atol=rtol)
    torch.testing.assert_close(scaled.residuals, plain.residuals, rtol=rtol, atol=rtol / 10, equal_nan=True)


@EVERY_UNIT
@EVERY_SOLVER
def test_absolute_residuals_scale_with_the_unit(any_solver: SolverCase, exponent: int) -> None:
    unit, task = 2.0**exponent, LinearSymmetric(0.9)
    f, z0 = task.f(3), task.start(3, torch.float64)
    plain, scaled = (
        solve(
            in_units(f, c), c * z0, solver=any_solver.solver, budget=Budget(max_iter=20, tol=c * 1e-4, norm="absolute")
        )
        for c in (1.0, unit)
    )
    assert torch.equal(scaled.steps, plain.steps)
    torch.testing.assert_close(scaled.residuals / unit, plain.residuals, rtol=1e-11, atol=0, equal_nan=True)


@EVERY_UNIT
@EVERY_SOLVER
def test_divergence_is_judged_by_the_starts_scale(any_solver: SolverCase, exponent: int) -> None:
    """The first row starts at zero, where only f(z_0) has a scale; nothing may depend on the unit."""
    unit, task, budget = 2.0**exponent, ExpandingOutliers(), Budget(max_iter=120, tol=1e-6)
    f = task.f(3)
    z0 = torch.zeros(3, task.size, dtype=torch.float64)
    z0[1:] = 0.5
    plain = solve(f, z0, solver=any_solver.solver, budget=budget)
    scaled = solve(in_units(f, unit), unit * z0, solver=any_solver.solver, budget=budget)
    assert torch.equal(scaled.steps, plain.steps)
    assert torch.equal(scaled.status, plain.status)
    if task.name in any_solver.fails:
        assert (plain.status == Status.DIVERGED).all()


@pytest.mark.parametrize("shape", [(8,), (2, 4), (1, 2, 4), (2, 2, 2, 1)])
@EVERY_SOLVER
def test_the_shape_of_the_state_does_not_matter(any_solver: SolverCase, shape: tuple[int, ...]) -> None:
    task, budget = TanhNetwork(0.9), Budget(max_iter=30, tol=1e-8)
    f = task.f(3)
    flat = solve(f, task.start(3, torch.float64), solver=any_solver.solver, budget=budget)
    shaped_f = RowMap(lambda z, *p: f.function(z.flatten(1), *p).unflatten(1, shape), f.parameters)
    trajectory = Trajectory()
    shaped = solve(
        shaped_f,
        torch.zeros(3, *shape, dtype=torch.float64),
        solver=any_solver.solver,
        budget=budget,
        observe=trajectory,
    )
    assert shaped.z.shape == (3, *shape)
    assert all(state.shape[1:] == shape for state in trajectory.states)
    assert torch.equal(shaped.steps, flat.steps)
    torch.testing.assert_close(shaped.z.flatten(1), flat.z, rtol=1e-12, atol=1e-14)


@EVERY_SOLVER
def test_a_state_of_one_number_per_row(any_solver: SolverCase) -> None:
    """z of shape (batch,): each row is a scalar problem, z = z / 2 + b."""
    bias = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    solution = solve(
        lambda z: 0.5 * z + bias,
        torch.zeros(3, dtype=torch.float64),
        solver=any_solver.solver,
        budget=Budget(max_iter=100, tol=1e-9),
    )
    assert solution.z.shape == (3,)
    torch.testing.assert_close(solution.z, 2 * bias, rtol=1e-8, atol=0)


@EVERY_SOLVER
def test_memory_layout_does_not_matter(any_solver: SolverCase) -> None:
    task, budget = TanhNetwork(0.9), Budget(max_iter=30, tol=1e-8)
    z0 = torch.linspace(-1, 1, 3 * task.size, dtype=torch.float64).reshape(task.size, 3).T
    assert not z0.is_contiguous()
    strided, plain = (
        solve(task.f(3), start, solver=any_solver.solver, budget=budget) for start in (z0, z0.contiguous())
    )
    assert torch.equal(strided.steps, plain.steps)
    torch.testing.assert_close(strided.z, plain.z, rtol=1e-12, atol=1e-14)


@EVERY_SOLVER
def test_the_start_is_left_as_it_was(any_solver: SolverCase) -> None:
    task = TanhNetwork(0.9)
    z0 = torch.full((3, task.size), 0.3)
    solve(task.f(3), z0, solver=any_solver.solver, budget=Budget(max_iter=10))
    assert torch.equal(z0, torch.full((3, task.size), 0.3))


@EVERY_SOLVER
def test_a_solver_remembers_nothing_between_solves(any_solver: SolverCase) -> None:
    task, other, budget = TanhNetwork(0.9), LinearSymmetric(0.9), Budget(max_iter=30, tol=1e-8)
    before = solve(task.f(3), task.start(3, torch.float64), solver=any_solver.solver, budget=budget)
    solve(other.f(8), other.start(8, torch.float32), solver=any_solver.solver, budget=budget)
    after = solve(task.f(3), task.start(3, torch.float64), solver=any_solver.solver, budget=budget)
    assert torch.equal(before.z, after.z)
    assert torch.equal(before.residuals.nan_to_num(), after.residuals.nan_to_num())


@EVERY_SOLVER
def test_watching_changes_nothing(any_solver: SolverCase) -> None:
    task, budget = TanhNetwork(0.9), Budget(max_iter=30, tol=1e-8)

    def look(k: int, z: Tensor, rows: Tensor) -> None:
        z.sum()

    plain = solve(task.f(3), task.start(3, torch.float64), solver=any_solver.solver, budget=budget)
    watched = solve(task.f(3), task.start(3, torch.float64), solver=any_solver.solver, budget=budget, observe=look)
    assert torch.equal(plain.z, watched.z)
    assert torch.equal(plain.nfe, watched.nfe)


@EVERY_SOLVER
def test_a_low_precision_cell_keeps_a_wide_state(any_solver: SolverCase) -> None:
    """Under autocast f answers in bfloat16; iterates stay float32, residuals are those of the rounded f."""
    trajectory = Trajectory()

    def f(z: Tensor) -> Tensor:
        return (0.5 * z.float() + 1).bfloat16()

    solution = solve(
        f, torch.zeros(2, 3), solver=any_solver.solver, budget=Budget(max_iter=60, tol=1e-6), observe=trajectory
    )
    assert {state.dtype for state in trajectory.states} == {torch.float32}
    assert solution.z.dtype == torch.float32
    torch.testing.assert_close(solution.z, torch.full((2, 3), 2.0), rtol=2**-7, atol=0)
    k = min(3, int(solution.steps.max()))
    z = trajectory.states[k]
    expected = (f(z).float() - z).norm(dim=1) / f(z).float().norm(dim=1)
    torch.testing.assert_close(solution.residuals[k, trajectory.rows[k]], expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@EVERY_SOLVER
def test_a_low_precision_start_is_welcome(any_solver: SolverCase, low: torch.dtype) -> None:
    trajectory = Trajectory()
    solution = solve(
        lambda z: (0.5 * z.float() + 1).to(low),
        torch.zeros(2, 3, dtype=low),
        solver=any_solver.solver,
        budget=Budget(max_iter=60, tol=1e-2),
        observe=trajectory,
    )
    assert (solution.status == Status.CONVERGED).all()
    torch.testing.assert_close(solution.z.float(), torch.full((2, 3), 2.0), rtol=5e-2, atol=0)
