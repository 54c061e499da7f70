"""Splitting solvers against closed forms, their proven rates, and every candidate of a linear complementarity problem.

They need a map that can be taken apart, so they can't join the other solvers' tests: what those ask of every solver
(rows on their own, a true account of residuals and evaluations) is asked of them here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.solvers import Budget, Constants, ForwardBackward, PeacemanRachford, Picard, Solver, Status, solve
from tests.problems import Array, Trajectory, residual_of

EXACT = Budget(max_iter=4000, tol=1e-13)
SOLVERS = (ForwardBackward(), ForwardBackward(alpha=0.05), PeacemanRachford(), PeacemanRachford(alpha=1.0))
EVERY_SOLVER = pytest.mark.parametrize("solver", SOLVERS, ids=repr)
BOTH_KINDS = pytest.mark.parametrize("kind", [ForwardBackward, PeacemanRachford])


@dataclass
class Monotone:
    """f(z) = ReLU(W z + b) taken apart; W (n, n) is shared, b (batch, *shape) belongs to the rows.

    `calls` lists (part, rows) of every affine product and resolvent.
    """

    weight: Array
    bias: Tensor
    calls: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, z: Tensor) -> Tensor:
        return self.prox(self.affine(z), 1.0)

    def times(self, matrix: Array, v: Tensor) -> Tensor:
        """Row by row, without BLAS, whose rounding may know the batch."""
        return (torch.as_tensor(matrix).to(v.dtype) * v.flatten(1)[:, None, :]).sum(-1).reshape(v.shape)

    def affine(self, z: Tensor) -> Tensor:
        self.calls.append(("affine", len(z)))
        return self.times(self.weight, z) + self.bias.to(z.dtype)

    def resolvent(self, v: Tensor, alpha: float) -> Tensor:
        self.calls.append(("resolvent", len(v)))
        identity = np.eye(len(self.weight))
        inverse: Array = np.linalg.inv(identity + alpha * (identity - self.weight)).astype(np.float64)
        return self.times(inverse, v + alpha * self.bias.to(v.dtype))

    def prox(self, v: Tensor, alpha: float) -> Tensor:
        return torch.relu(v)

    def constants(self) -> Constants:
        matrix = np.eye(len(self.weight)) - self.weight
        inverse = np.linalg.inv(matrix)
        return Constants(*(float(np.linalg.eigvalsh((each + each.T) / 2).min()) for each in (matrix, inverse)))

    def take(self, rows: Tensor) -> Monotone:
        return Monotone(self.weight, self.bias[rows], self.calls)

    def whole(self) -> Callable[[Tensor], Tensor]:
        """The same map without `take`."""

        def whole(z: Tensor) -> Tensor:
            return self(z)

        for name in ("affine", "resolvent", "prox", "constants"):
            setattr(whole, name, getattr(self, name))
        return whole


def monotone_weight(seed: int, size: int = 6, m: float = 0.5, skew: float = 1.0) -> Array:
    """(1 − m) I − AᵀA + B − Bᵀ with random A and B."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, size, size)) / math.sqrt(size)
    return np.asarray((1 - m) * np.eye(size) - a.T @ a + skew * (b - b.T), dtype=np.float64)


def monotone(seed: int = 0, batch: int = 8, shape: tuple[int, ...] = (6,), **parameters: float) -> Monotone:
    bias = np.random.default_rng(100 + seed).standard_normal((batch, *shape))
    return Monotone(monotone_weight(seed, math.prod(shape), **parameters), torch.as_tensor(bias))


