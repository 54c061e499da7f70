"""Damping by patience: plain iteration where that makes progress, and a fixed point where it cycles."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from deqrun.solvers import Budget, Damped, Picard, Status, solve
from tests.problems import Logistic, TanhNetwork


def turned(angle: float, stretch: float) -> tuple[object, Tensor]:
    """(f, z*) of f(z) = stretch · R(angle) z + b in the plane."""
    W = stretch * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    b = torch.tensor([1.0, -0.5], dtype=torch.float64)
    return (lambda z: z @ W.T + b), torch.linalg.solve(torch.eye(2, dtype=torch.float64) - W, b)


@pytest.mark.parametrize("angle", [0.8, 1.5, 2.5, math.pi])
@pytest.mark.parametrize("stretch", [1.0, 1.1])
def test_rotations_are_solved_where_plain_iteration_circles(angle: float, stretch: float) -> None:
    """(1 − λ) I + λ W contracts for small λ where the real part of W's eigenvalues is below 1."""
    f, z_star = turned(angle, stretch)
    start = torch.zeros(1, 2, dtype=torch.float64)
    budget = Budget(max_iter=2000, tol=1e-8)
    assert solve(f, start, solver=Picard(), budget=budget).status.item() != Status.CONVERGED  # type: ignore[arg-type]
    ours = solve(f, start, solver=Damped(), budget=budget)  # type: ignore[arg-type]
    assert ours.status.item() == Status.CONVERGED
    torch.testing.assert_close(ours.z[0], z_star, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rate", [3.2, 3.5])
def test_the_logistic_map_ends_its_cycle(rate: float) -> None:
    task = Logistic(rate)
    start = task.start(8, torch.float64)
    ours = solve(task.f(8), start, solver=Damped(), budget=Budget(max_iter=300, tol=1e-8))
    assert (ours.status == Status.CONVERGED).all()
    torch.testing.assert_close(ours.z, torch.full_like(ours.z, 1 - 1 / rate), rtol=1e-6, atol=1e-6)


def test_where_plain_iteration_makes_progress_it_is_plain_iteration() -> None:
    task = TanhNetwork(0.5)
    start = task.start(8, torch.float64)
    plain, ours = (
        solve(task.f(8), start, solver=solver, budget=Budget(max_iter=100, tol=1e-8)) for solver in (Picard(), Damped())
    )
    assert torch.equal(plain.steps, ours.steps)
    torch.testing.assert_close(plain.z, ours.z, rtol=1e-12, atol=1e-12)


def test_the_step_shrinks_after_patience_steps_and_never_below_the_least() -> None:
    """z ↦ −z never makes progress: each step is 2 λ z, so λ can be read off the iterates."""
    states: list[float] = []
    solver = Damped(damping=1.0, shrink=0.5, patience=3, progress=0.5, least=0.3)
    solve(
        lambda z: 1e3 * torch.ones_like(z) - z,
        torch.zeros(1, 1, dtype=torch.float64),
        solver=solver,
        budget=Budget(max_iter=10, tol=0.0),
        observe=lambda k, z, rows: states.append(float(z)),
    )
    lengths = [(b - a) / (1e3 - 2 * a) for a, b in itertools.pairwise(states) if abs(1e3 - 2 * a) > 1e-9]
    assert lengths[:4] == pytest.approx([1.0, 1.0, 1.0, 0.5])
    assert min(lengths) >= 0.3 - 1e-9


@pytest.mark.parametrize(
    ("name", "value"),
    [("damping", 0.0), ("damping", 1.5), ("shrink", 1.0), ("patience", 0), ("progress", 0.0), ("least", 0.0)],
)
def test_ranges(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"Damped {name}"):
        Damped(**{name: value})
