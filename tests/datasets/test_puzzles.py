"""Puzzles from files: formats that agree with one another, symmetries, splits without leaks, and damaged files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deqrun.contracts import check_data
from deqrun.datasets import IGNORED, SPLITS, DataUnavailable
from deqrun.datasets.puzzle_symmetries import (
    canonical_squares,
    same_sudoku,
    square_moves,
    sudoku_fingerprints,
    sudoku_moves,
)
from deqrun.datasets.puzzles import PuzzleFiles
from tests.datasets.puzzle_folders import (
    HEADER,
    any_symmetry,
    as_text,
    maze_folder,
    maze_lines,
    seeded,
    sudoku_folder,
    sudoku_lines,
    sudokus,
    tokens_of,
    write_arrays,
    write_csv,
    write_tasks,
)


def puzzles(root: Path, **parameters: Any) -> PuzzleFiles:
    return PuzzleFiles(root=str(root), **parameters)


def hrm_folder(root: Path, n: int = 20) -> Path:
    for part in ("train", "test"):
        write_arrays(root / part, *tokens_of(sudoku_lines(n, part)), vocabulary=11)
    return root


def arc_folder(root: Path) -> Path:
    write_tasks(root / "training", 20, seed=0)
    write_tasks(root / "evaluation", 20, seed=1)
    return root


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "sudoku_csv": sudoku_folder,
    "maze_csv": maze_folder,
    "hrm": hrm_folder,
    "arc": arc_folder,
}
every_format = pytest.mark.parametrize("form", FOLDERS)


@every_format
def test_every_format_is_found_and_holds_to_the_contract(tmp_path: Path, form: str) -> None:
    folder = FOLDERS[form](tmp_path)
    for given in ("auto", form):
        assert puzzles(folder, format=given).layout.format == form
    augment = "symmetries"
    found = check_data(lambda: puzzles(folder, augment=augment, validation_share=0.3))
    assert [finding for finding in found if finding.fault] == []


def test_csv_and_arrays_of_the_same_puzzles_are_the_same_samples(tmp_path: Path) -> None:
    lines, arrays = sudoku_folder(tmp_path / "csv"), hrm_folder(tmp_path / "hrm")
    one, other = puzzles(lines), puzzles(arrays)
    assert one.num_classes == other.num_classes == 11
    assert one.input_shape == other.input_shape == (11, 9, 9)
    for split in SPLITS:
        a, b = one.load(split), other.load(split)
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)


def test_a_line_s_sudoku_is_its_tokens(tmp_path: Path) -> None:
    lines = sudoku_lines(20, "test")
    data = puzzles(sudoku_folder(tmp_path))
    test = data.load("test")
    for (question, answer, rating), grid, solved, rated in zip(
        lines,
        test.inputs,
        test.targets,
        test.ratings,
        strict=True,  # type: ignore[arg-type]
    ):
        assert "".join("." if token == 1 else str(token - 1) for token in grid.flatten().tolist()) == question
        assert "".join(str(token - 1) for token in solved.flatten().tolist()) == answer
        assert float(rated) == rating
    hot = data.encode(test.inputs)
    assert torch.equal(hot.argmax(1), test.inputs.long())
    assert torch.equal(hot.sum(1), torch.ones(20, 9, 9))


def test_a_line_s_maze_is_its_tokens(tmp_path: Path) -> None:
    lines, data = maze_lines(20, "test"), puzzles(maze_folder(tmp_path))
    assert data.input_shape == (6, 11, 11)
    test = data.load("test")
    for (question, answer, _), grid, solved in zip(lines, test.inputs, test.targets, strict=True):
        assert "".join("?# SGo"[token] for token in grid.flatten().tolist()) == question
        assert "".join("?# SGo"[token] for token in solved.flatten().tolist()) == answer


def test_an_arc_sample_stacks_the_asked_grid_and_its_demonstrations(tmp_path: Path) -> None:
    arc_folder(tmp_path)
    tasks = [json.loads(file.read_text()) for file in sorted((tmp_path / "evaluation").glob("*.json"))]
    data = puzzles(tmp_path, demonstrations=3)
    test = data.load("test")
    assert data.input_shape == (77, 30, 30)
    assert data.encode(test.inputs).shape == (20, 77, 30, 30)
    for task, grids, answer in zip(tasks, test.inputs, test.targets, strict=True):
        shown = [task["test"][0]["input"]]
        for pair in task["train"]:
            shown += [pair["input"], pair["output"]]
        for grid, colours in zip(grids, [*shown, [], []], strict=True):
            expected = torch.zeros(30, 30, dtype=torch.uint8)
            for row, line in enumerate(colours):
                expected[row, : len(line)] = torch.tensor(line) + 1
            assert torch.equal(grid, expected)
        solved = torch.tensor(task["test"][0]["output"])
        height, width = solved.shape
        assert torch.equal(answer[:height, :width], solved + 1)
        assert answer.sum() == (solved + 1).sum()


def test_labels_that_hrm_ignores_are_not_asked(tmp_path: Path) -> None:
    for part in ("train", "test"):
        inputs, labels = tokens_of(sudoku_lines(20, part))
        write_arrays(tmp_path / part, inputs, np.where(inputs == 1, labels, 0), vocabulary=11)
    data = puzzles(tmp_path)
    test = data.load("test")
    assert torch.equal(test.targets == IGNORED, test.inputs != 1)
    logits = torch.nn.functional.one_hot(test.targets.clamp(min=0), 11).movedim(-1, 1).float()
    assert data.correct(logits, test.targets).all()


def test_tokens_of_no_known_puzzle_are_read_and_have_no_symmetry(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for part in ("train", "test"):
        write_arrays(tmp_path / part, *draws.integers(1, 5, (2, 20, 12)), vocabulary=5)
    assert puzzles(tmp_path).input_shape == (5, 12)
    with pytest.raises(DataUnavailable, match="no symmetry is known"):
        puzzles(tmp_path, augment="symmetries").load("train")


# Symmetries.


@pytest.mark.parametrize("side", [4, 6, 9])
def test_symmetries_keep_the_fingerprint_and_are_found_by_the_exact_search(side: int) -> None:
    box = {4: (2, 2), 6: (2, 3), 9: (3, 3)}[side]
    grids, _ = sudokus(20, "train", side)
    prints = sudoku_fingerprints(grids)
    for seed in range(10):
        moved = any_symmetry(grids, seed, box)
        assert (sudoku_fingerprints(moved) == prints).all()
        assert all(same_sudoku(one, other) for one, other in zip(grids[:4], moved[:4], strict=True))


def test_other_puzzles_have_other_fingerprints() -> None:
    """9x9 puzzles of other solutions, and those with one digit more or less, or two digits exchanged."""
    grids, _ = sudokus(300, "train")
    prints = sudoku_fingerprints(grids)
    assert len(np.unique(prints)) == len(grids)
    changed = grids.copy().reshape(len(grids), -1)
    changed[np.arange(len(grids)), (changed > 0).argmax(1)] = 0
    fewer = sudoku_fingerprints(changed.reshape(grids.shape))
    assert (fewer != prints).all()
    assert not any(same_sudoku(a, b) for a, b in zip(grids[:20], changed.reshape(grids.shape)[:20], strict=True))


def test_the_exact_search_agrees_with_all_symmetries_of_4x4() -> None:
    """Every image of a puzzle by the whole group, 8 · 8 · 2 · 4! of them, made one by one."""
    grids, _ = sudokus(12, "train", 4)
    orders = [
        [*pair, *other]
        for a, b in ((0, 2), (2, 0))
        for pair in permutations((a, a + 1))
        for other in permutations((b, b + 1))
    ]

    def images(grid: np.ndarray) -> set[bytes]:
        found = set()
        for turned in (grid, grid.T):
            for rows in orders:
                for columns in orders:
                    moved = turned[rows][:, columns]
                    for names in permutations(range(1, 5)):
                        found.add(np.array([0, *names], np.uint8)[moved].tobytes())
        return found

    known = [images(grid) for grid in grids]
    for i, one in enumerate(grids):
        for j, other in enumerate(grids):
            assert same_sudoku(one, other) == (other.tobytes() in known[i]), (i, j)


def test_a_relabelled_digit_is_no_symmetry_where_it_breaks_the_naming() -> None:
    """Two puzzles with the same places of digits, one of which has two digits exchanged in a single cell pair."""
    grids, _ = sudokus(1, "train")
    [grid] = grids
    other = grid.copy()
    (r1, c1), (r2, c2) = np.argwhere(grid > 0)[:2]
    other[r1, c1], other[r2, c2] = grid[r2, c2], grid[r1, c1]
    assert same_sudoku(grid, grid)
    assert not same_sudoku(grid, other)


def test_the_eight_images_of_a_square_have_one_canonical_form() -> None:
    grids = np.random.default_rng(0).integers(1, 5, (30, 6, 6)).astype(np.uint8)
    forms = canonical_squares(grids)
    for turns in range(4):
        for flipped in (False, True):
            image = np.rot90(grids, turns, (1, 2))
            image = image[:, ::-1] if flipped else image
            assert (canonical_squares(np.ascontiguousarray(image)) == forms).all()
            assert (forms.reshape(30, -1) <= 4).all()
    images = [
        np.rot90(grid, turns)[::flip].reshape(-1).tolist() for grid in grids for turns in range(4) for flip in (1, -1)
    ]
    lowest = [min(images[8 * i : 8 * i + 8]) for i in range(30)]
    assert forms.tolist() == lowest


@pytest.mark.parametrize("side", [4, 6, 9])
def test_augmented_sudokus_are_sudokus_that_their_answers_solve(side: int) -> None:
    box = {4: (2, 2), 6: (2, 3), 9: (3, 3)}[side]
    puzzle, full = sudokus(200, "train", side)
    moves = sudoku_moves(200, side, side + 2, 2, seeded())
    tokens, answers = torch.from_numpy(puzzle).long() + 1, torch.from_numpy(full).long() + 1
    moved, solved = moves.of_tokens(tokens).numpy() - 1, moves.of_tokens(answers).numpy() - 1
    assert ((moved == 0) | (moved == solved)).all()
    digits = set(range(1, side + 1))
    for grid in solved:
        boxes = grid.reshape(side // box[0], box[0], side // box[1], box[1]).swapaxes(1, 2).reshape(side, side)
        assert all(set(line.tolist()) == digits for part in (grid, grid.T, boxes) for line in part)
    assert (sudoku_fingerprints(moved.astype(np.uint8)) == sudoku_fingerprints(puzzle)).all()
    assert (moved.reshape(200, -1) != puzzle.reshape(200, -1)).any(1).mean() > 0.95


@every_format
def test_inputs_and_answers_take_the_same_symmetry(tmp_path: Path, form: str) -> None:
    """Channels moved as one-hot are the moved tokens' one-hot, and an answer moves with its question."""
    data = puzzles(FOLDERS[form](tmp_path), augment="symmetries", validation_share=0.3)
    train = data.load("train")
    x, y = data.augment_pair(data.encode(train.inputs), train.targets, seeded(3))
    moves = data._moves(len(train), seeded(3))
    assert torch.equal(y, moves.of_tokens(train.targets))
    inputs = train.inputs.long()
    grids = inputs if data.layout.groups > 1 else inputs[:, None]
    moved = torch.stack([moves.of_tokens(grid) for grid in grids.unbind(1)], dim=1)
    assert torch.equal(x, data.encode(moved if data.layout.groups > 1 else moved[:, 0]))
    again = data.augment_pair(data.encode(train.inputs), train.targets, seeded(3))
    assert torch.equal(again[0], x)
    assert not torch.equal(x, data.encode(train.inputs))


