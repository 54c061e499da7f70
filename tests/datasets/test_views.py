"""Symmetries as views: the way back undoes the way there, and a view of a puzzle is a puzzle with the moved answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.datasets import Dataset
from deqrun.datasets.dataset import IGNORED, DataUnavailable
from deqrun.datasets.digits import Digits
from deqrun.datasets.mazes import Mazes
from deqrun.datasets.puzzle_symmetries import Views
from deqrun.datasets.puzzles import PuzzleFiles
from deqrun.datasets.sudoku import Sudoku
from tests.datasets.puzzle_folders import write_arrays
from tests.datasets.test_puzzles import FOLDERS

N = 40
SIZES = {"n_train": 1, "n_validation": 1, "n_test": N}
BOXES = {(2, 2): 8, (2, 3): 14, (3, 2): 14, (3, 3): 20}


def data(name: str) -> Dataset:
    if name == "mazes":
        return Mazes(size=7, **SIZES)
    rows, columns = int(name[-3]), int(name[-1])
    return Sudoku(box_rows=rows, box_columns=columns, holes=BOXES[rows, columns], **SIZES)


CASES = ["mazes", *(f"sudoku_{rows}x{columns}" for rows, columns in BOXES)]


def views_of(dataset: Dataset, n: int, seed: int = 0) -> Views:
    return dataset.views(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CASES)
def test_back_undoes_there(name: str) -> None:
    """Answers moved as the inputs are, and mapped back, are the answers to the last bit; so are inputs."""
    dataset = data(name)
    views = views_of(dataset, N)
    logits = torch.randn(N, dataset.num_classes, *dataset.output_shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(views.back(views.answers.of_channels(logits)), logits)
    x = dataset.encode(dataset.load("test").inputs)
    assert torch.equal(views.inputs.inverse().of_channels(views.seen(x)), x)
    some = torch.tensor([3, 0, 17])
    assert torch.equal(views.take(some).back(logits[some]), views.back(logits)[some])
    parts = [Views(views.inputs.take(rows), views.answers.take(rows)) for rows in torch.arange(N).split(7)]
    joined = Views.joined(parts, torch.device("cpu"))
    assert torch.equal(joined.back(logits), views.back(logits))


@pytest.mark.parametrize("name", [case for case in CASES if case != "mazes"])
def test_a_view_of_a_sudoku_is_one_whose_solution_is_mapped_back_to_its_own(name: str) -> None:
    """Given and found digits together obey the rules after the move, and the answer to the view is right."""
    dataset = data(name)
    split, side = dataset.load("test"), dataset.num_classes
    x, targets = dataset.encode(split.inputs), split.targets
    views = views_of(dataset, N)
    seen, moved = views.seen(x), views.answers.of_tokens(targets)
    digits = torch.where(moved == IGNORED, seen.argmax(1) - 1, moved)
    wanted = torch.arange(side)
    rows, columns = dataset.box_rows, dataset.box_columns  # type: ignore[attr-defined]
    boxes = digits.view(N, side // rows, rows, side // columns, columns).transpose(2, 3).reshape(N, side, side)
    for lines in (digits, digits.mT, boxes):
        assert torch.equal(lines.sort(2).values, wanted.expand(N, side, side))
    assert torch.equal(seen[:, 0] == 1, moved != IGNORED)
    assert not torch.equal(seen, x)
    assert bool(dataset.correct(views.back(one_hot(moved, side)), targets).all())


def test_a_view_of_a_maze_has_its_path() -> None:
    """Endpoints and path move together: the path of the view joins its start and its goal over open pixels."""
    dataset = data("mazes")
    split = dataset.load("test")
    views = views_of(dataset, N)
    seen, moved = views.seen(dataset.encode(split.inputs)), views.answers.of_tokens(split.targets)
    assert bool((moved[seen[:, 1] == 1] == 1).all())
    assert bool((moved[seen[:, 2] == 1] == 1).all())
    assert torch.equal(moved == IGNORED, seen[:, 0] == 0)
    assert bool(dataset.correct(views.back(one_hot(moved, 2)), split.targets).all())
    assert len({tuple(row.tolist()) for row in views.inputs.source}) == 8  # of 40 draws, all symmetries of a square


@pytest.mark.parametrize("form", FOLDERS)
def test_puzzles_from_files_have_views(form: str, tmp_path: Path) -> None:
    """The moved answer, mapped back, is right; asked inputs are one-hot tokens as before."""
    dataset = PuzzleFiles(root=str(FOLDERS[form](tmp_path)), validation_share=0.3)
    split = dataset.load("test")
    views = views_of(dataset, len(split))
    answers = one_hot(views.answers.of_tokens(split.targets), dataset.num_classes)
    assert bool(dataset.correct(views.back(answers), split.targets).all())
    x = dataset.encode(split.inputs)
    assert torch.equal(views.inputs.inverse().of_channels(views.seen(x)), x)


def test_puzzles_of_no_known_kind_have_no_views(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    for part in ("train", "test"):
        write_arrays(tmp_path / part, *draws.integers(1, 5, (2, 20, 12)), vocabulary=5)
    with pytest.raises(DataUnavailable, match=r"no symmetry is known; give sweep\.symmetries=null"):
        views_of(PuzzleFiles(root=str(tmp_path)), 1)


def test_data_without_symmetries_say_so() -> None:
    assert not Digits().symmetric
    with pytest.raises(NotImplementedError, match="knows no symmetries"):
        Digits().views(1, torch.Generator())


def one_hot(classes: Tensor, number: int) -> Tensor:
    return torch.nn.functional.one_hot(classes.clamp(min=0), number).movedim(-1, 1).float()
