"""Rows of a larger batch: a part of a batch draws for the whole batch, and takes its own rows of the draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor

__all__ = ["dropout_mask", "part_of_batch", "size_of_batch", "weight_of_part"]


class _Rows(NamedTuple):
    first: int
    end: int
    size: int
    weight: float


_ROWS: ContextVar[_Rows | None] = ContextVar("rows", default=None)


@contextmanager
def part_of_batch(first: int, end: int, size: int, weight: float = 1.0) -> Iterator[None]:
    """Within: a model's batch is the rows `first` to `end` − 1 of a batch of `size`.

    weight  of these rows in means over the whole batch; 0 where they are another part's, too
    """
    before = _ROWS.set(_Rows(first, end, size, weight))
    try:
        yield
    finally:
        _ROWS.reset(before)


def dropout_mask(like: Tensor, shape: Sequence[int], keep: float) -> Tensor:
    """(batch, *shape): 1 / keep with probability `keep`, else 0; each row of `like` (batch, …) draws for itself."""
    rows = _ROWS.get()
    size = len(like) if rows is None else rows.size
    mask = like.new_empty(size, *shape).bernoulli_(keep).div_(keep)
    return mask if rows is None else mask[rows.first : rows.end]


def weight_of_part() -> float:
    """The weight of the rows of `part_of_batch`; 1 of a whole batch."""
    rows = _ROWS.get()
    return 1.0 if rows is None else rows.weight


def size_of_batch(rows: int) -> int:
    """Rows of the whole batch of which a part is worked on; `rows` where none is."""
    part = _ROWS.get()
    return rows if part is None else part.size
