"""Symmetries of puzzles: equal up to a symmetry, a fingerprint that symmetries keep, and random symmetries of a batch.

A Sudoku stays one if its digits are renamed, its bands and stacks permuted, the rows of a band and the columns of a
stack permuted and, with square boxes, the grid transposed: 9! · 2 · 6⁸ = 1.2e12 ways for 9x9. A maze has the eight
symmetries of the square.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "Moves",
    "Views",
    "canonical_squares",
    "mixed",
    "mixed_rows",
    "same_sudoku",
    "square_moves",
    "sudoku_fingerprints",
    "sudoku_moves",
]

Words = NDArray[np.uint64]
Grids = NDArray[np.uint8]

ROUNDS = 3
"""Rounds of refinement of a cell's colour; two puzzles that differ after more have hardly ever been alike before."""

SIDES = {4: (2, 2), 6: (2, 3), 9: (3, 3), 16: (4, 4)}
"""Rows and columns of a box, by the side of the grid."""


def mixed(words: Words, salt: int = 0) -> Words:
    """A permutation of 64-bit words that spreads every bit: the finaliser of SplitMix64 (Steele et al. 2014)."""
    words = words + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def mixed_rows(rows: Grids) -> Words:
    """(n,) 64 bits of the content of each row (n, width): for a random order that content alone decides."""
    state = np.full(len(rows), rows.shape[1], dtype=np.uint64)
    for column in rows.T:
        state = mixed(state ^ column.astype(np.uint64))
    return state


