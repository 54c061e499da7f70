"""Anderson acceleration against the constrained least-squares problem that defines it, and against GMRES.

Type II, as in Walker & Ni, Anderson acceleration for fixed-point iterations, SIAM J. Numer. Anal. 49 (2011):
g_i = f(z_i) − z_i, α = argmin ‖Σ α_i g_i‖ with Σ α_i = 1 over the last memory + 1 iterates,
z_{k+1} = Σ α_i (z_i + mixing g_i).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.linalg import null_space
from torch import Tensor

from deqrun.solvers import Anderson, Budget, Picard, Solver, Status, solve
from tests.problems import (
    PROBLEMS,
    Affine,
    Array,
    Chandrasekhar,
    Cosine,
    ExpandingOutliers,
    LinearComplex,
    LinearSymmetric,
    Problem,
    Rotation,
    TanhNetwork,
    Trajectory,
    orthogonal,
)

TINY_RIDGE = 1e-15


class Turning(Affine):
    """W = 0.95 Q, Q orthogonal: residuals fall slowly and stay far from parallel, so α is well determined."""

    size = 32
    name = "turning"

    def weight(self, row: int) -> Array:
        return 0.95 * orthogonal(self.rng(row), self.size)


def numpy_anderson(f: Callable[[Array], Array], start: Array, memory: int, mixing: float, steps: int) -> list[Array]:
    """The iterates by definition: α = 1/n + N γ, with N spanning Σ α_i = 0 and γ from dense least squares."""
    states, residuals = [start], [f(start) - start]
    for _ in range(steps):
        window = slice(-(memory + 1), None)
        z, g = np.stack(states[window], axis=1), np.stack(residuals[window], axis=1)
        particular = np.full(g.shape[1], 1 / g.shape[1])
        if g.shape[1] > 1:
            free = null_space(np.ones((1, g.shape[1])))
            gamma = np.linalg.lstsq(g @ free, -g @ particular, rcond=None)[0]
            particular = particular + free @ gamma
        states.append((z + mixing * g) @ particular)
        residuals.append(f(states[-1]) - states[-1])
    return states


def observed(task: Problem, solver: Solver, steps: int, dtype: torch.dtype = torch.float64) -> Trajectory:
    trajectory = Trajectory()
    solve(task.f(3), task.start(3, dtype), solver=solver, budget=Budget(max_iter=steps, tol=0.0), observe=trajectory)
    return trajectory


def numpy_f(task: Problem, row: int) -> Callable[[Array], Array]:
    f = task.f_of(row)
    return lambda z: f(torch.as_tensor(z)).numpy()


@pytest.mark.parametrize("mixing", [1.0, 0.5, 1.3])
@pytest.mark.parametrize("memory", [0, 1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    ("task", "rtol"), [(Turning(), 1e-9), (TanhNetwork(1.5, skew=True), 1e-7)], ids=["turning", "tanh_skew"]
)
def test_iterates_solve_the_constrained_least_squares(task: Problem, rtol: float, memory: int, mixing: float) -> None:
    """The error is measured by how far the solver has just moved."""
    trajectory = observed(task, Anderson(memory=memory, mixing=mixing, ridge=TINY_RIDGE), steps=8)
    for row in range(3):
        expected = numpy_anderson(numpy_f(task, row), task.start_of(row), memory, mixing, steps=8)
        for k in range(1, 9):
            error = np.linalg.norm(trajectory.iterate(k, row).numpy() - expected[k])
            assert error <= rtol * np.linalg.norm(expected[k] - expected[k - 1]), f"iterate {k}"


@pytest.mark.parametrize("memory", [1, 3, 5])
def test_default_ridge_barely_moves_well_posed_iterates(memory: int) -> None:
    """Regularisation is there for dependent residuals; where they are independent it must not be felt."""
    task = Turning()
    for dtype, rtol in ((torch.float64, 1e-5), (torch.float32, 1e-3)):
        trajectory = observed(task, Anderson(memory=memory), steps=8, dtype=dtype)
        for row in range(3):
            expected = numpy_anderson(numpy_f(task, row), task.start_of(row), memory, 1.0, steps=8)
            for k in range(1, 9):
                error = np.linalg.norm(trajectory.iterate(k, row).double().numpy() - expected[k])
                assert error <= rtol * np.linalg.norm(expected[k] - expected[k - 1]), f"{dtype} iterate {k}"


def gmres_iterates(weight: Array, bias: Array, steps: int) -> list[Array]:
    """argmin ‖b − (I − W) x‖ over the Krylov spaces of (I − W, b), by Arnoldi with full orthogonalisation."""
    matrix, basis = np.eye(len(bias)) - weight, [bias / np.linalg.norm(bias)]
    iterates = [np.zeros_like(bias)]
    for _ in range(steps):
        krylov = np.stack(basis, axis=1)
        iterates.append(krylov @ np.linalg.lstsq(matrix @ krylov, bias, rcond=None)[0])
        following = matrix @ basis[-1]
        for _ in range(2):
            following = following - krylov @ (krylov.T @ following)
        basis.append(following / np.linalg.norm(following))
    return iterates


def test_full_memory_is_gmres() -> None:
    """Walker & Ni (2011), theorem 2.2: with an untruncated window, iterate k + 1 is f of GMRES's k-th."""
    task, steps = Turning(), 10
    trajectory = observed(task, Anderson(memory=steps, ridge=TINY_RIDGE), steps=steps + 1)
    for row in range(3):
        weight, bias = task.weight(row), task.bias(row)
        for k, x in enumerate(gmres_iterates(weight, bias, steps)):
            expected = weight @ x + bias
            error = np.linalg.norm(trajectory.iterate(k + 1, row).numpy() - expected)
            assert error <= 1e-8 * np.linalg.norm(expected), f"iterate {k + 1}"


