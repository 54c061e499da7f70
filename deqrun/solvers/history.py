"""Stored vectors of each row, their products with another, and their combinations."""

from __future__ import annotations

import torch
from torch import Tensor

from deqrun.solvers.device import at_hand

NAIVE_BELOW = 400
"""On a CPU torch multiplies matrices of fewer multiply-adds than this each by a plain loop, five times slower."""


class History:
    """Room for `slots` vectors (rows, D) in memory (slots, rows, D); one row's vectors are never mixed with another's.

    width is the number of weights of a combination that need not be padded: all slots, zeros included.

    Small states get some slots of zeros more, at most as many again, where that takes their products out of torch's
    plain loop; where it can't, they are multiplied and summed elementwise. Each is one pass over the memory.
    """

    def __init__(self, slots: int, z: Tensor) -> None:
        rows, width = z.shape
        self.slots = slots
        enough = -(-NAIVE_BELOW // max(width, 1))
        self.on_host = at_hand(z)
        self.padded = self.on_host and slots < enough <= 2 * slots
        self._hold(z.new_zeros(enough, rows, width) if self.padded else z.new_empty(slots, rows, width))

    def _hold(self, vectors: Tensor) -> None:
        self.vectors = vectors
        self.width = vectors.shape[0]
        self._slots = vectors.unbind()
        self._by_row = vectors.transpose(0, 1)  # (rows, slots, D)

    def __getitem__(self, slot: int) -> Tensor:
        """(rows, D): the memory of a slot."""
        return self._slots[slot]

    def products(self, v: Tensor, count: int) -> Tensor:
        """(rows, count): the products of v (rows, D) with the first `count` slots."""
        vectors = self._first(count)
        if self._naive(vectors):
            return (vectors * v[:, None]).sum(2)
        # v as a row: as a column, the same product took six to eight times as long.
        return torch.bmm(v[:, None], vectors.mT)[:, 0, :count]

    def pair_products(self, one: int, other: int, count: int) -> tuple[Tensor, Tensor]:
        """(rows, count) twice: the products of two different slots with the first `count`, in one pass over them."""
        vectors = self._first(count)
        if self.on_host and 2 * vectors.shape[1] * vectors.shape[2] < NAIVE_BELOW:
            return self.products(self[one], count), self.products(self[other], count)
        pair = self._by_row[:, min(one, other) : max(one, other) + 1 : abs(one - other)]
        low, high = torch.bmm(pair, vectors.mT)[:, :, :count].unbind(1)
        return (low, high) if one < other else (high, low)

    def combination(
        self, weights: Tensor, first: int = 0, *, every: int = 1, onto: Tensor, in_place: bool = False
    ) -> Tensor:
        """onto (rows, D) plus the sum of slots first, first + every, …, each times its weight, weights (rows, count).

        New memory, or with in_place `onto`'s.
        """
        count, vectors = weights.shape[1], self._by_row
        if self.padded and count < self.width:
            if every > 1:
                weights = torch.stack([weights, *[torch.zeros_like(weights)] * (every - 1)], 2).flatten(1)
            weights = torch.nn.functional.pad(weights, (first, self.width - first - weights.shape[1]))
        elif count < self.width:
            vectors = vectors[:, first : first + count * every : every]
        if self._naive(vectors):
            total = _sum(vectors.transpose(0, 1) * weights.T[:, :, None])
            return onto.add_(total) if in_place else total.add_(onto)
        # Contiguous: for weights of other strides torch multiplies row by row, up to 25 times slower.
        column, weights = onto[:, None], weights.contiguous()[:, None]
        found = column.baddbmm_(weights, vectors) if in_place else torch.baddbmm(column, weights, vectors)
        return found[:, 0]

    def inserted(self, at: int, more: int) -> History:
        """A History with `more` slots, of any content, before slot `at`."""
        wider = History(self.slots + more, self[0])
        wider.vectors[:at] = self.vectors[:at]
        wider.vectors[at + more : wider.slots] = self.vectors[at : self.slots]
        return wider

    def take(self, rows: Tensor) -> None:
        """Keep only these rows."""
        self._hold(self.vectors.index_select(1, rows))

    def _first(self, count: int) -> Tensor:
        """(rows, count, D): the first slots, with slots of zeros where they help."""
        return self._by_row if self.padded or count == self.width else self._by_row[:, :count]

    def _naive(self, vectors: Tensor) -> bool:
        return self.on_host and vectors.shape[1] * vectors.shape[2] < NAIVE_BELOW


def _sum(terms: Tensor) -> Tensor:
    """Over the first dimension, overwriting it. sum(0) rounds a row differently for other numbers of rows."""
    while len(terms) > 1:
        half = len(terms) // 2
        terms[:half].add_(terms[-half:])
        terms = terms[: len(terms) - half]
    return terms[0]
