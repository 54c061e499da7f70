"""Sudokus solved many at a time: candidates as bits, two rules of elimination, and a search where they don't suffice.

Boards are (cells, n) arrays of uint16: bit d of a cell says that digit d + 1 is possible there. Boards come last, so
that a cell of all boards is a contiguous row. A board with a cell of no bits has no solution.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Boards", "Rules", "eliminate", "guesses", "is_solvable", "is_solved", "rules", "select_cell"]

Boards = NDArray[np.uint16]

SEARCHED_AT_ONCE = 4096
"""Boards of the search that are worked on together: bounds its memory, as the latest are taken first."""


class Rules(NamedTuple):
    """Boxes of `box_rows` x `box_columns` cells, in a grid of side N = box_rows · box_columns.

    units   (3N, N) cells of each row, column and box
    unit    (N², 3) the row, column and box of each cell
    full    all N bits
    counts  (2^N,) bits of a set of digits
    """

    side: int
    units: NDArray[np.intp]
    unit: NDArray[np.intp]
    full: np.uint16
    counts: NDArray[np.uint8]


@lru_cache
def rules(box_rows: int, box_columns: int) -> Rules:
    """The rules for these boxes; N = box_rows · box_columns may be up to 16."""
    side = box_rows * box_columns
    row, column = np.divmod(np.arange(side * side), side)
    box = row // box_rows * box_rows + column // box_columns
    unit = np.stack([row, side + column, 2 * side + box], axis=1)
    units = np.stack([np.flatnonzero((unit == number).any(axis=1)) for number in range(3 * side)])
    counts = np.array([number.bit_count() for number in range(2**side)], np.uint8)
    return Rules(side, units, unit, np.uint16(2**side - 1), counts)


def eliminate(boards: Boards, rule: Rules) -> Boards:
    """Candidates that are left when the two rules apply no more; boards that they refute come back all 0.

    A digit that is certain in a cell is impossible in the rest of its row, column and box ("naked single"). A digit
    with one place left in a row, column or box is certain there ("hidden single").
    """
    boards, active = boards.copy(), np.arange(boards.shape[1])
    while active.size:
        before = boards[:, active]
        after = _hidden_singles(_naked_singles(before, rule), rule)
        boards[:, active] = after
        active = active[(after != before).any(axis=0) & (after != 0).all(axis=0)]
    return boards


def _naked_singles(boards: Boards, rule: Rules) -> Boards:
    single = rule.counts[boards] == 1
    once, twice = _once_and_twice(np.where(single, boards, np.uint16(0)), rule)
    taken = once[rule.unit[:, 0]] | once[rule.unit[:, 1]] | once[rule.unit[:, 2]]
    return _refuted(np.where(single, boards, boards & ~taken), (twice != 0).any(axis=0))


def _hidden_singles(boards: Boards, rule: Rules) -> Boards:
    once, twice = _once_and_twice(boards, rule)
    hidden = once & ~twice
    certain = (hidden[rule.unit[:, 0]] | hidden[rule.unit[:, 1]] | hidden[rule.unit[:, 2]]) & boards
    return _refuted(np.where(certain != 0, certain, boards), (once != rule.full).any(axis=0))


def _once_and_twice(boards: Boards, rule: Rules) -> tuple[Boards, Boards]:
    """(3N, n) digits that are possible in at least one, and in at least two, cells of each unit."""
    once = np.zeros((len(rule.units), boards.shape[1]), np.uint16)
    twice = np.zeros_like(once)
    for cells in rule.units.T:
        here = boards[cells]
        twice |= once & here
        once |= here
    return once, twice


def _refuted(boards: Boards, refuted: NDArray[np.bool_]) -> Boards:
    boards[:, refuted | (boards == 0).any(axis=0)] = 0
    return boards


def is_solved(boards: Boards, rule: Rules) -> NDArray[np.bool_]:
    """(n,) whether every cell has one digit; of boards that `eliminate` returned, these are the solutions."""
    solved: NDArray[np.bool_] = (rule.counts[boards] == 1).all(axis=0)
    return solved


def select_cell(boards: Boards, rule: Rules) -> NDArray[np.intp]:
    """(n,) a cell of fewest, but at least two, possible digits."""
    counts = rule.counts[boards]
    cell: NDArray[np.intp] = np.where(counts > 1, counts, 255).argmin(axis=0)
    return cell


def is_solvable(boards: Boards, rule: Rules) -> NDArray[np.bool_]:
    """(n,) whether a board has a solution, by exhaustive search: exact, whatever the rules of elimination see.

    A board that is neither refuted nor solved is split in two at a cell: its lowest digit, or one of the others.
    """
    found = np.zeros(boards.shape[1], bool)
    owner = np.arange(boards.shape[1])
    while owner.size:
        boards, now = boards[:, :-SEARCHED_AT_ONCE], boards[:, -SEARCHED_AT_ONCE:]
        owner, of = owner[:-SEARCHED_AT_ONCE], owner[-SEARCHED_AT_ONCE:]
        now = eliminate(now, rule)
        found[of[is_solved(now, rule)]] = True
        undecided = (now[0] != 0) & ~found[of]
        now, of = now[:, undecided], of[undecided]
        cell, column = select_cell(now, rule), np.arange(now.shape[1])
        digits = now[cell, column]
        lowest = digits & -digits
        other = now.copy()
        now[cell, column], other[cell, column] = lowest, digits ^ lowest
        boards, owner = np.concatenate([boards, other, now], axis=1), np.concatenate([owner, of, of])
    return found


def guesses(boards: Boards, rule: Rules) -> NDArray[np.int64]:
    """(n,) digits that a depth-first search tries until it finds a solution, each of a board that has one.

    Between two guesses `eliminate` draws its conclusions. The search takes a cell of fewest candidates, the first of
    them, and guesses its lowest digit; a digit that is refuted is struck from the cell, which is no guess. So 0 says
    that the two rules suffice, and the count depends on how a puzzle lies: symmetries may change it.
    """
    n = boards.shape[1]
    count, depth = np.zeros(n, np.int64), np.zeros(n, np.intp)
    stack, active = [boards.copy()], np.arange(n)
    while active.size:
        # Every search works on the latest of its boards, all searches at once.
        level = depth[active]
        now = np.stack([stack[at][:, board] for at, board in zip(level, active, strict=True)], axis=1)
        now = eliminate(now, rule)
        solved, refuted = is_solved(now, rule), now[0] == 0
        depth[active[refuted]] -= 1
        open_, column = active[~solved & ~refuted], ~solved & ~refuted
        now = now[:, column]
        cell, place = select_cell(now, rule), np.arange(now.shape[1])
        lowest = now[cell, place] & -now[cell, place]
        while len(stack) <= depth[open_].max(initial=-1) + 1:
            stack.append(np.zeros_like(boards))
        for column_of, board in enumerate(open_):
            at, other, guessed = depth[board], now[:, column_of].copy(), now[:, column_of].copy()
            other[cell[column_of]] ^= lowest[column_of]
            guessed[cell[column_of]] = lowest[column_of]
            stack[at][:, board], stack[at + 1][:, board] = other, guessed
        depth[open_] += 1
        count[open_] += 1
        active = active[~solved & (depth[active] >= 0)]
    return count
