"""Grids drawn from a seed, each in the split that its own content says: whatever is asked for, no split leaks."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.datasets.dataset import SPLITS, Split, require_split
from deqrun.datasets.splits_by_content import Generated

__all__ = ["CHUNK", "GeneratedGrids"]

CHUNK = 1024
"""Grids that are drawn at once: enough that NumPy's overhead is small, few enough for a small split."""


class GeneratedGrids(Generated):
    """Grids whose split is a function of their content: train, validation and test own 4, 1 and 1 sixths of all.

    Compared is the part that must not be seen twice (the walls of a maze, the solution of a Sudoku); a hash of
    it decides. So the splits of *any* two settings share none: a trained model can be asked about another seed, size of
    the test split or difficulty, and nothing that it is asked was trained on.

    A split is drawn in chunks of 1,024, each from PCG64's 64-bit words (O'Neill 2014), seeded by `data_seed`, the split
    and the chunk's number. So the order in which splits are loaded changes nothing, a smaller split is the beginning of
    a larger one, and NumPy's distributions, which may change between its versions, play no part. Within a split samples
    are independent: one may come twice where few are possible.

    n_train, n_validation, n_test   samples of each split, at least 1
    data_seed                       seed of the grids, apart from the seed of the training
    """

    def __init__(self, *, n_train: int, n_validation: int, n_test: int, data_seed: int) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self._loaded: dict[str, Split] = {}

    def load(self, split: str) -> Split:
        require_split(split)
        if split not in self._loaded:
            self._loaded[split] = self._made(split)
        return self._loaded[split]

    def _made(self, split: str) -> Split:
        wanted = self.sizes[split]
        questions: list[NDArray[np.uint8]] = []
        answers: list[NDArray[np.int8]] = []
        while sum(map(len, questions)) < wanted:
            seed = np.random.SeedSequence([self.data_seed, SPLITS.index(split), len(questions), *self._stream()])
            question, answer = self._draw(np.random.PCG64(seed), split)
            questions.append(question)
            answers.append(answer)
        inputs, targets = np.concatenate(questions)[:wanted], np.concatenate(answers)[:wanted]
        ratings = self._ratings(inputs)
        rated = None if ratings is None else torch.from_numpy(ratings)
        return Split(torch.from_numpy(inputs), torch.from_numpy(targets).long(), rated)

    def _ratings(self, inputs: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """(n,) how hard each sample is; None: they are not rated."""
        return None

    @abstractmethod
    def _stream(self) -> tuple[int, ...]:
        """Further dependences of the words, beside the seed."""

    @abstractmethod
    def _draw(self, words: np.random.PCG64, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        """Those of CHUNK new grids that are `split`'s: inputs as they are stored, and targets, (n, height, width)."""
