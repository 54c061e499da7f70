"""Newton–Krylov against dense Newton, the bounds that define inexact Newton, and the H-equation."""

from __future__ import annotations

import gc
import itertools
import math
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deqrun.solvers import Budget, NewtonKrylov, Picard, Solution, Solver, Status, solve
from tests.problems import (
    PROBLEMS,
    Affine,
    Array,
    Chandrasekhar,
    ExpandingOutliers,
    LinearComplex,
    LinearNonNormal,
    LinearSymmetric,
    Problem,
    RowMap,
    RowRates,
    TanhNetwork,
    Trajectory,
    residual_of,
)

EXACT = NewtonKrylov(krylov=60, plain_steps=0, forcing=0.0)
SEARCHED = NewtonKrylov(line_search=True)


def observed(task: Problem, solver: Solver, steps: int, batch: int = 3) -> tuple[Solution, Trajectory]:
    trajectory = Trajectory()
    budget = Budget(max_iter=steps, tol=0.0)
    solution = solve(task.f(batch), task.start(batch, torch.float64), solver=solver, budget=budget, observe=trajectory)
    return solution, trajectory


def linearised(task: Problem, row: int, z: Tensor) -> tuple[Array, Array]:
    """(g, ∂f/∂z) at z, dense."""
    f = task.f_of(row)
    return (f(z) - z).numpy(), torch.func.jacrev(f)(z).numpy()


@pytest.mark.parametrize("task", [TanhNetwork(1.5, skew=True), TanhNetwork(0.9), Chandrasekhar(0.99)], ids=repr)
def test_exact_steps_are_those_of_dense_newton(task: Problem) -> None:
    """The error is measured by how far the solver has just moved."""
    _, trajectory = observed(task, EXACT, steps=4)
    for row in range(3):
        z = torch.as_tensor(task.start_of(row))
        for k in range(1, 5):
            g, jacobian = linearised(task, row, z)
            step = np.linalg.solve(np.eye(len(g)) - jacobian, g)
            z = z + torch.as_tensor(step)
            error = np.linalg.norm((trajectory.iterate(k, row) - z).numpy())
            assert error <= 1e-8 * np.linalg.norm(step) + 1e-12, f"row {row} iterate {k}"


def test_the_error_is_squared_at_each_step() -> None:
    """e_{k+1} <= C e_k² with C = ‖(I − J)⁻¹‖ max |tanh''| ‖W‖² / 2 along the way, from the Taylor remainder."""
    task = TanhNetwork(1.5, skew=True)
    _, trajectory = observed(task, EXACT, steps=5)
    z_star = task.fixed_point(3, torch.float64)
    for row in range(3):
        errors = [float((trajectory.iterate(k, row) - z_star[row]).norm()) for k in range(6)]
        curvature = 0.77 * np.linalg.norm(task.weight(row), 2) ** 2 / 2
        squared = 0
        for k in range(5):
            _, jacobian = linearised(task, row, trajectory.iterate(k, row))
            bound = np.linalg.norm(np.linalg.inv(np.eye(len(jacobian)) - jacobian), 2) * curvature
            assert errors[k + 1] <= bound * errors[k] ** 2 + 1e-13
            squared += 1e-12 < errors[k + 1] < 1e-3
        assert errors[5] <= 1e-13
        assert squared >= 1, "the bound is to be felt"


def forcing_terms(norms: list[float]) -> list[float]:
    """η_0, η_1, … of Eisenstat & Walker's choice 2 from ‖g_0‖, ‖g_1‖, …"""
    terms = [0.5]
    for before, now in itertools.pairwise(norms):
        eta, safeguard = 0.9 * (now / before) ** 2, 0.9 * terms[-1] ** 2
        terms.append(min(0.9, max(eta, safeguard) if safeguard > 0.1 else eta))
    return terms


