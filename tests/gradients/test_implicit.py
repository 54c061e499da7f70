"""Implicit gradients against closed forms, finite differences and a long unrolled solve."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deqrun.gradients import Implicit, OneStep, equilibrium
from deqrun.gradients.implicit import _AdjointMap
from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Picard, Solver, Status
from deqrun.solvers.linearization import Linearization
from tests.problems import RowMap

EXACT = Budget(max_iter=600, tol=1e-13)
SOLVERS = pytest.mark.parametrize(
    "solver", [Picard(), Anderson(memory=5), Broyden(), NewtonKrylov()], ids=["picard", "anderson", "broyden", "newton"]
)


def random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(state: int = 5, inputs: int = 3, gain: float = 0.8) -> tuple[Tensor, Tensor, Tensor]:
    """W with ‖W‖₂ = gain and not symmetric, U and b; all of them leaves that want a gradient."""
    weight = random(state, state, seed=0)
    weight = gain * weight / torch.linalg.matrix_norm(weight, 2)
    return tuple(t.requires_grad_() for t in (weight, random(state, inputs, seed=1), random(state, seed=2)))  # type: ignore[return-value]


def solved(f: Callable[[Tensor], Tensor], z0: Tensor, solver: Solver | None = None, **kwargs: Any) -> Tensor:
    """The equilibrium to the last digits, with an implicit gradient solved as exactly."""
    solver = solver or Anderson(memory=5)
    return equilibrium(f, z0, solver=solver, budget=EXACT, gradient=Implicit(solver=solver, budget=EXACT))[0]


def zeros(batch: int = 4, state: int = 5) -> Tensor:
    return torch.zeros(batch, state, dtype=torch.float64)


def central_differences(loss: Callable[[], Tensor], tensor: Tensor, step: float = 1e-5) -> Tensor:
    """∂loss/∂tensor entry by entry, (loss(t + h) − loss(t − h)) / 2h."""
    gradient = torch.zeros_like(tensor)
    with torch.no_grad():
        for index in itertools.product(*map(range, tensor.shape)):
            before = tensor[index].item()
            values = []
            for moved in (before + step, before - step):
                tensor[index] = moved
                values.append(loss().item())
            tensor[index] = before
            gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient


@SOLVERS
def test_linear_map_has_the_closed_form(solver: Solver) -> None:
    """z* = (I − W)⁻¹(Ux + b), L = Σ v·z*, u = (I − W)⁻ᵀ v: dW = Σ u z*ᵀ, dU = Σ u xᵀ, db = Σ u, dx = Uᵀu."""
    weight, inlet, bias = network()
    x, v = random(4, 3, seed=3).requires_grad_(), random(4, 5, seed=4)
    z = solved(lambda z: z @ weight.T + x @ inlet.T + bias, zeros(), solver)
    (z * v).sum().backward()
    with torch.no_grad():
        resolvent = torch.linalg.inv(torch.eye(5, dtype=torch.float64) - weight)
        z_star, u = (x @ inlet.T + bias) @ resolvent.T, v @ resolvent
    expected = {"W": u.T @ z_star, "U": u.T @ x, "b": u.sum(0), "x": u @ inlet}
    torch.testing.assert_close(z.detach(), z_star, rtol=1e-11, atol=1e-12)
    for tensor, exact in zip((weight, inlet, bias, x), expected.values(), strict=True):
        assert tensor.grad is not None
        assert torch.linalg.vector_norm(tensor.grad - exact) <= 1e-9 * torch.linalg.vector_norm(exact)


@SOLVERS
def test_tanh_network_agrees_with_a_long_unroll(solver: Solver) -> None:
    tensors = (*network(), random(4, 3, seed=3).requires_grad_())
    weight, inlet, bias, x = tensors

    def f(z: Tensor) -> Tensor:
        return torch.tanh(z @ weight.T + x @ inlet.T + bias)

    unrolled = zeros()
    for _ in range(300):
        unrolled = f(unrolled)
    expected = torch.autograd.grad(unrolled.pow(3).sum(), tensors)
    actual = torch.autograd.grad(solved(f, zeros(), solver).pow(3).sum(), tensors)
    for gradient, exact in zip(actual, expected, strict=True):
        assert torch.linalg.vector_norm(gradient - exact) <= 1e-9 * torch.linalg.vector_norm(exact)


def test_tanh_network_agrees_with_finite_differences() -> None:
    tensors = (*network(), random(4, 3, seed=3).requires_grad_())
    weight, inlet, bias, x = tensors

    def loss() -> Tensor:
        return solved(lambda z: torch.tanh(z @ weight.T + x @ inlet.T + bias), zeros()).pow(3).sum()

    for gradient, tensor in zip(torch.autograd.grad(loss(), tensors), tensors, strict=True):
        torch.testing.assert_close(gradient, central_differences(loss, tensor), rtol=1e-6, atol=1e-8)


class OnceDifferentiable(torch.autograd.Function):
    """tanh whose derivative has none of its own, like fused kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * (1 - y**2)