def zeros(f: Monotone, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(f.bias.shape, dtype=dtype)


def by_enumeration(weight: Array, bias: Array) -> list[Array]:
    """All z = ReLU(W z + b): for every set of positive coordinates the one candidate, kept where it is consistent."""
    size, matrix, found = len(weight), np.eye(len(weight)) - weight, []
    for active in itertools.product([False, True], repeat=size):
        chosen = np.flatnonzero(active)
        z = np.zeros(size)
        z[chosen] = np.linalg.solve(matrix[np.ix_(chosen, chosen)], bias[chosen])
        if (z[chosen] > 0).all() and ((weight @ z + bias)[~np.array(active)] <= 0).all():
            found.append(z)
    return found


def fixed_point(f: Monotone) -> Tensor:
    found = [by_enumeration(f.weight, row) for row in f.bias.flatten(1).numpy()]
    assert all(len(each) == 1 for each in found), "a strongly monotone I − W has exactly one equilibrium"
    return torch.as_tensor(np.stack([each[0] for each in found])).reshape(f.bias.shape)


def scalar() -> Monotone:
    """f(z) = ReLU(4 − 3 z), z* = 1, I − W = 4."""
    return Monotone(np.array([[-3.0]]), torch.tensor([[4.0]], dtype=torch.float64))


def observed(f: Monotone, solver: Solver, steps: int) -> list[float]:
    trajectory = Trajectory()
    solve(f, zeros(f), solver=solver, budget=Budget(max_iter=steps, tol=0.0), observe=trajectory)
    return [state.item() for state in trajectory.states]


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.3])
def test_forward_backward_on_a_scalar(alpha: float) -> None:
    """While z > 0 the error is multiplied by 1 − 4 alpha: z_k = 1 − (1 − 4 alpha)^k."""
    expected = [1 - (1 - 4 * alpha) ** k for k in range(9)]
    assert observed(scalar(), ForwardBackward(alpha=alpha), 8) == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_peaceman_rachford_on_a_scalar(alpha: float) -> None:
    """The reflection at the affine part multiplies the error by (1 − 4 alpha) / (1 + 4 alpha), that at ReLU by 1."""
    rate = (1 - 4 * alpha) / (1 + 4 * alpha)
    expected = [1 - rate**k for k in range(9)]
    assert observed(scalar(), PeacemanRachford(alpha=alpha), 8) == pytest.approx(expected, rel=1e-13, abs=1e-15)


def test_the_best_alphas_solve_a_scalar_in_one_step() -> None:
    """m = 4 and β = 1/4: both solvers take alpha = 1/4, at which both factors are 0."""
    for solver in (ForwardBackward(), PeacemanRachford()):
        solution = solve(scalar(), zeros(scalar()), solver=solver, budget=Budget(max_iter=5, tol=1e-12))
        assert (solution.steps.item(), solution.z.item()) == (1, 1.0)


def test_plain_iteration_fails_where_splitting_succeeds() -> None:
    """0 → 4 → 0 → …: f(z) = ReLU(4 − 3 z) has a cycle that attracts, and ‖W‖ = 3."""
    assert observed(scalar(), Picard(), 4) == [0.0, 4.0, 0.0, 4.0, 0.0]


def test_forward_backward_beyond_its_bound_does_not_converge() -> None:
    """alpha = 0.55 > 2 β = 0.5: the error grows by |1 − 2.2| until ReLU cuts it."""
    solution = solve(scalar(), zeros(scalar()), solver=ForwardBackward(alpha=0.55), budget=Budget(300, 1e-3))
    assert solution.status.item() == Status.EXHAUSTED


@pytest.mark.parametrize("seed", range(6))
@EVERY_SOLVER
def test_reaches_the_only_equilibrium_there_is(solver: Solver, seed: int) -> None:
    f = monotone(seed, m=0.3, skew=1.5)
    solution = solve(f, zeros(f), solver=solver, budget=EXACT)
    assert (solution.status == Status.CONVERGED).all()
    torch.testing.assert_close(solution.z, fixed_point(f), rtol=1e-11, atol=1e-12)


@EVERY_SOLVER
def test_every_start_leads_there(solver: Solver) -> None:
    """Negative states, far states: outside of what ReLU can return."""
    f = monotone(batch=1)
    f = f.take(torch.zeros(6, dtype=torch.long))
    start = 10 ** torch.linspace(-2, 4, 6, dtype=torch.float64)[:, None] * torch.sin(
        torch.arange(36, dtype=torch.float64)
    ).reshape(6, 6)
    solution = solve(f, start, solver=solver, budget=EXACT)
    torch.testing.assert_close(solution.z, fixed_point(f), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("m", "skew"), [(0.1, 0.0), (0.1, 2.0), (1.0, 0.5), (1.0, 3.0)])
