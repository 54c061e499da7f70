"""The recurrent network with recall of the deep-thinking papers, along strings and over pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_choice, require_odd, require_output, require_positions
from deqrun.models.cell import Cell

__all__ = ["NORMS", "STARTS", "RecallCell"]

NORMS = ("rms", "none")
STARTS = ("zeros", "projection")

RMS_EPSILON = 1e-6
"""Added to the mean square of a position's channels, which ReLUs may leave all at 0."""


class RecallCell(Cell):
    """f(z; x) = N(B_n(… B_1(σ(W z + U x)))), with B(u) = ReLU(u + V₂ ReLU(V₁ u)).

    W, U, V₁, V₂ are convolutions without bias that keep the size: 1-d for inputs (channels, length), 2-d for
    (channels, height, width). [W, U] together are the published convolution of the concatenation [z, x]: the input is
    recalled at every iteration. σ is ReLU in 1-d and the identity in 2-d, as published. Without recall
    f(z) = N(B_n(… B_1(z))), which hears of x in the start alone, z_0 = ReLU(P x): a forgotten input is lost.

    N divides by the root mean square over the channels of each position (RMS norm without gain, Zhang & Sennrich 2019,
    arXiv 1910.07467), which keeps iterates bounded whatever the weights; the published network has no norm. The logits
    are convolutions of z with ReLU between them, averaged over the positions where one answer is asked per sample.

    Source: Bansal et al. 2022, End-to-end Algorithm Synthesis with Recurrent Networks: Logical Extrapolation Without
    Overthinking (arXiv 2202.05826); without recall: Schwarzschild et al. 2021 (arXiv 2106.04537). Theirs are width 400
    on strings and 128 on mazes, with blocks=2, norm=none, start=projection.

    Arguments
        input_shape    (channels, length) or (channels, height, width)
        num_classes    classes of each answer
        output_shape   the input's positions, one answer each, or () for one answer per sample
        width          channels of the state (width, *positions)
        blocks         n, at least 1
        kernel_size    odd, of all convolutions
        recall         whether x enters f
        norm           N: rms or none
        start          z_0: zeros or projection, ReLU(P x); None: zeros with recall, and projection without
        head_channels  channels between the convolutions of the read-out; None: the published ones,
                       [width, width // 2] in 1-d and [32, 8] in 2-d

    Raises ValueError for parameters outside these ranges, and for recall=False with start=zeros.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        output_shape: Sequence[int] = (),
        width: int = 64,
        blocks: int = 1,
        kernel_size: int = 3,
        recall: bool = True,
        norm: str = "rms",
        start: str | None = None,
        head_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, output_shape=output_shape)
        channels, *positions = require_positions("input_shape", input_shape)
        require_output(self.output_shape, positions)
        width, padding = require_at_least("width", width, 1), require_odd("kernel_size", kernel_size) // 2
        blocks = require_at_least("blocks", blocks, 1)
        self.recall, self.norm = recall, require_choice("norm", norm, NORMS)
        self.start = _start(recall, start)
        self.state_shape = (width, *positions)
        self.is_string = len(positions) == 1

        def conv(source: int, target: int) -> nn.Module:
            kind = nn.Conv1d if self.is_string else nn.Conv2d
            return kind(source, target, kernel_size, padding=padding, bias=False)

        self.project = conv(channels, width) if self.start == "projection" else None
        self.hear = conv(channels, width) if recall else None
        self.mix = conv(width, width) if recall else None
        self.blocks = nn.ModuleList(nn.ModuleList([conv(width, width), conv(width, width)]) for _ in range(blocks))
        inner = _head_channels(head_channels, width, self.is_string)
        self.head = nn.ModuleList(conv(*pair) for pair in pairwise([width, *inner, num_classes]))

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """(U x,), (ReLU(P x),) or both, each (batch, width, *positions), of inputs x (batch, *input_shape)."""
        parts = []
        if self.hear is not None:
            parts.append(self.hear(x))
        if self.project is not None:
            parts.append(F.relu(self.project(x)))
        return tuple(parts)

    def initial_state(self, injection: tuple[Tensor, ...]) -> Tensor:
        """z_0 (batch, width, *positions): ReLU(P x) with start=projection, else 0."""
        return injection[-1] if self.project is not None else torch.zeros_like(injection[0])

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, width, *positions) -> the same."""
        u = z
        if self.mix is not None:
            u = self.mix(z).add_(injection[0])
            u = F.relu_(u) if self.is_string else u
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            first, second = block
            u = F.relu_(second(F.relu_(first(u))).add_(u))
        return u if self.norm == "none" else _rms_norm(u)

    def narrower(self) -> Iterable[dict[str, Any]]:
        """Every width up to its own."""
        return ({"width": width} for width in range(1, self.state_shape[0] + 1))

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of the state (batch, width, *positions)."""
        *inner, last = self.head
        for convolution in inner:
            z = F.relu_(convolution(z))
        logits: Tensor = last(z)
        return logits if self.output_shape else logits.flatten(2).mean(2)


def _rms_norm(u: Tensor) -> Tensor:
    """u / √(mean over channels of u² + ε), position by position; where all channels are 0 they stay so."""
    return u * torch.rsqrt(u.square().mean(1, keepdim=True) + RMS_EPSILON)


def _start(recall: bool, start: str | None) -> str:
    if start is None:
        return "zeros" if recall else "projection"
    if not recall and start == "zeros":
        raise ValueError(
            "recall=False with start='zeros' would never hear of the input: allowed is start='projection' (or null)."
        )
    return require_choice("start", start, STARTS)


def _head_channels(given: Sequence[int] | None, width: int, is_string: bool) -> tuple[int, ...]:
    if given is None:
        return (width, max(1, width // 2)) if is_string else (32, 8)
    return tuple(require_at_least(f"head_channels[{i}]", channels, 1) for i, channels in enumerate(given))
