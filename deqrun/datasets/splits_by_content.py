"""The split that owns a sample is a function of the sample's content: whatever is asked for, no split leaks."""

from __future__ import annotations

import math
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from deqrun.arguments import require_at_least
from deqrun.datasets.dataset import SPLITS, Dataset

__all__ = ["WORD", "Generated", "owned", "split_of_bits", "split_of_rows"]

WORD = 64
"""Bits of a word."""

_SPLIT_OF_SIXTH = np.array([0, 0, 0, 0, 1, 2])

_FIRST_RANK = np.array([[-(-sixth * 2**bits // 6) for bits in range(WORD + 1)] for sixth in (4, 5)], dtype=np.uint64)
"""Of 2^bits ranks, bits = 0 … 64: the first that is validation's, and the first that is test's."""

_MULTIPLIERS = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, 0x9E3779B97F4A7C15)
"""Odd, so that multiplication by one is a permutation of the numbers below any power of two: MurmurHash3's two, and
2⁶⁴ over the golden ratio."""


class Generated(Dataset):
    """Samples drawn from a seed, each in the split that its own content says.

    n_train, n_validation, n_test   samples of each split, at least 1
    data_seed                       seed of the samples, apart from the seed of the training
    """

    by_content = True

    def __init__(self, *, n_train: int, n_validation: int, n_test: int, data_seed: int) -> None:
        self.n_train = require_at_least("n_train", n_train, 1)
        self.n_validation = require_at_least("n_validation", n_validation, 1)
        self.n_test = require_at_least("n_test", n_test, 1)
        self.data_seed = require_at_least("data_seed", data_seed, 0)

    def memory(self) -> int:
        samples = sum(self.sizes.values())
        return samples * (math.prod(self.input_shape) + 8 * math.prod(self.output_shape))

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each split."""
        return dict(zip(SPLITS, (self.n_train, self.n_validation, self.n_test), strict=True))


def split_of_rows(rows: NDArray[np.uint8], kind: str) -> NDArray[np.intp]:
    """The split, as an index into SPLITS, that owns each row's content: (n, width) -> (n,).

    BLAKE2b's hash of the row, keyed by `kind`, modulo 6: four residues are train's, one each the others'.
    """
    key = kind.encode()
    hashes = [int.from_bytes(blake2b(row.tobytes(), digest_size=8, key=key).digest(), "little") for row in rows]
    return _SPLIT_OF_SIXTH[np.array([value % 6 for value in hashes], dtype=np.intp)]


def split_of_bits(words: NDArray[np.uint64], bits: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The split, as an index into SPLITS, that owns each bit string: words (n, W), the lowest bits first -> (n,).

    A permutation of all numbers of min(bits, 64) bits gives the string a rank r; 6 r / 2^bits, rounded down, is its
    sixth. So the splits own 4, 1 and 1 sixths of the strings of *every* length, to the string (`owned`), which a hash
    would do on average only. Beyond 64 bits each further word is added to the rank, which is permuted again.

    bits  (n,) the length of each string, at least 1; the bits of its words beyond are 0
    """
    rank = _permuted(words[:, 0], np.minimum(bits, WORD))
    for place in range(1, words.shape[1]):
        rank = np.where(bits > WORD * place, _permuted(rank ^ words[:, place], np.full_like(bits, WORD)), rank)
    first = _FIRST_RANK[:, np.minimum(bits, WORD)]
    return (rank >= first).sum(axis=0)


def owned(bits: int, split: str) -> int:
    """How many strings of so many bits belong to a split: the differences of 0, ⌈4/6⌉, ⌈5/6⌉ and 1 of all.

    Beyond 64 bits as many as of 64, and there are more.
    """
    bits = min(bits, WORD)
    bounds = [0, *(int(first) for first in _FIRST_RANK[:, bits]), 2**bits]
    index = SPLITS.index(split)
    return bounds[index + 1] - bounds[index]


def _permuted(values: NDArray[np.uint64], bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A permutation of the numbers of so many bits, 1 to 64, each value by its own: (n,), (n,) -> (n,).

    Thrice the upper half is added to the lower one and the sum multiplied, which carries every bit into the highest.
    """
    mask = np.uint64(2**WORD - 1) >> (np.uint64(WORD) - bits)
    half = (bits + np.uint64(1)) >> np.uint64(1)
    for multiplier in _MULTIPLIERS:
        values = ((values ^ (values >> half)) * np.uint64(multiplier)) & mask
    return values
