"""Budgets: what is returned when they end, and that one trajectory holds the answer to every one of them."""

from __future__ import annotations

import dataclasses
import math
from itertools import product

import pytest
import torch
from torch import Tensor

from deqrun.solvers import Budget, Picard, Solution, Status, solve
from tests.problems import Logistic, Problem, TanhNetwork, Trajectory
from tests.solvers.conftest import SOLVERS, SolverCase

EVERY_SOLVER = pytest.mark.parametrize("any_solver", SOLVERS, ids=repr)
MAX_ITERS = (0, 1, 2, 3, 5, 12, 20)
TOLS = (0.3, 1e-2, 1e-4, 0.0)
BUDGETS = [*product(MAX_ITERS, TOLS)]
USUAL = [(0, 0.0), (1, 0.0), (3, 0.0), (20, 0.0), (20, 0.3), (20, 1e-4), (5, 1e-2)]
"""Each number of steps and each tolerance by itself, and both where either may end a row."""


@dataclasses.dataclass(frozen=True)
class LongSolve:
    """One solve without a tolerance, from which every shorter one follows."""

    solution: Solution
    trajectory: Trajectory


@pytest.fixture(scope="session")
def long_solve(problem: Problem, case: SolverCase) -> LongSolve:
    trajectory = Trajectory()
    solution = solve(
        problem.f(3),
        problem.start(3, torch.float64),
        solver=case.solver,
        budget=Budget(max_iter=20, tol=0.0),
        observe=trajectory,
    )
    return LongSolve(solution, trajectory)


def derived(long: LongSolve, row: int, budget: Budget) -> tuple[int, int, Status]:
    """(steps, kept, status) of one row under `budget`, from the residuals of the long solve alone."""
    last = int(long.solution.steps[row])
    residual = long.solution.residuals[: last + 1, row].tolist()
    converged = next((k for k, value in enumerate(residual) if value <= budget.tol), None)
    if converged is not None and converged <= budget.max_iter:
        steps, status = converged, Status.CONVERGED
    elif last <= budget.max_iter and long.solution.status[row] == Status.DIVERGED:
        steps, status = last, Status.DIVERGED
    else:
        steps, status = budget.max_iter, Status.EXHAUSTED
    kept = min(range(steps + 1), key=residual.__getitem__) if budget.keep == "best" else steps
    return steps, kept, status


@pytest.mark.pairs
@pytest.mark.parametrize("keep", ["best", "last"])
def test_one_trajectory_answers_each_budget(
    problem: Problem, case: SolverCase, long_solve: LongSolve, keep: str
) -> None:
    for max_iter, tol in USUAL:
        assert_answered(Budget(max_iter=max_iter, tol=tol, keep=keep), problem, case, long_solve)


@pytest.mark.nightly
@pytest.mark.parametrize("keep", ["best", "last"])
def test_one_trajectory_answers_every_budget(
    problem: Problem, case: SolverCase, long_solve: LongSolve, keep: str
) -> None:
    for max_iter, tol in BUDGETS:
        assert_answered(Budget(max_iter=max_iter, tol=tol, keep=keep), problem, case, long_solve)


def assert_answered(budget: Budget, problem: Problem, case: SolverCase, long_solve: LongSolve) -> None:
    """A solve of this budget is the part of the long one that it allows."""
    solution = solve(problem.f(3), problem.start(3, torch.float64), solver=case.solver, budget=budget)
    for row in range(3):
        steps, kept, status = derived(long_solve, row, budget)
        assert (int(solution.steps[row]), int(solution.status[row])) == (steps, status), budget
        expected = long_solve.trajectory.iterate(kept, row)
        size = float(expected.abs().max().nan_to_num())
        torch.testing.assert_close(solution.z[row], expected, rtol=1e-9, atol=1e-9 * size, equal_nan=True)
        torch.testing.assert_close(
            solution.residual[row], long_solve.solution.residuals[kept, row], rtol=1e-6, atol=1e-12
        )


