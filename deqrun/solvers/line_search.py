"""Derivative-free backtracking on ‖f(z) − z‖, each row by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.solver import Point


class SearchedMap(FlatMap):
    """f on flat states that evaluates chosen rows, and answers from memory where a search has just been."""

    _known: tuple[Tensor, Tensor] | None = None

    def remember(self, z: Tensor, fz: Tensor) -> None:
        """The next evaluation, if it is at this very z, is fz."""
        self._known = (z, fz)

    def __call__(self, z: Tensor) -> Tensor:
        known, self._known = self._known, None
        return known[1] if known is not None and known[0] is z else super().__call__(z)


@dataclass(frozen=True)
class Criterion:
    """λ is accepted where ‖g(z + λ d)‖ <= ceiling − linear · λ − quadratic · λ²; all (rows,)."""

    ceiling: Tensor
    linear: Tensor
    quadratic: Tensor

    def accepts(self, norm: Tensor, length: Tensor) -> Tensor:
        """(rows,) bool; a norm that is not finite is never accepted."""
        return norm <= self.ceiling - length * (self.linear + length * self.quadratic)

    def take(self, rows: Tensor) -> Criterion:
        return Criterion(self.ceiling[rows], self.linear[rows], self.quadratic[rows])


@dataclass(frozen=True)
class Found:
    """z + length · d and f of it, in new memory; `failed` rows take the shortest trial though it was refused.

    extra  (rows,) long: evaluations after the first
    """

    z: Tensor
    fz: Tensor
    length: Tensor
    failed: Tensor
    extra: Tensor


def backtrack(f: FlatMap, point: Point[Any], direction: Tensor, criterion: Criterion, halvings: int) -> Found:
    """The first λ of 1, ½, …, 2^−halvings that `criterion` accepts, per row; rows that have stopped take 1 unasked."""
    z = point.z + direction
    fz = f(z)
    length, extra = torch.ones_like(criterion.ceiling), torch.zeros_like(criterion.ceiling, dtype=torch.long)
    refused = point.active & ~criterion.accepts(torch.linalg.vector_norm(fz - z, dim=1), length)
    rows = refused.nonzero()[:, 0]
    for _ in range(halvings):
        if not len(rows):
            break
        extra[rows] += 1
        length[rows] *= 0.5
        # Out of place: f may have kept its argument, or have returned it.
        tried = torch.addcmul(point.z[rows], length[rows, None], direction[rows])
        z = z.index_copy(0, rows, tried)
        value = f.take(rows)(tried) if f.can_take else f(z)[rows]
        fz = fz.index_copy(0, rows, value)
        accepted = criterion.take(rows).accepts(torch.linalg.vector_norm(value - tried, dim=1), length[rows])
        rows = rows[~accepted]
    failed = torch.zeros_like(point.active)
    failed[rows] = True
    return Found(z, fz, length, failed, extra)
