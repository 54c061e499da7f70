"""Back-propagation through plain steps, against a loop written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.gradients import Implicit, Unrolled, account, equilibrium
from deqrun.solvers import Anderson, Budget, Perturbed, Picard, Solution, Status, solve


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    weight, bias, z0 = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((4, 4), (3, 4), (3, 4)))
    return (0.25 * weight).requires_grad_(), bias.requires_grad_(), z0


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_equals_a_plain_loop(steps: int) -> None:
    """Value and gradients are those of f applied `steps` times to the start."""
    weight, bias, z0 = tensors()

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ weight.T + bias)

    z, _ = equilibrium(
        f, z0, solver=Picard(), budget=Budget(max_iter=steps, tol=0.0, keep="last"), gradient=Unrolled(steps=steps)
    )
    expected_z = z0
    for _ in range(steps):
        expected_z = f(expected_z)
    torch.testing.assert_close(z, expected_z, rtol=1e-13, atol=1e-15)
    actual = torch.autograd.grad(z.pow(3).sum(), (weight, bias))
    expected = torch.autograd.grad(expected_z.pow(3).sum(), (weight, bias))
    for gradient, exact in zip(actual, expected, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-12, atol=1e-15)


def test_linear_map_has_the_neumann_sum() -> None:
    """From 0, z_n = Σ_{k<n} W^k b, so ∂(v·z_n)/∂b = Σ_{k<n} (Wᵀ)^k v: a truncated Neumann series."""
    weight, bias, v = tensors()
    z, _ = equilibrium(
        lambda z: z @ weight.T + bias,
        torch.zeros(3, 4, dtype=torch.float64),
        solver=Picard(),
        budget=Budget(max_iter=6, tol=0.0, keep="last"),
        gradient=Unrolled(steps=6),
    )
    (gradient,) = torch.autograd.grad((z * v).sum(), bias)
    powers = [torch.linalg.matrix_power(weight.detach(), k) for k in range(6)]
    torch.testing.assert_close(gradient, sum(v @ power for power in powers), rtol=1e-12, atol=1e-14)


def test_many_steps_approach_the_implicit_gradient() -> None:
    weight, bias, z0 = tensors()

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ weight.T + bias)

    precise, gradients = Budget(max_iter=300, tol=1e-13), []
    for gradient in (Unrolled(steps=200), Implicit(solver=Anderson(), budget=precise)):
        z, _ = equilibrium(f, z0, solver=Picard(), budget=precise, gradient=gradient)
        gradients.append(torch.autograd.grad(z.pow(3).sum(), (weight, bias)))
    for unrolled_gradient, implicit in zip(*gradients, strict=True):
        torch.testing.assert_close(unrolled_gradient, implicit, rtol=1e-8, atol=1e-10)


def test_the_reported_residual_is_that_of_the_returned_value() -> None:
    weight, bias, z0 = tensors()

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ weight.T + bias)

    z, solution = equilibrium(
        f, z0, solver=Picard(), budget=Budget(max_iter=3, tol=0.0, keep="last"), gradient=Unrolled(steps=3)
    )
    f_z = f(z)
    expected = ((f_z - z).norm(dim=1) / f_z.norm(dim=1)).detach()
    torch.testing.assert_close(solution.residual, expected, rtol=1e-10, atol=0)


def tanh(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.tanh(z @ weight.T + bias)


def gradients_of(gradient: Unrolled, budget: Budget | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(z, the gradients of Σ z³ for W, b and the start)."""
    weight, bias, z0 = tensors()
    z0.requires_grad_()
    z, _ = equilibrium(tanh(weight, bias), z0, budget=budget, gradient=gradient)
    found = torch.autograd.grad(z.pow(3).sum(), (weight, bias, z0), allow_unused=True, materialize_grads=True)
    return z.detach(), found