@pytest.mark.parametrize("extra", [0, 4])
@pytest.mark.parametrize(
    "task",
    [
        LinearSymmetric(0.5),
        LinearSymmetric(0.99),
        LinearComplex(0.9),
        ExpandingOutliers(),
        Rotation(1.0),
        Rotation(0.95),
    ],
    ids=repr,
)
def test_linear_problems_end_in_dimension_plus_one_steps(task: Affine, extra: int) -> None:
    """GMRES ends after d steps, and Anderson one later, contraction or not; a longer window does no harm."""
    solution = solve(
        task.f(3),
        task.start(3, torch.float64),
        solver=Anderson(memory=task.size + extra),
        budget=Budget(max_iter=task.size + 2, tol=1e-8),
    )
    assert (solution.status == Status.CONVERGED).all()
    assert (solution.steps <= task.size + 2).all()
    torch.testing.assert_close(solution.z, task.fixed_point(3, torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("mixing", [1.0, 0.5])
@pytest.mark.parametrize("task", PROBLEMS, ids=repr)
def test_memory_of_zero_is_picard(task: Problem, dtype: torch.dtype, mixing: float) -> None:
    budget = Budget(max_iter=12, tol=1e-4)
    anderson, picard = (
        solve(task.f(3), task.start(3, dtype), solver=solver, budget=budget)
        for solver in (Anderson(memory=0, mixing=mixing), Picard(damping=mixing))
    )
    assert torch.equal(anderson.steps, picard.steps)
    rtol = 1e-4 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(anderson.z, picard.z, rtol=rtol, atol=rtol, equal_nan=True)
    torch.testing.assert_close(anderson.residuals, picard.residuals, rtol=10 * rtol, atol=rtol, equal_nan=True)


def test_the_first_step_is_plain_or_mixed() -> None:
    task = TanhNetwork(0.9)
    z0 = torch.full((3, task.size), 0.25, dtype=torch.float64)
    f_z0 = task.f(3)(z0)
    for mixing in (1.0, 0.5, 0.1):
        solution = solve(task.f(3), z0, solver=Anderson(mixing=mixing), budget=Budget(max_iter=1, tol=0.0, keep="last"))
        torch.testing.assert_close(solution.z, z0 + mixing * (f_z0 - z0), rtol=1e-14, atol=1e-15)


def test_one_dimension_is_the_secant_method() -> None:
    """Memory 1 and a scalar state: the least squares is exact, the secant through two residuals."""
    task = Cosine()
    trajectory = observed(task, Anderson(memory=1, ridge=TINY_RIDGE), steps=6)
    for row in range(3):
        z = [task.start_of(row).item(), np.cos(task.start_of(row)).item()]
        for k in range(1, 6):
            g, before = np.cos(z[k]) - z[k], np.cos(z[k - 1]) - z[k - 1]
            z.append(z[k] - g * (z[k] - z[k - 1]) / (g - before) if g != before else z[k])
        for k in range(5):
            assert trajectory.iterate(k, row).item() == pytest.approx(z[k], abs=1e-11)


@pytest.mark.parametrize("task", [Cosine(), Rotation(0.95)], ids=repr)
def test_a_window_longer_than_the_state_does_no_harm(task: Problem, dtype: torch.dtype) -> None:
    """The residual differences are linearly dependent there: the ridge must choose, and not blow up."""
    tol = 1e-5 if dtype == torch.float32 else 1e-11
    solution = solve(task.f(8), task.start(8, dtype), solver=Anderson(memory=10), budget=Budget(max_iter=15, tol=tol))
    assert (solution.status == Status.CONVERGED).all()


def test_accelerates_the_h_equation() -> None:
    """Near c = 1 plain iteration creeps (rate 0.8 at c = 0.99); Anderson needs a third of its steps."""
    task, budget = Chandrasekhar(0.99), Budget(max_iter=300, tol=1e-10)
    z0 = task.start(1, torch.float64)
    plain, accelerated = (solve(task.f(1), z0, solver=solver, budget=budget) for solver in (Picard(), Anderson()))
    assert (plain.status == accelerated.status).all()
    assert 3 * accelerated.steps.item() <= plain.steps.item()


def test_rounding_floor_is_no_divergence() -> None:
    """With tol = 0 residuals end as rounding noise: the best iterate stays, wherever noise leads."""
    for task in (LinearSymmetric(0.9), TanhNetwork(0.9), Cosine(), Rotation(0.95)):
        for dtype in (torch.float32, torch.float64):
            solution = solve(task.f(3), task.start(3, dtype), solver=Anderson(), budget=Budget(max_iter=60, tol=0.0))
            assert (solution.status != Status.DIVERGED).all(), task
            assert (solution.residual <= 100 * torch.finfo(dtype).eps).all(), task


def _expanding(batch: int = 4, width: int = 12) -> tuple[Tensor, Tensor]:
    """Per row an affine map whose eigenvalues reach beyond 1, so that Anderson's residual rises now and then."""
    generator = torch.Generator().manual_seed(3)
    W = torch.randn(batch, width, width, generator=generator, dtype=torch.float64)
    W = 1.3 * W / torch.linalg.eigvals(W).abs().amax(1)[:, None, None]
    return W, torch.randn(batch, width, generator=generator, dtype=torch.float64)


def test_reject_goes_back_to_the_iterate_before() -> None:
    """Where an accelerated step made ‖g‖ grow by a factor over 1.2, the next iterate is f of the state before it."""
    W, b = _expanding()

    def f(z: Tensor) -> Tensor:
        return torch.einsum("bij,bj->bi", W, z) + b

    iterates: list[Tensor] = []
    solve(
        f,
        torch.zeros_like(b),
        solver=Anderson(3, reject=1.2),
        budget=Budget(25, 0.0),
        observe=lambda k, z, rows: iterates.append(z.clone()),
    )
    rejected = 0
    for row in range(len(b)):
        base, differences = iterates[0][row], 0
        for k in range(1, len(iterates) - 1):
            z = iterates[k][row]
            norms = [torch.linalg.vector_norm(W[row] @ v + b[row] - v) for v in (base, z)]
            if differences and norms[1] > 1.2 * norms[0]:
                torch.testing.assert_close(iterates[k + 1][row], W[row] @ base + b[row], rtol=1e-12, atol=1e-12)
                rejected, differences = rejected + 1, 0
            else:
                base, differences = z, differences + 1
    assert rejected > 0


@pytest.mark.parametrize("plain", [{"start": 1e-12}, {"cap": 1e-12}], ids=str)
def test_reject_undoes_no_plain_step(plain: dict[str, float]) -> None:
    """z ← N z + b, N strictly upper triangular: plain steps make ‖g‖ grow 3-fold 8 times and then end it in the 13th.

    No step is ever accelerated, so reject has nothing to undo: iterates and evaluations are plain iteration's.
    """
    N = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, *[3.0] * 8], dtype=torch.float64), 1)
    b = torch.eye(13, dtype=torch.float64)[-1:].expand(2, 13)
    budget, z0 = Budget(60, 1e-9, norm="absolute"), torch.zeros(2, 13, dtype=torch.float64)
    counted = {}
    for name, solver in {
        "plain": Picard(),
        "off": Anderson(3, **plain),
        "on": Anderson(3, reject=1.5, **plain),
    }.items():
        evaluations = []

        def f(z: Tensor, evaluations: list[int] = evaluations) -> Tensor:
            evaluations.append(len(z))
            return z @ N.T + b

        counted[name] = solve(f, z0, solver=solver, budget=budget), len(evaluations)
    picard, grown = counted["plain"][0], counted["plain"][0].residuals[1:, 0] / counted["plain"][0].residuals[:-1, 0]
    assert int((grown > 1.5).sum()) == 8
    assert picard.nfe.tolist() == [14, 14]
    for solution, count in counted.values():
        assert count == 14
        assert solution.status.tolist() == [Status.CONVERGED] * 2
        torch.testing.assert_close(solution.residuals, picard.residuals)


