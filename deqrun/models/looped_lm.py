"""A looped language model: causal blocks around a diagonal linear recurrence that is stable for all weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_positive
from deqrun.models.token_cell import TokenCell
from deqrun.models.token_layers import PreNormBlock, rms_norm

__all__ = ["SLOWEST_RATE", "LoopedLMCell"]

SLOWEST_RATE = 1e-3
"""Added to every rate: A is at most exp(−0.001) = 0.9990, in float32 as well, where exp(−exp(−100)) would be 1."""

LARGEST_LOGARITHM = 30.0
"""Logarithms of rates are cut here, where A has long been 0, so that no rate and no derivative overflows."""


class LoopedLMCell(TokenCell):
    """f(z; x) = A ⊙ z + (1 − A) ⊙ b ⊙ e(x) + R(z), with A = exp(−r) and r = 0.001 + exp(s) for each feature.

    A and (1 − A) are the exact solution over one unit of time of ż = r ⊙ (b ⊙ e(x) − z) (zero-order hold). Since r is
    above 0 for every s, the linear part has a spectral radius of at most exp(−0.001) for all weights. R is the sum of
    the branches of `layers` causal pre-norm blocks: attention and SwiGLU of normalised features, which for given
    weights are bounded whatever z is. So iterates stay bounded for all weights.

    Before the loop `prelude` causal blocks, applied once per solve, turn the embedded tokens into e(x), which is
    normalised; after the loop `coda` blocks, a norm and a linear map make the logits. Position i hears of x_1 … x_i
    alone. Where one answer is asked per sample, the answer is the last position's. The state is (L, width); z_0 = 0.

    Source: Parcae, looped language models with a stable diagonal injection (arXiv 2604.12946). Assumed here: one
    number s per feature in place of a step size and a matrix, the zero-order hold for B, and R that sees x by z alone.

    Arguments
        input_shape   (channels, L), the tokens one-hot
        num_classes   number of logits of each answer
        output_shape  (L,): an answer at every position; (): one, at the last position
        width         features at each position; a multiple of 2 · heads
        heads         attention heads
        layers        blocks within the loop
        prelude       blocks before the loop, from 0
        coda          blocks after the loop, from 0
        expansion     of the SwiGLUs, above 0

    s starts with rates from 0.5 to 2, evenly spaced in their logarithm, and b as 1. Raises ValueError for parameters
    outside these ranges.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        output_shape: Sequence[int] = (),
        width: int = 128,
        heads: int = 4,
        layers: int = 1,
        prelude: int = 1,
        coda: int = 1,
        expansion: float = 4.0,
    ) -> None:
        super().__init__(
            input_shape=input_shape, num_classes=num_classes, output_shape=output_shape, width=width, heads=heads
        )
        layers, expansion = require_at_least("layers", layers, 1), require_positive("expansion", expansion)
        prelude, coda = require_at_least("prelude", prelude, 0), require_at_least("coda", coda, 0)
        self.state_shape = (self.length, self.width)

        def blocks(number: int) -> nn.ModuleList:
            return nn.ModuleList(PreNormBlock(width, heads, self.length, expansion, True) for _ in range(number))

        self.prelude, self.loop, self.coda = blocks(prelude), blocks(layers), blocks(coda)
        self.log_rate = nn.Parameter(torch.linspace(math.log(0.5), math.log(2.0), width))
        self.gain = nn.Parameter(torch.ones(width))

    def decay(self) -> Tensor:
        """A (width,), each number in [0, exp(−0.001)] for every weight."""
        return torch.exp(-(SLOWEST_RATE + self.log_rate.clamp(max=LARGEST_LOGARITHM).exp()))

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """(e(x),), (batch, L, width), normalised, of inputs x (batch, channels, L)."""
        features = self.embedded(x)
        for block in self.prelude:
            features = block(features)
        return (rms_norm(features),)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, L, width) -> the same."""
        decay, u = self.decay(), z
        for block in self.loop:
            u = block(u)
        return decay * z + (1.0 - decay) * self.gain * injection[0] + (u - z)

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of the state (batch, L, width)."""
        for block in self.coda:
            z = block(z)
        return self.answers(rms_norm(z) if self.output_shape else rms_norm(z[:, -1:]))
