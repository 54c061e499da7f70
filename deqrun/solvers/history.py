"""Stored vectors of each row, their products with another, and their combinations."""

from __future__ import annotations

import torch
from torch import Tensor

NAIVE_BELOW = 400
"""On a CPU torch multiplies matrices of fewer multiply-adds than this each by a plain loop, five times slower."""


class History:
    """Room for `slots` vectors (rows, D) in memory (slots, rows, D); what one row holds is never mixed with another's.

    Small states get some slots of zeros more, at most as many again, where that takes their products out of torch's
    plain loop; where it can't, they are multiplied and summed elementwise. Each is one pass over the memory.
    """

    def __init__(self, slots: int, z: Tensor) -> None:
        rows, width = z.shape
        enough = -(-NAIVE_BELOW // max(width, 1))
        self.on_host = z.device.type == "cpu"
        self.padded = self.on_host and slots < enough <= 2 * slots
        self.vectors = z.new_zeros(enough, rows, width) if self.padded else z.new_empty(slots, rows, width)

    def __getitem__(self, slot: int) -> Tensor:
        """(rows, D): the memory of a slot."""
        return self.vectors[slot]

    def products(self, v: Tensor, count: int) -> Tensor:
        """(rows, count): the products of v (rows, D) with the first `count` slots."""
        vectors = self.vectors if self.padded else self.vectors[:count]
        if self._naive(vectors):
            return (vectors * v).sum(2).T
        # v as a row: as a column, the same product took six to eight times as long.
        return torch.bmm(v[:, None], vectors.permute(1, 2, 0))[:, 0, :count]

    def combination(self, weights: Tensor, first: int = 0) -> Tensor:
        """(rows, D), new: the sum of slots first, first + 1, …, each times its weight, weights (rows, count)."""
        count = weights.shape[1]
        vectors = self.vectors[first : first + count]
        if self.padded:
            vectors = self.vectors
            weights = torch.nn.functional.pad(weights, (first, len(vectors) - first - count))
        if self._naive(vectors):
            return _sum(vectors * weights.T[:, :, None])
        # Contiguous: for weights of other strides torch multiplies row by row, up to 25 times slower.
        return torch.bmm(weights.contiguous()[:, None], vectors.transpose(0, 1))[:, 0]

    def take(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self.vectors = self.vectors[:, rows]

    def _naive(self, vectors: Tensor) -> bool:
        return self.on_host and vectors.shape[0] * vectors.shape[2] < NAIVE_BELOW


def _sum(terms: Tensor) -> Tensor:
    """Over the first dimension, overwriting it. sum(0) rounds a row differently for other numbers of rows."""
    while len(terms) > 1:
        half = len(terms) // 2
        terms[:half].add_(terms[-half:])
        terms = terms[: len(terms) - half]
    return terms[0]