def sudoku_fingerprints(puzzles: Grids, box: tuple[int, int] | None = None) -> Words:
    """(n,) 64 bits of each puzzle (n, N, N), digits 1 … N and 0 for empty, that no symmetry changes.

    Colours are refined as in the test of Weisfeiler & Leman 1968: a cell's colour is mixed with the sums of colours in
    its row, its column (in an order that transposition may turn), its box, its band and stack, and over the cells of
    its digit. Puzzles with different fingerprints are no images of one another; those with the same may be.

    box  rows and columns of a box; None: as `SIDES` has them
    """
    n, side, _ = puzzles.shape
    rows, columns = box or SIDES[side]
    colours = mixed((puzzles > 0).astype(np.uint64))
    for _ in range(ROUNDS):
        lines = [_line_colours(colours, rows), _line_colours(colours.transpose(0, 2, 1), columns)]
        boxes = colours.reshape(n, side // rows, rows, side // columns, columns).sum((2, 4), dtype=np.uint64)
        of_box = mixed(boxes, 3).repeat(rows, axis=1).repeat(columns, axis=2)
        of_digit = np.zeros_like(colours)
        for digit in range(1, side + 1):
            here = puzzles == digit
            total = mixed(np.where(here, colours, np.uint64(0)).sum((1, 2), dtype=np.uint64), 4)
            of_digit += np.where(here, total[:, None, None], np.uint64(0))
        # The row's and the column's part are added, so that neither comes first.
        cross = mixed(lines[0], 1)[:, :, None] + mixed(lines[1], 1)[:, None, :]
        colours = mixed(mixed(colours, 2) + cross + mixed(of_box, 5) + mixed(of_digit, 6))
    return mixed(colours.sum((1, 2), dtype=np.uint64), side)


def _line_colours(colours: Words, band: int) -> Words:
    """(n, N) a colour of each row from the sum over its cells and the rows of its band."""
    lines = mixed(colours.sum(2, dtype=np.uint64), 7)
    bands = lines.reshape(len(lines), -1, band).sum(2, dtype=np.uint64).repeat(band, axis=1)
    return mixed(lines + mixed(bands, 8))


def same_sudoku(one: Grids, other: Grids) -> bool:
    """Whether a symmetry makes `other` of `one`, puzzles (N, N) with 0 where a cell is empty: an exact search.

    All orders of rows that agree in the number of given digits are tried, and within each the columns are matched one
    by one, with the renaming of digits that they force.
    """
    rows, columns = SIDES[len(one)]
    sources = [one, one.T] if rows == columns else [one]
    wanted = (other > 0).sum(1)
    orders = _line_orders(len(one), rows)
    for source in sources:
        given = (source > 0).sum(1)
        fitting = orders[(given[orders] == wanted).all(1)]
        if any(_columns_match(source[order], other, columns) for order in fitting):
            return True
    return False


@cache
def _line_orders(side: int, band: int) -> NDArray[np.intp]:
    """Every order of `side` rows that keeps bands of `band` rows together."""
    within = list(permutations(range(band)))
    orders = [
        [block * band + row for block, inner in zip(blocks, inners, strict=True) for row in inner]
        for blocks in permutations(range(side // band))
        for inners in product(within, repeat=side // band)
    ]
    return np.array(orders, dtype=np.intp)


def _columns_match(source: Grids, target: Grids, stack: int) -> bool:
    """Whether permuting stacks, columns within them, and digits makes `target` of `source`."""
    side = len(source)
    from_columns, to_columns = source.T.tolist(), target.T.tolist()
    names: dict[int, int] = {}
    back: dict[int, int] = {}

    def renamed(column: list[int], wanted: list[int]) -> list[int] | None:
        """Digits newly named where the column fits, None where it does not."""
        new: list[int] = []
        for digit, name in zip(column, wanted, strict=True):
            if (digit == 0) != (name == 0):
                break
            if digit == 0 or names.get(digit) == name:
                continue
            if digit in names or name in back:
                break
            names[digit], back[name] = name, digit
            new.append(digit)
        else:
            return new
        forget(new)
        return None

    def forget(digits: list[int]) -> None:
        for digit in digits:
            del back[names.pop(digit)]

    def place(at: int, used: frozenset[int], block: int) -> bool:
        """Whether columns from `at` on can be matched; within a stack of the target one stack of the source serves."""
        if at == side:
            return True
        fresh = at % stack == 0
        blocks = [b for b in range(side // stack) if b * stack not in taken(used)] if fresh else [block]
        for chosen in blocks:
            for column in range(chosen * stack, (chosen + 1) * stack):
                if column in used:
                    continue
                new = renamed(from_columns[column], to_columns[at])
                if new is None:
                    continue
                if place(at + 1, used | {column}, chosen):
                    return True
                forget(new)
        return False

    def taken(used: frozenset[int]) -> set[int]:
        """First columns of the stacks that serve already."""
        return {column // stack * stack for column in used}

    return place(0, frozenset(), 0)


def canonical_squares(grids: Grids) -> Grids:
    """The first, in the order of their values, of the eight images of each square grid (n, side, side): (n, side²)."""
    images = np.stack([image.reshape(len(grids), -1) for image in _images(grids)])
    best = images[0]
    for image in images[1:]:
        differs = image != best
        first = differs.argmax(1)
        row = np.arange(len(best))
        best = np.where((image[row, first] < best[row, first])[:, None], image, best)
    return best


def _images(grids: Grids) -> Iterator[Grids]:
    for turned in (grids, grids.transpose(0, 2, 1)):
        for rows, columns in product((1, -1), repeat=2):
            yield np.ascontiguousarray(turned[:, ::rows, ::columns])


@dataclass(frozen=True)
class Moves:
    """A symmetry for each sample of a batch: where each position's token comes from, and the name of each token.

    source  (batch, positions) position before
    names   (batch, tokens) token after, by the token before
    """

    source: Tensor
    names: Tensor

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """(batch, *positions) tokens after the move; negative ones, where nothing is asked, keep their name."""
        moved = tokens.flatten(1).gather(1, self.source)
        named = self.names.gather(1, moved.clamp(min=0))
        return torch.where(moved < 0, moved, named).view_as(tokens)

    def of_channels(self, x: Tensor) -> Tensor:
        """(batch, groups · tokens, *positions) one-hot inputs after the move, in every group of channels alike."""
        tokens = self.names.shape[1]
        groups = x.shape[1] // tokens
        moved = x.flatten(2).gather(2, self.source[:, None].expand(-1, x.shape[1], -1))
        # Channel t of the result is the channel of the token that is renamed to t.
        before = self.names.argsort(1)
        channels = (before[:, None] + tokens * torch.arange(groups, device=x.device)[:, None]).flatten(1)
        return moved.gather(1, channels[:, :, None].expand_as(moved)).view_as(x)

    def inverse(self) -> Moves:
        """The move back: of_tokens of one undoes of_tokens of the other, in either order."""
        return Moves(self.source.argsort(1), self.names.argsort(1))

    def after(self, first: int) -> Moves:
        """The same move where the tokens before `first`, which keep their names, are left out of the numbering."""
        return Moves(self.source, self.names[:, first:] - first)

    def take(self, rows: Tensor) -> Moves:
        """Of these rows (long) alone."""
        return Moves(self.source[rows], self.names[rows])


@dataclass(frozen=True)
class Views:
    """A batch as it is seen through a symmetry of each sample, and the way back of the answers.

    inputs   the move of the encoded inputs, whose channels are the tokens
    answers  the same move of the answers, whose classes are the tokens
    """

    inputs: Moves
    answers: Moves

    def seen(self, x: Tensor) -> Tensor:
        """(batch, *input_shape) the encoded inputs as they are seen."""
        return self.inputs.of_channels(x)

    def back(self, logits: Tensor) -> Tensor:
        """(batch, classes, *positions) read-outs of what was seen -> read-outs of the samples as they were."""
        return self.answers.inverse().of_channels(logits)

    def take(self, rows: Tensor) -> Views:
        """Of these rows (long) alone."""
        return Views(self.inputs.take(rows), self.answers.take(rows))

    @classmethod
    def joined(cls, parts: Sequence[Views], device: torch.device) -> Views:
        """Of one batch after another, on a device."""
        tensors = (
            torch.cat([getattr(getattr(part, of), name) for part in parts]).to(device, non_blocking=True)
            for of in ("inputs", "answers")
            for name in ("source", "names")
        )
        source, names, answer_source, answer_names = tensors
        return cls(Moves(source, names), Moves(answer_source, answer_names))


def sudoku_moves(
    batch: int, side: int, tokens: int, first_digit: int, generator: torch.Generator, box: tuple[int, int] | None = None
) -> Moves:
    """A random symmetry of Sudokus of `side` for each sample, all equally likely; digits are the last `side` tokens.

    box  rows and columns of a box; None: as `SIDES` has them
    """
    rows, columns = box or SIDES[side]
    device = generator.device
    down, right = (_random_lines(batch, side, band, generator) for band in (rows, columns))
    source = down[:, :, None] * side + right[:, None, :]
    turned = torch.rand(batch, generator=generator, device=device) < 0.5
    if rows == columns:
        source = torch.where(turned[:, None, None], source.mT, source)
    digits = torch.rand(batch, side, generator=generator, device=device).argsort(1) + first_digit
    fixed = torch.arange(tokens, device=device).expand(batch, -1)
    names = torch.cat([fixed[:, :first_digit], digits, fixed[:, first_digit + side :]], dim=1)
    return Moves(source.flatten(1), names)


def _random_lines(batch: int, side: int, band: int, generator: torch.Generator) -> Tensor:
    """(batch, side) rows in a random order that keeps bands together."""
    draw = {"generator": generator, "device": generator.device}
    blocks = torch.rand(batch, side // band, **draw).argsort(1)  # type: ignore[call-overload]
    inner = torch.rand(batch, side // band, band, **draw).argsort(2)  # type: ignore[call-overload]
    lines: Tensor = (blocks[:, :, None] * band + inner).flatten(1)
    return lines


def square_moves(batch: int, side: int, tokens: int, generator: torch.Generator, images: int = 8) -> Moves:
    """One of the first `images` of a square's eight symmetries for each sample: identity and transposition lead."""
    device = generator.device
    places = np.arange(side * side, dtype=np.int64).reshape(1, side, side)
    found = [image.reshape(-1) for image in _images(places)]  # type: ignore[arg-type]
    order = [0, 4, 1, 2, 3, 5, 6, 7]
    table = torch.from_numpy(np.stack([found[place] for place in order[:images]])).to(device)
    chosen = torch.randint(images, (batch,), generator=generator, device=device)
    return Moves(table[chosen], torch.arange(tokens, device=device).expand(batch, -1))
