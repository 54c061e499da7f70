"""Puzzles from the command line: what is wrong with a folder is one sentence, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.datasets.puzzle_folders import maze_folder, sudoku_folder


def refused_with(refused: Callable[..., str], root: Path, *overrides: str) -> str:
    return refused("train", "dataset=puzzles", "model=trm_small", f"dataset.root={root}", *overrides)


def test_a_folder_must_be_named(refused: Callable[..., str]) -> None:
    assert "name one with dataset.root=FOLDER" in refused("train", "dataset=puzzles", "model=trm_small")


def test_a_folder_without_puzzles_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "holds no puzzles; allowed are train.csv" in refused_with(refused, tmp_path)


def test_another_format_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    told = refused_with(refused, sudoku_folder(tmp_path), "dataset.format=maze_csv")
    assert "is in the format sudoku_csv, not maze_csv" in told


def test_a_misspelt_augmentation_is_refused_with_the_nearest(refused: Callable[..., str], tmp_path: Path) -> None:
    told = refused_with(refused, maze_folder(tmp_path), "dataset.augment=symmetry")
    assert "augment='symmetry' is unknown: allowed are none, symmetries (nearest: symmetries)" in told


@pytest.mark.parametrize("model", ["mlp", "conv"])
def test_a_model_that_answers_once_is_refused(refused: Callable[..., str], tmp_path: Path, model: str) -> None:
    told = refused("train", "dataset=puzzles", f"model={model}", f"dataset.root={sudoku_folder(tmp_path)}")
    assert "asks for 9 x 9 answers" in told
