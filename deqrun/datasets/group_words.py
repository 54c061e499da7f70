"""Words of a group: the running product of permutations of five things, the standard task of state tracking."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deqrun.arguments import require_at_least, require_choice
from deqrun.datasets.dataset import SPLITS
from deqrun.datasets.generated_grids import CHUNK, GeneratedGrids
from deqrun.datasets.splits_by_content import split_of_rows

__all__ = ["GROUPS", "GroupWords", "elements", "products"]

GROUPS = ("A5", "S5")


class GroupWords(GeneratedGrids):
    """Of random elements g_1 … g_L of a group, at every position i the product g_1 · … · g_i.

    The group is S5, all 120 permutations of five things, or A5, its 60 even ones: the smallest group that is not
    solvable, so that the task is complete for NC¹ (Barrington 1989), beyond any constant number of parallel layers
    unless TC⁰ = NC¹. An element is a permutation x ↦ g(x); in the product g · h, g acts first: x ↦ h(g(x)). Elements
    are numbered in the order of their images, so 0 is the identity.

    Source: Liu et al. 2023 (arXiv 2210.10749); Merrill, Petty & Sabharwal 2024 (arXiv 2404.08819).

    Input: one-hot (order, length), output (length,), each of `order` classes. A word is right when all of its products
    are. A hash of the word says which split it belongs to.

    group    A5 or S5
    length   elements of a word, at least 2
    n_train, n_validation, n_test   words of each split
    data_seed   seed of the words, apart from the seed of the training

    Raises ValueError for parameters outside these ranges.
    """

    name = "group_words"
    difficulty = "length"

    def __init__(
        self,
        *,
        group: str = "A5",
        length: int = 16,
        n_train: int = 10_000,
        n_validation: int = 1_000,
        n_test: int = 1_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self.group = require_choice("group", group, GROUPS)
        self.length = require_at_least("length", length, 2)
        self.num_classes = len(elements(self.group))
        self.classes = tuple("".join(map(str, images)) for images in elements(self.group).tolist())
        self.input_shape, self.output_shape = (self.num_classes, self.length), (self.length,)

    def encode(self, inputs: Tensor) -> Tensor:
        """One-hot (batch, order, length) of stored numbers of elements (batch, length)."""
        return F.one_hot(inputs.long(), self.num_classes).movedim(-1, 1).float()

    def _stream(self) -> tuple[int, ...]:
        return GROUPS.index(self.group), self.length

    def _draw(self, words: np.random.PCG64, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        drawn = words.random_raw(CHUNK * self.length).reshape(CHUNK, self.length) % np.uint64(self.num_classes)
        rows = drawn.astype(np.uint8)
        rows = rows[split_of_rows(rows, f"{self.name} {self.group}") == SPLITS.index(split)]
        table, answers = products(self.group), np.empty(rows.shape, np.int8)
        state = np.zeros(len(rows), np.uint8)
        for place, letters in enumerate(rows.T):
            state = table[state, letters]
            answers[:, place] = state
        return rows, answers


@cache
def elements(group: str) -> NDArray[np.uint8]:
    """(order, 5) the images of 0 … 4 under each element, in ascending order; the first is the identity."""
    found = [images for images in permutations(range(5)) if group == "S5" or _is_even(images)]
    return np.array(found, dtype=np.uint8)


def _is_even(images: tuple[int, ...]) -> bool:
    pairs = [(a, b) for b in range(len(images)) for a in range(b)]
    return sum(images[a] > images[b] for a, b in pairs) % 2 == 0


@cache
def products(group: str) -> NDArray[np.uint8]:
    """(order, order) the number of g · h, x ↦ h(g(x)), at row g and column h."""
    known = elements(group)
    number = {images.tobytes(): place for place, images in enumerate(known)}
    return np.array([[number[h[g].tobytes()] for h in known] for g in known], dtype=np.uint8)