@SOLVERS
def test_the_adjoint_needs_no_second_derivative_of_f(solver: Solver) -> None:
    """Newton's method on u = Jᵀu + v wants products with Jᵀ, which are those that the adjoint consists of."""
    tensors = network()
    weight, inlet, bias = tensors
    x, found = random(4, 3, seed=3), []
    for tanh in (OnceDifferentiable.apply, torch.tanh):
        z, solution = equilibrium(
            lambda z, tanh=tanh: tanh(z @ weight.T + x @ inlet.T + bias),
            zeros(),
            solver=Picard(),
            budget=EXACT,
            gradient=Implicit(solver, EXACT),
        )
        found.append(torch.autograd.grad(z.pow(3).sum(), tensors))
        assert solution.adjoint is not None
        assert bool(solution.adjoint.converged.all())
        assert bool((solution.adjoint.jvps > 0).any()) == isinstance(solver, NewtonKrylov)
    for once, twice in zip(*found, strict=True):
        torch.testing.assert_close(once, twice, rtol=1e-12, atol=1e-14)


def test_the_adjoint_problem_can_itself_be_differentiated() -> None:
    """u ↦ Jᵀu + v has the Jacobian Jᵀ, by reverse mode and by reverse over reverse (which is J, then Jᵀ)."""
    weight, _, bias = network()
    z_in, v = random(1, 5, seed=19).requires_grad_(), random(1, 5, seed=20)
    value = torch.tanh(z_in @ weight.T + bias)
    step = _AdjointMap(Linearization(z_in, value), None).step(v)
    jacobian = ((1 - value**2).T * weight).detach()
    u = random(1, 5, seed=21)
    torch.testing.assert_close(step(u), u @ jacobian + v, rtol=1e-13, atol=0)
    rows = torch.autograd.functional.jacobian(step, u)[0, :, 0]
    torch.testing.assert_close(rows, jacobian.T, rtol=1e-12, atol=1e-15)
    columns = torch.autograd.functional.jvp(step, u, v)[1]
    torch.testing.assert_close(columns, v @ jacobian, rtol=1e-12, atol=1e-15)


def test_gradcheck() -> None:
    """torch's own check: the whole Jacobian ∂z/∂(W, U, b, x) against finite differences."""

    def z_of(weight: Tensor, inlet: Tensor, bias: Tensor, x: Tensor) -> Tensor:
        return solved(lambda z: torch.tanh(z @ weight.T + x @ inlet.T + bias), zeros(batch=2, state=3))

    arguments = (*network(state=3, inputs=2), random(2, 2, seed=3).requires_grad_())
    assert torch.autograd.gradcheck(z_of, arguments, nondet_tol=1e-10)


def test_float32() -> None:
    weight, inlet, bias = (tensor.detach().float().requires_grad_() for tensor in network())
    x, v = random(4, 3, seed=3).float(), random(4, 5, seed=4).float()
    budget = Budget(max_iter=200, tol=1e-6)
    z, _ = equilibrium(
        lambda z: z @ weight.T + x @ inlet.T + bias,
        zeros().float(),
        solver=Anderson(),
        budget=budget,
        gradient=Implicit(solver=Anderson(), budget=budget),
    )
    (z * v).sum().backward()
    assert z.dtype == torch.float32
    assert bias.grad is not None
    resolvent = torch.linalg.inv(torch.eye(5, dtype=torch.float64) - weight.detach().double())
    exact = (v.double() @ resolvent).sum(0)
    torch.testing.assert_close(bias.grad.double(), exact, rtol=1e-4, atol=1e-4)


