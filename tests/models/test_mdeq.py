"""MDEQ against its published sizes and a second statement of its formula; dropout; images of other sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.models import BoundCell, MDEQCell
from deqrun.models.mdeq_layers import ResidualBlock, half
from deqrun.models.weight_norm import WeightNormConv2d
from tests.models.cells import bound, build, inputs, mdeq, states

CIFAR = (3, 32, 32)
LARGE = {"channels": [32, 64, 128, 256], "head_channels": [14, 28, 56, 112], "final_channels": 1680}


def published_large(input_shape: tuple[int, ...] = CIFAR) -> MDEQCell:
    return MDEQCell(input_shape=input_shape, num_classes=10, dropout=0.3, **LARGE)  # type: ignore[arg-type]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_tiny_has_the_published_codes_size() -> None:
    cell = MDEQCell(input_shape=CIFAR, num_classes=10)
    assert parameters(cell) == 158_890
    assert cell.state_shape == (24 * 32 * 32 + 24 * 16 * 16,) == (30_720,)


def test_large_has_the_published_codes_size() -> None:
    cell = published_large()
    assert parameters(cell) == 11_097_438
    assert cell.state_shape == (61_440,)
    assert cell.state_shapes == ((32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4))


def test_block_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, expansion=5, groups=4, weight_norm=True).double()
    z, features = torch.randn(2, 3, 8, 6, 6, dtype=torch.float64)
    mask = torch.rand(3, 8, 1, 1, dtype=torch.float64)
    assert isinstance(block.widen, WeightNormConv2d)
    assert isinstance(block.narrow, WeightNormConv2d)
    y = F.conv2d(z, block.widen.direction, padding=1)  # at the start weight = direction
    assert y.shape[1] == 40
    y = F.conv2d(F.relu(F.group_norm(y, 4)), block.narrow.direction, padding=1)
    y = F.group_norm(F.relu(F.group_norm(y * mask + features, 4) + z), 4)
    torch.testing.assert_close(block(z, features, mask), y)


def normalised(layer: nn.Module, x: Tensor, groups: int, stride: int = 1) -> Tensor:
    """Group norm of a plain convolution, as the fusion's paths start out."""
    weight = layer.get_parameter("weight")
    return F.group_norm(F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2), groups)


def test_three_branch_fusion_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    cell = mdeq(input_shape=(1, 16, 16), channels=[8, 8, 12], head_channels=[2, 2, 2], groups=4).double().eval()
    fusion = cell.fusion
    assert fusion is not None
    y = [torch.randn(2, *shape, dtype=torch.float64) for shape in cell.state_shapes]
    path = {(i, j): fusion.get_submodule(f"paths.{i}.{j}") for i in range(3) for j in range(3)}

    def grow(image: Tensor, factor: int) -> Tensor:
        return image.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)

    def up(i: int, j: int) -> Tensor:
        return grow(normalised(path[i, j].get_submodule("0"), y[j], 4), 2 ** (j - i))

    def down(i: int, j: int) -> Tensor:
        return normalised(path[i, j].get_submodule("0"), y[j], 4, stride=2)

    long_way = F.relu(down(2, 0))
    sums = [
        y[0] + up(0, 1) + up(0, 2),
        down(1, 0) + y[1] + up(1, 2),
        normalised(path[2, 0].get_submodule("3"), long_way, 4, stride=2) + down(2, 1) + y[2],
    ]
    assert long_way.shape == (2, 8, 8, 8)
    for i, (total, out) in enumerate(zip(sums, fusion([branch.clone() for branch in y]), strict=True)):
        mix = fusion.get_submodule(f"mix.{i}").get_parameter("direction")
        torch.testing.assert_close(out, F.group_norm(F.conv2d(F.relu(total), mix), 2))


