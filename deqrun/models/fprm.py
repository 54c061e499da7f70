"""A pre-norm reasoner whose residual stream is scaled, so that its iterates stay bounded."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_positive, require_share
from deqrun.models.token_cell import TokenCell
from deqrun.models.token_layers import PreNormBlock, rms_norm

__all__ = ["FPRMCell"]


class FPRMCell(TokenCell):
    """f(z; x) = B_n(… B_1(z; x)), with B(u; x) = ρ v + SwiGLU(N(v)) and v = ρ u + attention(N(u + e(x))).

    N is the RMS norm over features and 0 < ρ < 1. For given weights both branches are bounded by a number c, whatever
    u and x are, so ‖f(z; x)‖ <= ρ^{2n} ‖z‖ + 2 n c at every position: iterates end in a ball of radius
    2 n c / (1 − ρ^{2n}), where a fixed point lies (Brouwer). With ρ = 1, the usual residual, they may drift without
    end. The logits are linear in N(z). The state is (prefix + L, width); z_0 = 0.

    Source: the pre-norm fixed-point reasoners of arXiv 2606.18206. Assumed here: ρ is one number for all layers, not
    trained; e(x) enters before the norm of each attention; a last norm before the logits.

    Arguments
        input_shape       (channels, L) or (channels, H, W); the tokens are one-hot channels
        num_classes       number of logits of each answer
        output_shape      the input's positions, one answer each, or (): one answer, of the average over positions
        width             features at each position; a multiple of 2 · heads
        heads             attention heads
        layers            n, blocks
        residual          ρ, above 0 and below 1
        expansion         of the SwiGLUs, above 0
        prefix            positions before the tokens, from 0
        puzzle_embedding  whether the first prefix position holds a learned vector

    Raises ValueError for parameters outside these ranges.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        output_shape: Sequence[int] = (),
        width: int = 512,
        heads: int = 8,
        layers: int = 2,
        residual: float = 0.5,
        expansion: float = 4.0,
        prefix: int = 0,
        puzzle_embedding: bool = False,
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
        layers, expansion = require_at_least("layers", layers, 1), require_positive("expansion", expansion)
        self.residual = require_share("residual", residual)
        self.state_shape = (self.length, self.width)
        self.blocks = nn.ModuleList(
            PreNormBlock(width, heads, self.length, expansion, False, self.residual) for _ in range(layers)
        )

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, prefix + L, width) -> the same."""
        for block in self.blocks:
            z = block(z, injection[0])
        return z

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of N(z), without its prefix."""
        return self.answers(rms_norm(z))