def test_the_jacobian_acts_row_by_row_with_data_of_its_own() -> None:
    """z_i = W_i z_i + b_i with a matrix per row, which f closes over: each row's gradient is that row's."""
    weight = (0.3 * random(3, 4, 4, seed=5)).requires_grad_()
    bias, v = random(3, 4, seed=6), random(3, 4, seed=7)
    z = solved(lambda z: (weight @ z[..., None])[..., 0] + bias, zeros(3, 4))
    (z * v).sum().backward()
    resolvent = torch.linalg.inv(torch.eye(4, dtype=torch.float64) - weight.detach())
    u = (resolvent.mT @ v[..., None])[..., 0]
    exact = u[:, :, None] * (resolvent @ bias[..., None])[..., 0][:, None, :]
    torch.testing.assert_close(weight.grad, exact, rtol=1e-9, atol=1e-12)


def test_a_spectral_radius_above_one_has_a_gradient_too() -> None:
    """Picard reaches neither z* nor its adjoint here, Anderson both: (I − W)⁻ᵀ v needs I − W regular."""
    weight = torch.diag(torch.tensor([1.6, -1.8, 0.2], dtype=torch.float64)).requires_grad_()
    bias = random(2, 3, seed=8).requires_grad_()
    z = solved(lambda z: z @ weight.T + bias, zeros(2, 3))
    (gradient,) = torch.autograd.grad(z.sum(), bias)
    exact = 1 / (1 - torch.tensor([1.6, -1.8, 0.2], dtype=torch.float64))
    torch.testing.assert_close(gradient, exact.expand(2, 3), rtol=1e-9, atol=0)


class Cell(nn.Module):
    """tanh of a linear layer plus a plain tensor, a buffer and a gain that only a nested call sees."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 5, dtype=torch.float64)
        self.gain = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.shift = nn.Buffer(random(5, seed=9))

    def amplify(self, z: Tensor) -> Tensor:
        return self.gain * z

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.amplify(self.linear(z)) + self.shift)


def test_every_tensor_that_f_closes_over_receives_its_gradient() -> None:
    torch.manual_seed(0)
    cell, offset = Cell(), random(4, 5, seed=10).requires_grad_()
    derived = offset.sin()  # not a leaf: the gradient must flow on through it

    def loss() -> Tensor:
        return (solved(lambda z: cell(z) + derived, zeros()) ** 2).sum()

    tensors = [*cell.parameters(), offset]
    loss().backward()
    unrolled = zeros()
    for _ in range(200):
        unrolled = cell(unrolled) + offset.sin()
    expected = torch.autograd.grad((unrolled**2).sum(), tensors)
    for tensor, exact in zip(tensors, expected, strict=True):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "gradient", [Implicit(solver=Anderson(), budget=EXACT), OneStep()], ids=["implicit", "one_step"]
)
def test_the_value_is_exactly_that_of_the_solution(gradient: Any) -> None:
    """Also where the solve is stopped early: f isn't applied once more."""
    weight, inlet, bias = network()
    x = random(4, 3, seed=3)
    for max_iter in (0, 1, 3, 50):
        z, solution = equilibrium(
            lambda z: torch.tanh(z @ weight.T + x @ inlet.T + bias),
            zeros(),
            solver=Picard(),
            budget=Budget(max_iter=max_iter, tol=1e-9),
            gradient=gradient,
        )
        assert z.requires_grad
        assert torch.equal(z.detach(), solution.z.detach())


