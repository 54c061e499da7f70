"""The copying memory task: ten digits, a long blank, and then the ten digits again."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deqrun.arguments import require_at_least
from deqrun.datasets.generated_sequences import GeneratedSequences, long_tensor

__all__ = ["CopyMemory"]

DIGITS, BLANK, DELIMITER = 10, 0, 9
"""Digits to be remembered, each 1 to 8, and the two symbols that are none of them."""

BITS = 3 * DIGITS
"""Of a word, which say the digits: three each, the lowest first."""


class CopyMemory(GeneratedSequences):
    """Recall ten digits over T blanks. With digits d₁ … d₁₀, uniform and independent in 1 … 8, and L = T + 20:

        input    d₁ … d₁₀, T - 1 zeros, 9 eleven times      the first 9 asks for the digits
        target   T + 10 zeros, d₁ … d₁₀

    As in Bai, Kolter & Koltun 2018 (arXiv 1803.01271; in the code beside it 10,000 sequences train and 1,000 test),
    the task on which they tried their equilibrium model first (2019, arXiv 1909.01377). It goes back to Hochreiter &
    Schmidhuber 1997; that of Arjovsky et al. 2016 (arXiv 1511.06464) has blanks after the one delimiter. Inputs are
    one-hot, (10, L); the loss is the cross-entropy over all L positions; a sequence is right when its whole output is.

    blanks      T, at least 1
    n_train, n_validation, n_test   sequences of each split; no two have the same digits, and which split a sequence is
                in depends on its digits alone
    data_seed   seed of the digits, apart from the seed of the training; they are the same for every T

    Raises ValueError for parameters outside these ranges.
    """

    name = "copy_memory"
    num_classes = 10
    difficulty = "blanks"
    words_per_row = 1

    def __init__(
        self,
        *,
        blanks: int = 50,
        n_train: int = 10_000,
        n_validation: int = 1_000,
        n_test: int = 1_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self.blanks = require_at_least("blanks", blanks, 1)
        self._require_enough([BITS], f"sequences of {DIGITS} digits")
        length = self.blanks + 2 * DIGITS
        self.input_shape, self.output_shape = (self.num_classes, length), (length,)

    @property
    def memoryless_loss(self) -> float:
        """10 ln 8 / (T + 20) nats: the least loss without memory, blanks for sure and then a guess among eight."""
        return DIGITS * math.log(8) / self.output_shape[0]

    def encode(self, inputs: Tensor) -> Tensor:
        """One-hot (batch, 10, T + 20) of stored symbols (batch, T + 20)."""
        return F.one_hot(inputs.long(), self.num_classes).movedim(-1, 1).float()

    def _stream(self) -> tuple[int, ...]:
        return (DIGITS,)

    def _bits_of(self, words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        return words & np.uint64(2**BITS - 1), np.full(len(words), BITS, dtype=np.uint64)

    def _rows_of(self, words: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """Three bits of the word for each digit, the lowest first."""
        shifts = np.arange(0, BITS, 3, dtype=np.uint64)
        return ((words >> shifts) % np.uint64(8)).astype(np.uint8) + np.uint8(1)

    def _split_of(self, rows: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        shape = (len(rows), *self.output_shape)
        inputs, targets = np.full(shape, BLANK, np.uint8), np.full(shape, BLANK, np.uint8)
        inputs[:, :DIGITS] = targets[:, -DIGITS:] = rows
        inputs[:, -DIGITS - 1 :] = DELIMITER
        return torch.from_numpy(inputs), long_tensor(targets)
