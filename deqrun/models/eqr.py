"""Equilibrium Reasoners: the network of the Tiny Recursive Model on one state, with relaxed updates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_choice, require_positive
from deqrun.models.token_cell import TokenCell
from deqrun.models.token_layers import PostNormBlock, halting_linear, truncated_normal_
from deqrun.models.trm import MIXERS

__all__ = ["STARTS", "EqRCell"]

STARTS = ("fixed", "zeros")


class EqRCell(TokenCell):
    """f(z; x) = (1 − λ) z + λ g(z + e(x)), with g the post-norm blocks of `TRMCell` and e(x) the embedded tokens.

    λ changes no fixed point: z = f(z; x) exactly where z = g(z + e(x)). It changes the path, as an update in place of
    an answer. The state is (prefix + L, width), the logits are linear in it. Random starts and noise along the path
    belong to training: `train.start=normal`, `train.path_noise`; `train.path_damping` relaxes training steps alone.

    Source: Huang, Geng & Kolter 2026, Equilibrium Reasoners (arXiv 2605.21488), with λ = 0.95 in their code. Assumed
    here: one state, and the input added to it before g, as TRM's latent update has it.

    Arguments
        input_shape       (channels, L) or (channels, H, W); the tokens are one-hot channels
        num_classes       number of logits of each answer
        output_shape      the input's positions, one answer each, or (): one answer, of the average over positions
        width             features at each position; a multiple of 2 · heads
        heads             attention heads
        layers            blocks of g
        relaxation        λ, above 0 and at most 1
        expansion         of the SwiGLUs, above 0
        mixer             attention, or mlp: a SwiGLU across positions, whose weights depend on L
        prefix            positions before the tokens, from 0
        puzzle_embedding  whether the first prefix position holds a learned vector
        start             z_0: fixed, one vector at every position that is drawn once; or zeros
        halting_head      whether there is a linear map of z's first position to two numbers, as in the authors' code,
                          of which the first is `halt_logit` and no loss trains the second

    Raises ValueError for parameters outside these ranges.
    """

    first: Tensor

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        output_shape: Sequence[int] = (),
        width: int = 512,
        heads: int = 8,
        layers: int = 2,
        relaxation: float = 0.95,
        expansion: float = 4.0,
        mixer: str = "attention",
        prefix: int = 16,
        puzzle_embedding: bool = False,
        start: str = "fixed",
        halting_head: bool = False,
    ) -> None:
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            output_shape=output_shape,
            width=width,
            heads=heads,
            prefix=prefix,
            puzzle_embedding=puzzle_embedding,
        )
        layers, mixer = require_at_least("layers", layers, 1), require_choice("mixer", mixer, MIXERS)
        expansion = require_positive("expansion", expansion)
        self.relaxation, self.start = require_positive("relaxation", relaxation), require_choice("start", start, STARTS)
        if self.relaxation > 1.0:
            raise ValueError(f"relaxation={relaxation} is too large: allowed are numbers above 0 to 1 (nearest: 1.0).")
        self.state_shape = (self.length, self.width)
        self.net = nn.Sequential(*(PostNormBlock(width, heads, self.length, expansion, mixer) for _ in range(layers)))
        self.halt = halting_linear(width, 2) if halting_head else None
        # A buffer: the start is drawn once, stored in a checkpoint, and never trained.
        self.register_buffer("first", truncated_normal_(torch.empty(width), 1.0))

    def initial_state(self, injection: tuple[Tensor, ...]) -> Tensor:
        """z_0 (batch, prefix + L, width): the fixed vector at every position, or 0 with start=zeros."""
        if self.start == "zeros":
            return torch.zeros_like(injection[0])
        return self.first.expand(len(injection[0]), self.length, -1).clone()

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, prefix + L, width) -> the same."""
        value: Tensor = torch.lerp(z, self.net(z + injection[0]).to(z.dtype), self.relaxation)
        return value

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of z, without its prefix."""
        return self.answers(z)

    @property
    def has_halting_head(self) -> bool:
        """Whether it was built with halting_head=True."""
        return self.halt is not None

    def halt_logit(self, z: Tensor) -> Tensor:
        """(batch,) the logit of "the whole answer is right", linear in z's first position; ValueError without it."""
        if self.halt is None:
            raise ValueError("This cell has no halting head; build it with halting_head=true.")
        logit: Tensor = self.halt(z[:, 0])[:, 0]
        return logit
