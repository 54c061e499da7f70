"""The frame of cells on tokens: embedding, prefix positions, start and head around a map of (length, width) states."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_divisor, require_multiple, require_output, require_positions
from deqrun.models.cell import Cell
from deqrun.models.token_layers import lecun_linear, truncated_normal_

__all__ = ["TokenCell"]


class TokenCell(Cell):
    """A cell whose inputs are tokens, one-hot along the channels, at positions taken row by row.

        e(x) = √width · [p, 0, …, 0, E x_1, …, E x_L]        logits_i = H z_{prefix + i}

    E has deviation 1/√width, so e(x) has deviation 1. Before the L positions lie `prefix` more, without tokens; with
    puzzle_embedding the first of them holds a learned vector p, which starts as 0.

    Arguments
        input_shape       (channels, L) or (channels, H, W)
        num_classes       number of logits of each answer
        output_shape      the input's positions, one answer each, or (): one answer, of the average over positions
        width             features at each position; a multiple of 2 · heads
        heads             attention heads
        prefix            positions before the tokens, from 0
        puzzle_embedding  whether the first prefix position holds a learned vector

    Raises ValueError for parameters outside these ranges.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        output_shape: Sequence[int],
        width: int,
        heads: int,
        prefix: int = 0,
        puzzle_embedding: bool = False,
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, output_shape=output_shape)
        channels, *positions = require_positions("input_shape", input_shape)
        require_output(self.output_shape, positions)
        self.heads = require_at_least("heads", heads, 1)
        self.width = require_multiple("width", width, 2)
        require_divisor("heads", heads, {"width / 2": width // 2})
        self.prefix = require_at_least("prefix", prefix, 1 if puzzle_embedding else 0)
        self.length = self.prefix + math.prod(positions)
        self.embed = nn.Linear(channels, width, bias=False)
        truncated_normal_(self.embed.weight, width**-0.5)
        self.puzzle = nn.Parameter(torch.zeros(1, width)) if puzzle_embedding else None
        self.head = lecun_linear(width, num_classes)

    def embedded(self, x: Tensor) -> Tensor:
        """e(x) (batch, prefix + L, width) of inputs x (batch, *input_shape)."""
        tokens: Tensor = self.embed(x.flatten(2).mT)
        if self.prefix:
            first = tokens.new_zeros(self.prefix, self.width)
            if self.puzzle is not None:
                first = torch.cat([self.puzzle.to(first.dtype), first[1:]])
            tokens = torch.cat([first.expand(len(x), -1, -1), tokens], dim=1)
        return math.sqrt(self.width) * tokens

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """(e(x),), (batch, prefix + L, width), of inputs x (batch, *input_shape)."""
        return (self.embedded(x),)

    def answers(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of features (batch, prefix + L, width)."""
        z = z[:, self.prefix :]
        if not self.output_shape:
            answer: Tensor = self.head(z.mean(dim=1))
            return answer
        each: Tensor = self.head(z).mT.unflatten(2, self.output_shape)
        return each

    def narrower(self) -> Iterable[dict[str, Any]]:
        """Every width that the heads allow, up to its own."""
        return ({"width": width} for width in range(2 * self.heads, self.width + 1, 2 * self.heads))