def test_moves_of_mazes_take_all_eight_images_alike_often() -> None:
    moves = square_moves(8_000, 3, 6, seeded())
    images, counts = np.unique(moves.source.numpy(), axis=0, return_counts=True)
    assert len(images) == 8
    assert (abs(counts - 1_000) < 5 * math.sqrt(1_000 * 7 / 8)).all()


def test_without_augmentation_nothing_is_drawn(tmp_path: Path) -> None:
    data = puzzles(sudoku_folder(tmp_path))
    train, generator = data.load("train"), seeded()
    before = generator.get_state()
    x, y = data.augment_pair(data.encode(train.inputs), train.targets, generator)
    assert torch.equal(x, data.encode(train.inputs))
    assert torch.equal(y, train.targets)
    assert torch.equal(generator.get_state(), before)


# Splits.


def leak(root: Path) -> tuple[Path, str]:
    """A folder whose test line 4 is an image of training line 8."""
    train, test = sudoku_lines(20, "train"), sudoku_lines(20, "test")
    grids, full = sudokus(20, "train")
    question, answer = any_symmetry(np.stack([grids[6], full[6]]), 5)
    test[2] = as_text(question), as_text(answer), 1.0
    write_csv(root / "train.csv", train)
    write_csv(root / "test.csv", test)
    return root, train[6][0]