def test_budget_of_k_gives_iterate_k(case: SolverCase, problem: Problem, long_solve: LongSolve) -> None:
    for max_iter in (1, 2):
        budget = Budget(max_iter=max_iter, tol=0.0, keep="last")
        solution = solve(problem.f(3), problem.start(3, torch.float64), solver=case.solver, budget=budget)
        for row in range(3):
            expected = long_solve.trajectory.iterate(int(solution.steps[row]), row)
            torch.testing.assert_close(solution.z[row], expected, rtol=1e-12, atol=1e-14, equal_nan=True)
            assert not torch.equal(solution.z[row], problem.start(3, torch.float64)[row])


def test_a_better_iterate_is_returned_even_by_a_budget_of_one(problem: Problem, case: SolverCase) -> None:
    """keep='best' prefers iterate 1 wherever its residual is the lower."""
    solution = solve(
        problem.f(3), problem.start(3, torch.float64), solver=case.solver, budget=Budget(max_iter=1, tol=0.0)
    )
    assert torch.equal(solution.kept == 1, solution.residuals[1] < solution.residuals[0])


def test_budget_of_zero_returns_the_start_and_its_residual(problem: Problem, case: SolverCase) -> None:
    f, z0 = problem.f(3), problem.start(3, torch.float64)
    solution = solve(f, z0, solver=case.solver, budget=Budget(max_iter=0, tol=1e-9))
    assert torch.equal(solution.z, z0)
    assert f.calls == [3]
    distance = (problem.f(3)(z0) - z0).norm(dim=1) / problem.f(3)(z0).norm(dim=1)
    torch.testing.assert_close(solution.residual, distance, rtol=1e-12, atol=0)
    assert solution.steps.tolist() == solution.kept.tolist() == [0, 0, 0]
    assert solution.nfe.tolist() == [1, 1, 1]
    assert solution.status.tolist() == [Status.EXHAUSTED] * 3
    assert solution.residuals.shape == solution.nfes.shape == (1, 3)


def doubling_until_a_hundred(z: Tensor) -> Tensor:
    """2 z + 1, NaN beyond 100: from 0 plain iteration visits 2^k − 1, and breaks at iterate 7 = 127."""
    return torch.where(z > 100, torch.full_like(z, math.nan), 2 * z + 1)


@pytest.mark.parametrize(("keep", "kept"), [("best", 6), ("last", 7)])
def test_best_and_last_of_a_row_that_breaks(keep: str, kept: int) -> None:
    """The residual of iterate k is 2^k / (2^(k+1) − 1), so the best is iterate 6 = 63, the last 127."""
    solution = solve(
        doubling_until_a_hundred,
        torch.zeros(1, 1, dtype=torch.float64),
        solver=Picard(),
        budget=Budget(max_iter=20, tol=1e-6, keep=keep),
    )
    residual = [2**k / (2 ** (k + 1) - 1) for k in range(7)] + [math.inf]
    assert solution.residuals[:, 0].tolist() == pytest.approx(residual)
    assert (solution.steps.item(), solution.kept.item()) == (7, kept)
    assert solution.z.item() == 2**kept - 1
    assert solution.residual.item() == pytest.approx(residual[kept])
    assert solution.status.item() == Status.DIVERGED
    assert solution.nfes[:, 0].tolist() == list(range(1, 9))


def test_growth_alone_is_divergence() -> None:
    """z_k = 2^k − 1 and f(z_0) = 1: 1e8 times that is passed when 2^(k+1) − 1 > 1e8, at k = 26."""
    solution = solve(
        lambda z: 2 * z + 1,
        torch.zeros(1, 1, dtype=torch.float64),
        solver=Picard(),
        budget=Budget(max_iter=100, tol=1e-6),
    )
    assert (solution.status.item(), solution.steps.item()) == (Status.DIVERGED, 26)


