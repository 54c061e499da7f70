"""The scale of the state does not matter as far as float32 reaches, and no number is ever a converged one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.analysis.cycles import limit_cycles
from deqrun.analysis.fates import first_converged
from deqrun.analysis.signals import state_change
from deqrun.experiment.sweep.trace import cells
from deqrun.gradients import Unrolled, equilibrium
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.solvers import Anderson, Budget, ForwardBackward, PeacemanRachford, Solver, Status, solve
from deqrun.solvers.norms import power_of_two, row_norms
from tests.problems import LinearSymmetric, Problem, RowMap
from tests.solvers.conftest import SOLVERS, SolverCase

EVERY_SOLVER = pytest.mark.parametrize("any_solver", SOLVERS, ids=repr)
EXPONENTS = [-100, -63, 63, 100]
"""2^±100 is 1.3e30 and 7.9e-31; squares leave float32 from 2^±63 on."""


def in_units(f: RowMap, unit: Tensor | float) -> RowMap:
    """z ↦ c f(z / c), c a number, or one for each row (rows, 1)."""
    if isinstance(unit, float):
        return RowMap(lambda z, *parameters: unit * f.function(z / unit, *parameters), f.parameters)
    return RowMap(lambda z, c, *parameters: c * f.function(z / c, *parameters), (unit, *f.parameters))


@pytest.mark.pairs
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_a_power_of_two_changes_no_digit(problem: Problem, case: SolverCase, exponent: int) -> None:
    """Status, steps, counts and residuals are those at scale 1 to the bit, and states are c times theirs."""
    unit, budget = 2.0**exponent, Budget(max_iter=25, tol=1e-4)
    f, z0 = problem.f(3), problem.start(3, torch.float32)
    plain = solve(f, z0, solver=case.solver, budget=budget)
    scaled = solve(in_units(f, unit), unit * z0, solver=case.solver, budget=budget)
    for name in ("status", "steps", "nfe", "jvps", "kept", "residual"):
        assert torch.equal(getattr(scaled, name), getattr(plain, name)), name
    torch.testing.assert_close(scaled.residuals, plain.residuals, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(scaled.z, unit * plain.z, rtol=0, atol=0, equal_nan=True)


@pytest.mark.pairs
@pytest.mark.parametrize("unit", [1e-30, 1e-19, 1e19, 1e30])
@EVERY_SOLVER
def test_another_scale_changes_rounding_alone(any_solver: SolverCase, unit: float) -> None:
    task, budget = LinearSymmetric(0.9), Budget(max_iter=12, tol=1e-2)
    f, z0 = task.f(3), task.start(3, torch.float32)
    plain = solve(f, z0, solver=any_solver.solver, budget=budget)
    scaled = solve(in_units(f, unit), unit * z0, solver=any_solver.solver, budget=budget)
    assert torch.equal(scaled.status, plain.status)
    assert torch.equal(scaled.steps, plain.steps)
    torch.testing.assert_close(scaled.residuals, plain.residuals, rtol=1e-3, atol=1e-5, equal_nan=True)


@EVERY_SOLVER
def test_rows_of_all_scales_are_each_their_own(any_solver: SolverCase) -> None:
    """One batch with c = 2^-100, 1 and 2^100: what is observed and returned is c times each row at scale 1."""
    task, budget = LinearSymmetric(0.9), Budget(max_iter=30, tol=1e-4)
    units = torch.tensor([2.0**-100, 1.0, 2.0**100])[:, None]
    f, z0 = task.f(3), task.start(3, torch.float32)
    seen: dict[str, list[Tensor]] = {"plain": [], "scaled": []}

    def watch(name: str) -> object:
        return lambda k, z, rows: seen[name].append(z / units[rows] if name == "scaled" else z.clone())

    plain = solve(f, z0, solver=any_solver.solver, budget=budget, observe=watch("plain"))  # type: ignore[arg-type]
    scaled = solve(
        in_units(f, units),
        units * z0,
        solver=any_solver.solver,
        budget=budget,
        observe=watch("scaled"),  # type: ignore[arg-type]
    )
    assert torch.equal(scaled.steps, plain.steps)
    assert torch.equal(scaled.residuals.nan_to_num(-1), plain.residuals.nan_to_num(-1))
    assert torch.equal(scaled.z / units, plain.z)
    for one, other in zip(seen["scaled"], seen["plain"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("exponent", EXPONENTS)
@pytest.mark.parametrize("solver", [ForwardBackward(alpha=0.4), PeacemanRachford(alpha=0.7)], ids=["fb", "pr"])
def test_splitting_at_any_scale(solver: Solver, exponent: int) -> None:
    """ReLU(W z + b) with W = −½ I in parts; ReLU commutes with every scale."""

    class Parts:
        def __init__(self, b: Tensor) -> None:
            self.b = b

        def affine(self, z: Tensor) -> Tensor:
            return -0.5 * z + self.b

        def resolvent(self, v: Tensor, alpha: float) -> Tensor:
            return (v + alpha * self.b) / (1 + 1.5 * alpha)

        def prox(self, v: Tensor, alpha: float) -> Tensor:
            return v.relu()

        def __call__(self, z: Tensor) -> Tensor:
            return self.affine(z).relu()

        def take(self, rows: Tensor) -> Parts:
            return Parts(self.b[rows])

    unit, b = 2.0**exponent, torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -1.0]])
    z0 = torch.tensor([[0.1, 0.2, 0.3], [1.0, 0.0, 2.0]])
    plain, scaled = (solve(Parts(c * b), c * z0, solver=solver, budget=Budget(60, 1e-5)) for c in (1.0, unit))
    assert scaled.status.tolist() == plain.status.tolist() == [Status.CONVERGED] * 2
    assert torch.equal(scaled.residuals.nan_to_num(-1), plain.residuals.nan_to_num(-1))
    assert torch.equal(scaled.z, unit * plain.z)
    torch.testing.assert_close(plain.z, b.relu() / 1.5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_absolute_residuals_are_in_the_states_unit(exponent: int) -> None:
    task, unit = LinearSymmetric(0.9), 2.0**exponent
    f, z0 = task.f(3), task.start(3, torch.float32)
    plain, scaled = (
        solve(in_units(f, c), c * z0, solver=Anderson(), budget=Budget(20, c * 1e-3, norm="absolute"))
        for c in (1.0, unit)
    )
    assert torch.equal(scaled.steps, plain.steps)
    assert torch.equal(scaled.residuals.nan_to_num(-1), (unit * plain.residuals).nan_to_num(-1))


def test_a_state_that_shrinks_to_nothing_does_not_converge_on_the_way() -> None:
    """z ← z / 2: the relative residual of every iterate is ‖z/2‖ / ‖z/2‖ = 1, down to 2^-90 = 8e-28."""
    solution = solve(lambda z: z / 2, torch.tensor([[3.0, -1.0]]), budget=Budget(90, 1e-3))
    assert solution.status.tolist() == [Status.EXHAUSTED]
    assert (solution.residuals == 1).all()


def test_the_unrolled_account_at_any_scale() -> None:
    task = LinearSymmetric(0.9)
    f, z0 = task.f(3), task.start(3, torch.float32)
    plain, *others = (
        equilibrium(in_units(f, c), c * z0, budget=Budget(9, 1e-2), gradient=Unrolled())[1]
        for c in (1.0, 2.0**-100, 2.0**100)
    )
    for scaled in others:
        assert torch.equal(scaled.residuals, plain.residuals)
        assert torch.equal(scaled.status, plain.status)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_norms_at_the_ends_of_the_range(dtype: torch.dtype) -> None:
    """(3, 4) s has the norm 5 s, from denormal numbers almost to the largest; other rows keep every digit."""
    info = torch.finfo(dtype)
    scales = torch.tensor([info.tiny / 16, info.tiny, info.tiny**0.5, 1.0, info.max**0.5, info.max / 16], dtype=dtype)
    vectors = scales[:, None] * torch.tensor([3.0, 4.0], dtype=dtype)
    torch.testing.assert_close(row_norms(vectors) / scales, torch.full_like(scales, 5.0), rtol=4 * info.eps, atol=0)
    odd = torch.tensor([[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0], [1e-30, 0.1]], dtype=dtype)
    assert row_norms(odd)[:2].tolist() == [0.0, math.inf]
    assert row_norms(odd)[2].isnan()
    assert torch.equal(row_norms(odd)[3], torch.linalg.vector_norm(odd[3]))


def test_the_power_of_two_below() -> None:
    sizes = torch.tensor([1.0, 1.99, 2.0, 0.3, 1e-45, 3e38, 0.0, math.inf, math.nan])
    expected = [1.0, 1.0, 2.0, 0.25, 2.0**-149, 2.0**127, 1.0, 1.0, 1.0]
    assert power_of_two(sizes).tolist() == expected


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_what_is_derived_from_states_knows_no_scale(scale: float) -> None:
    """A step from (3, 4) to (3, 5) is 1 / √34 of the state; an orbit of period 2 is found at any scale."""
    z, before = scale * torch.tensor([[3.0, 5.0]]), scale * torch.tensor([[3.0, 4.0]])
    assert float(state_change(z, before)) == pytest.approx(1 / math.sqrt(34), rel=1e-5)
    assert limit_cycles(lambda z: -z, scale * torch.ones(1, 2)).period.tolist() == [2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@EVERY_SOLVER
def test_no_tolerance_makes_converged_of_no_number(any_solver: SolverCase, value: float) -> None:
    """Every residual is at most inf, and one that is no number still is not within it."""
    budget = Budget(max_iter=5, tol=math.inf)
    solution = solve(lambda z: torch.full_like(z, value), torch.ones(2, 3), solver=any_solver.solver, budget=budget)
    assert solution.status.tolist() == [Status.DIVERGED] * 2
    assert solve(lambda z: z / 2, torch.ones(2, 3), solver=any_solver.solver, budget=budget).converged.all()


def test_nor_does_what_is_derived_from_a_trajectory() -> None:
    residual = np.array([[math.inf, 0.5], [math.inf, math.nan]], dtype=np.float32)
    assert first_converged(residual, math.inf).tolist() == [2, 0]
    lost = Trajectory(residual, np.ones((2, 2), dtype=np.int32), np.zeros((2, 2), dtype=bool), np.ones(2))
    assert np.isnan(lost.nfe_to(math.inf)).tolist() == [True, False]
    (cell,) = cells(lost, [1], [math.inf], key=TrajectoryKey("s", "zeros", "test"), keep="best")
    assert cell.converged == 0.5