def test_a_test_puzzle_that_is_an_image_of_a_training_puzzle_is_refused(tmp_path: Path) -> None:
    folder, _ = leak(tmp_path)
    with pytest.raises(DataUnavailable, match=r"test\.csv, line 4 asks the same as train\.csv, line 8 up to symmetry"):
        puzzles(folder).load("train")


def test_shared_puzzles_can_be_left_out_of_training(tmp_path: Path) -> None:
    folder, question = leak(tmp_path)
    data = puzzles(folder, shared="drop")
    seen = [as_text((grid - 1).numpy()) for split in ("train", "validation") for grid in data.load(split).inputs]
    assert len(seen) == 19
    assert question not in seen
    assert len(data.load("test")) == 20


def test_a_turned_maze_is_refused(tmp_path: Path) -> None:
    train, test = maze_lines(20, "train"), maze_lines(20, "test")
    turned = [np.rot90(np.array(list(text)).reshape(11, 11)) for text in train[3][:2]]
    test[0] = ("".join(turned[0].reshape(-1)), "".join(turned[1].reshape(-1)), 1.0)
    write_csv(tmp_path / "train.csv", train)
    write_csv(tmp_path / "test.csv", test)
    with pytest.raises(DataUnavailable, match=r"test\.csv, line 2 asks the same as train\.csv, line 5"):
        puzzles(tmp_path).load("test")