@BOTH_KINDS
def test_errors_shrink_at_the_proven_rate(
    kind: type[ForwardBackward | PeacemanRachford], m: float, skew: float, seed: int
) -> None:
    """The rates of the docstrings, at the alpha that is taken where none is given, from the first step on."""
    f = monotone(seed, m=m, skew=skew)
    z_star, trajectory, (mu, beta) = fixed_point(f), Trajectory(), f.constants()
    solve(f, zeros(f), solver=kind(), budget=Budget(max_iter=60, tol=0.0), observe=trajectory)
    if kind is ForwardBackward:
        rate, error = math.sqrt(1 - mu * beta), z_star.norm(dim=1)
    else:
        root, alpha = math.sqrt(mu * beta), math.sqrt(beta / mu)
        rate, error = math.sqrt((1 - root) / (1 + root)), (z_star + alpha * (f.affine(z_star) - z_star)).norm(dim=1)
    for k, (rows, state) in enumerate(zip(trajectory.rows, trajectory.states, strict=True)):
        assert ((state - z_star[rows]).norm(dim=1) <= rate**k * error[rows] * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("fraction", [0.1, 0.9, 1.9])
def test_forward_backward_converges_below_twice_the_cocoercivity(fraction: float) -> None:
    f = monotone(3, m=0.2, skew=2.0)
    solver = ForwardBackward(alpha=fraction * f.constants().cocoercivity)
    assert (solve(f, zeros(f), solver=solver, budget=Budget(20_000, 1e-10)).status == Status.CONVERGED).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
@BOTH_KINDS
def test_alpha_reaches_the_proximal_operator(kind: type[ForwardBackward | PeacemanRachford], alpha: float) -> None:
    """σ = soft threshold, prox(v, alpha) = sign(v) max(|v| − alpha, 0): z* = σ(b) / (1 − w) for a diagonal W."""

    class Soft(Monotone):
        def prox(self, v: Tensor, alpha: float) -> Tensor:
            return v.sign() * (v.abs() - alpha).relu()

    w, bias = np.array([0.5, -0.4, 0.0]), torch.tensor([[2.0, -3.0, 0.7]], dtype=torch.float64)
    f = Soft(np.diag(w), bias)
    solution = solve(f, zeros(f), solver=kind(alpha=min(alpha, 1.2)), budget=EXACT)
    expected = torch.tensor([[(2 - 1) / 0.5, -(3 - 1) / 1.4, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(solution.z, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("solver", "per_step"), [(SOLVERS[0], 1), (SOLVERS[1], 1), (SOLVERS[2], 2), (SOLVERS[3], 2)])
def test_every_affine_product_and_resolvent_is_counted(solver: Solver, per_step: int) -> None:
    """Forward–backward takes over the loop's evaluation: not one product more than Picard needs."""
    f = monotone()
    solution = solve(f, zeros(f), solver=solver, budget=Budget(max_iter=200, tol=1e-6))
    iterate = torch.arange(len(solution.nfes))[:, None].expand_as(solution.nfes)
    active = iterate <= solution.steps
    assert torch.equal(solution.nfes[active], (per_step * iterate + 1)[active])
    assert sum(rows for _, rows in f.calls) == int(solution.nfe.sum())
    assert len(set(solution.steps.tolist())) > 1, "rows must leave at different steps"
    assert not solution.jvps.any()


@EVERY_SOLVER
def test_the_residual_is_that_of_f(solver: Solver) -> None:
    f, trajectory = monotone(), Trajectory()
    solution = solve(f, zeros(f), solver=solver, budget=Budget(max_iter=30, tol=1e-6), observe=trajectory)
    for k, (rows, state) in enumerate(zip(trajectory.rows, trajectory.states, strict=True)):
        expected = residual_of(f.take(rows)(state), state)
        torch.testing.assert_close(solution.residuals[k, rows], expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("with_take", [True, False], ids=["take", "whole"])
@EVERY_SOLVER
def test_a_row_alone_equals_that_row_in_company(solver: Solver, with_take: bool) -> None:
    f, budget = monotone(), Budget(max_iter=60, tol=1e-7)
    together = solve(f if with_take else f.whole(), zeros(f), solver=solver, budget=budget)
    for row in range(8):
        one = f.take(torch.tensor([row]))
        alone = solve(one, zeros(one), solver=solver, budget=budget)
        assert (alone.steps, alone.nfe, alone.status) == (together.steps[row], together.nfe[row], together.status[row])
        torch.testing.assert_close(alone.z[0], together.z[row], rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@EVERY_SOLVER
def test_a_broken_row_changes_no_other(solver: Solver, value: float) -> None:
    f, budget = monotone(), Budget(max_iter=40, tol=1e-6)
    clean = solve(f, zeros(f), solver=solver, budget=budget)
    bias = f.bias.clone()
    bias[2] = value
    dirty = solve(Monotone(f.weight, bias), zeros(f), solver=solver, budget=budget)
    others = torch.tensor([0, 1, 3, 4, 5, 6, 7])
    assert dirty.status[2] == Status.DIVERGED
    for name in ("z", "residual", "steps", "nfe", "status"):
        torch.testing.assert_close(getattr(dirty, name)[others], getattr(clean, name)[others], rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 3), (1, 6, 1)])
@EVERY_SOLVER
def test_the_shape_of_the_state_does_not_matter(solver: Solver, shape: tuple[int, ...]) -> None:
    flat, budget = monotone(), Budget(max_iter=40, tol=1e-8)
    shaped = Monotone(flat.weight, flat.bias.reshape(-1, *shape))
    expected = solve(flat, zeros(flat), solver=solver, budget=budget)
    solution = solve(shaped, zeros(shaped), solver=solver, budget=budget)
    assert torch.equal(solution.steps, expected.steps)
    torch.testing.assert_close(solution.z.flatten(1), expected.z, rtol=1e-12, atol=0)


@pytest.mark.parametrize("exponent", [-30, 30])
@EVERY_SOLVER
def test_the_unit_of_the_state_does_not_matter(solver: Solver, exponent: int) -> None:
    """A power of two changes no digit, and ReLU knows no unit."""
    f, unit, budget = monotone(), 2.0**exponent, Budget(max_iter=30, tol=1e-6)
    plain = solve(f, zeros(f), solver=solver, budget=budget)
    scaled = solve(Monotone(f.weight, unit * f.bias), zeros(f), solver=solver, budget=budget)
    assert torch.equal(scaled.z / unit, plain.z)
    assert torch.equal(scaled.steps, plain.steps)


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@EVERY_SOLVER
def test_low_precision_starts_are_welcome(solver: Solver, dtype: torch.dtype, tol: float) -> None:
    f = monotone(m=1.0)
    solution = solve(f, zeros(f, dtype), solver=solver, budget=Budget(max_iter=400, tol=tol))
    assert (solution.status == Status.CONVERGED).all()
    assert solution.z.dtype == torch.float32
    torch.testing.assert_close(solution.z.double(), fixed_point(f), rtol=0, atol=10 * tol)


@EVERY_SOLVER
def test_an_empty_batch_has_an_empty_answer(solver: Solver) -> None:
    f = monotone().take(torch.zeros(0, dtype=torch.long))
    assert solve(f, zeros(f), solver=solver).z.shape == (0, 6)


@pytest.mark.parametrize("target", ["argument", "buffer"])
@EVERY_SOLVER
def test_a_proximal_operator_that_overwrites_is_refused(solver: Solver, target: str) -> None:
    """In its argument it destroys what affine gave; in a buffer of its own, the iterate that it gave before."""

    class Overwriting(Monotone):
        buffer: Tensor

        def prox(self, v: Tensor, alpha: float) -> Tensor:
            return torch.clamp(v, min=0.0, out=v if target == "argument" else self.buffer)

    plain = monotone()
    f = Overwriting(plain.weight, plain.bias)
    f.buffer = torch.empty_like(plain.bias)
    with pytest.raises(ValueError, match="must return a new tensor"):
        solve(f.whole(), zeros(f), solver=solver, budget=Budget(max_iter=20, tol=1e-12))


@dataclass
class Partial:
    """A map with some of the parts, which must not be evaluated."""

    parts: tuple[str, ...]

    def __call__(self, z: Tensor) -> Tensor:
        raise AssertionError("refuse before anything is evaluated")

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        if name in self.parts:
            return self.__call__
        raise AttributeError(name)


@pytest.mark.parametrize(
    ("solver", "parts", "missing"),
    [
        (ForwardBackward(), (), "has no affine, prox, constants;"),
        (ForwardBackward(), ("affine", "prox"), "has no constants;"),
        (ForwardBackward(alpha=0.1), ("prox",), "has no affine;"),
        (PeacemanRachford(), (), "has no affine, resolvent, prox, constants;"),
        (PeacemanRachford(alpha=1.0), ("affine", "prox", "constants"), "has no resolvent;"),
    ],
)
def test_a_map_that_cannot_be_taken_apart_is_refused(solver: Solver, parts: tuple[str, ...], missing: str) -> None:
    with pytest.raises(TypeError, match=f"{type(solver).__name__}.* this Partial {missing}") as caught:
        solve(Partial(parts), torch.zeros(2, 3), solver=solver)
    assert "\n" not in str(caught.value)


@EVERY_SOLVER
def test_what_is_no_map_at_all_is_refused(solver: Solver) -> None:
    with pytest.raises(TypeError, match="f must be a callable"):
        solve(3.0, torch.zeros(2, 3), solver=solver)  # type: ignore[arg-type]


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan, math.inf])
@BOTH_KINDS
def test_alpha_outside_its_range(kind: type[ForwardBackward | PeacemanRachford], alpha: float) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} alpha must be a finite number above 0 or None, got"):
        kind(alpha=alpha)
