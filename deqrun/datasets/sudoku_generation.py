"""Sudokus with one solution: a random full grid, from which digits are taken as long as the solution stays unique."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from deqrun.datasets.sudoku_solver import Boards, Rules, eliminate, is_solvable, is_solved, select_cell

__all__ = ["canonical", "classes_of", "dig", "fill"]


def fill(words: np.random.PCG64, n: int, rule: Rules) -> Boards:
    """n full grids (cells, n): a random digit in a cell of fewest candidates, elimination, and so on.

    A grid that can't be completed is begun again. All grids are reached, but not all equally often.
    """
    grids = np.full((rule.side**2, n), rule.full)
    digit_of = _digit_table(rule)
    active = np.arange(n)
    while active.size:
        boards = grids[:, active]
        cell, column = select_cell(boards, rule), np.arange(active.size)
        digits = boards[cell, column]
        draw = words.random_raw(active.size) % rule.counts[digits].astype(np.uint64)
        boards[cell, column] = digit_of[digits, draw.astype(np.intp)]
        boards = eliminate(boards, rule)
        boards[:, boards[0] == 0] = rule.full
        grids[:, active] = boards
        active = active[~is_solved(boards, rule)]
    return grids


def dig(words: np.random.PCG64, grids: Boards, holes: int, rule: Rules) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which cells of full grids (cells, n) to leave empty, (cells, n), and in which grids `holes` were reached, (n,).

    Cells are visited once each, in random order; one is emptied unless there is then a solution with another digit in
    it. As a cell that can't be emptied now can't be later either, a grid where the visits end early is irreducible.
    """
    cells, n = grids.shape
    order = np.argsort(words.random_raw(cells * n).reshape(cells, n), axis=0, kind="stable")
    empty, dug = np.zeros((cells, n), bool), np.zeros(n, np.intp)
    for visit in range(cells):
        active = np.flatnonzero((dug < holes) & (dug + cells - visit >= holes))
        cell, column = order[visit, active], np.arange(active.size)
        boards = np.where(empty[:, active], rule.full, grids[:, active])
        boards[cell, column] ^= rule.full
        removable = ~is_solvable(boards, rule)
        empty[cell[removable], active[removable]] = True
        dug[active] += removable
    return empty, dug == holes


def classes_of(grids: Boards, rule: Rules) -> NDArray[np.uint8]:
    """(n, cells) digits 0 … N - 1 of full grids (cells, n): of bit d, 2^d - 1 has d bits."""
    return rule.counts[grids.T - 1]


def canonical(digits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Full grids (n, cells) of digits 0 … N - 1, relabelled so that the first row reads 0, 1, …, N - 1.

    Two grids that differ by a permutation of the digits, and only those, become the same.
    """
    side = round(digits.shape[1] ** 0.5)
    label_of = np.argsort(digits[:, :side], axis=1).astype(np.uint8)
    return np.take_along_axis(label_of, digits.astype(np.intp), axis=1)


def _digit_table(rule: Rules) -> NDArray[np.uint16]:
    """(2^N, N) the k-th digit of a set of digits, as a bit; 0 where it has no k-th."""
    table = np.zeros((len(rule.counts), rule.side), np.uint16)
    for digits in range(len(rule.counts)):
        bits = [1 << digit for digit in range(rule.side) if digits >> digit & 1]
        table[digits, : len(bits)] = bits
    return table