@pytest.mark.parametrize("plain_steps", [0, 1])
@pytest.mark.parametrize("task", [TanhNetwork(1.5, skew=True), TanhNetwork(0.9), LinearNonNormal(0.8)], ids=repr)
def test_linear_systems_are_solved_to_the_forcing_term_and_not_much_further(task: Problem, plain_steps: int) -> None:
    """‖g − (I − J) s‖ <= η ‖g‖, with as many products as the first Krylov space has dimensions that allows it."""
    steps = plain_steps + 4
    solution, trajectory = observed(task, NewtonKrylov(krylov=20, plain_steps=plain_steps), steps=steps)
    for row in range(3):
        states = [trajectory.iterate(k, row) for k in range(steps + 1)]
        linear = [linearised(task, row, z) for z in states]
        norms = [float(np.linalg.norm(g)) for g, _ in linear[plain_steps:]]
        products = 0
        for k, eta in zip(range(plain_steps, steps), forcing_terms(norms), strict=False):
            g, jacobian = linear[k]
            matrix = np.eye(len(g)) - jacobian
            left = np.linalg.norm(g - matrix @ (states[k + 1] - states[k]).numpy())
            assert left <= eta * np.linalg.norm(g) * (1 + 1e-6) + 1e-14
            products += needed_dimension(matrix, g, max(eta, 10 * torch.finfo(torch.float64).eps))
        assert solution.jvps[row] == products


def needed_dimension(matrix: Array, g: Array, eta: float) -> int:
    """The least dimension of a Krylov space over which the residual is at most η ‖g‖."""
    basis = g[:, None] / np.linalg.norm(g)
    while True:
        s = basis @ np.linalg.lstsq(matrix @ basis, g, rcond=None)[0]
        if np.linalg.norm(g - matrix @ s) <= eta * np.linalg.norm(g) or basis.shape[1] == len(g):
            return basis.shape[1]
        basis = np.linalg.qr(np.column_stack([basis, matrix @ basis[:, -1]]))[0]