def test_features_enter_the_finest_branch_only() -> None:
    cell = mdeq(weight_norm=False)
    cell.fusion = None  # without fusion the branches don't meet
    cell = cell.double().eval()
    z = states(cell)
    with_features = cell.split(cell(z, cell.inject(inputs(cell))))
    without = cell.split(cell(z, (torch.zeros(5, 8, 8, 8, dtype=z.dtype),)))
    assert not torch.equal(with_features[0], without[0])
    assert torch.equal(with_features[1], without[1])


def test_every_group_of_an_iterate_is_normalised() -> None:
    cell = build("mdeq")
    for branch in cell.split(bound(cell)(100.0 * states(cell))):  # type: ignore[operator]
        groups = branch.reshape(5, 2, -1)
        torch.testing.assert_close(groups.mean(dim=2), torch.zeros(5, 2, dtype=torch.float64), rtol=0, atol=1e-12)
        assert groups.var(dim=2, unbiased=False).max() <= 1.0


def test_split_is_the_inverse_of_concatenation() -> None:
    cell = mdeq()
    z = torch.arange(2.0 * cell.state_size).view(2, -1)
    branches = cell.split(z)
    assert [tuple(branch.shape[1:]) for branch in branches] == [(8, 8, 8), (12, 4, 4)]
    pixel_by_pixel = [branch.permute(0, 2, 3, 1).flatten(1) for branch in branches]
    assert torch.equal(torch.cat(pixel_by_pixel, dim=1), z)


def test_initialisation_is_the_published_codes_in_effect() -> None:
    torch.manual_seed(0)
    cell = published_large()
    plain = torch.cat([m.weight.flatten() for m in cell.modules() if isinstance(m, nn.Conv2d)])
    assert plain.std().item() == pytest.approx(0.01, rel=0.01)
    for layer in (m for m in cell.modules() if isinstance(m, WeightNormConv2d)):
        # PyTorch's default is uniform in ±1/√fan_in, whose standard deviation is that over √3.
        fan_in = layer.direction[0].numel()
        assert layer.direction.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.05)


class TestDropout:
    def test_one_mask_per_sample_and_branch_for_the_whole_solve(self) -> None:
        torch.manual_seed(0)
        cell = mdeq(dropout=0.5).train()
        features, *masks = cell.inject(torch.randn(6, 2, 8, 8))
        assert [tuple(mask.shape) for mask in masks] == [(6, 8, 1, 1), (6, 12, 1, 1)]
        f, z = BoundCell(cell, (features, *masks)), torch.randn(6, cell.state_size)
        assert torch.equal(f(z), f(z))
        assert len({tuple(row) for row in masks[0].flatten(1).tolist()}) == 6

    def test_another_solve_has_another_mask(self) -> None:
        torch.manual_seed(0)
        cell, x = mdeq(dropout=0.5).train(), torch.randn(6, 2, 8, 8)
        first, second = cell.inject(x), cell.inject(x)
        assert torch.equal(first[0], second[0])
        assert not torch.equal(first[1], second[1])

    def test_mask_keeps_the_mean(self) -> None:
        torch.manual_seed(0)
        cell = mdeq(dropout=0.25).train()
        _, mask, _ = cell.inject(torch.randn(4000, 2, 8, 8))
        torch.testing.assert_close(mask.unique(), torch.tensor([0.0, 4 / 3]))
        # 32,000 draws: the mean's standard error is √(1/3 / 32000) = 0.0032.
        assert mask.mean().item() == pytest.approx(1.0, abs=0.013)

    @pytest.mark.parametrize(("dropout", "training"), [(0.5, False), (0.0, True)])
    def test_there_is_none_in_evaluation_or_at_probability_zero(self, dropout: float, training: bool) -> None:
        cell = mdeq(dropout=dropout).train(training)
        assert len(cell.inject(torch.randn(4, 2, 8, 8))) == 1


