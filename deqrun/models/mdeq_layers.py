"""The parts of a multiscale DEQ: stem, residual block, fusion across resolutions, classification head.

All follow Bai, Koltun & Kolter 2020, Multiscale Deep Equilibrium Models (arXiv 2006.08656), with the sizes
and norms of the authors' released code: group norms in the iterated part, batch norms only outside of it.
Branch i has channels[i] channels at resolutions[i] = (height, width) pixels; branch 0 is the finest.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.models.batch_norm import BatchNorm2d
from deqrun.models.second_derivatives import Conv2d, GroupNorm
from deqrun.models.weight_norm import WeightNormConv2d

__all__ = ["Bottleneck", "Fusion", "Head", "ResidualBlock", "Resolution", "Stem"]

BOTTLENECK_EXPANSION = 4
"""A bottleneck's output channels per inner channel, as in ResNet (He et al. 2015, arXiv 1512.03385)."""

Resolution = tuple[int, int]


class Stem(nn.Sequential):
    """Features of the image for the finest branch: 3x3 convolutions, each followed by batch norm and ReLU.

    There are max(2, downsampling) of them, and the first `downsampling` halve the resolution. With `project`
    a 1x1 convolution follows, also with batch norm and ReLU.
    """

    def __init__(self, in_channels: int, channels: int, downsampling: int, project: bool) -> None:
        layers: list[nn.Module] = []
        for i in range(max(2, downsampling)):
            width, stride = (in_channels if i == 0 else channels), (2 if i < downsampling else 1)
            convolution = nn.Conv2d(width, channels, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, BatchNorm2d(channels), nn.ReLU(inplace=True)]
        if project:
            pointwise = nn.Conv2d(channels, channels, 1, bias=False)
            layers += [pointwise, BatchNorm2d(channels), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """One branch's own map: y = GN(W₂ ReLU(GN(W₁ z)) ⊙ mask + x̂),  out = GN(ReLU(y + z)).

    W₁ widens `channels` to expansion·channels, W₂ narrows back; both 3x3. x̂ are the injected features
    (finest branch only) and mask the dropout mask of this solve (training only). Source: the paper's
    figure 2.
    """

    def __init__(self, channels: int, expansion: int, groups: int, weight_norm: bool) -> None:
        super().__init__()
        inner = expansion * channels
        self.widen = _convolution(channels, inner, 3, weight_norm)
        self.widen_norm = GroupNorm(groups, inner)
        self.narrow = _convolution(inner, channels, 3, weight_norm)
        self.narrow_norm = GroupNorm(groups, channels)
        self.output_norm = GroupNorm(groups, channels)

    def forward(self, z: Tensor, features: Tensor | None, mask: Tensor | None) -> Tensor:
        """z (batch, channels, H, W), features of that shape or None, mask (batch, channels, 1, 1) or None."""
        y = self.narrow(F.relu_(self.widen_norm(self.widen(z))))
        if mask is not None:
            y = y * mask
        if features is not None:
            y = y + features
        return self.output_norm(F.relu_(self.narrow_norm(y).add_(z)))


class Fusion(nn.Module):
    """Every branch hears every other: out_i = GN(V_i ReLU(Σ_j path_{j→i}(y_j))), path_{i→i} the identity.

    From a finer branch j < i: i-j stride-2 3x3 convolutions, each with group norm, ReLU between them. From a
    coarser branch j > i: 1x1 convolution, group norm, nearest-neighbour enlargement to i's resolution. V_i
    is 1x1. The last group norm has half as many groups and no affine parameters: whatever the weights, every
    group of an iterate has mean 0 and variance at most 1.
    """

    def __init__(
        self, channels: Sequence[int], resolutions: Sequence[Resolution], groups: int, weight_norm: bool
    ) -> None:
        super().__init__()
        branches = range(len(channels))
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(channels, resolutions, source, target, groups) for source in branches)
            for target in branches
        )
        self.mix = nn.ModuleList(_convolution(width, width, 1, weight_norm) for width in channels)
        self.norms = nn.ModuleList(GroupNorm(half(groups), width, affine=False) for width in channels)

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        """Branch tensors (batch, channels_i, H_i, W_i), in and out."""
        return [
            norm(mix(F.relu_(self._gather(target, branches))))
            for target, (mix, norm) in enumerate(zip(self.mix, self.norms, strict=True))
        ]

    def _gather(self, target: int, branches: Sequence[Tensor]) -> Tensor:
        paths = self.paths[target]
        assert isinstance(paths, nn.ModuleList)
        total = paths[0](branches[0]) + paths[1](branches[1])
        for path, branch in zip(paths[2:], branches[2:], strict=True):
            total += path(branch)
        return total


