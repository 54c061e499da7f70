"""Every puzzle has one solution, by a second solver and by published counts, and no solution is in two splits."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deqrun.datasets.dataset import IGNORED, SPLITS, Split
from deqrun.datasets.puzzle_symmetries import sudoku_fingerprints
from deqrun.datasets.splits_by_content import split_of_rows
from deqrun.datasets.sudoku import MOST_HOLES, SPLIT_KEY, Sudoku
from deqrun.datasets.sudoku_generation import canonical, classes_of, dig, fill
from deqrun.datasets.sudoku_solver import Boards, Rules, guesses, is_solvable, rules
from tests.usual import usual

Grid = np.ndarray
BOXES = usual(MOST_HOLES, nightly=[(3, 3)], name=lambda box: f"box{box[0]}{box[1]}")
boxes = pytest.mark.parametrize("box", BOXES)


def is_full_grid(grid: Grid, box: tuple[int, int]) -> bool:
    """Whether every row, column and box of (N, N) holds 1 … N."""
    side, digits = len(grid), set(range(1, len(grid) + 1))
    corners = product(range(0, side, box[0]), range(0, side, box[1]))
    parts = [*grid, *grid.T, *(grid[r : r + box[0], c : c + box[1]].reshape(-1) for r, c in corners)]
    return all(set(part.tolist()) == digits for part in parts)


def solutions(grid: Grid, box: tuple[int, int]) -> list[Grid]:
    """All of them, by plain backtracking: try every digit that no row, column or box of the cell holds."""
    side = len(grid)

    def digits_at(row: int, column: int) -> set[int]:
        top, left = row // box[0] * box[0], column // box[1] * box[1]
        seen = {*grid[row], *grid[:, column], *grid[top : top + box[0], left : left + box[1]].reshape(-1)}
        return set(range(1, side + 1)) - seen

    empty = [(digits_at(r, c), (r, c)) for r, c in np.argwhere(grid == 0)]
    if not empty:
        return [grid.copy()]
    digits, cell = min(empty, key=lambda entry: len(entry[0]))
    found = []
    for digit in digits:
        grid[cell] = digit
        found += solutions(grid, box)
    grid[cell] = 0
    return found


@cache
def all_4x4() -> Grid:
    """(288, 16) every full 4x4 grid, digits 0 … 3: all choices of four rows, the wrong ones left out."""
    rows = list(permutations(range(1, 5)))
    grids = [
        np.array(four) for four in product(rows, repeat=4) if all(len(set(c)) == 4 for c in zip(*four, strict=True))
    ]
    return np.array([grid.reshape(-1) - 1 for grid in grids if is_full_grid(grid, (2, 2))], np.uint8)


def board_of(grid: Grid, rule: Rules) -> Boards:
    """(cells, 1) the candidates that a puzzle (N, N) begins with."""
    digits = grid.reshape(-1, 1).astype(int)
    return np.where(digits == 0, rule.full, 1 << (digits - 1).clip(0)).astype(np.uint16)


def completions(partial: Grid, box: tuple[int, int]) -> int:
    """Number of full grids that agree with `partial`, by the solver under test: cell by cell, the solvable ones."""
    rule = rules(*box)
    boards = board_of(partial, rule)
    for cell in np.flatnonzero(partial == 0):
        boards = np.repeat(boards, rule.side, axis=1)
        boards[cell] = np.tile(1 << np.arange(rule.side), boards.shape[1] // rule.side)
        boards = boards[:, is_solvable(boards, rule)]
    return boards.shape[1]


def whole(split: Split) -> tuple[Grid, Grid]:
    """Puzzles (n, N, N) with 0 where a cell is empty, and their full grids, digits 1 … N."""
    puzzles, targets = split.inputs.numpy(), split.targets.numpy()
    assert ((targets == IGNORED) == (puzzles > 0)).all()
    return puzzles, np.where(targets == IGNORED, puzzles, targets + 1).astype(np.uint8)


def test_the_solver_finds_the_28_200_960_grids_of_6x6() -> None:
    """The published number (F. Jarvis, Sudoku enumeration problems), from three pairs of first rows.

    6! relabellings make the first row 123456. The second is one of 36: 456 and 123, each in any order. Permuting the
    columns within the boxes, and relabelling back, joins these by the cycles that the two orders make together: 6
    have none, 18 one of two, 12 one of three.
    """
    found = 0
    for number, right in ((6, (1, 2, 3)), (18, (2, 1, 3)), (12, (2, 3, 1))):
        partial = np.zeros((6, 6), int)
        partial[0], partial[1] = (1, 2, 3, 4, 5, 6), (4, 5, 6, *right)
        found += number * completions(partial, (2, 3))
    assert found * 720 == 28_200_960


def test_the_solver_knows_a_17_clue_puzzle() -> None:
    """From G. Royle's collection; it needs search. Its solution is the only one: no cell can have another digit."""
    puzzle = "000000010400000000020000000000050407008000300001090000300400200050100000000806000"
    grid = np.array([int(digit) for digit in puzzle]).reshape(9, 9)
    [solution] = solutions(grid.copy(), (3, 3))
    rule = rules(3, 3)
    board = board_of(grid, rule)
    others = np.repeat(board, 81, axis=1)
    others[np.arange(81), np.arange(81)] &= ~(1 << (solution.reshape(-1) - 1)).astype(np.uint16)
    assert is_solvable(board, rule).tolist() == [True]
    assert not is_solvable(others, rule).any()


