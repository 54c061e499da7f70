"""Closed second derivatives against finite differences and against PyTorch's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from deqrun.gradients.twice import twice_differentiable
from deqrun.models.second_derivatives import Conv2d, GroupNorm, convolve, normalise_groups

DOUBLE = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def in_order(x: Tensor, last: bool) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if last and x.dim() == 4 else x


CONVOLUTIONS = [
    ((2, 2, 3, 4), (2, 2, 3, 3), 1, 1),
    ((1, 2, 5, 5), (2, 2, 3, 3), 2, 1),
    ((2, 2, 2, 2), (3, 2, 1, 1), 1, 0),
    ((2, 2, 5), (2, 2, 3), 1, 1),
    ((1, 1, 6), (2, 1, 5), 1, 2),
]
GROUPS = [((2, 4, 2, 2), 2), ((2, 4, 3), 2), ((1, 4, 2, 3), 1), ((2, 2, 2, 2), 2), ((2, 6), 2)]


def product(f: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[..., tuple[Tensor, Tensor]]:
    """(x, …, u) -> Jᵀu by x, and f itself; both are to be differentiated by all that goes in."""

    def made(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        *parts, u = arguments
        with twice_differentiable():
            value = f(*parts)
        (pulled,) = torch.autograd.grad(value, parts[0], u, create_graph=True)
        return pulled, value

    return made


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), CONVOLUTIONS)
def test_convolution_by_finite_differences(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int, last: bool
) -> None:
    inputs = in_order(draw(*shape), last), in_order(draw(*kernel, seed=1), last)

    def f(x: Tensor, w: Tensor) -> Tensor:
        return convolve(x, w, stride=stride, padding=padding)

    u = draw(*f(*inputs).shape, seed=2)
    assert gradcheck(product(f, inputs), tuple(value.requires_grad_() for value in (*inputs, u)))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("shape", "groups"), GROUPS)
def test_group_norm_by_finite_differences(shape: tuple[int, ...], groups: int, affine: bool, last: bool) -> None:
    inputs = (in_order(draw(*shape), last), *([draw(shape[1], seed=s) for s in (1, 2)] if affine else []))

    def f(x: Tensor, *affine: Tensor) -> Tensor:
        return normalise_groups(x, groups, *affine)

    u = draw(*shape, seed=3)
    assert gradcheck(product(f, inputs), tuple(value.requires_grad_() for value in (*inputs, u)))


def penalty_gradients(f: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Gradients of ‖Jᵀu‖² + ⟨v, y⟩ by every input: first and second derivatives together."""
    pulled, y = product(f, tuple(inputs))(*inputs, draw(*f(*inputs).shape, seed=5).to(inputs[0]))
    total = pulled.square().sum() + (y * draw(*y.shape, seed=6).to(y)).sum()
    return list(torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("last", [False, True])
def test_a_penalty_s_gradient_is_pytorchs(dtype: torch.dtype, last: bool) -> None:
    """Two layers, so that what a recorded pass leaves out would be missed."""
    shapes = [(3, 8, 6, 6), (16, 8, 3, 3), (16,), (16,), (8, 16, 1, 1)]
    inputs = [in_order(draw(*shape, seed=seed), last).to(dtype) for seed, shape in enumerate(shapes)]
    inputs = [value.requires_grad_() for value in inputs]

    def ours(x: Tensor, first: Tensor, w: Tensor, b: Tensor, second: Tensor) -> Tensor:
        return normalise_groups(convolve(F.relu(normalise_groups(convolve(x, first, padding=1), 4, w, b)), second), 2)

    def theirs(x: Tensor, first: Tensor, w: Tensor, b: Tensor, second: Tensor) -> Tensor:
        return F.group_norm(F.conv2d(F.relu(F.group_norm(F.conv2d(x, first, padding=1), 4, w, b)), second), 2)

    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    for own, other in zip(penalty_gradients(ours, inputs), penalty_gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_values_and_their_order_in_memory_are_pytorchs(last: bool, within: bool) -> None:
    x = in_order(draw(2, 8, 4, 4), last).requires_grad_()
    convolution, norm = Conv2d(8, 8, 3, stride=2, padding=1, bias=False).double(), GroupNorm(2, 8).double()
    if within:
        with twice_differentiable():
            own = norm(convolution(x))
    else:
        own = norm(convolution(x))
    other = F.group_norm(F.conv2d(x, convolution.weight, stride=2, padding=1), 2, norm.weight, norm.bias)
    assert torch.equal(own, other)
    assert own.stride() == other.stride()


def test_under_autocast_it_is_pytorchs_own() -> None:
    x, kernel = draw(2, 8, 4, 4).float().requires_grad_(), draw(8, 8, 3, 3, seed=1).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), twice_differentiable():
        y = normalise_groups(convolve(x, kernel, padding=1), 2)
        other = F.group_norm(F.conv2d(x, kernel, padding=1), 2)
    assert torch.equal(y, other)
    pulled = [torch.autograd.grad(value.float().square().sum(), (x, kernel)) for value in (y, other)]
    assert all(torch.equal(own, theirs) for own, theirs in zip(*pulled, strict=True))
