"""Mazes: the path from start to goal, a task whose answer needs as many steps as the path is long."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.arguments import require_at_least
from deqrun.datasets.dataset import IGNORED, SPLITS, DataUnavailable
from deqrun.datasets.generated_grids import CHUNK, GeneratedGrids
from deqrun.datasets.maze_generation import Trees, carve, draw_endpoints, passages, paths, pixel_of_node
from deqrun.datasets.puzzle_symmetries import Moves, Views, square_moves
from deqrun.datasets.splits_by_content import split_of_rows

__all__ = ["Mazes"]

WALL, FREE, START, GOAL = range(4)
DRAWS = 16
"""Endpoints drawn for a maze, and chunks drawn without success, at most."""

SMALLEST = 5
"""Of 3 x 3 positions there are four mazes, too few to split."""


class Mazes(GeneratedGrids):
    """For every open pixel of a maze, whether it is on the path from start to goal, both included.

    A maze of `size` x `size` positions has nodes at even rows and columns and, between neighbours, a passage or a wall:
    9 positions are 5 x 5 nodes. The passages are a tree made by depth-first search, so one path joins any two nodes.
    Around it runs a ring of walls. A position is a pixel: input (3, size + 2, size + 2) with channels open (1) or wall
    (0), start, goal; output (size + 2, size + 2), of which walls are not asked. A maze is right when every open pixel
    is. An even size has as many nodes as the odd size below it, and one row and one column of walls more, each on a
    side that is drawn for each maze.

    Source: the sets of Schwarzschild et al. 2021 (arXiv 2106.04537). The search starts at a random node and start and
    goal are drawn afterwards, from all pairs of nodes; there it begins at the start, and therefore every start is a
    dead end (the first node of a depth-first search has two branches only where its removal would cut the grid apart).

    size        at least 5
    shortest, longest   steps of the path from start to goal, at least and at most; null: any. A step is a pixel, so
                paths have an even number of steps, from 2 to 2 (nodes² − 1). Endpoints are drawn again where they are
                not so far apart, and a maze without such a pair in 16 draws is left out
    n_train, n_validation, n_test   mazes of each split; no two splits share a maze, not even with other endpoints
    data_seed   seed of the mazes, apart from the seed of the training

    Raises ValueError for parameters outside these ranges.
    """

    name = "mazes"
    num_classes = 2
    difficulty = "size"
    symmetric = True
    _barren = 0

    def __init__(
        self,
        *,
        size: int = 9,
        n_train: int = 10_000,
        n_validation: int = 1_000,
        n_test: int = 1_000,
        data_seed: int = 0,
        shortest: int | None = None,
        longest: int | None = None,
    ) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self.size = require_at_least("size", size, SMALLEST)
        self.shortest, self.longest = _require_steps(self.size, shortest, longest)
        pixels = self.size + 2
        self.input_shape, self.output_shape = (3, pixels, pixels), (pixels, pixels)

    def encode(self, inputs: Tensor) -> Tensor:
        """(batch, 3, size + 2, size + 2) of stored pixels (batch, size + 2, size + 2): open, start, goal."""
        return torch.stack([inputs != WALL, inputs == START, inputs == GOAL], dim=1).float()

    def views(self, batch: int, generator: torch.Generator) -> Views:
        """The eight rotations and reflections of the square."""
        moves = square_moves(batch, self.size + 2, self.input_shape[0], generator)
        return Views(moves, Moves(moves.source, moves.names[:, : self.num_classes]))

    def _stream(self) -> tuple[int, ...]:
        # Any path is as before there was a choice: the same mazes.
        any_path = (self.shortest, self.longest) == _all_steps(self.size)
        return (self.size,) if any_path else (self.size, self.shortest, self.longest)

    def _draw(self, words: np.random.PCG64, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        trees = carve(words, CHUNK, _nodes_along(self.size))
        pixels = passages(trees)
        own = split_of_rows(np.packbits(pixels, axis=1), self.name) == SPLITS.index(split)
        trees, pixels = Trees(trees.side, trees.parent[own], trees.depth[own]), pixels[own]
        start, goal = draw_endpoints(words, len(pixels), trees.side)
        path = paths(trees, start, goal)
        far = self._as_far_as_asked(path)
        for _ in range(DRAWS - 1):
            if far.all():
                break
            # New endpoints for all, taken where they are wanted. A chunk has words of its own, so no other changes.
            others = draw_endpoints(words, len(pixels), trees.side)
            start, goal = np.where(far, start, others[0]), np.where(far, goal, others[1])
            path = paths(trees, start, goal)
            far = self._as_far_as_asked(path)
        self._require_some(far)
        pixels, path, start, goal = pixels[far], path[far], start[far], goal[far]
        targets = np.where(pixels == WALL, np.int8(IGNORED), path.astype(np.int8))
        pixel, row = pixel_of_node(trees.side), np.arange(len(pixels))
        pixels[row, pixel[start]], pixels[row, pixel[goal]] = START, GOAL
        if self.size % 2:
            return pixels.reshape(-1, *self.output_shape), targets.reshape(-1, *self.output_shape)
        # Of even size: a row and a column of walls more, on sides drawn for each maze.
        corner = (words.random_raw(len(pixels)) % np.uint64(4)).astype(np.int64)
        return _moved(pixels, corner, self.size, WALL), _moved(targets, corner, self.size, IGNORED)

    def _as_far_as_asked(self, path: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """(n,) whether a path (n, pixels) has as many steps as are asked for."""
        steps = path.sum(1, dtype=np.int64) - 1
        far: NDArray[np.bool_] = (steps >= self.shortest) & (steps <= self.longest)
        return far

    def _require_some(self, far: NDArray[np.bool_]) -> None:
        """DataUnavailable once 16 chunks in a row held no such path: drawing on might never end."""
        self._barren = 0 if far.any() else self._barren + 1
        if self._barren == DRAWS:
            raise DataUnavailable(
                f"Of {DRAWS * CHUNK:,} mazes of size={self.size} none has a path of {self.shortest} to {self.longest} "
                "steps; ask for a wider range, or for shorter paths."
            )


def _nodes_along(size: int) -> int:
    return (size + size % 2) // 2


def _moved(grids: NDArray[Any], corner: NDArray[np.int64], size: int, wall: int) -> NDArray[Any]:
    """(n, size + 2, size + 2) of grids (n, (size + 1)²), moved down by bit 0 of `corner`, and to the right by bit 1."""
    n, side = len(grids), size + 1
    moved = np.full((n, size + 2, size + 2), wall, grids.dtype)
    row, along = np.arange(n)[:, None, None], np.arange(side)
    down, right = (corner & 1)[:, None, None], (corner >> 1)[:, None, None]
    moved[row, down + along[None, :, None], right + along[None, None, :]] = grids.reshape(n, side, side)
    return moved


def _all_steps(size: int) -> tuple[int, int]:
    """Steps of the shortest and of the longest path there can be: through all nodes."""
    return 2, 2 * (_nodes_along(size) ** 2 - 1)


def _require_steps(size: int, shortest: int | None, longest: int | None) -> tuple[int, int]:
    least, most = _all_steps(size)
    low = least if shortest is None else require_at_least("shortest", shortest, least)
    high = most if longest is None else require_at_least("longest", longest, least)
    high = min(high, most)
    if low > high or high // 2 < -(-low // 2):
        raise ValueError(
            f"shortest={shortest} and longest={longest} leave no path in mazes of size={size}: allowed are even "
            f"numbers of steps from {least} to {most}, the shortest not above the longest."
        )
    return low, high
