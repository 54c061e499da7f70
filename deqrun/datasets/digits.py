"""scikit-learn's bundled digits: real handwriting that needs no download."""

from __future__ import annotations

from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.datasets.dataset import SPLITS, Dataset, Split, require_split, stratified_split


class Digits(Dataset):
    """1,797 handwritten digits, 1x8x8, intensities 0–16 scaled to [0, 1]; ten classes.

    The test part of the Optical Recognition of Handwritten Digits data (Alpaydin & Kaynak 1998, UCI), which ships
    with scikit-learn. Split 60/20/20 within every class by `split_seed`, apart from the seed of the training, so
    that runs with different seeds are compared on the same samples.
    """

    name = "digits"
    input_shape = (1, 8, 8)
    num_classes = 10
    shares = (0.6, 0.2, 0.2)

    def __init__(self, *, split_seed: int = 0) -> None:
        self.split_seed = split_seed

    def load(self, split: str) -> Split:
        require_split(split)
        inputs, targets = self._all
        index = self._indices[SPLITS.index(split)]
        return Split(inputs[index], targets[index])

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor]:
        rows = _rows()
        images = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 8, 8)).float() / 16
        return images, torch.from_numpy(rows[:, -1].astype(np.int64))

    @cached_property
    def _indices(self) -> list[Tensor]:
        return stratified_split(self._all[1].numpy(), self.shares, self.split_seed)


@cache
def _rows() -> NDArray[np.float64]:
    """(1797, 65): the intensities and the digit of each image.

    Read from scikit-learn's file, since importing scikit-learn takes longer than training on them for an epoch.
    """
    package = find_spec("sklearn")
    places = (package.submodule_search_locations or []) if package else []
    for place in places:
        file = Path(place, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # which knows where another version keeps them

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])