@pytest.mark.parametrize(
    "task", [LinearSymmetric(0.99), LinearComplex(0.9), LinearNonNormal(0.8), ExpandingOutliers(), RowRates()], ids=repr
)
def test_one_step_solves_a_linear_problem(task: Affine) -> None:
    """krylov >= d is a direct method, whatever the spectral radius; W = r I has a Krylov space of one dimension."""
    size = len(task.start_of(0))
    solver = NewtonKrylov(krylov=size, plain_steps=0, forcing=0.0)
    solution = solve(task.f(8), task.start(8, torch.float64), solver=solver, budget=Budget(max_iter=1, tol=1e-11))
    assert (solution.status == Status.CONVERGED).all()
    assert solution.jvps.tolist() == [1 if isinstance(task, RowRates) else size] * 8
    assert solution.nfe.tolist() == [2] * 8
    torch.testing.assert_close(solution.z, task.fixed_point(8, torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("albedo", [0.9, 0.99])
def test_h_equation(albedo: float) -> None:
    """Near its singularity at c = 1, where plain iteration takes over a hundred steps; the moment is known."""
    task = Chandrasekhar(albedo)
    budget = Budget(max_iter=8, tol=1e-12)
    solution = solve(task.f(3), task.start(3, torch.float64), solver=NewtonKrylov(), budget=budget)
    assert (solution.status == Status.CONVERGED).all()
    rows = torch.tensor([albedo * (1 - 0.02 * row) for row in range(3)], dtype=torch.float64)
    moment = 2 / rows * (1 - torch.sqrt(1 - rows))
    torch.testing.assert_close(solution.z.mean(dim=1), moment, rtol=1e-10, atol=0)


@pytest.mark.parametrize("plain_steps", [0, 1, 3])
def test_plain_steps_are_picards(plain_steps: int) -> None:
    task = TanhNetwork(0.9)
    solution, newton = observed(task, NewtonKrylov(plain_steps=plain_steps), steps=5)
    _, picard = observed(task, Picard(), steps=5)
    for k in range(6):
        assert torch.equal(newton.states[k], picard.states[k]) == (k <= plain_steps)
    assert (solution.jvps > 0).all()


def test_normalised_features_need_a_plain_step() -> None:
    """f normalises its input, so ∂f/∂z ~ 1/√ε at z = 0: Newton's first step is ~ √ε, and f(0) is far better a start."""
    torch.manual_seed(0)
    inlet, mix = torch.randn(3, 16, dtype=torch.float64), torch.randn(16, 16, dtype=torch.float64) / 8

    def f(z: Tensor) -> Tensor:
        return nn.functional.layer_norm(z, (16,), eps=1e-5) @ mix + inlet

    budget = Budget(max_iter=10, tol=1e-10)
    cold, warm = (
        solve(f, torch.zeros_like(inlet), solver=NewtonKrylov(plain_steps=steps), budget=budget) for steps in (0, 1)
    )
    assert (cold.residuals[1] > 0.9).all()
    assert (warm.status == Status.CONVERGED).all()


def test_counts_are_the_rows_own() -> None:
    """In company each row has the products, evaluations and steps that it has alone; nobody pays for another."""
    task, budget = TanhNetwork(1.5, skew=True), Budget(max_iter=20, tol=1e-8)
    f, z0 = task.f(8), task.start(8, torch.float64)
    for solver in (NewtonKrylov(), NewtonKrylov(krylov=3), SEARCHED):
        for g in (f, f.whole()):
            together = solve(g, z0, solver=solver, budget=budget)
            assert len(set(together.jvps.tolist())) > 1
            for row in range(8):
                at = torch.tensor([row])
                alone = solve(f.take(at), z0[at], solver=solver, budget=budget)
                for name in ("jvps", "nfe", "steps", "status"):
                    assert torch.equal(getattr(alone, name), getattr(together, name)[at]), name


def test_evaluations_and_products_have_columns_of_their_own() -> None:
    """One evaluation a step beside the first; the products show in `jvps` alone, and stop with the row."""
    task = TanhNetwork(0.9)
    f = task.f(8)
    solution = solve(f, task.start(8, torch.float64), solver=NewtonKrylov(), budget=Budget(max_iter=20, tol=1e-8))
    assert torch.equal(solution.nfe, solution.steps + 1)
    assert sum(f.calls) == int(solution.nfe.sum())
    assert (solution.jvps >= solution.steps - 1).all()
    assert solution.jvps.dtype == torch.long
    idle = solve(f, task.start(8, torch.float64), solver=NewtonKrylov(), budget=Budget(max_iter=1, tol=1e-8))
    assert idle.jvps.tolist() == [0] * 8


@pytest.mark.parametrize("task", PROBLEMS, ids=repr)
def test_searching_converges_and_is_counted(task: Problem, dtype: torch.dtype) -> None:
    """A trial each step, one more a halving: with `take` the rows that f sees are those in the account."""
    f, solvable = task.f(8), task.solvable(8)
    solution = solve(f, task.start(8, dtype), solver=SEARCHED, budget=Budget(max_iter=100, tol=task.tol(dtype)))
    assert (solution.status[solvable] == Status.CONVERGED).all()
    assert sum(f.calls) == int(solution.nfe.sum())
    assert (solution.nfe >= 2 * solution.steps).all()
    expected = residual_of(task.f(8)(solution.z), solution.z)
    torch.testing.assert_close(solution.residual.double(), expected, rtol=64 * torch.finfo(dtype).eps, atol=0)


def arctan(scale: float) -> Callable[[Tensor], Tensor]:
    """z − scale · arctan z, of fixed point 0: Newton's full steps diverge from |z| > 1.3917."""
    return lambda z: z - scale * torch.atan(z)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_searching_saves_what_full_steps_lose(scale: float) -> None:
    """The textbook example (Kelley 1995, section 8.1)."""
    start = torch.tensor([[1.2], [1.5], [10.0]], dtype=torch.float64)
    full, searched = (
        solve(arctan(scale), start, solver=solver, budget=Budget(max_iter=30, tol=1e-9, norm="absolute"))
        for solver in (
            NewtonKrylov(plain_steps=0, forcing=0.0),
            NewtonKrylov(plain_steps=0, forcing=0.0, line_search=True),
        )
    )
    assert (full.status == Status.CONVERGED).tolist() == [True, False, False]
    assert (searched.status == Status.CONVERGED).all()
    assert searched.z.abs().max() <= 1e-8


def test_a_singular_system_takes_the_plain_step() -> None:
    """f(z) = z + c has I − J = 0 and no fixed point: z_k = z_0 + k c, one vain product a step, and no NaN."""
    trajectory = Trajectory()
    c = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    solution = solve(
        lambda z: z + c, torch.zeros_like(c), solver=NewtonKrylov(), budget=Budget(4, 0.0), observe=trajectory
    )
    for k in range(5):
        assert torch.equal(trajectory.states[k], k * c)
    assert solution.jvps.tolist() == [3, 3]


@pytest.mark.parametrize("plain_steps", [0, 1])
def test_a_constant_map_needs_no_derivative(plain_steps: int) -> None:
    target = nn.Parameter(torch.randn(2, 3))
    solver = NewtonKrylov(plain_steps=plain_steps)
    solution = solve(lambda z: target.expand_as(z), torch.zeros(2, 3), solver=solver, budget=Budget(5, 1e-9))
    assert solution.steps.tolist() == [1, 1]
    assert torch.equal(solution.z, target.detach())
    assert solution.jvps.tolist() == [0, 0]


def without_grad(z: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cos(z)


@pytest.mark.parametrize(
    "f",
    [
        without_grad,
        lambda z: torch.cos(z.detach()),
        lambda z: torch.cos(z.detach()) * nn.Parameter(torch.ones(3)),
        lambda z: torch.from_numpy(np.cos(z.detach().numpy())),
        lambda z: torch.cdist(z[:, :, None], z[:, :, None])[..., 0] / 3,
    ],
    ids=["no_grad", "detach", "detach_with_parameter", "numpy", "no_second_derivative"],
)
def test_maps_without_a_derivative_are_refused(f: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"NewtonKrylov .*derivative|NewtonKrylov differentiates") as caught:
        solve(f, torch.ones(2, 3) * torch.arange(3), solver=NewtonKrylov(), budget=Budget(max_iter=5, tol=1e-6))
    assert "\n" not in str(caught.value)
    assert "Anderson" in str(caught.value)


def test_parameters_get_no_gradient_and_no_graph_outlives_the_solve() -> None:
    weight, graphs = nn.Parameter(0.3 * torch.randn(5, 5)), []

    def f(z: Tensor) -> Tensor:
        value = torch.tanh(z @ weight + 1)
        graphs.append(weakref.ref(value))
        return value

    solution = solve(f, torch.zeros(3, 5), solver=NewtonKrylov(), budget=Budget(max_iter=20, tol=1e-6))
    gc.collect()
    assert (solution.status == Status.CONVERGED).all()
    assert not solution.z.requires_grad
    assert weight.grad is None
    assert [graph() for graph in graphs] == [None] * len(graphs)


@pytest.mark.parametrize("solver", [NewtonKrylov(), SEARCHED], ids=["full", "searched"])
def test_autocast_and_inference_mode(solver: NewtonKrylov) -> None:
    """Trials see the caller's autocast, too; parameters made outside of inference mode can be differentiated by."""
    weight, seen = nn.Parameter(0.3 * torch.eye(5)), set()

    def f(z: Tensor) -> Tensor:
        product = z @ weight
        seen.add(product.dtype)
        return torch.tanh(product.float() + 1)

    with torch.autocast("cpu", torch.bfloat16):
        low = solve(f, torch.zeros(3, 5), solver=solver, budget=Budget(max_iter=20, tol=1e-2))
    assert seen == {torch.bfloat16}
    assert (low.status == Status.CONVERGED).all()
    with torch.inference_mode():
        high = solve(f, torch.zeros(3, 5), solver=solver, budget=Budget(max_iter=20, tol=1e-6))
    z = 1.0
    for _ in range(100):
        z = math.tanh(0.3 * z + 1)
    torch.testing.assert_close(high.z, torch.full((3, 5), z), rtol=1e-5, atol=0)


def test_inference_tensors_are_refused_in_one_sentence() -> None:
    with torch.inference_mode():
        x = torch.randn(2, 3)
        with pytest.raises(ValueError, match=r"NewtonKrylov differentiates .*Inference tensors") as caught:
            solve(lambda z: torch.cos(z) * x, torch.zeros(2, 3), solver=NewtonKrylov(), budget=Budget(max_iter=5))
    assert "\n" not in str(caught.value)


def test_rows_that_ride_along_cost_nothing() -> None:
    """Without `take` a row that has converged stays in the batch, and the others' systems are theirs alone."""
    task = RowRates()
    f: RowMap = task.f(8)
    solution = solve(f.whole(), task.start(8, torch.float64), solver=NewtonKrylov(), budget=Budget(20, 1e-9))
    assert solution.jvps.tolist() == [1] * 8
    assert len(set(f.calls)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("krylov", 0),
        ("krylov", 2.0),
        ("krylov", True),
        ("plain_steps", -1),
        ("plain_steps", 0.5),
        ("forcing", -0.1),
        ("forcing", 1.0),
        ("forcing", math.nan),
        ("line_search", 1),
    ],
)
def test_parameters_outside_their_range(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"NewtonKrylov {name} must be .*{value!r}"):
        NewtonKrylov(**{name: value})  # type: ignore[arg-type]