class TestImagesThatBranchesDoNotFit:
    def test_digits_with_two_branches(self) -> None:
        cell = MDEQCell(input_shape=(1, 8, 8), num_classes=10)
        assert cell.state_shapes == ((24, 8, 8), (24, 4, 4))
        assert cell.state_size == 24 * 64 + 24 * 16 == 1920
        # The published count, less the stem's weights for two of the three colours.
        assert parameters(cell) == 158_890 - 2 * 24 * 9

    def test_digits_leave_out_the_two_coarsest_of_four(self) -> None:
        cell = published_large((1, 8, 8)).eval()
        two = MDEQCell(
            input_shape=(1, 8, 8), num_classes=10, channels=[32, 64], head_channels=[14, 28], final_channels=1680
        )
        assert cell.state_shapes == ((32, 8, 8), (64, 4, 4))
        assert parameters(cell) == parameters(two)
        assert cell.readout(torch.zeros(2, cell.state_size)).shape == (2, 10)

    @pytest.mark.parametrize(
        ("sides", "resolutions"),
        [
            ((28, 28), [(28, 28), (14, 14), (7, 7), (4, 4)]),
            ((13, 9), [(13, 9), (7, 5)]),
            ((8, 64), [(8, 64), (4, 32)]),
            ((4, 4), [(4, 4)]),
        ],
    )
    def test_sides_are_halved_rounding_up_and_end_at_four(
        self, sides: tuple[int, int], resolutions: list[tuple[int, int]]
    ) -> None:
        cell = mdeq(input_shape=(1, *sides), channels=[4, 4, 4, 4], head_channels=[1, 1, 1, 1]).eval()
        assert list(cell.resolutions) == resolutions
        z = cell(torch.randn(2, *cell.state_shape), cell.inject(torch.randn(2, 1, *sides)))
        assert z.shape == (2, 4 * sum(h * w for h, w in resolutions))
        assert cell.readout(z).shape == (2, 3)

    def test_downsampling_halves_before_the_finest_branch(self) -> None:
        cell = mdeq(input_shape=(2, 60, 60), downsampling=3)
        assert cell.resolutions == ((8, 8), (4, 4))
        assert cell.inject(torch.randn(2, 2, 60, 60))[0].shape == (2, 8, 8, 8)


@pytest.mark.parametrize(("groups", "after_fusion"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (9, 3)])
def test_norm_after_fusion_has_half_the_groups(groups: int, after_fusion: int) -> None:
    assert half(groups) == after_fusion


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"groups": 5}, r"groups=5 does not divide channels\[0\]=8 and channels\[1\]=12: allowed are 1, 2, 4 \(near"),
        ({"channels": [], "head_channels": []}, r"channels=\[\] has no branch"),
        ({"channels": [8, 0]}, r"channels\[1\]=0 is too small: allowed are integers from 1"),
        ({"channels": [8]}, r"head_channels=\[2, 4\] has 2 entries: allowed is one for each of the 1 entries"),
        ({"channels": [8, 8.5]}, r"channels\[1\]=8.5 is not an integer: allowed are whole numbers"),
        ({"head_channels": [2, 0]}, "head_channels=0 is too small"),
        ({"dropout": 1.0}, r"dropout=1.0 is no dropout probability: allowed are numbers in \[0, 1\)"),
        ({"dropout": "high"}, r"dropout='high' is no dropout probability"),
        ({"expansion": 0}, "expansion=0 is too small: allowed are integers from 1"),
        ({"downsampling": -1}, "downsampling=-1 is too small: allowed are integers from 0"),
        ({"downsampling": 1, "input_shape": (1, 6, 8)}, r"input_shape=\[1, 6, 8\] .* height and width from 7"),
        ({"input_shape": (1, 3, 8)}, r"input_shape=\[1, 3, 8\] .* height and width from 4"),
        ({"input_shape": (64,)}, r"input_shape=\[64\] is not an image .* \[channels, height, width\]"),
        ({"num_classes": 0}, "num_classes=0 is too small: allowed are integers from 1"),
        ({"final_channels": 0}, "final_channels=0 is too small"),
    ],
)
def test_a_bad_parameter_is_refused_with_what_is_allowed(wrong: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        mdeq(**wrong)
