"""The deep equilibrium transformer: one post-norm block with relative positions, iterated."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.arguments import (
    require_at_least,
    require_divisor,
    require_fraction,
    require_multiple,
    require_output,
    require_positions,
)
from deqrun.models.cell import Cell
from deqrun.models.relative_attention import RelativeAttention, linear
from deqrun.models.rows import dropout_mask
from deqrun.models.weight_norm import weight_norm_fixed

__all__ = ["TransformerCell"]


class TransformerCell(Cell):
    """f(z; x) = LN(y + W₂ ReLU(W₁ y + b₁) + b₂) with y = LN(z + attention(z; U E x)): at every position the same.

    The DEQ-Transformer of Bai, Kolter & Koltun 2019 (arXiv 1909.01377), as in the authors' released code: the
    input is embedded by E, and U E x is added to the queries, keys and values (see `RelativeAttention`), once per
    solve. LN are layer norms over the features, without parameters. The logits are linear in z*. The state has
    `width` features at each of L positions: (L, width); a picture's positions are its pixels, row by row.

    Arguments
        input_shape    (channels, L) or (channels, H, W)
        num_classes    number of logits of each answer
        output_shape   (): one answer, of the average over all positions; (L,) or (H, W): one at every position
        width          features of the state; a multiple of 2 for sequences and of 4 for pictures
        heads          attention heads; divides width
        inner          features between W₁ and W₂
        causal         whether position i hears of x_1 … x_i alone; None: for sequences, and not for pictures
        dropout        probability that a feature is dropped: of the embedding, of what attention says, between W₁
                       and W₂, and after W₂; each mask is one for all positions and evaluations of a sample's solve
        weight_norm    whether the weights of attention, W₁ and W₂ are weight-normalised

    No parameter depends on L. E starts as N(0, 1) and all other weights as PyTorch's default, biases as 0. (The
    authors start E and U as N(0, 0.01²) and multiply E by √width, which for a width of 700 is 0.26.)

    Raises ValueError for parameters outside these ranges.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        output_shape: Sequence[int] = (),
        width: int = 64,
        heads: int = 4,
        inner: int = 256,
        causal: bool | None = None,
        dropout: float = 0.0,
        weight_norm: bool = True,
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, output_shape=output_shape)
        channels, *positions = require_positions("input_shape", input_shape)
        require_output(self.output_shape, positions)
        width = require_multiple("width", width, 2 * len(positions))
        require_divisor("heads", heads, {"width": width})
        self.inner = require_at_least("inner", inner, 1)
        self.dropout = require_fraction("dropout", dropout)
        self.causal = len(positions) == 1 if causal is None else causal
        self.state_shape = (math.prod(positions), width)

        self.embed = nn.Linear(channels, width, bias=False)
        self.inject_input = linear(width, 3 * width, weight_norm=False)
        self.attention = RelativeAttention(width, heads, positions, self.causal, weight_norm)
        self.widen = linear(width, inner, weight_norm)
        self.narrow = linear(inner, width, weight_norm)
        self.classifier = linear(width, num_classes, weight_norm=False)
        nn.init.normal_(self.embed.weight)

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """(U E x,) or, in training with dropout, (U E x, mask_attention, mask_inner, mask_output).

        x (batch, channels, *positions); U E x (batch, L, 3 width); masks (batch, 1, features) are 0 with
        probability `dropout` and 1/(1 - dropout) otherwise.
        """
        embedded, width = self.embed(x.flatten(2).mT), self.state_shape[1]
        if not self.training or self.dropout == 0.0:
            return (self.inject_input(embedded),)
        keep = 1.0 - self.dropout
        first, *masks = (dropout_mask(embedded, (1, features), keep) for features in (width, width, self.inner, width))
        return (self.inject_input(embedded * first), *masks)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, L, width) -> (batch, L, width)."""
        injected, *masks = injection
        of_attention, of_inner, of_output = masks or (None, None, None)
        y = _normalised(z + _dropped(self.attention(z, injected), of_attention))
        h = _dropped(F.relu(self.widen(y)), of_inner)
        return _normalised(y + _dropped(self.narrow(h), of_output))

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of the state (batch, L, width)."""
        if not self.output_shape:
            answer: Tensor = self.classifier(z.mean(dim=1))
            return answer
        answers: Tensor = self.classifier(z).mT.unflatten(2, self.output_shape)
        return answers

    def narrower(self) -> Iterable[dict[str, Any]]:
        """Width as the heads and positions allow it; `inner` in its proportion to it, or from half to twice as much."""
        own, heads = self.state_shape[1], self.attention.heads
        step = math.lcm(heads, 2 * len(self.attention.positions))
        for width in range(step, own + 1, step):
            for eighths in range(4, 17):
                yield {"width": width, "inner": max(1, round(self.inner * width / own * eighths / 8))}

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Within the context, weight-normalised weights and the keys of distances are computed once."""
        with weight_norm_fixed(self), self.attention.fixed_keys():
            yield


def _normalised(features: Tensor) -> Tensor:
    return F.layer_norm(features, features.shape[-1:])


def _dropped(features: Tensor, mask: Tensor | None) -> Tensor:
    return features if mask is None else features * mask
