"""Sequences drawn from a seed, each in the split that its own content says: whatever is asked for, no split leaks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.datasets.dataset import SPLITS, Split, require_split
from deqrun.datasets.splits_by_content import WORD, Generated, owned, split_of_bits

__all__ = ["GeneratedSequences", "distinct_rows"]


class GeneratedSequences(Generated):
    """Sequences whose split is a function of their content: train, validation and test own 4, 1 and 1 sixths of all.

    The bits of a sample decide (`split_of_bits`). So the splits of *any* two settings share none: a trained model can
    be asked about another seed, size of the test split, length or range of lengths, and nothing that it is asked was
    trained on. No sample occurs twice in a split.

    A split has the first distinct samples that it owns of one endless stream of PCG64's 64-bit words, seeded by
    `data_seed`. So the order in which splits are loaded changes nothing, a smaller split is the beginning of a larger
    one, and no size changes another split. Words and their meaning are fixed by PCG64 (O'Neill 2014) and by the
    subclass, not by NumPy's distributions, which may change between its versions.

    n_train, n_validation, n_test   samples of each split, at least 1
    data_seed                       of the stream; apart from the seed of the training

    A subclass calls `_require_enough` in its constructor, and defines a sample by `words_per_row`, `_stream`,
    `_bits_of`, `_rows_of` and `_split_of`.
    """

    words_per_row: int

    def __init__(self, *, n_train: int, n_validation: int, n_test: int, data_seed: int) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self._rows: dict[str, NDArray[np.uint8]] = {}

    def load(self, split: str) -> Split:
        require_split(split)
        if split not in self._rows:
            self._rows[split] = self._drawn(split)
        return Split(*self._split_of(self._rows[split]))

    def _require_enough(self, lengths: Iterable[int], what: str, longer: bool = False) -> None:
        """ValueError unless every split owns as many samples of these lengths, in bits, as it is to hold.

        what    the samples, for the sentence
        longer  whether a greater length is a way out
        """
        lengths = list(islice(lengths, 2 * WORD))  # of more, each split holds more than any memory does
        for split, n in self.sizes.items():
            most = sum(owned(bits, split) for bits in lengths)
            if n > most:
                allowed = [f"1 to {most:,} (nearest: {most:,})"] if most else []
                enough = [bits for bits in range(1, WORD + 1) if owned(bits, split) >= n]
                if longer and enough:
                    allowed.append(f"a length from {enough[0]}")
                distinct = sum(2**bits for bits in lengths)
                raise ValueError(
                    f"n_{split}={n:,} is too many: of the {distinct:,} distinct {what} {most:,} are "
                    f"in the {split} split, at any seed and size; allowed are {', or '.join(allowed)}."
                )

    def _drawn(self, split: str) -> NDArray[np.uint8]:
        stream = np.random.PCG64(np.random.SeedSequence([self.data_seed, *self._stream()]))
        index, width = SPLITS.index(split), self.words_per_row

        def draw(n: int) -> NDArray[np.uint8]:
            words = stream.random_raw(n * width).reshape(n, width)
            return self._rows_of(words[split_of_bits(*self._bits_of(words)) == index])

        return distinct_rows(draw, self.sizes[split])

    @abstractmethod
    def _stream(self) -> tuple[int, ...]:
        """Further dependences of the stream, beside the seed."""

    @abstractmethod
    def _bits_of(self, words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The content of the samples of words (n, words_per_row): bits (n, W), the lowest first, and how many (n,)."""

    @abstractmethod
    def _rows_of(self, words: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """(n, width) samples of words (n, words_per_row)."""

    @abstractmethod
    def _split_of(self, rows: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Inputs as they are stored, and targets, of rows (n, width)."""


def distinct_rows(draw: Callable[[int], NDArray[np.uint8]], n: int) -> NDArray[np.uint8]:
    """The first n distinct rows, in order, of an endless stream of rows.

    draw(k) gives the next rows (any number, width), those that k draws give. A longer answer begins with the shorter
    one. The stream must hold n distinct rows.
    """
    found: dict[bytes, None] = {}
    while len(found) < n:
        rows = draw(n)
        found.update(dict.fromkeys(row.tobytes() for row in rows))
    return np.frombuffer(b"".join(list(found)[:n]), dtype=np.uint8).reshape(n, -1)


def long_tensor(values: NDArray[np.uint8]) -> Tensor:
    """`values` as a tensor of long, as targets are."""
    return torch.from_numpy(values.astype(np.int64))