def test_images_of_one_puzzle_are_never_on_both_sides_of_validation(tmp_path: Path) -> None:
    """Ten images of each of 20 puzzles: each family is in one split as a whole."""
    grids, full = sudokus(20, "train")
    lines, family = [], {}
    for seed in range(10):
        for place, pair in enumerate(zip(grids, full, strict=True)):
            question, answer = any_symmetry(np.stack(pair), 100 * seed + place)
            lines.append((as_text(question), as_text(answer), 0.0))
            family[as_text(question)] = place
    write_csv(tmp_path / "train.csv", lines)
    write_csv(tmp_path / "test.csv", sudoku_lines(20, "test"))
    data = puzzles(tmp_path, validation_share=0.4)
    found = {
        split: {family[as_text((grid - 1).numpy())] for grid in data.load(split).inputs}
        for split in ("train", "validation")
    }
    assert found["train"] | found["validation"] == set(range(20))
    assert not found["train"] & found["validation"]
    assert 2 <= len(found["validation"]) <= 14


def test_a_part_of_the_folder_validates_where_there_is_one(tmp_path: Path) -> None:
    sudoku_folder(tmp_path)
    lines = sudoku_lines(20, "validation")
    write_csv(tmp_path / "val.csv", lines)
    data = puzzles(tmp_path)
    assert [as_text((grid - 1).numpy()) for grid in data.load("validation").inputs] == [line[0] for line in lines]
    assert len(data.load("train")) == 20