@pytest.mark.parametrize(
    "gradient", [Implicit(solver=Anderson(), budget=EXACT), OneStep()], ids=["implicit", "one_step"]
)
def test_the_start_receives_no_gradient(gradient: Any) -> None:
    """The equilibrium doesn't depend on where the solve began."""
    weight, _, bias = network()
    z0 = random(4, 5, seed=11).requires_grad_()
    z, _ = equilibrium(lambda z: z @ weight.T + bias, z0, solver=Anderson(), budget=EXACT, gradient=gradient)
    z.sum().backward()
    assert z0.grad is None or not z0.grad.any()
    assert bias.grad is not None


def test_rows_without_a_cotangent_cost_nothing_and_stay_finite() -> None:
    """A loss on row 0 alone: u = 0 in the other rows, whose relative adjoint residual is 0 / 0."""
    weight, _, _ = network()
    bias = random(4, 5, seed=12).requires_grad_()
    z, solution = equilibrium(
        lambda z: z @ weight.T + bias,
        zeros(),
        solver=Picard(),
        budget=EXACT,
        gradient=Implicit(solver=Picard(), budget=Budget(max_iter=400, tol=1e-11)),
    )
    z[0].sum().backward()
    assert bias.grad is not None
    exact = torch.linalg.inv(torch.eye(5, dtype=torch.float64) - weight.detach()).sum(0)
    torch.testing.assert_close(bias.grad[0], exact, rtol=1e-9, atol=0)
    assert not bias.grad[1:].any()
    assert solution.adjoint is not None
    assert solution.adjoint.status.tolist() == [Status.CONVERGED] * 4
    assert solution.adjoint.steps[1:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("with_take", [True, False], ids=["take", "whole"])
def test_rows_dropped_from_the_solve_have_their_gradient(with_take: bool) -> None:
    """z_i = b_i / (1 − r_i), each row solved at its own step: dz/db = 1 / (1 − r), dz/dr = b / (1 − r)²."""
    rate = torch.tensor([[0.0], [0.3], [0.6], [-0.8]], dtype=torch.float64).requires_grad_()
    bias = random(4, 5, seed=17).requires_grad_()
    f = RowMap(lambda z, rate, bias: rate * z + bias, (rate, bias))
    z = solved(f if with_take else f.whole(), zeros(), Picard())
    z.sum().backward()
    resolvent = 1 / (1 - rate.detach())
    torch.testing.assert_close(bias.grad, resolvent.expand(4, 5), rtol=1e-11, atol=0)
    exact = (bias.detach() * resolvent**2).sum(1, keepdim=True)
    torch.testing.assert_close(rate.grad, exact, rtol=1e-11, atol=1e-12)
    assert (len(set(f.calls)) > 1) == with_take


@SOLVERS
def test_a_broken_row_poisons_no_other_gradient(solver: Solver) -> None:
    """Row 1 is NaN from the start, forward and backward; the other rows of b have dz/db = 1 / (1 − 1/2)."""
    bias = random(4, 5, seed=18)
    bias[1] = torch.nan
    slope = torch.tensor([[0.5], [torch.nan], [0.5], [0.5]], dtype=torch.float64)
    bias.requires_grad_()
    z, solution = equilibrium(
        lambda z: slope * z + bias,
        zeros(),
        solver=solver,
        budget=Budget(max_iter=100, tol=1e-12),
        gradient=Implicit(solver=solver, budget=Budget(max_iter=100, tol=1e-12)),
    )
    z.sum().backward()
    others = [0, 2, 3]
    assert solution.status[1] == Status.DIVERGED
    assert bias.grad is not None
    assert solution.adjoint is not None
    assert solution.adjoint.status[others].tolist() == [Status.CONVERGED] * 3
    assert solution.adjoint.status[1] != Status.CONVERGED
    torch.testing.assert_close(bias.grad[others], torch.full_like(bias.grad[others], 2.0), rtol=1e-11, atol=0)


def test_two_solves_before_one_backward() -> None:
    """Two equilibria share W, and the second is fed by the first: each adjoint must find its own solve."""
    weight, inlet, bias = network()
    x = random(4, 3, seed=3)

    def loss() -> Tensor:
        first = solved(lambda z: torch.tanh(z @ weight.T + x @ inlet.T + bias), zeros())
        second = solved(lambda z: torch.tanh(z @ weight.T * 0.5 + first), zeros())
        return (first * second).sum()

    for gradient, tensor in zip(torch.autograd.grad(loss(), (weight, bias)), (weight, bias), strict=True):
        torch.testing.assert_close(gradient, central_differences(loss, tensor), rtol=1e-6, atol=1e-8)


def test_two_backward_passes_double_the_gradients() -> None:
    weight, _, bias = network()
    z = solved(lambda z: torch.tanh(z @ weight.T + bias), zeros())
    loss = z.pow(2).sum()
    loss.backward(retain_graph=True)
    assert weight.grad is not None
    assert bias.grad is not None
    once = weight.grad.clone(), bias.grad.clone()
    loss.backward()
    for twice, single in zip((weight.grad, bias.grad), once, strict=True):
        torch.testing.assert_close(twice, 2 * single, rtol=1e-14, atol=0)


def test_two_losses_on_one_equilibrium() -> None:
    """Backward passes with different cotangents each get their own adjoint: gradients are linear in them."""
    weight, _, bias = network()
    z = solved(lambda z: torch.tanh(z @ weight.T + bias), zeros())
    v, w = random(4, 5, seed=13), random(4, 5, seed=14)
    parts = [torch.autograd.grad(z, weight, cotangent, retain_graph=True)[0] for cotangent in (v, w, v + 3 * w)]
    torch.testing.assert_close(parts[2], parts[0] + 3 * parts[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", ["inner_data", "inner_state"])
def test_an_equilibrium_inside_an_equilibrium(order: str) -> None:
    """y = tanh(A y + drive) solved inside f(z) = tanh(W z / 2 + 0.3 y + b), the drive being z or b."""
    weight, _, bias = network(state=3)
    inner = (0.4 * random(3, 3, seed=15)).requires_grad_()
    tensors = (weight, inner, bias)

    def f(z: Tensor) -> Tensor:
        drive = z if order == "inner_state" else bias.expand_as(z)
        y = solved(lambda y: torch.tanh(y @ inner.T + drive), torch.zeros_like(z))
        return torch.tanh(0.5 * z @ weight.T + 0.3 * y + bias)

    def loss() -> Tensor:
        return solved(f, zeros(2, 3)).pow(3).sum()

    for gradient, tensor in zip(torch.autograd.grad(loss(), tensors), tensors, strict=True):
        torch.testing.assert_close(gradient, central_differences(loss, tensor), rtol=1e-6, atol=1e-8)


def test_without_grad_mode_there_is_no_graph() -> None:
    weight, _, bias = network()
    with torch.no_grad():
        z = solved(lambda z: torch.tanh(z @ weight.T + bias), zeros())
    assert not z.requires_grad
    torch.testing.assert_close(z, torch.tanh(z @ weight.T + bias).detach(), rtol=1e-11, atol=1e-12)


def test_a_map_without_parameters_needs_no_gradient() -> None:
    z = solved(lambda z: 0.5 * torch.cos(z), zeros())
    torch.testing.assert_close(z, 0.5 * torch.cos(z), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("loss", "second"),
    [*itertools.product(("linear", "quadratic", "cotangent"), ("backward", "bias")), ("cotangent", "cotangent")],
)
def test_second_derivatives_are_refused(loss: str, second: str) -> None:
    """The backward pass isn't differentiable: what a second pass finds would be a part of the Hessian.

    f's own graph still depends on b, so without a refusal the second pass runs, leaving out ∂u/∂b and ∂z*/∂b.
    """
    weight, _, bias = network()
    z, v = solved(lambda z: torch.tanh(z @ weight.T + bias), zeros()), random(4, 5, seed=16).requires_grad_()

    def differentiate_twice() -> None:
        value = {"linear": z.sum(), "quadratic": z.pow(2).sum(), "cotangent": (z * v).sum()}[loss]
        (gradient,) = torch.autograd.grad(value, bias, create_graph=True)
        if second == "backward":
            gradient.sum().backward()
        else:
            torch.autograd.grad(gradient.sum(), bias if second == "bias" else v)

    with pytest.raises(RuntimeError, match=r"(?i)twice|double|second|once|create_graph"):
        differentiate_twice()
