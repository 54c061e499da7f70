"""Random maps: whatever they do, the solver doesn't raise, and what it reports is true."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deqrun.solvers import Budget, Solution, Status, solve
from tests.problems import RowMap, Trajectory, matvec, residual_of
from tests.solvers.conftest import SOLVERS, SolverCase

MODERATE = settings(max_examples=30, deadline=None, derandomize=True)


@dataclass(frozen=True)
class Case:
    """f(z) = scale (tanh(A z / scale + u) + b) + B z; `broken` rows answer NaN once z leaves the start."""

    f: RowMap
    z0: Tensor

    def alone(self, row: int) -> Case:
        at = torch.tensor([row])
        return Case(self.f.take(at), self.z0[at])


def random_function(shape: tuple[int, ...], scale: float) -> Callable[..., Tensor]:
    def function(z: Tensor, inner: Tensor, outer: Tensor, shift: Tensor, bias: Tensor, broken: Tensor) -> Tensor:
        flat = z.flatten(1)
        value = scale * (torch.tanh(matvec(inner, flat / scale) + shift) + bias) + matvec(outer, flat)
        left = (broken > 0) & (flat.abs().amax(dim=1) > 0.5 * scale)
        return torch.where(left[:, None], math.nan, value).reshape(-1, *shape)

    return function


@st.composite
def cases(
    draw: st.DrawFn, max_gain: float = 2.0, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.float64)
) -> Case:
    batch, shape = draw(st.integers(1, 4)), draw(st.sampled_from([(1,), (3,), (2, 3), (1, 2, 2)]))
    scale, gain = 10.0 ** draw(st.floats(-6, 6)), draw(st.floats(0, max_gain))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = math.prod(shape)
    inner, outer = (rng.standard_normal((batch, size, size)) * gain / math.sqrt(size) * part for part in (0.7, 0.3))
    broken = np.array(draw(st.lists(st.booleans(), min_size=batch, max_size=batch)), dtype=np.float64)
    shift, bias = rng.standard_normal((batch, size)), rng.standard_normal((batch, size))
    data = tuple(torch.as_tensor(array) for array in (inner, outer, shift, bias, broken))
    f = RowMap(random_function(shape, scale), data)
    z0 = scale * rng.standard_normal((batch, *shape)) * draw(st.sampled_from([0.0, 0.1]))
    return Case(f, torch.as_tensor(z0).to(draw(st.sampled_from(dtypes))))


def ask(case: Case, solver: SolverCase, budget: Budget, observe: Trajectory | None = None) -> Solution:
    return solve(case.f, case.z0, solver=solver.solver, budget=budget, observe=observe)


solver_cases = st.sampled_from(SOLVERS)
max_iters = st.integers(0, 25)
tols = st.sampled_from([0.0, 1e-6, 1e-3, 0.1])


@MODERATE
@given(case=cases(), solver=solver_cases, max_iter=max_iters, tol=tols, keep=st.sampled_from(["best", "last"]))
def test_the_reported_residual_is_that_of_the_returned_state(
    case: Case, solver: SolverCase, max_iter: int, tol: float, keep: str
) -> None:
    solution = ask(case, solver, Budget(max_iter=max_iter, tol=tol, keep=keep))
    expected = residual_of(case.f(solution.z), solution.z)
    eps = torch.finfo(case.z0.dtype).eps
    torch.testing.assert_close(solution.residual.double(), expected, rtol=256 * eps, atol=0)


@MODERATE
@given(case=cases(), solver=solver_cases, max_iter=max_iters, tol=tols, norm=st.sampled_from(["relative", "absolute"]))
def test_the_best_is_never_worse_than_the_start_or_the_last(
    case: Case, solver: SolverCase, max_iter: int, tol: float, norm: str
) -> None:
    best, last = (
        ask(case, solver, Budget(max_iter=max_iter, tol=tol, norm=norm, keep=keep)) for keep in ("best", "last")
    )
    assert (best.residual <= best.residuals[0]).all()
    assert (best.residual <= last.residual).all()
    assert torch.equal(best.steps, last.steps)
    assert best.z.isfinite().all(), "the start is finite, so the best is"


@MODERATE
@given(case=cases(), solver=solver_cases, max_iter=max_iters, tol=tols)
def test_accounts_agree(case: Case, solver: SolverCase, max_iter: int, tol: float) -> None:
    trajectory = Trajectory()
    solution = ask(case, solver, Budget(max_iter=max_iter, tol=tol), trajectory)
    iterate = torch.arange(len(solution.residuals))[:, None]
    assert torch.equal(solution.residuals.isnan(), iterate > solution.steps)
    assert (solution.steps <= max_iter).all()
    last = solution.residuals.gather(0, solution.steps[None])[0]
    assert torch.equal(solution.status == Status.CONVERGED, last <= tol)
    assert len(trajectory.states) == len(solution.residuals)
    for row in range(len(case.z0)):
        kept = trajectory.iterate(int(solution.kept[row]), row)
        assert torch.equal(kept, solution.z[row])


@MODERATE
@given(
    case=cases(max_gain=0.9, dtypes=(torch.float64,)),
    solver=solver_cases,
    max_iter=st.integers(0, 8),
    tol=st.sampled_from([1e-4, 1e-2, 0.3]),
    with_take=st.booleans(),
)
def test_a_row_alone_equals_the_row_in_company(
    case: Case, solver: SolverCase, max_iter: int, tol: float, with_take: bool
) -> None:
    budget = Budget(max_iter=max_iter, tol=tol)
    f = case.f if with_take else case.f.whole()
    together = solve(f, case.z0, solver=solver.solver, budget=budget)
    for row in range(len(case.z0)):
        alone = ask(case.alone(row), solver, budget)
        assert alone.steps[0] == together.steps[row]
        assert alone.status[0] == together.status[row]
        size = float(together.z[row].abs().max())
        torch.testing.assert_close(alone.z[0], together.z[row], rtol=1e-7, atol=1e-7 * size)
        torch.testing.assert_close(alone.residual[0], together.residual[row], rtol=1e-5, atol=1e-9)


@MODERATE
@given(case=cases(max_gain=0.8), max_iter=max_iters, tol=tols)
def test_picard_residuals_of_a_contraction_fall_at_its_rate(case: Case, max_iter: int, tol: float) -> None:
    """‖f(z_{k+1}) − z_{k+1}‖ <= L ‖f(z_k) − z_k‖ with L = ‖A‖ + ‖B‖, in the absolute norm."""
    inner, outer, *_, broken = case.f.parameters
    lipschitz = torch.linalg.matrix_norm(inner, 2) + torch.linalg.matrix_norm(outer, 2)
    whole = Case(RowMap(case.f.function, (*case.f.parameters[:-1], torch.zeros_like(broken))), case.z0)
    solution = ask(whole, SOLVERS[0], Budget(max_iter=max_iter, tol=tol, norm="absolute"))
    residual = solution.residuals.double()
    noise = 100 * torch.finfo(case.z0.dtype).eps * residual[0]
    bound = lipschitz * residual[:-1] + noise
    assert ((residual[1:] <= bound) | residual[1:].isnan() | (lipschitz >= 4)).all()
