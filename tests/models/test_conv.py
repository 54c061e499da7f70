"""The residual convolution cell against its formula, its tutorial's layer sizes, and its argument checks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deqrun.models import ConvCell
from tests.models.cells import bound, build, inputs, states


def test_is_the_tutorials_formula() -> None:
    cell = build("conv")
    assert isinstance(cell, ConvCell)
    x, z = inputs(cell), states(cell)
    weight, bias = (cell.get_parameter(f"encoder.0.{name}") for name in ("weight", "bias"))
    # In evaluation mode a fresh batch norm divides by √(1 + 1e-5).
    features = F.conv2d(x, weight, bias, padding=1) / (1 + 1e-5) ** 0.5
    y = F.group_norm(F.relu(F.conv2d(z, cell.widen.weight, padding=1)), 4)
    y = F.group_norm(features + F.conv2d(y, cell.narrow.weight, padding=1), 4)
    torch.testing.assert_close(bound(cell)(z), F.group_norm(F.relu(z + y), 4))


def test_readout_is_linear_in_the_average_over_blocks_of_pixels() -> None:
    cell = build("conv")
    assert isinstance(cell, ConvCell)
    z = states(cell) / (1 + 1e-5) ** 0.5
    blocks = z.view(5, 8, 4, 2, 4, 2).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(
        cell.readout(states(cell)), F.linear(blocks, cell.classifier.weight, cell.classifier.bias)
    )


def test_size_on_cifar_is_the_sum_over_the_tutorials_layers() -> None:
    cell = ConvCell(input_shape=(3, 32, 32), num_classes=10, channels=48)
    encoder = 3 * 48 * 9 + 48 + 2 * 48
    block = 2 * 48 * 64 * 9 + 2 * 64 + 2 * 48 + 2 * 48
    head = 2 * 48 + 48 * 16 * 10 + 10
    assert sum(parameter.numel() for parameter in cell.parameters()) == encoder + block + head == 64_842
    assert cell.state_shape == (48, 32, 32)


def test_default_size_on_digits() -> None:
    cell = ConvCell(input_shape=(1, 8, 8), num_classes=10)
    assert sum(parameter.numel() for parameter in cell.parameters()) == 42_698
    assert cell.state_shape == (32, 8, 8)


@pytest.mark.parametrize(("stride", "state_shape"), [(1, (32, 15, 11)), (2, (32, 8, 6)), (3, (32, 5, 4))])
def test_stride_divides_the_states_sides_rounding_up(stride: int, state_shape: tuple[int, ...]) -> None:
    cell = ConvCell(input_shape=(2, 15, 11), num_classes=3, stride=stride)
    assert cell.state_shape == state_shape
    assert cell.inject(torch.zeros(2, 2, 15, 11))[0].shape == (2, *state_shape)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"groups": 5}, "groups=5 does not divide channels=32 and inner_channels=64: allowed are 1, 2, 4, 8, 16, 32"),
        ({"groups": 7}, r"\(nearest: 8\)"),
        ({"kernel_size": 4}, r"kernel_size=4 is even: allowed are 1, 3, 5, … \(nearest: 5\)"),
        ({"channels": 0}, "channels=0 is too small: allowed are integers from 1"),
        ({"inner_channels": -2}, "inner_channels=-2 is too small"),
        ({"stride": 0}, "stride=0 is too small"),
        ({"pool": 9}, r"pool=9 exceeds the state's shorter side: allowed are 1 to 8 \(nearest: 8\)"),
        ({"stride": 4}, r"pool=4 exceeds the state's shorter side: allowed are 1 to 2 \(nearest: 2\)"),
        ({"input_shape": (8, 8)}, r"input_shape=\[8, 8\] is not an image"),
    ],
)
def test_a_bad_parameter_is_refused_with_what_is_allowed(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ConvCell(**{"input_shape": (1, 8, 8), "num_classes": 10, **wrong})  # type: ignore[arg-type]
