"""Self-attention by content and by relative position, along one axis or two, for sequences of any length."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.models.weight_norm import WeightNormLinear

__all__ = ["RelativeAttention", "linear", "sinusoids"]


class RelativeAttention(nn.Module):
    """Multi-head self-attention of a state z with an input injection:

        q, k, v = W z + (U_q x, U_k x, U_v x)
        s_ij = ((q_i + a)ᵀ k_j + (q_i + b)ᵀ R e(i - j)) / √d          d = width / heads
        out_i = O Σ_j softmax_j(s_ij) v_j

    for each head, with a and b learned and e(δ) the sinusoids of a distance. As in Transformer-XL (Dai et al. 2019,
    arXiv 1901.02860, section 3.3) there are no absolute positions, and no parameter depends on the length.
    A picture's distance has two parts, each with half of the features: R e(i - j) = R e_1(rows) + R e_2(columns).

    Arguments
        width         features of z
        heads         divides width
        positions     sides of the field that is attended over: (L,) or (H, W); counted row by row
        causal        whether position i sees j <= i alone
        weight_norm   whether W, R and O are weight-normalised

    a and b start as N(0, 0.01²), as in the code of Bai, Kolter & Koltun 2019.
    """

    def __init__(self, width: int, heads: int, positions: Sequence[int], causal: bool, weight_norm: bool) -> None:
        super().__init__()
        self.width, self.heads, self.positions, self.causal = width, heads, tuple(positions), causal
        self.project = linear(width, 3 * width, weight_norm, bias=False)
        self.project_distance = linear(width, width, weight_norm, bias=False)
        self.output = linear(width, width, weight_norm)
        self.content_bias = nn.Parameter(0.01 * torch.randn(heads, 1, width // heads))
        self.distance_bias = nn.Parameter(0.01 * torch.randn(heads, 1, width // heads))
        self._fixed_keys: tuple[Tensor, ...] | None = None

    def forward(self, z: Tensor, injected: Tensor) -> Tensor:
        """z (batch, L, width) and (U_q x, U_k x, U_v x) (batch, L, 3 width) -> (batch, L, width)."""
        projected = (self.project(z) + injected).unflatten(2, (3, self.heads, -1))
        q, k, v = projected.permute(2, 0, 3, 1, 4)  # each (batch, heads, L, d)
        scale = (self.width // self.heads) ** -0.5
        bias = self._distance_scores((q + self.distance_bias) * scale)
        mixed = F.scaled_dot_product_attention(q + self.content_bias, k, v, attn_mask=bias, scale=scale)
        value: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return value

    @contextmanager
    def fixed_keys(self) -> Iterator[None]:
        """Within the context R e(δ) is computed once, from the parameters at entry, in the grad mode at entry."""
        before = self._fixed_keys
        try:
            self._fixed_keys = self.distance_keys()
            yield
        finally:
            self._fixed_keys = before

    def distance_keys(self) -> tuple[Tensor, ...]:
        """R e_a(δ) for each axis a of n positions: (heads, 2 n, d), δ = n - 1, n - 2, …, -n."""
        per_axis, like, keys = self.width // len(self.positions), self.content_bias, []
        for axis, size in enumerate(self.positions):
            distances = torch.arange(size - 1, -size - 1, -1, device=like.device)
            features = sinusoids(distances, per_axis, like.dtype)
            before = axis * per_axis
            padded = F.pad(features, (before, self.width - per_axis - before))
            keys.append(self.project_distance(padded).unflatten(1, (self.heads, -1)).transpose(0, 1))
        return tuple(keys)

    def _distance_scores(self, q: Tensor) -> Tensor:
        """Σ_a qᵢᵀ R e_a(i - j), -∞ where i must not see j: (batch, heads, L, d) -> (batch, heads, L, L)."""
        keys = self.distance_keys() if self._fixed_keys is None else self._fixed_keys
        if len(self.positions) == 1:
            scores = shifted(q @ keys[0].mT)
        else:
            scores = self._picture_scores(q.unflatten(2, self.positions), *keys)
        if not self.causal:
            return scores
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        return scores.masked_fill(future, -math.inf)

    @staticmethod
    def _picture_scores(q: Tensor, row_keys: Tensor, column_keys: Tensor) -> Tensor:
        """The same from q (batch, heads, H, W, d): one score for the rows between i and j, one for the columns."""
        by_row = shifted(q.transpose(2, 3) @ row_keys[:, None].mT).transpose(2, 3)  # (…, H, W, H)
        by_column = shifted(q @ column_keys[:, None].mT)  # (…, H, W, W)
        return (by_row[..., :, None] + by_column[..., None, :]).flatten(4, 5).flatten(2, 3)


def shifted(scores: Tensor) -> Tensor:
    """out_ij = scores_i(δ = i - j) from scores (…, n, 2 n), in whose columns δ = n - 1, …, -n; a view if contiguous.

    Element (i, j) is at 2 n i + (n - 1 - i + j) in memory: n - 1 elements in, rows are 2 n - 1 apart.
    """
    n = scores.shape[-2]
    return scores.flatten(-2)[..., n - 1 : n - 1 + n * (2 * n - 1)].unflatten(-1, (n, 2 * n - 1))[..., :n]


def sinusoids(distances: Tensor, features: int, dtype: torch.dtype) -> Tensor:
    """(n, features): sin(ω_k δ), then cos(ω_k δ), with ω_k = 10000^(-2 k / features), k = 0 … features/2 - 1.

    Vaswani et al. 2017 (arXiv 1706.03762, section 3.5), in the order of Transformer-XL.
    """
    even = torch.arange(0, features, 2, dtype=dtype, device=distances.device)
    angles = torch.outer(distances.to(dtype), 10000.0 ** (-even / features))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def linear(in_features: int, out_features: int, weight_norm: bool, *, bias: bool = True) -> nn.Module:
    """A linear layer with PyTorch's default weights and a bias of 0, weight-normalised or not."""
    if weight_norm:
        return WeightNormLinear(in_features, out_features, bias)
    plain = nn.Linear(in_features, out_features, bias)
    if bias:
        nn.init.zeros_(plain.bias)
    return plain