def test_fewer_puzzles_are_chosen_by_content_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    lines = sudoku_lines(20, "train")
    for name, order in (("one", lines), ("other", lines[::-1])):
        write_csv(tmp_path / name / "train.csv", order)
        write_csv(tmp_path / name / "test.csv", sudoku_lines(20, "test"))
    seen = []
    for name in ("one", "other"):
        data = puzzles(tmp_path / name, n_train=5, n_test=7, validation_share=0.3)
        assert len(data.load("test")) == 7
        seen.append({as_text((grid - 1).numpy()) for grid in data.load("train").inputs})
    assert seen[0] == seen[1]
    assert len(seen[0]) == 5


# Files that are wrong.

GOOD = sudoku_lines(2, "train")


def changed(question: str | None = None, answer: str | None = None) -> list[tuple[str, str, float]]:
    first = GOOD[0]
    return [(question or first[0], answer or first[1], 0.0), GOOD[1]]


def spoilt(text: str, place: int, character: str) -> str:
    return text[:place] + character + text[place + 1 :]


GIVEN = next(i for i, character in enumerate(GOOD[0][0]) if character != ".")
FREE = GOOD[0][0].index(".")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "holds no puzzle"),
        (changed(question=GOOD[0][0][:-1] + "x"), r"line 2: the question has the character 'x'"),
        ([*changed(), (GOOD[0][0] + ".", GOOD[0][1], 0.0)], r"line 4: the question has 82 characters"),
        (changed(answer=spoilt(GOOD[0][1], FREE, ".")), "no Sudoku|has the character"),
        (
            changed(answer=spoilt(GOOD[0][1], FREE, str(int(GOOD[0][1][FREE]) % 9 + 1))),
            "line 2: the answer is no Sudoku",
        ),
        (changed(answer=spoilt(GOOD[0][1], GIVEN, str(int(GOOD[0][1][GIVEN]) % 9 + 1))), "line 2: the answer differs"),
        (changed(question="12345"), "first question has 5 characters"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, lines: list[tuple[str, str, float]], told: str) -> None:
    write_csv(tmp_path / "train.csv", lines)
    write_csv(tmp_path / "test.csv", sudoku_lines(2, "test"))
    with pytest.raises(DataUnavailable, match=told) as caught:
        puzzles(tmp_path).load("train")
    assert "\n" not in str(caught.value)


def remove_test(folder: Path) -> None:
    (folder / "test.csv").unlink()


def no_answers(folder: Path) -> None:
    write_csv(folder / "train.csv", GOOD, [name for name in HEADER if name != "answer"])


def no_number(folder: Path) -> None:
    file = folder / "train.csv"
    file.write_text(file.read_text().replace(",0.0", ",hard", 1))


def bytes_of_another_code(folder: Path) -> None:
    (folder / "train.csv").write_bytes(b"question,answer\n\xff\xfe,1\n")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (remove_test, "no test.csv beside it"),
        (no_answers, "has no column answer"),
        (no_number, "rating 'hard' is no number"),
        (bytes_of_another_code, "can't be read"),
    ],
)
def test_damaged_csv_folders_are_named(tmp_path: Path, damage: Callable[[Path], None], told: str) -> None:
    sudoku_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataUnavailable, match=told):
        puzzles(tmp_path).load("train")


