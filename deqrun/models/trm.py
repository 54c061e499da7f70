"""The Tiny Recursive Model: one network of two layers that refines a latent state and an answer in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_choice, require_positive
from deqrun.models.token_cell import TokenCell
from deqrun.models.token_layers import PostNormBlock, halting_linear, truncated_normal_

__all__ = ["MIXERS", "TRMCell"]

MIXERS = ("attention", "mlp")


class TRMCell(TokenCell):
    """f((y, z); x): n times z ← g(z + y + e(x)), then once y ← g(y + z), with one network g for both.

    g is `layers` post-norm blocks (`token_layers.PostNormBlock`); e(x) embeds the tokens (`TokenCell`). The state is
    the answer y and the latent z, (2, prefix + L, width). The logits are linear in y. One evaluation of f is one full
    recursion of the paper, n + 1 applications of g; the paper's T recursions are T iterations of f, and its gradient
    through the last recursion alone is `gradient=phantom gradient.steps=1` with plain iteration. A start is y = a and
    z = b at every position, with a and b fixed vectors drawn once.

    Source: Jolicoeur-Martineau 2025, Less is More: Recursive Reasoning with Tiny Networks (arXiv 2510.04871), and the
    author's code, whose numbers of parameters it has: on Sudoku 6,828,034 with attention and 5,028,866 with
    mixer=mlp (81 positions, 11 tokens). Not here: the loss of the halting head's second number, which their published
    settings leave out, too, and an embedding for each puzzle.

    Arguments
        input_shape       (channels, L) or (channels, H, W); the tokens are one-hot channels
        num_classes       number of logits of each answer
        output_shape      the input's positions, one answer each, or (): one answer, of the average over positions
        width             features at each position; a multiple of 2 · heads
        heads             attention heads
        layers            blocks of g
        recursions        n, updates of z before the update of y
        expansion         of the SwiGLUs, above 0
        mixer             attention, or mlp: a SwiGLU across positions, whose weights depend on L
        prefix            positions before the tokens, from 0
        puzzle_embedding  whether the first prefix position holds a learned vector
        halting_head      whether there is a linear map of y's first position to two numbers (`halting`)

    Raises ValueError for parameters outside these ranges.
    """

    answer_start: Tensor
    latent_start: Tensor

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        output_shape: Sequence[int] = (),
        width: int = 512,
        heads: int = 8,
        layers: int = 2,
        recursions: int = 6,
        expansion: float = 4.0,
        mixer: str = "attention",
        prefix: int = 16,
        puzzle_embedding: bool = False,
        halting_head: bool = True,
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
        self.recursions = require_at_least("recursions", recursions, 1)
        self.state_shape = (2, self.length, self.width)
        self.net = nn.Sequential(*(PostNormBlock(width, heads, self.length, expansion, mixer) for _ in range(layers)))
        self.halt = halting_linear(width, 2) if halting_head else None
        # Buffers: the starts are drawn once, stored in a checkpoint, and never trained.
        self.register_buffer("answer_start", truncated_normal_(torch.empty(width), 1.0))
        self.register_buffer("latent_start", truncated_normal_(torch.empty(width), 1.0))

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the answer y and of the latent z."""
        return (self.state_shape[1:], self.state_shape[1:])

    def initial_state(self, injection: tuple[Tensor, ...]) -> Tensor:
        """(batch, 2, prefix + L, width): the fixed vectors a and b at every position."""
        starts = torch.stack([self.answer_start, self.latent_start])
        return starts[None, :, None].expand(len(injection[0]), -1, self.length, -1).clone()

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f((y, z); x): (batch, 2, prefix + L, width) -> the same."""
        answer, latent = z.unbind(1)
        # y stays as it is while z is refined, so y + e(x) is one tensor.
        given = answer + injection[0]
        for _ in range(self.recursions):
            latent = self.net(latent + given)
        answer = self.net(answer + latent)
        return torch.stack([answer, latent], dim=1)

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of y, without its prefix."""
        return self.answers(z[:, 0])

    def halting(self, z: Tensor) -> Tensor:
        """(batch, 2): the halting head's numbers, of y's first position; ValueError where there is no such head.

        The first is the logit of "halt" (`halt_logit`), the second of "continue", which no loss trains.
        """
        if self.halt is None:
            raise ValueError("This cell has no halting head; build it with halting_head=true.")
        numbers: Tensor = self.halt(z[:, 0, 0])
        return numbers

    @property
    def has_halting_head(self) -> bool:
        """Whether it was built with halting_head=True."""
        return self.halt is not None

    def halt_logit(self, z: Tensor) -> Tensor:
        """(batch,) the first of the numbers of `halting`: the logit of "the whole answer is right"."""
        return self.halting(z)[:, 0]