def test_a_cap_below_every_coefficient_is_picard() -> None:
    W, b = _expanding()
    W = 0.5 * W
    f = lambda z: torch.einsum("bij,bj->bi", W, z) + b  # noqa: E731
    capped = solve(f, torch.zeros_like(b), solver=Anderson(5, cap=1e-12), budget=Budget(20, 0.0))
    plain = solve(f, torch.zeros_like(b), solver=Picard(), budget=Budget(20, 0.0))
    torch.testing.assert_close(capped.residuals, plain.residuals, rtol=1e-9, atol=0)


def test_start_delays_acceleration_per_row() -> None:
    """Iterates are Picard's as long as the row's residual has not been below `start`; then they are not."""
    W, b = _expanding()
    W = W * torch.tensor([0.3, 0.5, 0.6, 0.7], dtype=W.dtype)[:, None, None]
    f = lambda z: torch.einsum("bij,bj->bi", W, z) + b  # noqa: E731
    late = solve(f, torch.zeros_like(b), solver=Anderson(5, start=1e-2), budget=Budget(60, 1e-13))
    plain = solve(f, torch.zeros_like(b), solver=Picard(), budget=Budget(60, 0.0))
    for row in range(len(b)):
        begun = int((late.residuals[:, row] < 1e-2).nonzero()[0])
        torch.testing.assert_close(late.residuals[: begun + 1, row], plain.residuals[: begun + 1, row])
        assert late.residuals[begun + 3, row] < plain.residuals[begun + 3, row]
        assert late.residuals[0, row] > 1e-2


@pytest.mark.parametrize(("name", "value"), [("cap", 0.0), ("cap", -1.0), ("reject", 1.0), ("start", 0.0)])
def test_safeguards_have_ranges(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Anderson {name} must be > "):
        Anderson(**{name: value})  # type: ignore[arg-type]