def test_every_4x4_puzzle_agrees_with_one_of_the_288_grids() -> None:
    for holes in (4, 8, 12):
        dataset = Sudoku(holes=holes, n_train=600)
        for split in map(dataset.load, SPLITS):
            puzzles, full = whole(split)
            asked = puzzles.reshape(-1, 1, 16)
            agree = ((asked == 0) | (asked == all_4x4() + 1)).all(2)
            assert (agree.sum(1) == 1).all()
            assert (all_4x4()[agree.argmax(1)] + 1 == full.reshape(-1, 16)).all()


@boxes
def test_a_plain_search_finds_the_answer_and_no_other(box: tuple[int, int]) -> None:
    puzzles, full = whole(Sudoku(box_rows=box[0], box_columns=box[1], n_test=20).load("test"))
    for puzzle, grid in zip(puzzles, full, strict=True):
        assert is_full_grid(grid, box)
        [solution] = solutions(puzzle.copy(), box)
        assert (solution == grid).all()


@pytest.mark.parametrize(("box", "holes"), [((2, 3), 27), ((3, 3), 52)])
def test_a_plain_search_finds_no_other_with_many_holes(box: tuple[int, int], holes: int) -> None:
    """Straight from the digging: a data set of these would take seconds."""
    rule = rules(*box)
    grids = fill(np.random.PCG64(2), 40, rule)
    empty, reached = dig(np.random.PCG64(3), grids, holes, rule)
    digits = classes_of(grids, rule) + 1
    for column in np.flatnonzero(reached)[:5]:
        assert empty[:, column].sum() == holes
        puzzle = np.where(empty[:, column], 0, digits[column]).reshape(rule.side, rule.side)
        [solution] = solutions(puzzle.copy(), box)
        assert (solution.reshape(-1) == digits[column]).all()