def metadata(folder: Path, **changes: Any) -> None:
    file = folder / "train" / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "train" / "all__labels.npy").unlink(), "There is no file .*all__labels"),
        (lambda folder: (folder / "train" / "all__labels.npy").write_bytes(b"no array"), "no array of numbers"),
        (lambda folder: (folder / "train" / "dataset.json").write_text("{"), "is no JSON"),
        (lambda folder: metadata(folder, vocab_size=0), "vocab_size=0"),
        (lambda folder: metadata(folder, vocab_size="eleven"), "vocab_size='eleven'"),
        (lambda folder: metadata(folder, vocab_size=7), "vocab_size=11, and train/ has 7"),
        (lambda folder: np.save(folder / "train" / "all__inputs.npy", np.full((20, 81), 12)), "token 12"),
        (lambda folder: np.save(folder / "train" / "all__inputs.npy", np.ones((20, 80), int)), r"\[20, 80\]"),
        (lambda folder: np.save(folder / "train" / "all__inputs.npy", np.ones((20, 81))), "whole numbers"),
        (
            lambda folder: np.save(folder / "train" / "all__puzzle_identifiers.npy", np.arange(20)),
            "20 puzzle identifiers",
        ),
    ],
)
def test_damaged_arrays_are_named(tmp_path: Path, damage: Callable[[Path], Any], told: str) -> None:
    hrm_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataUnavailable, match=told) as caught:
        puzzles(tmp_path).load("train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("[]", "no list of pairs named train"),
        ('{"train": [], "test": []}', "no list of pairs named train"),
        ('{"train": [{"input": [[1]], "output": [[1]]}], "test": [{"input": [[1]]}]}', "without its output"),
        (
            '{"train": [{"input": [[1], [2, 3]], "output": [[1]]}], "test": [{"input": [[1]], "output": [[1]]}]}',
            "table",
        ),
        ('{"train": [{"input": [[11]], "output": [[1]]}], "test": [{"input": [[1]], "output": [[1]]}]}', "colour 11"),
        ("nothing", "is no JSON"),
    ],
)
def test_damaged_tasks_are_named(tmp_path: Path, task: str, told: str) -> None:
    folder = arc_folder(tmp_path)
    (folder / "training" / "00000003.json").write_text(task)
    with pytest.raises(DataUnavailable, match=told):
        puzzles(folder).load("train")


def test_folders_without_puzzles_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"dataset\.root=FOLDER"):
        _ = PuzzleFiles().input_shape
    with pytest.raises(DataUnavailable, match="There is no folder"):
        _ = puzzles(tmp_path / "none").input_shape
    with pytest.raises(DataUnavailable, match=r"holds no puzzles; allowed are train\.csv"):
        _ = puzzles(tmp_path).input_shape
    with pytest.raises(DataUnavailable, match="format sudoku_csv, not maze_csv"):
        _ = puzzles(sudoku_folder(tmp_path), format="maze_csv").input_shape
    with pytest.raises(DataUnavailable, match="in the format hrm"):
        _ = puzzles(tmp_path, format="hrm").input_shape


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"format": "csv"}, "format='csv' is unknown"),
        ({"augment": "flip"}, "augment='flip' is unknown"),
        ({"shared": "keep"}, "shared='keep' is unknown"),
        ({"validation_share": 1.0}, "validation_share=1.0"),
        ({"n_train": 0}, "n_train=0"),
        ({"demonstrations": 0}, "demonstrations=0"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PuzzleFiles(**parameters)


@pytest.mark.parametrize("form", ["sudoku_csv", "maze_csv", "hrm"])
def test_memory_is_told_before_the_files_are_read_and_is_no_more_than_what_they_take(tmp_path: Path, form: str) -> None:
    """At least half of the samples' own bytes, and never more: a bound from below, which refuses nothing that fits."""
    make = {"sudoku_csv": sudoku_folder, "maze_csv": maze_folder, "hrm": hrm_folder}[form]
    dataset = puzzles(make(tmp_path / form))
    told = dataset.memory()
    taken = 0
    for split in SPLITS:
        part = dataset.load(split)
        assert isinstance(part.inputs, torch.Tensor)
        taken += part.inputs.nbytes + part.targets.nbytes
    assert taken / 2 <= told <= taken
