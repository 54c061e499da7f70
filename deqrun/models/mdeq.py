"""The multiscale deep equilibrium model: several resolutions brought to one joint equilibrium."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_divisor, require_fraction, require_image, require_same_length
from deqrun.models.cell import Cell
from deqrun.models.mdeq_layers import Fusion, Head, ResidualBlock, Resolution, Stem
from deqrun.models.rows import dropout_mask
from deqrun.models.weight_norm import weight_norm_fixed

__all__ = ["SMALLEST_RESOLUTION", "MDEQCell"]

SMALLEST_RESOLUTION = 4
"""Least pixels of a branch's shorter side: the authors' coarsest branch on CIFAR-10 has 32/2³ = 4."""


class MDEQCell(Cell):
    """MDEQ of Bai, Koltun & Kolter 2020 (arXiv 2006.08656), as in the authors' released image classifier.

        block     y_i = GN(ReLU(GN(W₂ ReLU(GN(W₁ z_i)) ⊙ mask_i + x̂_i) + z_i))      per branch i
        fusion    f(z; x)_i = GN(V_i ReLU(Σ_j path_{j→i}(y_j)))                    across branches

    with x̂_0 the stem's features of the image and x̂_i = 0 for the coarser branches. The state is the
    concatenation of all branches, flattened: (D,) with D = Σ_i channels_i · height_i · width_i.

    Arguments
        input_shape      (channels, height, width) of an image, both sides more than 3 · 2^downsampling pixels
        num_classes      number of logits
        channels         state channels per branch, finest first
        head_channels    inner channels of the head's bottlenecks, one per branch
        final_channels   channels before the classifier
        expansion        inner channels of a block per state channel
        groups           groups of the group norms, a divisor of every branch's channels; the norm after
                         fusion has half as many
        dropout          probability that a channel is dropped: one mask per sample and branch, the same in
                         every evaluation of a solve (variational dropout, Gal & Ghahramani 2016,
                         arXiv 1512.05287); in training only
        weight_norm      whether the convolutions of blocks and V_i are weight-normalised
        downsampling     how many times the stem halves the image before the finest branch (0 for CIFAR-10)

    Branches that don't fit. Branch i has the finest branch's sides halved i times, rounded up. Branches
    whose shorter side would be under 4 pixels are left out, with their entries of `channels` and
    `head_channels`; the head then ends at the coarsest branch that is left. An 8x8 image has branches of 8x8
    and 4x4, whatever is configured beyond: channels [24, 24] give a state of 24·64 + 24·16 = 1,920. With a
    single branch there is nothing to fuse, and f is the block alone.

    Initialisation is the authors' in effect: N(0, 0.01²) for every plain convolution and its bias; the
    weight-normalised ones keep PyTorch's default, because the released code draws the normalised weight anew
    but not the g and v that it is recomputed from. Two options that their CIFAR-10 configurations leave
    alone are left out: several blocks per branch, and 5x5 kernels.

    Raises ValueError for sizes that are not positive, lists of unequal length, groups that don't divide the
    channels, and images that are too small.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = (24, 24),
        head_channels: Sequence[int] = (8, 16),
        final_channels: int = 200,
        expansion: int = 5,
        groups: int = 8,
        dropout: float = 0.25,
        weight_norm: bool = True,
        downsampling: int = 0,
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes)
        downsampling = require_at_least("downsampling", downsampling, 0)
        # Halving d times with rounding up leaves at least 4 pixels exactly if there were more than 3 · 2^d.
        smallest = (SMALLEST_RESOLUTION - 1) * 2**downsampling + 1
        image_channels, height, width = require_image("input_shape", input_shape, smallest)
        require_same_length("head_channels", head_channels, "channels", channels)
        require_at_least("final_channels", final_channels, 1)
        require_at_least("expansion", expansion, 1)
        finest = _halved((height, width), downsampling)
        self.resolutions = fitting_resolutions(finest, len(channels))
        self.given_channels = _checked_channels(channels, groups)
        self.channels = self.given_channels[: len(self.resolutions)]
        self.expansion, self.groups = expansion, groups
        self.dropout = require_fraction("dropout", dropout)
        self.state_shape = (sum(self._sizes),)

        several = len(self.channels) > 1
        project = downsampling > 0 or len(self.channels) > 2
        self.stem = Stem(image_channels, self.channels[0], downsampling, project)
        self.blocks = nn.ModuleList(ResidualBlock(c, expansion, groups, weight_norm) for c in self.channels)
        self.fusion = Fusion(self.channels, self.resolutions, groups, weight_norm) if several else None
        inner = [require_at_least("head_channels", c, 1) for c in head_channels][: len(self.channels)]
        self.head = Head(self.channels, inner, final_channels, num_classes)
        self._initialise()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as states are

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """(channels, height, width) of each branch, finest first."""
        return tuple((c, *resolution) for c, resolution in zip(self.channels, self.resolutions, strict=True))

    @property
    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.state_shapes]

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """(features,) or, in training with dropout, (features, mask_0, mask_1, …).

        features (batch, channels_0, height_0, width_0); mask_i (batch, channels_i, 1, 1) is 0 with
        probability `dropout` and 1/(1 - dropout) otherwise.
        """
        features = self.stem(x.contiguous(memory_format=torch.channels_last))
        if not self.training or self.dropout == 0.0:
            return (features,)
        keep = 1.0 - self.dropout
        masks = (dropout_mask(features, (c, 1, 1), keep) for c in self.channels)
        return (features, *masks)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, D) -> (batch, D)."""
        features, *masks = injection
        outputs = []
        for i, (block, branch) in enumerate(zip(self.blocks, self.split(z), strict=True)):
            outputs.append(block(branch, features if i == 0 else None, masks[i] if masks else None))
        if self.fusion is not None:
            outputs = self.fusion(outputs)
        return torch.cat([output.permute(0, 2, 3, 1).flatten(1) for output in outputs], dim=1)

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes) of the state (batch, D)."""
        logits: Tensor = self.head(self.split(z))
        return logits

    def split(self, z: Tensor) -> list[Tensor]:
        """The branches (batch, channels_i, height_i, width_i) of a state (batch, D); views, not copies.

        A state holds a branch pixel by pixel, and a pixel channel by channel: convolutions on CPUs and on tensor cores
        are fastest in this order (channels last).
        """
        # torch.split and not slices: its backward is one concatenation, theirs a full-size zero tensor each.
        parts = torch.split(z, self._sizes, dim=1)
        return [
            part.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
            for part, (channels, height, width) in zip(parts, self.state_shapes, strict=True)
        ]

    def narrower(self) -> Iterable[dict[str, Any]]:
        """All branches narrower by one factor, in multiples of `groups`; `expansion` from half to twice its own."""
        steps = math.gcd(*self.given_channels) // self.groups
        for step in range(1, steps + 1):
            channels = [width // steps * step for width in self.given_channels]
            for expansion in range(-(-self.expansion // 2), 2 * self.expansion + 1):
                yield {"channels": channels, "expansion": expansion}

    def fixed_weights(self) -> AbstractContextManager[None]:
        """Within the context, the weight-normalised weights are computed once, in the grad mode at entry."""
        return weight_norm_fixed(self)

    def _initialise(self) -> None:
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.01)
                if part.bias is not None:
                    nn.init.normal_(part.bias, std=0.01)


def fitting_resolutions(finest: Resolution, branches: int) -> tuple[Resolution, ...]:
    """(height, width) of up to `branches` branches: each half the one before, rounded up, none under 4."""
    halvings = (_halved(finest, i) for i in range(branches))
    return tuple(resolution for resolution in halvings if min(resolution) >= SMALLEST_RESOLUTION)


def _halved(resolution: Resolution, times: int) -> Resolution:
    """Sides after `times` stride-2 3x3 convolutions with padding 1: each rounds up."""
    height, width = resolution
    return -(-height // 2**times), -(-width // 2**times)


def _checked_channels(channels: Sequence[int], groups: int) -> tuple[int, ...]:
    if len(channels) == 0:
        raise ValueError("channels=[] has no branch: allowed is one positive integer per branch, e.g. [24, 24].")
    named = {f"channels[{i}]": width for i, width in enumerate(channels)}
    checked = {name: require_at_least(name, width, 1) for name, width in named.items()}
    require_divisor("groups", groups, checked)
    return tuple(checked.values())