@boxes
def test_holes_are_as_many_as_asked_for(box: tuple[int, int]) -> None:
    cells = (box[0] * box[1]) ** 2
    for holes, expected in ((None, cells // 2), (1, 1), (cells // 3, cells // 3)):
        puzzles, _ = whole(Sudoku(box_rows=box[0], box_columns=box[1], holes=holes, n_test=50).load("test"))
        assert ((puzzles == 0).reshape(50, -1).sum(1) == expected).all()


def test_no_4x4_puzzle_has_three_digits() -> None:
    """Four are the fewest with one solution (OEIS A198297), and twelve holes are often reached."""
    rule = rules(2, 2)
    grids = fill(np.random.PCG64(0), 2_000, rule)
    assert dig(np.random.PCG64(1), grids, 12, rule)[1].mean() > 0.5
    assert not dig(np.random.PCG64(1), grids, 13, rule)[1].any()


def test_more_holes_are_dug_on_from_fewer() -> None:
    rule = rules(2, 2)
    grids = fill(np.random.PCG64(0), 500, rule)
    fewer, _ = dig(np.random.PCG64(1), grids, 9, rule)
    more, reached = dig(np.random.PCG64(1), grids, 12, rule)
    assert (more >= fewer)[:, reached].all()


def test_all_288_grids_are_drawn() -> None:
    rule = rules(2, 2)
    drawn = classes_of(fill(np.random.PCG64(0), 8_000, rule), rule)
    assert {row.tobytes() for row in drawn} == {row.tobytes() for row in all_4x4()}


def test_relabelling_makes_twelve_classes_of_24_grids() -> None:
    grids = all_4x4()
    classes = canonical(grids)
    names, counts = np.unique(classes, axis=0, return_counts=True)
    assert names[:, :4].tolist() == [[0, 1, 2, 3]] * 12
    assert counts.tolist() == [24] * 12
    for digits in permutations(range(4)):
        assert (canonical(np.array(digits, np.uint8)[grids]) == classes).all()


def kind(grid: Grid) -> int:
    """Number of 4x4 grids that relabelling and permuting rows, columns, bands and stacks, and turning, make of it."""
    orbit, new = set(), {canonical(grid[None])[0].tobytes()}
    while new:
        orbit |= new
        squares = [np.frombuffer(name, np.uint8).reshape(4, 4) for name in new]
        moved = [move for g in squares for move in (g.T, g[[1, 0, 2, 3]], g[[2, 3, 0, 1]])]
        new = {row.tobytes() for row in canonical(np.array(moved).reshape(-1, 16))} - orbit
    return 24 * len(orbit)


def test_the_twelve_classes_are_split_8_2_2_with_both_kinds_of_grid_in_each() -> None:
    classes = np.unique(canonical(all_4x4()), axis=0)
    split = split_of_rows(classes, SPLIT_KEY)
    kinds = np.array([kind(grid) for grid in classes])
    assert sorted(set(kinds.tolist())) == [96, 192]
    assert np.bincount(split).tolist() == [8, 2, 2]
    assert all(set(kinds[split == part].tolist()) == {96, 192} for part in range(3))


@boxes
def test_splits_share_no_solution_even_up_to_relabelling(box: tuple[int, int]) -> None:
    """Nor do they when another seed, or another number of holes, is asked about."""
    seen: dict[str, set[bytes]] = {split: set() for split in SPLITS}
    sizes = {"n_train": 300, "n_validation": 150, "n_test": 150}
    for holes, seed in ((None, 0), (4, 1)):
        dataset = Sudoku(box_rows=box[0], box_columns=box[1], holes=holes, data_seed=seed, **sizes)
        for split in SPLITS:
            _, full = whole(dataset.load(split))
            seen[split] |= {row.tobytes() for row in canonical(full.reshape(len(full), -1) - 1)}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]
    if box == (2, 2):
        assert [len(seen[split]) for split in SPLITS] == [8, 2, 2]


def image(puzzle: Grid, box: tuple[int, int], rng: np.random.Generator) -> Grid:
    """The puzzle with digits renamed, bands, stacks and their lines permuted and, with square boxes, perhaps turned."""
    side, (rows, columns) = len(puzzle), box
    down, right = (
        np.concatenate([rng.permutation(band) + band * block for block in rng.permutation(side // band)])
        for band in (rows, columns)
    )
    moved = np.concatenate([[0], rng.permutation(side) + 1])[puzzle[down][:, right]]
    return moved.T if rows == columns and rng.integers(2) else moved


@boxes
def test_a_fingerprint_is_the_same_for_all_images_of_a_puzzle(box: tuple[int, int]) -> None:
    puzzles, _ = whole(Sudoku(box_rows=box[0], box_columns=box[1], n_test=10).load("test"))
    rng = np.random.default_rng(0)
    wanted = sudoku_fingerprints(puzzles, box)
    for _ in range(10):
        images = np.stack([image(puzzle, box, rng) for puzzle in puzzles])
        assert (sudoku_fingerprints(images.astype(np.uint8), box) == wanted).all()


def least_image(puzzle: Grid) -> bytes:
    """The first of a 4x4 puzzle's 128 images by lines and turning, digits named in the order in which they come."""
    lines = [[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 3, 2], [1, 0, 3, 2]]
    lines += [[*order[2:], *order[:2]] for order in lines]
    images = []
    for grid, down, right in product((puzzle, puzzle.T), lines, lines):
        names = {0: 0}
        images.append(bytes(names.setdefault(int(digit), len(names)) for digit in grid[down][:, right].reshape(-1)))
    return min(images)


def test_splits_by_puzzle_share_no_puzzle_up_to_symmetry_and_all_grids() -> None:
    dataset = Sudoku(holes=10, split_by="puzzle", n_train=800, n_validation=300, n_test=300)
    puzzles, grids = {}, {}
    for split in SPLITS:
        asked, full = whole(dataset.load(split))
        puzzles[split] = {least_image(puzzle) for puzzle in asked}
        grids[split] = {row.tobytes() for row in canonical(full.reshape(len(full), -1) - 1)}
    assert not puzzles["train"] & puzzles["validation"]
    assert not puzzles["train"] & puzzles["test"]
    assert not puzzles["validation"] & puzzles["test"]
    assert [len(grids[split]) for split in SPLITS] == [12, 12, 12]


def test_splits_by_solution_share_puzzles_up_to_symmetry() -> None:
    """So the other way to split them is needed where an image counts as seen."""
    dataset = Sudoku(holes=10, n_train=800, n_test=300)
    seen, asked = ({least_image(puzzle) for puzzle in whole(dataset.load(split))[0]} for split in ("train", "test"))
    assert seen & asked


def test_channels_are_empty_and_the_digits() -> None:
    dataset = Sudoku(box_columns=3, n_test=5)
    puzzles = dataset.load("test").inputs
    x = dataset.encode(puzzles)
    assert (x.sum(1) == 1).all()
    assert torch.equal(x.argmax(1), puzzles.long())


def test_an_answer_is_right_when_every_empty_cell_is() -> None:
    dataset = Sudoku(n_test=3)
    targets = dataset.load("test").targets
    logits = F.one_hot(targets.clamp(min=0), 4).movedim(-1, 1).float()
    for sample, given in ((0, True), (1, False)):
        row, column = ((targets[sample] == IGNORED) == given).nonzero()[0]
        logits[sample, :, row, column] = logits[sample, :, row, column].roll(1)
    assert dataset.correct(logits, targets).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"holes": 13}, r"holes=13 is too many: with boxes of 2x2 allowed are 1 to 12 .*\(nearest: 12\)"),
        ({"holes": 0}, r"holes=0 is too small: allowed are integers from 1 \(nearest: 1\)"),
        ({"box_rows": 3, "box_columns": 3, "holes": 60}, r"boxes of 3x3 allowed are 1 to 58 .*\(nearest: 58\)"),
        ({"split_by": "puzzles"}, r"split_by.*puzzle"),
        ({"box_rows": 4, "box_columns": 4}, r"boxes of 2x2, 2x3, 3x2 and 3x3 \(nearest: 3x3\)"),
        ({"box_rows": 1, "box_columns": 3}, r"box_rows=1 and box_columns=3 are not allowed.*\(nearest: 2x3\)"),
    ],
)
def test_what_cannot_be_had_is_refused(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Sudoku(**parameters)


def test_shapes_follow_the_boxes_without_data() -> None:
    dataset = Sudoku(box_rows=2, box_columns=3)
    assert dataset.input_shape == (7, 6, 6)
    assert dataset.output_shape == (6, 6)
    assert dataset.num_classes == 6


def plain_guesses(candidates: list[set[int]], box: tuple[int, int]) -> tuple[int, bool]:
    """Guesses until a solution, and whether there was one: a search on plain sets, with the same two rules."""
    side = box[0] * box[1]
    rows = [[side * r + c for c in range(side)] for r in range(side)]
    columns = [[side * r + c for r in range(side)] for c in range(side)]
    corners = product(range(0, side, box[0]), range(0, side, box[1]))
    boxes = [[side * (r + i) + c + j for i in range(box[0]) for j in range(box[1])] for r, c in corners]
    units = rows + columns + boxes
    while True:
        before = [set(cell) for cell in candidates]
        for unit in units:
            for cell in unit:
                if len(candidates[cell]) == 1:
                    for other in unit:
                        if other != cell:
                            candidates[other] = candidates[other] - candidates[cell]
        for unit in units:
            for digit in range(1, side + 1):
                where = [cell for cell in unit if digit in candidates[cell]]
                if not where:
                    return 0, False
                if len(where) == 1:
                    candidates[where[0]] = {digit}
        if any(not cell for cell in candidates):
            return 0, False
        if before == candidates:
            break
    if all(len(cell) == 1 for cell in candidates):
        return 0, True
    sizes = [len(cell) if len(cell) > 1 else 99 for cell in candidates]
    cell = sizes.index(min(sizes))
    digit = min(candidates[cell])
    guessed = [set(c) for c in candidates]
    guessed[cell] = {digit}
    count, found = plain_guesses(guessed, box)
    if found:
        return count + 1, True
    candidates[cell] = candidates[cell] - {digit}
    more, found = plain_guesses(candidates, box)
    return count + 1 + more, found


@pytest.mark.parametrize(("box", "holes", "n"), [((2, 3), 26, 60), ((3, 3), 54, 40)])
def test_ratings_are_the_guesses_of_a_plain_search(box: tuple[int, int], holes: int, n: int) -> None:
    """With both rules until nothing changes their order does not matter, so another search guesses alike."""
    rule = rules(*box)
    grids = fill(np.random.PCG64(5), 4 * n, rule)
    empty, reached = dig(np.random.PCG64(6), grids, holes, rule)
    digits = np.where(empty, 0, classes_of(grids, rule).T.astype(int) + 1)[:, reached][:, :n]
    boards = np.where(digits == 0, rule.full, 1 << np.maximum(digits - 1, 0)).astype(np.uint16)
    found = guesses(boards, rule)
    everything = set(range(1, rule.side + 1))
    plain = [plain_guesses([{int(d)} if d else set(everything) for d in puzzle], box)[0] for puzzle in digits.T]
    assert found.tolist() == plain
    assert (found > 0).any()
    assert (found == 0).any()


def test_ratings_come_where_they_are_asked_for() -> None:
    few = {"n_train": 20, "n_validation": 20, "n_test": 20, "holes": 12}
    plain, rated = Sudoku(**few).load("test"), Sudoku(**few, rated=True).load("test")
    assert plain.ratings is None
    assert rated.ratings is not None
    assert rated.ratings.shape == (20,)
    assert torch.equal(plain.inputs, rated.inputs)
    assert Sudoku(**few | {"holes": 1}, rated=True).load("test").ratings.sum() == 0  # type: ignore[union-attr]
