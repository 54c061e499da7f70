"""Mazes: the path from start to goal, a task whose answer needs as many steps as the path is long."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.arguments import require_at_least
from deqrun.datasets.dataset import IGNORED, SPLITS
from deqrun.datasets.generated_grids import CHUNK, GeneratedGrids
from deqrun.datasets.maze_generation import Trees, carve, draw_endpoints, passages, paths, pixel_of_node
from deqrun.datasets.splits_by_content import split_of_rows

__all__ = ["Mazes"]

WALL, FREE, START, GOAL = range(4)
SMALLEST = 5
"""Of 3 x 3 positions there are four mazes, too few to split."""


class Mazes(GeneratedGrids):
    """For every open pixel of a maze, whether it is on the path from start to goal, both included.

    A maze of `size` x `size` positions has nodes at even rows and columns and, between neighbours, a passage or a wall:
    9 positions are 5 x 5 nodes. The passages are a tree made by depth-first search, so one path joins any two nodes.
    Around it runs a ring of walls. A position is a pixel: input (3, size + 2, size + 2) with channels open (1) or wall
    (0), start, goal; output (size + 2, size + 2), of which walls are not asked. A maze is right when every open pixel
    is.

    Source: the sets of Schwarzschild et al. 2021 (arXiv 2106.04537). The search starts at a random node and start and
    goal are drawn afterwards, from all pairs of nodes; there it begins at the start, and therefore every start is a
    dead end (the first node of a depth-first search has two branches only where its removal would cut the grid apart).

    size        odd, at least 5
    n_train, n_validation, n_test   mazes of each split; no two splits share a maze, not even with other endpoints
    data_seed   seed of the mazes, apart from the seed of the training

    Raises ValueError for parameters outside these ranges.
    """

    name = "mazes"
    num_classes = 2
    difficulty = "size"

    def __init__(
        self,
        *,
        size: int = 9,
        n_train: int = 10_000,
        n_validation: int = 1_000,
        n_test: int = 1_000,
        data_seed: int = 0,
    ) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self.size = _require_size(size)
        pixels = self.size + 2
        self.input_shape, self.output_shape = (3, pixels, pixels), (pixels, pixels)

    def encode(self, inputs: Tensor) -> Tensor:
        """(batch, 3, size + 2, size + 2) of stored pixels (batch, size + 2, size + 2): open, start, goal."""
        return torch.stack([inputs != WALL, inputs == START, inputs == GOAL], dim=1).float()

    def _stream(self) -> tuple[int, ...]:
        return (self.size,)

    def _draw(self, words: np.random.PCG64, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        trees = carve(words, CHUNK, (self.size + 1) // 2)
        pixels = passages(trees)
        own = split_of_rows(np.packbits(pixels, axis=1), self.name) == SPLITS.index(split)
        trees, pixels = Trees(trees.side, trees.parent[own], trees.depth[own]), pixels[own]
        start, goal = draw_endpoints(words, len(pixels), trees.side)
        targets = np.where(pixels == WALL, np.int8(IGNORED), paths(trees, start, goal).astype(np.int8))
        pixel, row = pixel_of_node(trees.side), np.arange(len(pixels))
        pixels[row, pixel[start]], pixels[row, pixel[goal]] = START, GOAL
        return pixels.reshape(-1, *self.output_shape), targets.reshape(-1, *self.output_shape)


def _require_size(size: int) -> int:
    whole = require_at_least("size", size, SMALLEST)
    if whole % 2 == 0:
        raise ValueError(f"size={size} is even: allowed are 5, 7, 9, … (nearest: {whole - 1} and {whole + 1}).")
    return whole