def test_growth_within_reason_is_not_divergence() -> None:
    """A start a million times too small is poor, not divergent: f(z) = z / 2 + 1e6 (1 − e^(−1e6 |z|)) + 1."""

    def f(z: Tensor) -> Tensor:
        return 0.5 * z + 1e6 * (1 - torch.exp(-1e6 * z.abs())) + 1

    solution = solve(f, torch.zeros(1, 1, dtype=torch.float64), solver=Picard(), budget=Budget(max_iter=100, tol=1e-9))
    assert solution.status.item() == Status.CONVERGED
    assert solution.z.item() == pytest.approx(2 * (1e6 + 1), rel=1e-8)


def test_period_two_orbit_is_not_a_fixed_point() -> None:
    """The stable 2-cycle of r z (1 − z) is (r + 1 ± √((r − 3)(r + 1))) / 2r."""
    rate = 3.2
    solution = solve(
        Logistic(rate).f(2),
        Logistic(rate).start(2, torch.float64),
        solver=Picard(),
        budget=Budget(max_iter=400, tol=1e-6, keep="last"),
    )
    low, high = ((rate + 1 + sign * math.sqrt((rate - 3) * (rate + 1))) / (2 * rate) for sign in (-1, 1))
    for row in range(2):
        z = solution.z[row, 0].item()
        assert min(abs(z - low), abs(z - high)) <= 1e-10
        other = high if abs(z - low) < abs(z - high) else low
        assert solution.residual[row].item() == pytest.approx((high - low) / other, abs=1e-9)
    assert solution.status.tolist() == [Status.EXHAUSTED] * 2


def alternating(z: Tensor) -> Tensor:
    """3 − z: from 1 plain iteration alternates 1, 2, 1, 2, with residuals 1/2, 1, 1/2, 1."""
    return 3 - z


@pytest.mark.parametrize("patience", [1, 4, 10])
def test_patience_ends_a_row_that_improves_no_more(patience: int) -> None:
    solution = solve(
        alternating,
        torch.ones(1, 1, dtype=torch.float64),
        solver=Picard(),
        budget=Budget(max_iter=50, tol=1e-6, patience=patience),
    )
    assert solution.status.item() == Status.STALLED
    assert patience <= solution.steps.item() <= patience + 1
    assert (solution.kept.item(), solution.z.item(), solution.residual.item()) == (0, 1.0, 0.5)


def test_without_patience_a_row_spends_its_budget() -> None:
    solution = solve(
        alternating, torch.ones(1, 1, dtype=torch.float64), solver=Picard(), budget=Budget(max_iter=50, tol=1e-6)
    )
    assert (solution.status.item(), solution.steps.item()) == (Status.EXHAUSTED, 50)
    assert solution.residuals[:, 0].tolist() == [0.5, 1.0] * 25 + [0.5]


@EVERY_SOLVER
def test_patience_does_not_end_steady_progress(any_solver: SolverCase) -> None:
    """A contraction whose residual falls at every plain step: patience changes nothing."""
    task = TanhNetwork(0.5)
    free, patient = (
        solve(
            task.f(3),
            task.start(3, torch.float64),
            solver=any_solver.solver,
            budget=Budget(max_iter=100, tol=1e-8, patience=patience),
        )
        for patience in (None, 20)
    )
    assert torch.equal(free.steps, patient.steps)
    assert (patient.status == Status.CONVERGED).all()


def test_absolute_norm_is_the_numerator() -> None:
    """f(z) = z / 2 + 1 from 0: ‖f(z_k) − z_k‖ = 2^−k, and tol = 2^−10 is met (not missed) at k = 10."""
    solution = solve(
        lambda z: 0.5 * z + 1,
        torch.zeros(1, 1, dtype=torch.float64),
        solver=Picard(),
        budget=Budget(max_iter=50, tol=2.0**-10, norm="absolute"),
    )
    assert solution.residuals[:, 0].tolist() == [2.0**-k for k in range(11)]
    assert (solution.steps.item(), solution.status.item()) == (10, Status.CONVERGED)