@pytest.mark.parametrize("damping", [0.3, 1.0, 1.5])
def test_damping_mixes_the_old_state_in(damping: float) -> None:
    weight, bias, z0 = tensors()
    f = tanh(weight, bias)
    z, solution = equilibrium(f, z0, gradient=Unrolled(steps=5, damping=damping))
    expected = z0
    for _ in range(5):
        expected = (1 - damping) * expected + damping * f(expected)
    torch.testing.assert_close(z, expected, rtol=1e-13, atol=1e-15)
    replayed = solve(f, z0, solver=Picard(damping), budget=Budget(max_iter=5, tol=0.0, keep="last"))
    assert torch.equal(solution.z, replayed.z)
    torch.testing.assert_close(solution.residuals, replayed.residuals, rtol=1e-12, atol=0)
    actual = torch.autograd.grad(z.pow(3).sum(), (weight, bias))
    for gradient, exact in zip(actual, torch.autograd.grad(expected.pow(3).sum(), (weight, bias)), strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("segment", [1, 3, 4, 12, 50])
@pytest.mark.parametrize("last", [None, 5])
def test_checkpointing_changes_no_gradient(segment: int, last: int | None) -> None:
    """Segments that divide the steps, that don't, and one that is longer than all."""
    z, plain = gradients_of(Unrolled(steps=12, last=last))
    checkpointed_z, checkpointed = gradients_of(Unrolled(steps=12, checkpoint=segment, last=last))
    assert torch.equal(z, checkpointed_z)
    for gradient, exact in zip(checkpointed, plain, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("last", "checkpoint"), [(None, 0), (None, 4), (5, 0), (5, 2)])
def test_the_backward_pass_evaluates_only_what_is_checkpointed(last: int | None, checkpoint: int) -> None:
    """K + 1 evaluations forward, as solution.nfe says; in the backward pass each differentiated step once more."""
    weight, bias, z0 = tensors()
    calls = []

    def f(z: Tensor) -> Tensor:
        calls.append(torch.is_grad_enabled())
        return torch.tanh(z @ weight.T + bias)

    z, solution = equilibrium(f, z0, gradient=Unrolled(steps=12, checkpoint=checkpoint, last=last))
    assert solution.nfe.tolist() == [len(calls)] * 3 == [13] * 3
    assert sum(calls) == (last or 12)
    before = solution.residuals.clone()
    z.sum().backward()
    assert len(calls) - 13 == ((last or 12) if checkpoint else 0)
    assert solution.nfe.tolist() == [13] * 3
    assert torch.equal(solution.residuals, before)


def test_residuals_are_measured_once_however_often_a_segment_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias, z0 = tensors()
    measured = []

    def counting(f: Callable[[Tensor], Tensor], z: Tensor, **given: Any) -> Solution:
        measured.append(z)
        return solve(f, z, **given)

    monkeypatch.setattr(account, "solve", counting)
    z, _ = equilibrium(tanh(weight, bias), z0, gradient=Unrolled(steps=6, checkpoint=2))
    z.sum().backward()
    assert len(measured) == 7


@pytest.mark.parametrize("last", [1, 4, 9])
def test_truncation_is_a_stop_of_the_gradient_before_the_last_steps(last: int) -> None:
    weight, bias, z0 = tensors()
    f = tanh(weight, bias)
    z, found = gradients_of(Unrolled(steps=9, last=last))
    expected = z0.requires_grad_()
    for k in range(9):
        if k == 9 - last:
            expected = expected.detach().requires_grad_() if k else expected
        expected = f(expected)
    assert torch.equal(z, expected.detach())
    exact = torch.autograd.grad(expected.pow(3).sum(), (weight, bias))
    for gradient, by_hand in zip(found, exact, strict=False):
        torch.testing.assert_close(gradient, by_hand, rtol=1e-13, atol=0)
    assert bool(found[2].any()) == (last == 9)  # the start


def test_truncated_at_a_fixed_point_it_is_the_neumann_series() -> None:
    """f = W z + b after 400 steps: ∂(v·z)/∂b = Σ_{k<last} (Wᵀ)^k v."""
    weight, bias, v = tensors()
    z, _ = equilibrium(lambda z: z @ weight.T + bias, torch.zeros_like(v), gradient=Unrolled(steps=400, last=3))
    (gradient,) = torch.autograd.grad((z * v).sum(), bias)
    powers = [torch.linalg.matrix_power(weight.detach(), k) for k in range(3)]
    torch.testing.assert_close(gradient, sum(v @ power for power in powers), rtol=1e-12, atol=1e-14)
    exact = torch.linalg.inv(torch.eye(4, dtype=torch.float64) - weight.detach()) @ bias.detach().T
    torch.testing.assert_close(z.detach(), exact.T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("checkpoint", [0, 2])
def test_it_can_be_differentiated_twice(checkpoint: int) -> None:
    """torch's own check of the second derivatives of z_4, which the other gradients refuse."""
    weight, bias, z0 = tensors()

    def z_of(weight: Tensor, bias: Tensor) -> Tensor:
        gradient = Unrolled(steps=4, checkpoint=checkpoint)
        return equilibrium(tanh(weight, bias), z0[:1], gradient=gradient)[0]

    assert torch.autograd.gradgradcheck(z_of, (weight, bias[:1].detach().requires_grad_()))


def test_steps_default_to_the_budget() -> None:
    z, found = gradients_of(Unrolled(), Budget(max_iter=7))
    same_z, same = gradients_of(Unrolled(steps=7))
    assert torch.equal(z, same_z)
    assert all(torch.equal(a, b) for a, b in zip(found, same, strict=True))
    z, found = gradients_of(Unrolled(last=9), Budget(max_iter=7))  # more than there are: all
    assert all(torch.equal(a, b) for a, b in zip(found, same, strict=True))


def test_a_budget_of_no_steps_returns_the_start() -> None:
    _, _, z0 = tensors()
    z, solution = equilibrium(lambda z: 0.5 * z, z0, budget=Budget(max_iter=0), gradient=Unrolled())
    assert torch.equal(z, z0)
    assert solution.nfe.tolist() == [1, 1, 1]
    torch.testing.assert_close(solution.residual, torch.ones(3, dtype=torch.float64), rtol=1e-12, atol=0)


def test_every_row_takes_every_step_and_its_status_says_where_it_ended() -> None:
    """f = r z + 1 from 0: residual r^K (1 − r) / (1 − r^{K+1}), so at K = 30 rows 0 and 1 are below 1e-4, row 2 is not,
    row 3 grows as 2^30 > 1e8 times its start, row 4 is NaN."""
    rate = torch.tensor([[0.1], [0.5], [0.9], [2.0], [math.nan]], dtype=torch.float64)
    _, solution = equilibrium(
        lambda z: rate * z + 1, torch.zeros(5, 2, dtype=torch.float64), gradient=Unrolled(steps=30)
    )
    assert solution.steps.tolist() == solution.kept.tolist() == [30] * 5
    assert solution.status.tolist() == [
        Status.CONVERGED,
        Status.CONVERGED,
        Status.EXHAUSTED,
        Status.DIVERGED,
        Status.DIVERGED,
    ]
    r, k = rate[:4, 0], torch.arange(31, dtype=torch.float64)[:, None]
    exact = (r**k * (1 - r) / (1 - r ** (k + 1))).abs()
    torch.testing.assert_close(solution.residuals[:, :4], exact, rtol=1e-6, atol=1e-14)
    assert solution.residual[4] == math.inf
    assert solution.nfes[:, 0].tolist() == list(range(1, 32))


def test_a_tolerance_per_row_is_compared_per_row() -> None:
    budget = Budget.per_row(tol=torch.tensor([1e-9, 1e-1]))
    z0 = torch.zeros(2, 2, dtype=torch.float64)
    _, solution = equilibrium(lambda z: 0.5 * z + 1, z0, budget=budget, gradient=Unrolled(steps=8))
    assert solution.status.tolist() == [Status.EXHAUSTED, Status.CONVERGED]


def test_steps_per_row_are_refused() -> None:
    budget = Budget.per_row(max_iter=torch.tensor([3, 4]))
    with pytest.raises(ValueError, match="same steps in every row"):
        equilibrium(lambda z: 0.5 * z, torch.zeros(2, 2), budget=budget, gradient=Unrolled())


def test_without_grad_mode_there_is_no_graph() -> None:
    weight, bias, z0 = tensors()
    for checkpoint in (0, 2):
        with torch.no_grad():
            z, _ = equilibrium(tanh(weight, bias), z0, gradient=Unrolled(steps=4, checkpoint=checkpoint))
        assert not z.requires_grad


def test_a_map_that_changes_the_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="keep the shape"):
        equilibrium(lambda z: z[:, :2], torch.zeros(3, 4), gradient=Unrolled(steps=2))


@pytest.mark.parametrize("checkpoint", [0, 3])
@pytest.mark.parametrize("last", [None, 4])
def test_a_perturbed_solver_damps_and_shakes_the_steps(checkpoint: int, last: int | None) -> None:
    """Value and gradients of the loop by hand; checkpointed segments find the same noise when they run again."""
    weight, bias, z0 = tensors()
    f, perturbed = tanh(weight, bias), Perturbed(Anderson(), damping=0.9, noise=0.2, seed=11)
    gradient = Unrolled(steps=8, checkpoint=checkpoint, last=last)
    z, solution = equilibrium(f, z0, solver=perturbed, gradient=gradient)
    expected = z0
    for k in range(8):
        expected = 0.1 * expected + 0.9 * f(expected) + 0.2 * perturbed.draw(k, z0, 3)
        if last is not None and k == 8 - last - 1:
            expected = expected.detach()
    torch.testing.assert_close(z, expected, rtol=1e-12, atol=1e-14)
    actual = torch.autograd.grad(z.pow(3).sum(), (weight, bias))
    for found, exact in zip(actual, torch.autograd.grad(expected.pow(3).sum(), (weight, bias)), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-14)
    replayed = solve(f, z0, solver=replace(perturbed, solver=Picard()), budget=Budget(8, 0.0, keep="last"))
    torch.testing.assert_close(solution.residuals, replayed.residuals, rtol=1e-12, atol=0)


def test_every_iterate_is_observed_once() -> None:
    """The start, the steps without and with a graph, and the end; a checkpointed backward pass adds none."""
    weight, bias, z0 = tensors()
    f, seen = tanh(weight, bias), []

    def observe(k: int, z: Tensor, rows: Tensor) -> None:
        assert not z.requires_grad
        seen.append((k, z, rows.tolist()))

    z, _ = equilibrium(f, z0, gradient=Unrolled(steps=6, checkpoint=2, last=4), observe=observe)
    z.sum().backward()
    state = z0
    for k, (found_k, found, rows) in enumerate(seen):
        assert (found_k, rows) == (k, [0, 1, 2])
        torch.testing.assert_close(found, state, rtol=1e-13, atol=1e-15)
        state = f(state).detach()
    assert len(seen) == 7
