"""Picard against a loop written by hand in numpy, operation for operation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from deqrun.solvers import Budget, Picard, solve
from tests.problems import Logistic, Problem, RowRates, Trajectory

EVERY_DAMPING = pytest.mark.parametrize("damping", [1.0, 0.5, 0.3, 1.5])
EVERY_MAP = pytest.mark.parametrize("task", [RowRates(), Logistic(3.2), Logistic(3.5)], ids=repr)


def numpy_step(task: Problem, z: np.ndarray, damping: float) -> np.ndarray:
    """z + damping (f(z) − z) in the dtype of z."""
    parameters = (parameter.numpy().astype(z.dtype) for parameter in task.f(len(z)).parameters)
    if isinstance(task, RowRates):
        rate, bias = parameters
        f_z = rate * z + bias
    else:
        (rate,) = parameters
        f_z = rate * z * (1 - z)
    return z + z.dtype.type(damping) * (f_z - z)


def assert_few_ulps(actual: np.ndarray, expected: np.ndarray) -> None:
    ulps = 8 * np.finfo(expected.dtype).eps * float(np.abs(expected).max())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=ulps)


@pytest.mark.parametrize("max_iter", [0, 1, 2, 5])
@EVERY_DAMPING
@EVERY_MAP
def test_iterates_equal_the_hand_written_loop(
    task: Problem, damping: float, max_iter: int, dtype: torch.dtype, batch: int
) -> None:
    """Each step from the observed state before it; the whole loop too, where rounding isn't amplified."""
    trajectory, start = Trajectory(), task.start(batch, dtype)
    solution = solve(
        task.f(batch),
        start,
        solver=Picard(damping=damping),
        budget=Budget(max_iter=max_iter, tol=0.0, keep="last"),
        observe=trajectory,
    )
    observed = [state.numpy() for state in trajectory.states]
    assert len(observed) == max_iter + 1
    np.testing.assert_array_equal(observed[0], start.numpy())
    np.testing.assert_array_equal(observed[-1], solution.z.numpy())
    loop = start.numpy()
    for before, after in pairwise(observed):
        assert_few_ulps(after, numpy_step(task, before, damping))
        loop = numpy_step(task, loop, damping)
        if damping <= 1 or isinstance(task, RowRates):
            assert_few_ulps(after, loop)


@EVERY_DAMPING
def test_residual_is_undamped(damping: float) -> None:
    """f(z) = z / 2 + 1 from 0: errors shrink by 1 − damping / 2; the residual is that of f, not the step."""
    solution = solve(
        lambda z: 0.5 * z + 1,
        torch.zeros(1, 1, dtype=torch.float64),
        solver=Picard(damping=damping),
        budget=Budget(max_iter=8, tol=0.0, norm="absolute"),
    )
    expected = [(1 - damping / 2) ** k for k in range(9)]
    assert solution.residuals[:, 0].tolist() == pytest.approx(expected, rel=1e-12)


def test_damping_tames_the_logistic_cycle() -> None:
    """Damping d turns the multiplier 2 − r into 1 + d (1 − r): −0.1 at r = 3.2, d = 1/2."""
    task = Logistic(3.2)
    solution = solve(
        task.f(3), task.start(3, torch.float64), solver=Picard(damping=0.5), budget=Budget(max_iter=40, tol=1e-12)
    )
    torch.testing.assert_close(solution.z, task.fixed_point(3, torch.float64), rtol=1e-11, atol=0)
    ratio = solution.residuals[6, 0] / solution.residuals[5, 0]
    assert ratio.item() == pytest.approx(0.1, rel=1e-3)


def test_damping_of_two_is_allowed() -> None:
    """f(z) = −z / 2 + 3: at damping 2 the step is z ↦ −2 z + 6, which doubles the error."""
    solution = solve(
        lambda z: -0.5 * z + 3,
        torch.ones(1, 1, dtype=torch.float64),
        solver=Picard(damping=2.0),
        budget=Budget(max_iter=2, tol=0.0, keep="last"),
    )
    assert solution.z.item() == -2 * (-2 * 1 + 6) + 6