def test_residual_norm_is_euclidean_over_the_whole_state() -> None:
    z0 = torch.zeros(1, 2, 2, dtype=torch.float64)
    target = torch.tensor([[[1.0, 2.0], [2.0, 4.0]]], dtype=torch.float64)
    solution = solve(lambda z: target.expand_as(z), z0, solver=Picard(), budget=Budget(max_iter=0, norm="absolute"))
    assert solution.residual.item() == pytest.approx(5.0, rel=1e-15)


def test_budget_defaults_and_immutability() -> None:
    budget = Budget(max_iter=3)
    assert (budget.tol, budget.norm, budget.keep, budget.patience) == (1e-4, "relative", "best", None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.tol = 1.0  # type: ignore[misc]


def test_every_status_has_a_sentence_of_its_own() -> None:
    sentences = {status.sentence for status in Status}
    assert {status.name for status in Status} == {"CONVERGED", "EXHAUSTED", "STALLED", "DIVERGED"}
    assert len(sentences) == 4
    assert all(len(sentence.split()) >= 3 for sentence in sentences)


# No row stops early ------------------------------------------------------------------------------------------------


@EVERY_SOLVER
def test_min_iter_delays_the_first_stop_only(any_solver: SolverCase) -> None:
    """A row that has converged before goes on to min_iter; one that converges after it stops as without."""
    task = TanhNetwork(0.5)
    f, start = task.f(8), task.start(8, torch.float64)
    free = solve(f, start, solver=any_solver.solver, budget=Budget(max_iter=60, tol=1e-2))
    late = solve(f, start, solver=any_solver.solver, budget=Budget(max_iter=60, tol=1e-2, min_iter=4))
    early = free.steps < 4
    assert (late.steps[early] >= 4).all()
    assert torch.equal(late.steps[~early], free.steps[~early])
    assert (late.steps <= 60).all()


def test_min_iter_never_outlasts_the_budget() -> None:
    solution = solve(torch.cos, torch.full((2, 1), 0.739085), budget=Budget(max_iter=3, tol=1e-3, min_iter=10))
    assert solution.steps.tolist() == [3, 3]
    assert (solution.status == Status.CONVERGED).all()


def test_min_iter_does_not_keep_a_diverged_row() -> None:
    solution = solve(lambda z: z * 1e6, torch.ones(1, 1), budget=Budget(max_iter=20, tol=1e-3, min_iter=15))
    assert solution.status.tolist() == [Status.DIVERGED]
    assert int(solution.steps[0]) < 15


def test_max_norm_is_the_largest_entry_over_the_largest() -> None:
    """‖g‖_∞ / ‖f‖_∞ in closed form: f(z) = (3, −8, 0) at z = (1, −4, 0) gives 4 / 8."""
    target = torch.tensor([[3.0, -8.0, 0.0]])
    start = torch.tensor([[1.0, -4.0, 0.0]])
    solution = solve(lambda z: target.expand_as(z).clone(), start, budget=Budget(max_iter=0, tol=0.0, norm="max"))
    assert solution.residual.tolist() == [0.5]


@pytest.mark.parametrize("exponent", [-30, 0, 30])
def test_max_norm_at_any_scale(exponent: int) -> None:
    scale = 10.0**exponent
    f = lambda z: 0.5 * z + scale  # noqa: E731
    solution = solve(f, torch.zeros(2, 5), budget=Budget(max_iter=60, tol=1e-5, norm="max"))
    one = solve(lambda z: 0.5 * z + 1.0, torch.zeros(2, 5), budget=Budget(max_iter=60, tol=1e-5, norm="max"))
    assert torch.equal(solution.steps, one.steps)
