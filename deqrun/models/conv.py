"""A single-resolution convolutional deep equilibrium model: one residual block, iterated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_divisor, require_image, require_odd, require_pool
from deqrun.models.batch_norm import BatchNorm2d
from deqrun.models.cell import Cell
from deqrun.models.second_derivatives import Conv2d, GroupNorm

__all__ = ["ConvCell"]


class ConvCell(Cell):
    """f(z; x) = GN₃(ReLU(z + GN₂(x̂ + W₂ GN₁(ReLU(W₁ z))))), with x̂ = BN(conv(x)) computed once per solve.

    W₁ and W₂ are size-preserving convolutions without bias, GN group norms with affine parameters, BN batch
    norms. The logits are linear in BN(z*), averaged to `pool` x `pool` pixels. The state is an image:
    (channels, height, width).

    Source: Kolter, Duvenaud & Johnson 2020, Deep Implicit Layers (NeurIPS tutorial), chapter 4, whose
    CIFAR-10 model is channels=48, inner_channels=64 here. W₁ and W₂ start as N(0, 0.01²), as there.

    Arguments
        input_shape      (channels, height, width) of an image
        num_classes      number of logits
        channels         channels of the state
        inner_channels   channels between W₁ and W₂
        groups           groups of the three group norms; divides channels and inner_channels
        kernel_size      odd; of W₁, W₂ and the encoder
        stride           of the encoder: the state's sides are the image's divided by it, rounded up
        pool             sides of the image that the classifier sees; at most the state's

    Raises ValueError for parameters outside these ranges.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: int = 32,
        inner_channels: int = 64,
        groups: int = 8,
        kernel_size: int = 3,
        stride: int = 1,
        pool: int = 4,
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes)
        image_channels, height, width = require_image("input_shape", input_shape)
        channels = require_at_least("channels", channels, 1)
        inner_channels = require_at_least("inner_channels", inner_channels, 1)
        require_divisor("groups", groups, {"channels": channels, "inner_channels": inner_channels})
        padding = require_odd("kernel_size", kernel_size) // 2
        stride = require_at_least("stride", stride, 1)
        self.state_shape = (channels, -(-height // stride), -(-width // stride))
        self.pool = require_pool(pool, self.state_shape)
        self.groups = groups
        self.inner_channels = inner_channels

        encode = nn.Conv2d(image_channels, channels, kernel_size, stride=stride, padding=padding)
        self.encoder = nn.Sequential(encode, BatchNorm2d(channels))
        self.widen = Conv2d(channels, inner_channels, kernel_size, padding=padding, bias=False)
        self.narrow = Conv2d(inner_channels, channels, kernel_size, padding=padding, bias=False)
        self.inner_norm = GroupNorm(groups, inner_channels)
        self.sum_norm = GroupNorm(groups, channels)
        self.output_norm = GroupNorm(groups, channels)
        self.head_norm = BatchNorm2d(channels)
        self.classifier = nn.Linear(channels * self.pool**2, num_classes)
        for convolution in (self.widen, self.narrow):
            nn.init.normal_(convolution.weight, std=0.01)

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """(x̂,) of shape (batch, *state_shape) from images x (batch, *input_shape)."""
        return (self.encoder(x),)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, *state_shape) -> (batch, *state_shape)."""
        (features,) = injection
        y = self.narrow(self.inner_norm(F.relu_(self.widen(z))))
        value: Tensor = self.output_norm(F.relu_(self.sum_norm(y.add_(features)).add_(z)))
        return value

    def narrower(self) -> Iterable[dict[str, Any]]:
        """Channels and inner channels in multiples of `groups`, their proportion from half to twice its own."""
        own, groups = self.inner_channels / self.state_shape[0], self.groups
        for channels in range(groups, self.state_shape[0] + 1, groups):
            for inner in range(groups, int(2 * own * channels) + 1, groups):
                if 2 * inner >= own * channels:
                    yield {"channels": channels, "inner_channels": inner}

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes) of the state (batch, *state_shape)."""
        pooled = F.adaptive_avg_pool2d(self.head_norm(z), self.pool)
        logits: Tensor = self.classifier(pooled.flatten(1))
        return logits
