"""The field's own puzzles from files: Sudoku-Extreme, Maze-Hard, the HRM folders, and ARC."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from deqrun.arguments import require_at_least, require_choice, require_share
from deqrun.datasets.dataset import IGNORED, Dataset, DataUnavailable, Split, require_split
from deqrun.datasets.puzzle_files import EMPTY, FORMATS, Layout, Puzzles, read_layout
from deqrun.datasets.puzzle_symmetries import (
    Moves,
    Views,
    canonical_squares,
    mixed,
    mixed_rows,
    same_sudoku,
    square_moves,
    sudoku_fingerprints,
    sudoku_moves,
)

__all__ = ["AUGMENTATIONS", "SHARED", "PuzzleFiles"]

AUGMENTATIONS = ("none", "symmetries")
SHARED = ("refuse", "drop")

CHUNK = 65_536
"""Puzzles whose fingerprints are computed at once."""


class PuzzleFiles(Dataset):
    """Puzzles of a folder, with an answer at every position.

    Read are the CSV files of Sudoku-Extreme and Maze-Hard (train.csv and test.csv with the columns source, question,
    answer, rating), the folders of HRM, TRM and EqR (train/ and test/ with dataset.json and all__inputs.npy,
    all__labels.npy), and ARC's folders training/ and evaluation/ of JSON tasks. The CSV files become the tokens of
    HRM's own conversion: 0 is padding, 1 an empty cell and d + 1 the digit d, or 1 to 5 the maze's '#', ' ', 'S',
    'G', 'o'. Input: the tokens one-hot, (tokens, height, width), or (tokens, length) where the positions are no
    square. Output: a token at each position; a given cell is asked like the others, as published.

    Of ARC each test pair is a sample. Its grids lie in the upper left corner of 30x30, with colour + 1 as token and 0
    outside. The input stacks the one-hot channels of the asked grid and of the first `demonstrations` pairs, inputs
    and outputs in turn: (11 · (2 · demonstrations + 1), 30, 30); those that a task lacks are 0 outside everywhere.

    A part validation.csv (valid, val) or validation/ validates; else a share of the training part does, by the
    content of a puzzle up to symmetry, so that no image of one puzzle is on both sides.

    root              the folder
    format            auto, or sudoku_csv, maze_csv, hrm, arc
    augment           none; symmetries: in training each puzzle takes a random symmetry, its answer with it
    shared            refuse: a puzzle of a later split that is an image of an earlier split's is refused, with a
                      sentence that names the first; drop: such puzzles are left out of the earlier split
    n_train, n_test   puzzles of these parts, chosen at random by their content; null: all
    validation_share  share of the training part that validates, where no part does
    demonstrations    of ARC, pairs that a sample shows

    Raises ValueError for parameters outside these ranges. Shapes and `load` raise DataUnavailable, with one sentence,
    where there is no such folder and where a file is damaged or contradicts itself.
    """

    name = "puzzles"
    symmetric = True

    def __init__(
        self,
        *,
        root: str | None = None,
        format: str = "auto",  # noqa: A002  (the field's word, typed as dataset.format)
        augment: str = "none",
        shared: str = "refuse",
        n_train: int | None = None,
        n_test: int | None = None,
        validation_share: float = 0.1,
        demonstrations: int = 3,
    ) -> None:
        self.root = root
        self.format = require_choice("format", format, ("auto", *FORMATS))
        self.augmentation = require_choice("augment", augment, AUGMENTATIONS)
        self.shared = require_choice("shared", shared, SHARED)
        self.n_train = None if n_train is None else require_at_least("n_train", n_train, 1)
        self.n_test = None if n_test is None else require_at_least("n_test", n_test, 1)
        self.validation_share = require_share("validation_share", validation_share)
        self.demonstrations = require_at_least("demonstrations", demonstrations, 1)

    @cached_property
    def layout(self) -> Layout:
        """The folder's layout, known from the first lines of its files."""
        layout = read_layout(self.root, self.format, self.demonstrations)
        if self.augmentation == "symmetries" and layout.kind == "other":
            raise DataUnavailable(
                f"dataset.augment=symmetries was given, but the puzzles of {self.root} are neither Sudokus, mazes nor "
                "ARC, so no symmetry is known; give dataset.augment=none."
            )
        return layout

    @property
    def num_classes(self) -> int:  # type: ignore[override]  # known only from the folder
        return self.layout.tokens

    @property
    def output_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.layout.shape

    @property
    def input_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.layout.tokens * self.layout.groups, *self.layout.shape)

    def memory(self) -> int:
        """A byte for each token of a question, and eight for each of its answer's, of whatever the files hold."""
        positions = math.prod(self.layout.shape)
        each = positions * self.layout.groups + 8 * positions
        return each * sum(self.layout.count(split) for split in self.layout.parts)

    def load(self, split: str) -> Split:
        """The samples of a split with their ratings; all parts are read at the first call."""
        require_split(split)
        return self._splits[split]

    @cached_property
    def _splits(self) -> dict[str, Split]:
        parts = {split: self.layout.read(split) for split in self.layout.parts}
        parts["test"] = _some(parts["test"], self.n_test)
        # Up to symmetry: which puzzles validate, and whether one is in two parts.
        prints = {split: self._fingerprints(part) for split, part in parts.items()}
        if "validation" not in parts:
            validates = mixed(prints["train"], 1) < np.uint64(self.validation_share * 2.0**64)
            train, held = np.flatnonzero(~validates), np.flatnonzero(validates)
            parts["validation"] = parts["train"].only(held)
            prints["validation"] = prints["train"][held]
            parts["train"], prints["train"] = parts["train"].only(train), prints["train"][train]
        if self.n_train is not None:
            chosen = _chosen(parts["train"], self.n_train)
            parts["train"], prints["train"] = parts["train"].only(chosen), prints["train"][chosen]
        for later, earlier in (("test", "train"), ("test", "validation"), ("validation", "train")):
            parts[earlier], prints[earlier] = self._apart(parts, prints, later, earlier)
        empty = next((split for split, part in parts.items() if len(part) == 0), None)
        if empty is not None:
            raise DataUnavailable(
                f"The {empty} split of {self.layout.parts['train'].parent} holds no puzzle; add puzzles, or give "
                f"another dataset.validation_share than {self.validation_share}."
            )
        return {split: _as_split(part) for split, part in parts.items()}

    def _fingerprints(self, part: Puzzles) -> NDArray[np.uint64]:
        """(n,) 64 bits of each question that no symmetry changes; of mazes and ARC of a canonical form."""
        found = []
        for low in range(0, len(part), CHUNK):
            inputs = part.inputs[low : low + CHUNK]
            if self.layout.kind == "sudoku":
                found.append(sudoku_fingerprints(_digits(inputs)))
            else:
                found.append(mixed_rows(self._canonical(inputs)))
        return np.concatenate(found) if found else np.zeros(0, np.uint64)

    def _canonical(self, inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(n, width) one form of all images of a maze; of ARC up to transposition and names of colours; else itself."""
        if self.layout.kind == "maze":
            return canonical_squares(inputs)
        if self.layout.kind == "arc":
            both = [_renamed(grids.reshape(len(inputs), -1)) for grids in (inputs, inputs.swapaxes(-1, -2))]
            rows = [min(pair, key=bytes) for pair in zip(*both, strict=True)]
            return np.stack(rows) if rows else both[0]
        return inputs.reshape(len(inputs), -1)

    def _alike(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
        """Whether two questions are images of one another, exactly."""
        if self.layout.kind == "sudoku":
            return same_sudoku(*_digits(np.stack([one, other])))
        return bool((self._canonical(one[None]) == self._canonical(other[None])).all())

    def _apart(
        self, parts: dict[str, Puzzles], prints: dict[str, NDArray[np.uint64]], later: str, earlier: str
    ) -> tuple[Puzzles, NDArray[np.uint64]]:
        """The earlier part without puzzles of the later one; DataUnavailable where such are refused."""
        kept, mine = parts[earlier], prints[earlier]
        suspects = np.flatnonzero(np.isin(mine, prints[later]))
        if len(suspects) == 0:
            return kept, mine
        # Equal fingerprints are compared exactly, each with the puzzles of its own.
        order = np.argsort(prints[later], kind="stable")
        ordered, leaves = prints[later][order], np.zeros(len(kept), np.bool_)
        for i in suspects:
            first, last = np.searchsorted(ordered, mine[i], "left"), np.searchsorted(ordered, mine[i], "right")
            twin = next((j for j in order[first:last] if self._alike(kept.inputs[i], parts[later].inputs[j])), None)
            if twin is None:
                continue
            if self.shared == "refuse":
                raise DataUnavailable(
                    f"{parts[later].place(int(twin))} asks the same as {kept.place(int(i))} up to symmetry, so the "
                    f"{later} split is not unseen; give dataset.shared=drop, which takes such puzzles from {earlier}."
                )
            leaves[i] = True
        stays = np.flatnonzero(~leaves)
        return kept.only(stays), mine[stays]

    def encode(self, inputs: Tensor) -> Tensor:
        """One-hot (batch, *input_shape) of stored tokens: (batch, *positions), and of ARC (batch, grids, 30, 30)."""
        hot = F.one_hot(inputs.long(), self.layout.tokens).movedim(-1, -1 - len(self.layout.shape))
        return hot.flatten(1, 2).float() if self.layout.groups > 1 else hot.float()

    def augment_pair(self, x: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random symmetry of each puzzle and of its answer, with augment=symmetries; else both as they are."""
        if self.augmentation == "none":
            return x, targets
        moves = self._moves(len(x), generator)
        return moves.of_channels(x), moves.of_tokens(targets)

    def views(self, batch: int, generator: torch.Generator) -> Views:
        """Symmetries of Sudokus and mazes, and of ARC transposition and names of colours; DataUnavailable of others."""
        if self.layout.kind == "other":
            raise DataUnavailable(
                f"sweep.symmetries was given, but the puzzles of {self.root} are neither Sudokus, mazes nor ARC, so no "
                "symmetry is known; give sweep.symmetries=null."
            )
        moves = self._moves(batch, generator)
        return Views(moves, moves)

    def _moves(self, batch: int, generator: torch.Generator) -> Moves:
        side, tokens = self.layout.shape[0], self.layout.tokens
        if self.layout.kind == "sudoku":
            return sudoku_moves(batch, side, tokens, EMPTY + 1, generator)
        if self.layout.kind == "maze":
            return square_moves(batch, side, tokens, generator)
        # ARC: grids stay in their corner under transposition; black, token 1, keeps its name.
        moves = square_moves(batch, side, tokens, generator, images=2)
        colours = torch.rand(batch, tokens - 2, generator=generator, device=generator.device).argsort(1) + 2
        return Moves(moves.source, torch.cat([moves.names[:, :2], colours], dim=1))


def _digits(inputs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Digits of a Sudoku's tokens, 0 where a cell is empty."""
    return np.maximum(inputs, EMPTY) - EMPTY


def _renamed(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tokens from 2 on named anew in the order in which they appear in each row (n, width)."""
    found = np.empty_like(rows)
    for row, out in zip(rows, found, strict=True):
        values, first = np.unique(row, return_index=True)
        colours = values[values > 1][np.argsort(first[values > 1])]
        names = np.arange(256, dtype=np.uint8)
        names[colours] = np.arange(2, 2 + len(colours), dtype=np.uint8)
        out[:] = names[row]
    return found


def _chosen(part: Puzzles, n: int) -> NDArray[np.intp]:
    """Places of the n puzzles of lowest hash, in the order of the file."""
    if n > len(part):
        raise DataUnavailable(
            f"{n:,} puzzles were asked for, and there are {len(part):,}; ask for {len(part):,} at most."
        )
    order = np.argsort(mixed_rows(part.inputs.reshape(len(part), -1)), kind="stable")
    return np.sort(order[:n])


def _some(part: Puzzles, n: int | None) -> Puzzles:
    return part if n is None else part.only(_chosen(part, n))


def _as_split(part: Puzzles) -> Split:
    answers = torch.from_numpy(part.answers).long()
    ratings = None if np.isnan(part.ratings).all() else torch.from_numpy(part.ratings)
    return Split(torch.from_numpy(part.inputs), answers.masked_fill_(answers < 0, IGNORED), ratings)