class Enlarge(nn.Module):
    """Nearest-neighbour enlargement to `resolution`. By size and not by factor: 7 pixels come from 4."""

    def __init__(self, resolution: Resolution) -> None:
        super().__init__()
        self.resolution = resolution

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) -> (batch, channels, *resolution)."""
        return F.interpolate(x, size=self.resolution, mode="nearest")


class Bottleneck(nn.Module):
    """ReLU(BN(W₃ ReLU(BN(W₂ ReLU(BN(W₁ z))))) + BN'(S z)), with W₁, W₃ and S 1x1 and W₂ 3x3 convolutions.

    BN has no affine parameters, BN' has. BN'(S z) is z itself where `in_channels` already is 4·inner.
    """

    def __init__(self, in_channels: int, inner: int) -> None:
        super().__init__()
        out_channels = BOTTLENECK_EXPANSION * inner
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            BatchNorm2d(inner, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, bias=False),
            BatchNorm2d(inner, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            BatchNorm2d(out_channels, affine=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            projection = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(projection, BatchNorm2d(out_channels))

    def forward(self, z: Tensor) -> Tensor:
        """(batch, in_channels, H, W) -> (batch, 4·inner, H, W)."""
        return F.relu(self.body(z) + self.shortcut(z))


class Head(nn.Module):
    """Logits = linear(mean(final(h_last))) with h_0 = B_0(z_0) and h_i = B_i(z_i) + down_i(h_{i-1}).

    B_i is a bottleneck, down_i a stride-2 3x3 convolution with batch norm and ReLU, final a 1x1 convolution
    to `final_channels` with batch norm and ReLU; the mean is over the coarsest branch's pixels.
    """

    def __init__(
        self, channels: Sequence[int], head_channels: Sequence[int], final_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        widths = [BOTTLENECK_EXPANSION * inner for inner in head_channels]
        pairs = zip(channels, head_channels, strict=True)
        self.bottlenecks = nn.ModuleList(Bottleneck(width, inner) for width, inner in pairs)
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), BatchNorm2d(b), nn.ReLU(inplace=True))
            for a, b in pairwise(widths)
        )
        self.final = nn.Sequential(
            nn.Conv2d(widths[-1], final_channels, 1), BatchNorm2d(final_channels), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Linear(final_channels, num_classes)

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """Branch tensors (batch, channels_i, H_i, W_i) -> logits (batch, num_classes)."""
        h = self.bottlenecks[0](branches[0])
        for bottleneck, down, branch in zip(self.bottlenecks[1:], self.down, branches[1:], strict=True):
            h = bottleneck(branch) + down(h)
        logits: Tensor = self.classifier(self.final(h).mean(dim=(2, 3)))
        return logits


def half(groups: int) -> int:
    """Groups of the norm after fusion: the largest divisor of `groups` that is at most half of it, or 1."""
    return next((count for count in range(groups // 2, 0, -1) if groups % count == 0), 1)


def _convolution(in_channels: int, out_channels: int, kernel_size: int, weight_norm: bool) -> nn.Module:
    if weight_norm:
        return WeightNormConv2d(in_channels, out_channels, kernel_size)
    return Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)


def _path(
    channels: Sequence[int], resolutions: Sequence[Resolution], source: int, target: int, groups: int
) -> nn.Module:
    if source == target:
        return nn.Identity()
    if source > target:
        pointwise = Conv2d(channels[source], channels[target], 1, bias=False)
        return nn.Sequential(pointwise, GroupNorm(groups, channels[target]), Enlarge(resolutions[target]))
    layers: list[nn.Module] = []
    for step in range(source + 1, target + 1):
        width = channels[target] if step == target else channels[source]
        convolution = Conv2d(channels[source], width, 3, stride=2, padding=1, bias=False)
        layers += [convolution, GroupNorm(groups, width), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])
