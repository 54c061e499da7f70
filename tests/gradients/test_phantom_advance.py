"""The phantom gradient whose loss is at the end of its steps: truncated back-propagation, told as what it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deqrun.gradients import Phantom, Unrolled, equilibrium
from deqrun.solvers import Anderson, Budget, Picard, Solution, Status
from tests.problems import residual_of


class Tanh:
    """f(z) = tanh(z Wᵀ + b), with `take`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + self.bias)

    def take(self, rows: Tensor) -> Tanh:
        return Tanh(self.weight, self.bias[rows])


def problem() -> tuple[Tanh, Tensor]:
    draw = torch.Generator().manual_seed(2)
    weight = 0.4 * torch.randn(4, 4, generator=draw, dtype=torch.float64)
    bias = torch.randn(5, 4, generator=draw, dtype=torch.float64) * torch.tensor([[0.1], [1.0], [0.5], [2.0], [3.0]])
    return Tanh(weight.requires_grad_(), bias.requires_grad_()), torch.zeros(5, 4, dtype=torch.float64)


def gradients(z: Tensor, f: Tanh) -> tuple[Tensor, ...]:
    return torch.autograd.grad(z.pow(3).sum(), (f.weight, f.bias))


def run(gradient: Phantom, budget: Budget) -> tuple[Tensor, Solution, Tanh]:
    f, z0 = problem()
    z, solution = equilibrium(f, z0, solver=Picard(), budget=budget, gradient=gradient)
    return z, solution, f


@pytest.mark.parametrize("solved", [0, 1, 6])
def test_after_plain_steps_it_is_truncated_back_propagation(solved: int) -> None:
    """Picard for m steps and K undamped ones with a graph: `Unrolled(m + K, last=K)` in value, gradient, residuals."""
    z, solution, f = run(Phantom(3, 1.0, advance=True), Budget(max_iter=solved, tol=0.0, keep="last"))
    other_f, z0 = problem()
    expected, other = equilibrium(other_f, z0, gradient=Unrolled(solved + 3, last=3))
    torch.testing.assert_close(z, expected, rtol=1e-13, atol=1e-15)
    for found, exact in zip(gradients(z, f), gradients(expected, other_f), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(solution.residuals, other.residuals, rtol=1e-11, atol=1e-15)
    assert torch.equal(solution.steps, other.steps)
    assert torch.equal(solution.nfe, other.nfe + 1)  # f at the solve's end is evaluated twice: to measure, to record


def test_each_row_goes_on_from_its_kept_iterate_by_damped_steps() -> None:
    """Rows stop at their own tolerances; y_1 … y_K by hand, with their residuals where the row's own iterates end."""
    budget = Budget(max_iter=40, tol=1e-2)
    f, z0 = problem()
    z, solution = equilibrium(f, z0, solver=Anderson(), budget=budget, gradient=Phantom(4, 0.6, advance=True))
    _, solve_only = equilibrium(f, z0, solver=Anderson(), budget=budget, gradient=Phantom(4, 0.6))
    assert len(set(solve_only.steps.tolist())) > 1
    y, residuals = solve_only.z, []
    for _ in range(4):
        y = (0.4 * y + 0.6 * f(y)).detach()
        residuals.append(residual_of(f(y).detach(), y))
    torch.testing.assert_close(z.detach(), y, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(solution.residual, residuals[-1], rtol=1e-9, atol=0)
    assert torch.equal(solution.steps, solve_only.steps + 4)
    assert torch.equal(solution.nfe, solve_only.nfe + 5)
    for row, steps in enumerate(solve_only.steps.tolist()):
        own = solution.residuals[:, row]
        assert torch.equal(own[: steps + 1], solve_only.residuals[: steps + 1, row])
        torch.testing.assert_close(own[steps + 1 : steps + 5], torch.stack(residuals)[:, row], rtol=1e-9, atol=0)
        assert bool(own[steps + 5 :].isnan().all())
        assert solution.nfes[steps : steps + 5, row].tolist() == [steps + 1, *range(steps + 3, steps + 7)]
        assert bool((solution.nfes[steps + 4 :, row] == steps + 6).all())


def test_the_loss_at_the_end_has_the_gradient_of_its_steps() -> None:
    """One step from the start, f = W z + b at z0 = 0: z = λ b, so ∂Σz³/∂b = 3 λ³ b², while the loss at 0 has none."""
    bias = torch.tensor([[1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    found = []
    for advance in (True, False):
        gradient = Phantom(1, 0.5, advance=advance)
        z, _ = equilibrium(
            lambda z: 0.3 * z + bias, torch.zeros(1, 2, dtype=torch.float64), budget=Budget(0), gradient=gradient
        )
        found.append(torch.autograd.grad(z.pow(3).sum(), bias)[0])
    torch.testing.assert_close(found[0], 3 * 0.5**3 * bias.detach() ** 2, rtol=1e-14, atol=0)
    assert not found[1].any()


def test_the_status_is_that_of_the_state_returned() -> None:
    """f = −1.5 z + 5: undamped steps move away from 2, where the solve converged; a damped one comes nearer."""
    z0, solved = torch.full((1, 1), 2.001, dtype=torch.float64), Budget(max_iter=0, tol=2e-3)
    away = equilibrium(lambda z: 5 - 1.5 * z, z0, budget=solved, gradient=Phantom(2, 1.0, advance=True))[1]
    nearer = equilibrium(lambda z: 5 - 1.5 * z, z0, budget=solved, gradient=Phantom(2, 0.4, advance=True))[1]
    assert away.status.tolist() == [Status.EXHAUSTED]
    assert nearer.status.tolist() == [Status.CONVERGED]


def test_a_row_that_the_solve_gave_up_stays_given_up() -> None:
    """f = −z + 1 turns about ½ for ever: stalled, and after two undamped steps where it was."""
    z0, budget = torch.zeros(1, 1, dtype=torch.float64), Budget(max_iter=30, tol=1e-3, patience=3)
    _, solution = equilibrium(lambda z: 1 - z, z0, budget=budget, gradient=Phantom(2, 1.0, advance=True))
    assert solution.status.tolist() == [Status.STALLED]


def test_the_value_does_not_depend_on_grad_mode() -> None:
    f, z0 = problem()
    with torch.no_grad():
        without, solution = equilibrium(f, z0, budget=Budget(3), gradient=Phantom(2, advance=True))
    with_grad, _ = equilibrium(f, z0, budget=Budget(3), gradient=Phantom(2, advance=True))
    assert not without.requires_grad
    assert torch.equal(without, with_grad)
    assert torch.equal(solution.z, without)


def test_it_can_be_differentiated_twice() -> None:
    f, z0 = problem()

    def z_of(weight: Tensor, bias: Tensor) -> Tensor:
        return equilibrium(Tanh(weight, bias), z0[:1], budget=Budget(0), gradient=Phantom(2, advance=True))[0]

    assert torch.autograd.gradgradcheck(z_of, (f.weight, f.bias[:1].detach().requires_grad_()))


def test_advance_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="advance must be true or false, got 1"):
        Phantom(advance=1)  # type: ignore[arg-type]
