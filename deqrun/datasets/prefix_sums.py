"""Prefix sums: the running parity of a bit string, the simplest task whose answer needs its whole input."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.arguments import require_at_least
from deqrun.datasets.dataset import IGNORED
from deqrun.datasets.generated_sequences import GeneratedSequences, long_tensor
from deqrun.datasets.splits_by_content import WORD

__all__ = ["PrefixSums"]

PADDING = 2
"""Stored where a string has ended; encoded as 0, the value that a convolution finds beyond its input."""


class PrefixSums(GeneratedSequences):
    """Of random bits b₁ … b_L, at every position i the parity b₁ + … + b_i mod 2.

    Source: Schwarzschild et al. 2021, Can You Learn an Algorithm? (arXiv 2106.04537), whose sets have 10,000 strings
    of each of 53 lengths from 16 to 512 bits. Of those, the code of Bansal et al. 2022 (arXiv 2202.05826) trains on
    8,000 and validates on 2,000. Bits 0 and 1 are encoded as -1 and +1, of variance 1; the authors' values are ±1/2.
    A string is right when its parities are right at every position.

    length      bits of a string: input (1, length), output (length,)
    shortest    null: every string has `length` bits. Else lengths are uniform from `shortest` to `length`; a shorter
                string is followed by zeros, where nothing is asked
    n_train, n_validation, n_test   strings of each split; no two of them are equal, and which split a string is in
                depends on the string alone
    data_seed   seed of the strings, apart from the seed of the training

    Raises ValueError for parameters outside these ranges, and where a split owns fewer strings than it is to
    hold.
    """

    name = "prefix_sums"
    num_classes = 2
    difficulty = "length"

    def __init__(
        self,
        *,
        length: int = 16,
        shortest: int | None = None,
        n_train: int = 10_000,
        n_validation: int = 1_000,
        n_test: int = 1_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self.length = require_at_least("length", length, 1)
        self.shortest = self.length if shortest is None else require_at_least("shortest", shortest, 1)
        if self.shortest > self.length:
            raise ValueError(f"shortest={shortest} exceeds length={length}: allowed are 1 to {length}, or null.")
        bits = f"{self.shortest} to {self.length}" if self.shortest < self.length else f"{self.length}"
        self._require_enough(range(self.shortest, self.length + 1), f"strings of {bits} bits", longer=True)
        self.input_shape, self.output_shape = (1, self.length), (self.length,)
        self.words_per_row = 1 + -(-self.length // WORD)

    def encode(self, inputs: Tensor) -> Tensor:
        """(batch, 1, length) of stored bits (batch, length): -1 for 0, +1 for 1, 0 beyond the string's end."""
        values = torch.tensor([-1.0, 1.0, 0.0]).to(inputs.device, non_blocking=True)
        return values[inputs.long()][:, None]

    def _stream(self) -> tuple[int, ...]:
        return self.shortest, self.length

    def _lengths_of(self, words: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """(n,) bits of each string: the first word says how many."""
        return np.uint64(self.shortest) + words[:, 0] % np.uint64(self.length - self.shortest + 1)

    def _bits_of(self, words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """The words after the first, without their bits beyond the string."""
        lengths = self._lengths_of(words)
        begun = np.arange(0, self.length, WORD)
        left = np.clip(lengths[:, None].astype(np.int64) - begun, 0, WORD).astype(np.uint64)
        masks = np.where(left > 0, np.uint64(2**WORD - 1) >> (np.uint64(WORD) - np.maximum(left, 1)), np.uint64(0))
        return words[:, 1:] & masks, lengths

    def _rows_of(self, words: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """The bits of the words after the first, the lowest first."""
        octets = np.ascontiguousarray(words[:, 1:]).astype("<u8").view(np.uint8)
        bits = np.unpackbits(octets, axis=1, count=self.length, bitorder="little")
        bits[np.arange(self.length) >= self._lengths_of(words)[:, None]] = PADDING
        return bits

    def _split_of(self, rows: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        parities = np.bitwise_xor.accumulate(rows & 1, axis=1)
        targets = long_tensor(parities)
        inputs = torch.from_numpy(rows.copy())
        return inputs, targets.masked_fill_(inputs == PADDING, IGNORED)
