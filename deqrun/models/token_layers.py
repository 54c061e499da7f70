"""Layers of recursive reasoners on tokens: RMS norm, rotary attention, SwiGLU, and the blocks made of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "PostNormBlock",
    "PreNormBlock",
    "RotaryAttention",
    "SwiGLU",
    "halting_linear",
    "lecun_linear",
    "rms_norm",
    "swiglu_width",
    "truncated_normal_",
]

RMS_EPSILON = 1e-5
"""Added to the mean square, as in the code of TRM and HRM."""

ROPE_BASE = 10_000.0

SWIGLU_MULTIPLE = 256
"""Hidden features of a SwiGLU are a multiple of this number."""

DEVIATION_WITHIN_TWO = 0.87962566103423978
"""Standard deviation of N(0, 1) restricted to [-2, 2]."""


def rms_norm(u: Tensor) -> Tensor:
    """u / √(mean(u²) + 1e-5) over the last axis, without weights; in float32 or wider, returned in u's dtype.

    Source: Zhang & Sennrich 2019 (arXiv 1910.07467).
    """
    wide = u.to(torch.promote_types(u.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + RMS_EPSILON)).to(u.dtype)


def swiglu_width(features: int, expansion: float) -> int:
    """Hidden features of a SwiGLU: round(expansion · features · 2/3), raised to a multiple of 256.

    The factor 2/3 keeps the three matrices as large as the two of a plain layer of that expansion.
    """
    return -(-round(expansion * features * 2 / 3) // SWIGLU_MULTIPLE) * SWIGLU_MULTIPLE


def truncated_normal_(weight: Tensor, deviation: float) -> Tensor:
    """Fill with N(0, s²) cut at ±2 s, with s such that the standard deviation after the cut is `deviation`."""
    scale = deviation / DEVIATION_WITHIN_TWO
    return nn.init.trunc_normal_(weight, std=scale, a=-2 * scale, b=2 * scale)


def lecun_linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer without bias, its weights truncated normal of deviation 1/√in_features."""
    layer = nn.Linear(in_features, out_features, bias=False)
    truncated_normal_(layer.weight, in_features**-0.5)
    return layer


def halting_linear(features: int, numbers: int) -> nn.Linear:
    """The linear map of a halting head: 0 weights and biases −5, so that it begins by halting nowhere, as TRM's."""
    layer = nn.Linear(features, numbers)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, -5.0)
    return layer


class SwiGLU(nn.Module):
    """W_down (SiLU(W_gate u) ⊙ W_up u), without biases: (…, features) -> (…, features).

    Source: Shazeer 2020, GLU Variants Improve Transformer (arXiv 2002.05202).
    """

    def __init__(self, features: int, expansion: float) -> None:
        super().__init__()
        hidden = swiglu_width(features, expansion)
        self.gate_up = lecun_linear(features, 2 * hidden)
        self.down = lecun_linear(hidden, features)

    def forward(self, u: Tensor) -> Tensor:
        """(…, features) -> (…, features)."""
        gate, up = self.gate_up(u).chunk(2, dim=-1)
        value: Tensor = self.down(F.silu(gate) * up)
        return value


class RotaryAttention(nn.Module):
    """Multi-head self-attention with rotary positions, without biases.

        q, k, v = W u;    out_i = O Σ_j softmax_j((R_i q_i)ᵀ R_j k_j / √d) v_j        d = width / heads, even

    R_i turns the pair (t, t + d/2) of features by the angle i · 10000^(−2t/d). So scores depend on i − j alone.
    Source: Su et al. 2021, RoFormer (arXiv 2104.09864), in the order of features of GPT-NeoX.

    Arguments
        width   features of u
        heads   divides width
        length  positions that there are
        causal  whether position i sees j <= i alone
    """

    def __init__(self, width: int, heads: int, length: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.length, self.causal = heads, length, causal
        self.project = lecun_linear(width, 3 * width)
        self.output = lecun_linear(width, width)
        self._turns: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def forward(self, u: Tensor) -> Tensor:
        """(batch, length, width) -> (batch, length, width)."""
        q, k, v = self.project(u).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self._turned(q), self._turned(k), v, is_causal=self.causal)
        value: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return value

    def _turned(self, q: Tensor) -> Tensor:
        """R_i q_i at every position i of q (batch, heads, length, d)."""
        first, second = q.chunk(2, dim=-1)
        kind = q.dtype, q.device
        if kind not in self._turns:  # no buffer: a cell made float64 later would keep its rounding
            self._turns[kind] = _turns(self.length, q.shape[-1], *kind)
        cosines, sines = self._turns[kind]
        return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)


class PostNormBlock(nn.Module):
    """u = N(u + mix(u)), then N(u + SwiGLU(u)), with N the RMS norm over features.

    mix is rotary attention or, with mixer=mlp, a SwiGLU across the positions of each feature, whose N is over the
    positions, too. Source: Jolicoeur-Martineau 2025 (arXiv 2510.04871), as in the author's code.
    """

    def __init__(self, width: int, heads: int, length: int, expansion: float, mixer: str) -> None:
        super().__init__()
        self.across = mixer == "mlp"
        self.mix = SwiGLU(length, expansion) if self.across else RotaryAttention(width, heads, length)
        self.transform = SwiGLU(width, expansion)

    def forward(self, u: Tensor) -> Tensor:
        """(batch, length, width) -> (batch, length, width)."""
        if self.across:
            u = u.mT
            u = rms_norm(u + self.mix(u)).mT
        else:
            u = rms_norm(u + self.mix(u))
        return rms_norm(u + self.transform(u))


class PreNormBlock(nn.Module):
    """u = ρ u + attention(N(u)), then ρ u + SwiGLU(N(u)), with N the RMS norm over features and ρ in [0, 1].

    Both branches see normalised features, so for given weights their values are bounded, whatever u is.
    """

    def __init__(self, width: int, heads: int, length: int, expansion: float, causal: bool, keep: float = 1.0) -> None:
        super().__init__()
        self.keep = keep
        self.mix = RotaryAttention(width, heads, length, causal)
        self.transform = SwiGLU(width, expansion)

    def forward(self, u: Tensor, given: Tensor | None = None) -> Tensor:
        """(batch, length, width) -> the same; `given`, of that shape, is added to u where attention sees it."""
        seen = u if given is None else u + given
        u = self.keep * u + self.mix(rms_norm(seen))
        value: Tensor = self.keep * u + self.transform(rms_norm(u))
        return value


def _turns(length: int, features: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, features / 2) of the angles i · base^(−2t/features), computed on the device."""
    wide = torch.promote_types(dtype, torch.float32)
    rates = ROPE_BASE ** (-torch.arange(0, features, 2, dtype=wide, device=device) / features)
    angles = torch.outer(torch.arange(length, dtype=wide, device=device), rates)
    return angles.cos().to(dtype), angles.sin().to(dtype)
