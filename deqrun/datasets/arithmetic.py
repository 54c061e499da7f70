"""Sums of long numbers, digit by digit: a carry may run through the whole number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deqrun.arguments import require_at_least
from deqrun.datasets.dataset import SPLITS
from deqrun.datasets.generated_grids import CHUNK, GeneratedGrids
from deqrun.datasets.splits_by_content import split_of_rows

__all__ = ["Arithmetic"]

LARGEST_BASE = 36


class Arithmetic(GeneratedGrids):
    """Of two random numbers a and b of `digits` digits, every digit of a + b.

    Position i has the digits of weight base^i, the lowest first, so that a causal model sees all digits that its
    answer depends on. Both numbers have digits + 1 positions, the last of them 0, and the sum fits. A digit of the sum
    depends on all lower positions through the carry: a run of pairs that add to base − 1 hands a carry on.

    Input: one-hot of both, (2 · base, digits + 1); output (digits + 1,), each of `base` classes. A sum is right when
    all of its digits are. A hash of the two numbers, whichever comes first, says which split a sum belongs to.

    digits   of each number, at least 2; leading zeros are digits like others
    base     of the numbers, from 2 to 36
    n_train, n_validation, n_test   sums of each split
    data_seed   seed of the numbers, apart from the seed of the training

    Raises ValueError for parameters outside these ranges.
    """

    name = "arithmetic"
    difficulty = "digits"

    def __init__(
        self,
        *,
        digits: int = 8,
        base: int = 10,
        n_train: int = 10_000,
        n_validation: int = 1_000,
        n_test: int = 1_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self.digits, self.num_classes = require_at_least("digits", digits, 2), require_at_least("base", base, 2)
        if base > LARGEST_BASE:
            raise ValueError(f"base={base} is too large: allowed are 2 to {LARGEST_BASE} (nearest: {LARGEST_BASE}).")
        self.input_shape, self.output_shape = (2 * base, self.digits + 1), (self.digits + 1,)

    def encode(self, inputs: Tensor) -> Tensor:
        """One-hot (batch, 2 · base, digits + 1) of stored digits (batch, 2, digits + 1), a's channels first."""
        return F.one_hot(inputs.long(), self.num_classes).movedim(-1, 2).flatten(1, 2).float()

    def _stream(self) -> tuple[int, ...]:
        return self.digits, self.num_classes

    def _draw(self, words: np.random.PCG64, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        base = self.num_classes
        drawn = words.random_raw(CHUNK * 2 * self.digits).reshape(CHUNK, 2, self.digits) % np.uint64(base)
        pairs = np.zeros((CHUNK, 2, self.digits + 1), np.uint8)
        pairs[:, :, :-1] = drawn
        content = _in_order(pairs).reshape(CHUNK, -1)
        pairs = pairs[split_of_rows(content, f"{self.name} {base}") == SPLITS.index(split)]
        # Add from the lowest digit up.
        sums, carry = np.empty((len(pairs), self.digits + 1), np.int8), np.zeros(len(pairs), np.int64)
        for place in range(self.digits + 1):
            total = pairs[:, :, place].sum(1, dtype=np.int64) + carry
            carry, sums[:, place] = total // base, total % base
        return pairs, sums


def _in_order(pairs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pairs of numbers (n, 2, digits), lowest digit first, with the smaller number first: a + b is b + a."""
    difference = pairs[:, 0].astype(np.int16) - pairs[:, 1]
    highest = difference.shape[1] - 1 - (difference[:, ::-1] != 0).argmax(axis=1)
    larger = np.take_along_axis(difference, highest[:, None], axis=1)[:, 0] > 0
    return np.where(larger[:, None, None], pairs[:, ::-1], pairs)
