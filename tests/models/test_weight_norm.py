"""Weight normalisation against PyTorch's own, and its context against the traps of caching."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.models.weight_norm import WeightNormConv2d, WeightNormLinear, weight_norm_fixed
from tests.models.cells import bound, build, states


@pytest.fixture
def convolution() -> WeightNormConv2d:
    torch.manual_seed(0)
    layer = WeightNormConv2d(3, 4, 3).double()
    with torch.no_grad():
        layer.gain.uniform_(0.5, 2.0)
    return layer


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_starts_as_the_default_convolution_of_the_same_seed(images: Tensor) -> None:
    torch.manual_seed(5)
    plain = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    torch.manual_seed(5)
    torch.testing.assert_close(WeightNormConv2d(3, 4, 3)(images.float()), plain(images.float()))


def test_equals_pytorchs_weight_norm(convolution: WeightNormConv2d, images: Tensor) -> None:
    theirs = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3, padding=1, bias=False).double())
    gain, direction = theirs.parametrizations.weight.original0, theirs.parametrizations.weight.original1
    with torch.no_grad():
        gain.copy_(convolution.gain)
        direction.copy_(convolution.direction)
    torch.testing.assert_close(convolution(images), theirs(images))


def test_linear_equals_pytorchs_weight_norm() -> None:
    torch.manual_seed(0)
    theirs = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    ours, x = WeightNormLinear(3, 4), torch.randn(2, 5, 3)
    with torch.no_grad():
        ours.gain.copy_(theirs.parametrizations.weight.original0.mul_(torch.tensor([[0.5], [1.0], [2.0], [3.0]])))
        ours.direction.copy_(theirs.parametrizations.weight.original1)
        assert ours.bias is not None
        ours.bias.copy_(theirs.bias)
    torch.testing.assert_close(ours(x), theirs(x))
    assert WeightNormLinear(3, 4, bias=False).bias is None


def test_gain_is_the_norm_of_each_output_channels_weight(convolution: WeightNormConv2d) -> None:
    torch.testing.assert_close(convolution.weight().flatten(1).norm(dim=1), convolution.gain.flatten())


def test_gradient_is_orthogonal_to_the_direction(convolution: WeightNormConv2d, images: Tensor) -> None:
    # Salimans & Kingma 2016, section 2.1: the projection removes the component along v.
    convolution(images).square().sum().backward()
    gradient, direction = convolution.direction.grad, convolution.direction
    assert gradient is not None
    along = (gradient * direction).flatten(1).sum(dim=1)
    torch.testing.assert_close(along, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    assert gradient.abs().max() > 1e-3


def test_fixed_weights_equal_weights_computed_at_each_call() -> None:
    cell = build("mdeq")
    free = bound(cell)(states(cell))
    with cell.fixed_weights():
        assert torch.equal(bound(cell)(states(cell)), free)


def test_fixed_weights_are_those_at_entry_until_the_context_ends(convolution: WeightNormConv2d, images: Tensor) -> None:
    before = convolution(images).detach()
    with torch.no_grad(), weight_norm_fixed(convolution):
        convolution.gain.mul_(2.0)
        assert torch.equal(convolution(images), before)
    torch.testing.assert_close(convolution(images), 2.0 * before)


def test_a_gradient_passes_after_evaluations_without_one(convolution: WeightNormConv2d, images: Tensor) -> None:
    weight = convolution.weight().detach().requires_grad_()
    F.conv2d(images, weight, padding=1).square().sum().backward()
    with weight_norm_fixed(convolution):
        with torch.no_grad():
            convolution(images)
        convolution(images).square().sum().backward()
    assert convolution.gain.grad is not None
    assert weight.grad is not None
    unit = convolution.direction / convolution.direction.flatten(1).norm(dim=1).view(4, 1, 1, 1)
    torch.testing.assert_close(convolution.gain.grad.flatten(), (weight.grad * unit).flatten(1).sum(dim=1))


def test_contexts_nest_and_end_with_an_exception(convolution: WeightNormConv2d) -> None:
    def fail_inside() -> None:
        with weight_norm_fixed(convolution):
            assert convolution.fixed_weight is not outer
            raise KeyError

    with weight_norm_fixed(convolution):
        outer = convolution.fixed_weight
        with pytest.raises(KeyError):
            fail_inside()
        assert convolution.fixed_weight is outer
    assert convolution.fixed_weight is None


def test_fixed_weights_are_no_part_of_the_state_dict(convolution: WeightNormConv2d) -> None:
    with weight_norm_fixed(convolution):
        assert set(convolution.state_dict()) == {"gain", "direction"}
