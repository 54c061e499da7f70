"""All solvers × problems × dtypes × batch sizes: the answer, and the account that the solution gives."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from deqrun.solvers import Budget, Solution, Status, solve
from tests.problems import Problem, RowMap, Trajectory, residual_of
from tests.solvers.conftest import SolverCase

pytestmark = pytest.mark.pairs


@dataclass(frozen=True)
class Solved:
    """One solve: what was asked, what came back, and what could be seen of it on the way."""

    f: RowMap
    budget: Budget
    solution: Solution
    trajectory: Trajectory
    evaluated_rows: list[int]


@pytest.fixture(scope="session")
def solved(problem: Problem, case: SolverCase, dtype: torch.dtype, batch: int) -> Solved:
    f, trajectory = problem.f(batch), Trajectory()
    budget = Budget(max_iter=problem.max_iter, tol=problem.tol(dtype))
    solution = solve(f, problem.start(batch, dtype), solver=case.solver, budget=budget, observe=trajectory)
    return Solved(f, budget, solution, trajectory, list(f.calls))


def test_converges_as_promised(
    solved: Solved, problem: Problem, case: SolverCase, dtype: torch.dtype, batch: int
) -> None:
    """‖z − z*‖ <= ‖(I − J)⁻¹‖ ‖f(z) − z‖ for an affine f; twice that leaves room for curvature."""
    rows, solution, tol = problem.solvable(batch), solved.solution, solved.budget.tol
    if problem.name in case.unsure:
        pytest.skip(f"no promise: {case.unsure[problem.name]}")
    if problem.name in case.fails:
        assert (solution.status != Status.CONVERGED).all(), case.fails[problem.name]
        assert (solution.residual > tol).all()
        return
    assert (solution.status[rows] == Status.CONVERGED).all()
    assert (solution.residual[rows] <= tol).all()
    z, z_star = solution.z[rows].double(), problem.fixed_point(batch, torch.float64)[rows]
    size = torch.linalg.vector_norm(z_star, dim=1)
    bound = problem.stability(batch)[rows] * size * (2 * tol + 100 * torch.finfo(dtype).eps)
    assert (torch.linalg.vector_norm(z - z_star, dim=1) <= bound).all()


def test_shapes_and_types(solved: Solved, problem: Problem, dtype: torch.dtype, batch: int) -> None:
    solution, start = solved.solution, problem.start(batch, dtype)
    taken = int(solution.steps.max())
    assert solution.z.shape == start.shape
    assert solution.z.dtype == dtype
    for per_row in (solution.residual, solution.steps, solution.kept, solution.nfe, solution.status):
        assert per_row.shape == (batch,)
    assert solution.residuals.shape == solution.nfes.shape == (taken + 1, batch)
    for counts in (solution.steps, solution.kept, solution.nfe, solution.nfes):
        assert counts.dtype == torch.long
    assert solution.status.dtype == torch.uint8
    assert solution.adjoint is None


def test_residual_k_is_that_of_iterate_k(solved: Solved, problem: Problem, dtype: torch.dtype) -> None:
    """Recomputed from the observed states: every early iterate, then every 37th, and the last."""
    trajectory, last = solved.trajectory, len(solved.trajectory.states) - 1
    for k in sorted({*range(min(20, last)), *range(0, last, 37), last}):
        rows, z = trajectory.rows[k], trajectory.states[k]
        expected = residual_of(solved.f.take(rows)(z), z)
        reported = solved.solution.residuals[k, rows].double()
        torch.testing.assert_close(reported, expected, rtol=64 * torch.finfo(dtype).eps, atol=0)


def test_observer_sees_every_iterate_of_active_rows(solved: Solved, batch: int) -> None:
    steps, trajectory = solved.solution.steps, solved.trajectory
    assert len(trajectory.states) == int(steps.max()) + 1
    for k, rows in enumerate(trajectory.rows):
        assert rows.dtype == torch.long
        assert sorted(rows.tolist()) == (steps >= k).nonzero().flatten().tolist()


def test_residuals_are_nan_exactly_after_a_row_stopped(solved: Solved) -> None:
    iterate = torch.arange(len(solved.solution.residuals))[:, None]
    assert torch.equal(solved.solution.residuals.isnan(), iterate > solved.solution.steps)


def test_returns_the_best_iterate(solved: Solved, batch: int) -> None:
    solution = solved.solution
    for row in range(batch):
        until = int(solution.steps[row]) + 1
        assert solution.residual[row] == solution.residuals[:until, row].min()
        assert solution.residual[row] == solution.residuals[solution.kept[row], row]
        expected = solved.trajectory.iterate(int(solution.kept[row]), row)
        torch.testing.assert_close(solution.z[row], expected, rtol=0, atol=0)


def test_every_evaluation_is_counted(solved: Solved, case: SolverCase) -> None:
    """With `take`, f sees active rows only: the rows it saw are the evaluations that all rows account for."""
    solution = solved.solution
    taken = solution.nfes.gather(0, solution.steps[None])[0]
    assert torch.equal(solution.nfe, taken)
    assert (solution.nfes.diff(dim=0) >= 0).all()
    assert sum(solved.evaluated_rows) == int(solution.nfe.sum())
    if case.evaluations_per_step is None:
        return
    iterate = torch.arange(len(solution.nfes))[:, None].expand_as(solution.nfes)
    active = iterate <= solution.steps
    assert torch.equal(solution.nfes[active], (case.evaluations_per_step * iterate + 1)[active])


def test_status_says_why_the_row_stopped(solved: Solved, batch: int) -> None:
    solution, tol = solved.solution, solved.budget.tol
    for row in range(batch):
        steps, status = int(solution.steps[row]), int(solution.status[row])
        last, before = solution.residuals[steps, row], solution.residuals[:steps, row]
        assert (before > tol).all()
        assert (status == Status.CONVERGED) == bool(last <= tol)
        if status == Status.EXHAUSTED:
            assert steps == solved.budget.max_iter
        assert status != Status.STALLED, "no patience was set"


def test_diverged_means_non_finite_or_a_hundred_million_times_the_start(solved: Solved, problem: Problem) -> None:
    """The start's scale is ‖z_0‖ or ‖f(z_0)‖: a row may stop only above 1e8 times the smaller of them."""
    solution = solved.solution
    for row in (solution.status == Status.DIVERGED).nonzero().flatten().tolist():
        at = torch.tensor([row])
        start, z = (solved.trajectory.iterate(k, row)[None] for k in (0, int(solution.steps[row])))
        f_start, f_z = (torch.linalg.vector_norm(solved.f.take(at)(state)) for state in (start, z))
        assert not f_z.isfinite() or f_z > 1e8 * f_start or f_z > 1e8 * torch.linalg.vector_norm(start) > 0
