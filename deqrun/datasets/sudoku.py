"""Sudoku: a puzzle whose empty cells wait for one another."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deqrun.arguments import require_at_least, require_choice
from deqrun.datasets.dataset import IGNORED, SPLITS
from deqrun.datasets.generated_grids import CHUNK, GeneratedGrids
from deqrun.datasets.puzzle_symmetries import Views, sudoku_fingerprints, sudoku_moves
from deqrun.datasets.splits_by_content import split_of_rows
from deqrun.datasets.sudoku_generation import canonical, classes_of, dig, fill
from deqrun.datasets.sudoku_solver import guesses, rules

__all__ = ["MOST_HOLES", "SPLIT_KEY", "Sudoku"]

MOST_HOLES = {(2, 2): 12, (2, 3): 27, (3, 2): 27, (3, 3): 58}
"""Boxes that there are, and the most cells that can be empty.

Random digging reaches these in 70, 20, 19 and 22 % of grids (`scripts/sudoku_holes.py`), and one more in none, 0.4,
0.4 and 4 %. A unique solution needs 4, 8 and 17 digits at least, so more than 12, 28 and 64 are impossible.
"""

SPLIT_KEY = "sudoku 59"
"""59 is the first number that divides the 12 classes of 4x4 grids 8 : 2 : 2 with both kinds in each split: up to every
symmetry there are two 4x4 grids, and relabelling alone makes 4 classes of one and 8 of the other."""

SPLIT_BY = ("solution", "puzzle")
"""Contents that can decide a puzzle's split."""


class Sudoku(GeneratedGrids):
    """Fill every row, column and box with the digits 1 … N, where N = box_rows · box_columns and N is 4, 6 or 9.

    Each puzzle has exactly one solution: digits are taken from a random full grid, at random, while an exhaustive
    search finds no other (`sudoku_generation.dig`). Input (N + 1, N, N), one-hot, of which the first channel marks the
    empty cells; output (N, N), class d - 1 for digit d. Only the empty cells are asked, as the given ones say their
    answer themselves; a puzzle is right when all of them are, and so its whole grid.

    split_by says which content decides a puzzle's split, and so what no two splits share:

    solution    the full grid up to a permutation of its digits. Two that differ by permuted rows or columns may be in
                two splits: up to those there are but two 4x4 grids.
    puzzle      the puzzle up to every symmetry: no image of a test puzzle is trained on, as with the files of
                Sudoku-Extreme. Its solution may be, with other digits given; so may a puzzle with other holes.

    box_rows, box_columns   cells of a box: 2x2, 2x3, 3x2 or 3x3
    holes       empty cells, up to 12 of 16, 27 of 36 and 58 of 81; null: half of the cells
    n_train, n_validation, n_test   puzzles of each split
    data_seed   seed of the puzzles, apart from the seed of the training
    split_by    solution or puzzle, as above
    rated       whether `load` gives each puzzle's rating: the guesses of a search (`sudoku_solver.guesses`)

    Raises ValueError for parameters outside these ranges.
    """

    name = "sudoku"
    difficulty = "holes"
    symmetric = True

    def __init__(
        self,
        *,
        box_rows: int = 2,
        box_columns: int = 2,
        holes: int | None = None,
        n_train: int = 10_000,
        n_validation: int = 1_000,
        n_test: int = 1_000,
        data_seed: int = 0,
        split_by: str = "solution",
        rated: bool = False,
    ) -> None:
        super().__init__(n_train=n_train, n_validation=n_validation, n_test=n_test, data_seed=data_seed)
        self.box_rows, self.box_columns = _require_box(box_rows, box_columns)
        side = self.num_classes = self.box_rows * self.box_columns
        self.split_by = require_choice("split_by", split_by, SPLIT_BY)
        self.rated = rated
        self.holes = side**2 // 2 if holes is None else _require_holes(holes, self.box_rows, self.box_columns)
        self.input_shape, self.output_shape = (side + 1, side, side), (side, side)

    def encode(self, inputs: Tensor) -> Tensor:
        """One-hot (batch, N + 1, N, N) of stored digits (batch, N, N), 0 where a cell is empty."""
        return F.one_hot(inputs.long(), self.num_classes + 1).movedim(-1, 1).float()

    def views(self, batch: int, generator: torch.Generator) -> Views:
        """Digits renamed, bands, stacks, rows and columns permuted and, with square boxes, the grid transposed."""
        box = self.box_rows, self.box_columns
        moves = sudoku_moves(batch, self.num_classes, self.num_classes + 1, 1, generator, box)
        return Views(moves, moves.after(1))

    def _stream(self) -> tuple[int, ...]:
        return self.box_rows, self.box_columns, self.holes

    def _ratings(self, inputs: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        if not self.rated:
            return None
        rule, found = rules(self.box_rows, self.box_columns), []
        for low in range(0, len(inputs), CHUNK):
            digits = inputs[low : low + CHUNK].reshape(-1, self.num_classes**2).T.astype(np.int64)
            boards = np.where(digits == 0, rule.full, 1 << np.maximum(digits - 1, 0)).astype(np.uint16)
            found.append(guesses(boards, rule).astype(np.float64))
        return np.concatenate(found)

    def _draw(self, words: np.random.PCG64, split: str) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
        rule = rules(self.box_rows, self.box_columns)
        grids = fill(words, CHUNK, rule)
        if self.split_by == "solution":
            grids = grids[:, self._owned(canonical(classes_of(grids, rule)), SPLIT_KEY, split)]
        # A hole is a cell that can be emptied without a second solution.
        empty, reached = dig(words, grids, self.holes, rule)
        empty, classes = empty.T[reached], classes_of(grids[:, reached], rule)
        inputs = np.where(empty, np.uint8(0), classes + np.uint8(1)).reshape(-1, *self.output_shape)
        targets = np.where(empty, classes.astype(np.int8), np.int8(IGNORED)).reshape(-1, *self.output_shape)
        if self.split_by == "puzzle":
            prints = sudoku_fingerprints(inputs, (self.box_rows, self.box_columns))
            own = self._owned(prints.astype("<u8").view(np.uint8).reshape(-1, 8), "sudoku puzzle", split)
            inputs, targets = inputs[own], targets[own]
        return inputs, targets

    @staticmethod
    def _owned(rows: NDArray[np.uint8], key: str, split: str) -> NDArray[np.bool_]:
        """(n,) which contents (n, width) the split owns."""
        return split_of_rows(rows, key) == SPLITS.index(split)


def _require_box(box_rows: int, box_columns: int) -> tuple[int, int]:
    box = require_at_least("box_rows", box_rows, 1), require_at_least("box_columns", box_columns, 1)
    if box not in MOST_HOLES:
        nearest = min(MOST_HOLES, key=lambda known: abs(known[0] - box[0]) + abs(known[1] - box[1]))
        raise ValueError(
            f"box_rows={box_rows} and box_columns={box_columns} are not allowed: there are boxes of 2x2, 2x3, 3x2 "
            f"and 3x3 (nearest: {nearest[0]}x{nearest[1]})."
        )
    return box


def _require_holes(holes: int, box_rows: int, box_columns: int) -> int:
    whole, most = require_at_least("holes", holes, 1), MOST_HOLES[box_rows, box_columns]
    if whole > most:
        raise ValueError(
            f"holes={holes} is too many: with boxes of {box_rows}x{box_columns} allowed are 1 to {most} empty cells, "
            f"since few grids or none have a single solution with more (nearest: {most})."
        )
    return whole
