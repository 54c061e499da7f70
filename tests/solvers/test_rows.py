"""A row is its own problem: its answer depends neither on its company nor on its place in the batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deqrun.solvers import Budget, Picard, Solution, Status, solve
from tests.problems import LinearSymmetric, NaNRow, Problem, RowMap, RowRates, TanhNetwork, Trajectory
from tests.solvers.conftest import SOLVERS, SolverCase

BATCH = 8
EVERY_SOLVER = pytest.mark.parametrize("any_solver", SOLVERS, ids=repr)


def loose(dtype: torch.dtype) -> Budget:
    """A budget that stops the rows well above the rounding floor, where the last bits decide nothing."""
    return Budget(max_iter=25, tol=1e-3 if dtype == torch.float32 else 1e-7)


def assert_same_rows(solution: Solution, expected: Solution, rows: Tensor) -> None:
    """Row i of `solution` is row rows[i] of `expected`."""
    assert torch.equal(solution.steps, expected.steps[rows])
    assert torch.equal(solution.status, expected.status[rows])
    assert torch.equal(solution.nfe, expected.nfe[rows])
    rtol = 1e-3 if solution.z.dtype == torch.float32 else 1e-9
    for row, other in enumerate(rows.tolist()):
        size = float(expected.z[other].abs().max().nan_to_num())
        torch.testing.assert_close(solution.z[row], expected.z[other], rtol=rtol, atol=rtol * size, equal_nan=True)
        until = int(solution.steps[row]) + 1
        torch.testing.assert_close(
            solution.residuals[:until, row], expected.residuals[:until, other], rtol=10 * rtol, atol=rtol / 10
        )


@pytest.mark.pairs
@pytest.mark.parametrize("with_take", [True, False], ids=["take", "whole"])
def test_alone_equals_in_company(problem: Problem, case: SolverCase, dtype: torch.dtype, with_take: bool) -> None:
    def ask(f: RowMap, z0: Tensor) -> Solution:
        return solve(f if with_take else f.whole(), z0, solver=case.solver, budget=loose(dtype))

    f, z0 = problem.f(BATCH), problem.start(BATCH, dtype)
    together = ask(f, z0)
    for row in (0, 5):
        at = torch.tensor([row])
        assert_same_rows(ask(f.take(at), z0[at]), together, at)


@pytest.mark.pairs
def test_order_of_the_batch_is_the_order_of_the_answer(problem: Problem, case: SolverCase, dtype: torch.dtype) -> None:
    f, z0 = problem.f(BATCH), problem.start(BATCH, dtype)
    order = torch.tensor([5, 2, 7, 0, 1, 6, 4, 3])
    straight = solve(f, z0, solver=case.solver, budget=loose(dtype))
    permuted = solve(f.take(order), z0[order], solver=case.solver, budget=loose(dtype))
    assert_same_rows(permuted, straight, order)


def poisoned(f: RowMap, value: float, after: float) -> Callable[[Tensor], Tensor]:
    """f with one more row at the end, which answers `value` once its state is larger than `after`."""

    def with_poison(z: Tensor) -> Tensor:
        bad = torch.where(z[-1:].abs() > after, torch.full_like(z[-1:], value), z[-1:] + 1)
        return torch.cat([f(z[:-1]), bad])

    return with_poison


@pytest.mark.pairs
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("after", [-1.0, 2.5], ids=["at_once", "later"])
@EVERY_SOLVER
def test_a_poisoned_row_changes_no_other(any_solver: SolverCase, value: float, after: float) -> None:
    task, budget = TanhNetwork(0.9), Budget(max_iter=40, tol=1e-6)
    f, z0 = task.f(3), task.start(3, torch.float64)
    clean = solve(f.whole(), z0, solver=any_solver.solver, budget=budget)
    z0 = torch.cat([z0, torch.zeros(1, task.size, dtype=torch.float64)])
    dirty = solve(poisoned(f, value, after), z0, solver=any_solver.solver, budget=budget)
    assert dirty.status[3] == Status.DIVERGED
    for name in ("z", "residual", "steps", "kept", "nfe", "status"):
        torch.testing.assert_close(getattr(dirty, name)[:3], getattr(clean, name), rtol=1e-12, atol=1e-14)
    assert dirty.z[3].isfinite().all(), "the best finite iterate of the broken row must be kept"
    assert dirty.residuals[dirty.steps[3], 3] == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf])
@EVERY_SOLVER
def test_a_non_finite_start_changes_no_other(any_solver: SolverCase, value: float) -> None:
    task, budget = TanhNetwork(0.9), Budget(max_iter=40, tol=1e-6)
    z0 = task.start(4, torch.float64)
    clean = solve(task.f(4), z0, solver=any_solver.solver, budget=budget)
    z0[2, 0] = value
    dirty = solve(task.f(4), z0, solver=any_solver.solver, budget=budget)
    others = torch.tensor([0, 1, 3])
    assert (dirty.status[2], dirty.steps[2], dirty.residual[2]) == (Status.DIVERGED, 0, math.inf)
    for name in ("z", "residual", "steps", "kept", "nfe", "status"):
        torch.testing.assert_close(getattr(dirty, name)[others], getattr(clean, name)[others], rtol=1e-12, atol=1e-14)


@EVERY_SOLVER
def test_nan_row_keeps_its_best_state(any_solver: SolverCase) -> None:
    """Row 1 answers b at the start z_0 = 0 (residual 1) and NaN elsewhere: its best iterate is the start."""
    solution = solve(NaNRow().f(3), torch.zeros(3, 5), solver=any_solver.solver, budget=Budget(max_iter=50, tol=1e-5))
    assert solution.status.tolist() == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    assert (solution.steps[1], solution.kept[1], solution.residual[1]) == (1, 0, 1.0)
    assert torch.equal(solution.z[1], torch.zeros(5))


@EVERY_SOLVER
def test_f_is_called_on_active_rows_only(any_solver: SolverCase) -> None:
    """Rows with a rate of their own stop at different steps; the batch that f sees shrinks with them."""
    task = RowRates()
    f = task.f(BATCH)
    solution = solve(
        f, task.start(BATCH, torch.float64), solver=any_solver.solver, budget=Budget(max_iter=500, tol=1e-8)
    )
    active = [int((solution.steps >= k).sum()) for k in range(int(solution.steps.max()) + 1)]
    assert (solution.status == Status.CONVERGED).all()
    if any_solver.evaluations_per_step == 1:
        assert f.calls == active
    assert f.calls == sorted(f.calls, reverse=True)


def test_picard_rates_predict_the_steps() -> None:
    """z_k = z* (1 − r^k), so the residual of iterate k is r^k (1 − r) / (1 − r^(k+1))."""
    task, tol = RowRates(), 1e-6
    solution = solve(
        task.f(BATCH), task.start(BATCH, torch.float64), solver=Picard(), budget=Budget(max_iter=300, tol=tol)
    )
    for row, rate in enumerate(task.rates):
        predicted = next(k for k in range(300) if rate**k * (1 - rate) / (1 - rate ** (k + 1)) <= tol)
        assert solution.steps[row] == predicted
        k = torch.arange(predicted + 1, dtype=torch.float64)
        expected = rate**k * (1 - rate) / (1 - rate ** (k + 1))
        torch.testing.assert_close(solution.residuals[: predicted + 1, row], expected, rtol=1e-7, atol=1e-15)


@EVERY_SOLVER
def test_without_take_converged_rows_stay_frozen(any_solver: SolverCase) -> None:
    task, budget = RowRates(), Budget(max_iter=500, tol=1e-8)
    f, z0 = task.f(BATCH), task.start(BATCH, torch.float64)
    trajectory = Trajectory()
    whole = solve(f.whole(), z0, solver=any_solver.solver, budget=budget, observe=trajectory)
    assert set(f.calls) == {BATCH}
    assert_same_rows(whole, solve(f, z0, solver=any_solver.solver, budget=budget), torch.arange(BATCH))
    for row in range(BATCH):
        assert torch.equal(whole.z[row], trajectory.iterate(int(whole.steps[row]), row))


def test_take_receives_rows_of_the_map_it_is_called_on() -> None:
    """`take` on a taken map indexes that map's batch, not the first one's: rates stay with their rows."""
    task = RowRates()
    order = torch.tensor([7, 0, 3, 6, 1, 5, 2, 4])
    solution = solve(
        task.f(BATCH).take(order),
        task.start(BATCH, torch.float64),
        solver=Picard(),
        budget=Budget(max_iter=400, tol=1e-10),
    )
    expected = task.fixed_point(BATCH, torch.float64)[order]
    torch.testing.assert_close(solution.z, expected, rtol=1e-8, atol=0)


def test_easy_and_hard_rows_together() -> None:
    """A row that converges at once waits, unchanged, for one that takes hundreds of steps."""
    hard = LinearSymmetric(0.9).f(2)
    weight, bias = (parameter.clone() for parameter in hard.parameters)
    weight[0] = 0.0
    solution = solve(
        RowMap(hard.function, (weight, bias)),
        torch.zeros(2, 6, dtype=torch.float64),
        solver=Picard(),
        budget=Budget(max_iter=400, tol=1e-9),
    )
    assert solution.steps[0] == 1
    assert solution.steps[1] > 50
    assert torch.equal(solution.z[0], bias[0])
