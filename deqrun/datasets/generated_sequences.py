"""Data drawn from a seed: no sample twice, so that the splits share none, and the same on every machine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.datasets.dataset import Dataset, Split, require_split
from deqrun.datasets.validation import require_at_least

__all__ = ["GeneratedSequences", "distinct_rows"]


class GeneratedSequences(Dataset):
    """Sequences drawn without repetition, the test split first, then validation, then training.

    Each is the first of its kind in one endless stream of PCG64's 64-bit words, seeded by `data_seed`. So a sample is
    in one split only, the order in which splits are loaded changes nothing, and the test split is the same however
    many samples train. Words and their meaning are fixed by PCG64 (O'Neill 2014) and by the subclass, not by NumPy's
    distributions, which may change between its versions.

    n_train, n_validation, n_test   samples of each split, at least 1
    data_seed                       of the stream; apart from the seed of the training

    A subclass calls `_require_enough` in its constructor, and says what a sample is by `words_per_row`, `_stream`,
    `_rows_of` and `_split_of`.
    """

    words_per_row: int

    def __init__(self, *, n_train: int, n_validation: int, n_test: int, data_seed: int) -> None:
        self.n_train = require_at_least("n_train", n_train, 1)
        self.n_validation = require_at_least("n_validation", n_validation, 1)
        self.n_test = require_at_least("n_test", n_test, 1)
        self.data_seed = require_at_least("data_seed", data_seed, 0)

    def load(self, split: str) -> Split:
        require_split(split)
        sizes = {"test": self.n_test, "validation": self.n_validation, "train": self.n_train}
        before = sum(list(sizes.values())[: list(sizes).index(split)])
        return Split(*self._split_of(self._rows[before : before + sizes[split]]))

    @property
    def _n(self) -> int:
        return self.n_train + self.n_validation + self.n_test

    def _require_enough(self, distinct: int, what: str, allowed: str) -> None:
        """ValueError unless there are as many distinct samples as the splits hold together."""
        if self._n > distinct:
            raise ValueError(
                f"n_train + n_validation + n_test = {self._n:,} samples were asked for, but there are only "
                f"{distinct:,} distinct {what}, and no two splits share one: allowed are {allowed}."
            )

    @cached_property
    def _rows(self) -> NDArray[np.uint8]:
        stream = np.random.PCG64(np.random.SeedSequence([self.data_seed, *self._stream()]))
        width = self.words_per_row
        return distinct_rows(lambda n: self._rows_of(stream.random_raw(n * width).reshape(n, width)), self._n)

    @abstractmethod
    def _stream(self) -> tuple[int, ...]:
        """What the stream depends on beside the seed."""

    @abstractmethod
    def _rows_of(self, words: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """(n, width) samples of words (n, words_per_row)."""

    @abstractmethod
    def _split_of(self, rows: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Inputs as they are stored, and targets, of rows (n, width)."""


def distinct_rows(draw: Callable[[int], NDArray[np.uint8]], n: int) -> NDArray[np.uint8]:
    """The first n distinct rows, in order, of an endless stream of rows.

    draw(k) gives the stream's next k rows (k, width). A longer answer begins with the shorter one. The stream must
    hold n distinct rows.
    """
    found: dict[bytes, None] = {}
    while len(found) < n:
        rows = draw(n)
        found.update(dict.fromkeys(row.tobytes() for row in rows))
    return np.frombuffer(b"".join(list(found)[:n]), dtype=np.uint8).reshape(n, -1)


def long_tensor(values: NDArray[np.uint8]) -> Tensor:
    """`values` as a tensor of long, as targets are."""
    return torch.from_numpy(values.astype(np.int64))
