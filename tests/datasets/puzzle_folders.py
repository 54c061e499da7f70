"""Small folders of puzzles in the formats of their publishers, made by code."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.datasets.mazes import FREE, GOAL, START, WALL, Mazes
from deqrun.datasets.sudoku import Sudoku

Grids = NDArray[np.uint8]
Line = tuple[str, str, float]
"""Question, answer, rating."""

HEADER = ("source", "question", "answer", "rating")


@cache
def sudokus(n: int, split: str, side: int = 9, seed: int = 0) -> tuple[Grids, Grids]:
    """Puzzles (n, N, N), 0 for empty, and their full grids."""
    box = {4: (2, 2), 6: (2, 3), 9: (3, 3)}[side]
    sizes = {"n_train": n, "n_validation": n, "n_test": n}
    data = Sudoku(box_rows=box[0], box_columns=box[1], data_seed=seed, **sizes).load(split)
    puzzles, targets = data.inputs.numpy(), data.targets.numpy()
    return puzzles, np.where(puzzles > 0, puzzles, targets + 1).astype(np.uint8)


def sudoku_lines(n: int, split: str, side: int = 9, seed: int = 0) -> list[Line]:
    """Lines of Sudoku-Extreme, rated 0, 1, 2, …"""
    puzzles, full = sudokus(n, split, side, seed)
    return [
        ("".join(str(d) if d else "." for d in question.reshape(-1)), "".join(map(str, answer.reshape(-1))), float(i))
        for i, (question, answer) in enumerate(zip(puzzles, full, strict=True))
    ]


def maze_lines(n: int, split: str, size: int = 9) -> list[Line]:
    """Lines of Maze-Hard: '#', ' ', 'S', 'G', and 'o' along the path of the answer; rated by its length."""
    data = Mazes(size=size, n_train=n, n_validation=n, n_test=n).load(split)
    characters = np.zeros(4, "U1")
    characters[[WALL, FREE, START, GOAL]] = ["#", " ", "S", "G"]
    lines = []
    for pixels, path in zip(data.inputs.numpy(), data.targets.numpy(), strict=True):
        question = characters[pixels]
        answer = np.where((path == 1) & (pixels == FREE), "o", question)
        lines.append(("".join(question.reshape(-1)), "".join(answer.reshape(-1)), float((path == 1).sum())))
    return lines


def write_csv(file: Path, lines: Sequence[Line], header: Sequence[str] = HEADER) -> None:
    """A CSV file as Sudoku-Extreme's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text)
        writer.writerow(header)
        for question, answer, rating in lines:
            known = {"source": "made", "question": question, "answer": answer, "rating": rating}
            writer.writerow([known[name] for name in header])


def write_arrays(
    part: Path, inputs: NDArray[np.int64], labels: NDArray[np.int64], vocabulary: int, ids: int = 1
) -> None:
    """A part of a folder as HRM's and EqR's builders write it."""
    part.mkdir(parents=True, exist_ok=True)
    n = len(inputs)
    arrays = {
        "inputs": inputs,
        "labels": labels,
        "puzzle_identifiers": np.arange(n) % ids,
        "puzzle_indices": np.arange(n + 1),
        "group_indices": np.arange(n + 1),
    }
    for name, array in arrays.items():
        np.save(part / f"all__{name}.npy", array.astype(np.int32))
    known = {
        "pad_id": 0,
        "ignore_label_id": 0,
        "blank_identifier_id": 0,
        "vocab_size": vocabulary,
        "seq_len": inputs.shape[1],
        "num_puzzle_identifiers": ids,
        "total_groups": n,
        "mean_puzzle_examples": 1,
        "total_puzzles": n,
        "sets": ["all"],
    }
    (part / "dataset.json").write_text(json.dumps(known))


def write_tasks(
    part: Path, n: int, seed: int, demonstrations: int = 2
) -> list[dict[str, list[dict[str, list[list[int]]]]]]:
    """ARC tasks whose output is the input mirrored left to right; returns them."""
    part.mkdir(parents=True, exist_ok=True)
    draws, tasks = np.random.default_rng(seed), []
    for number in range(n):

        def pair() -> dict[str, list[list[int]]]:
            grid = draws.integers(0, 10, draws.integers(2, 5, 2))
            return {"input": grid.tolist(), "output": grid[:, ::-1].tolist()}

        task = {"train": [pair() for _ in range(demonstrations)], "test": [pair()]}
        (part / f"{number:08x}.json").write_text(json.dumps(task))
        tasks.append(task)
    return tasks


def sudoku_folder(root: Path, n: int = 20, side: int = 9) -> Path:
    """train.csv and test.csv of Sudokus; the test's solutions are no relabelled ones of training."""
    write_csv(root / "train.csv", sudoku_lines(n, "train", side))
    write_csv(root / "test.csv", sudoku_lines(n, "test", side))
    return root


def maze_folder(root: Path, n: int = 20) -> Path:
    """train.csv and test.csv of mazes of 11 x 11, of which no two are images of one another."""
    write_csv(root / "train.csv", maze_lines(n, "train"))
    write_csv(root / "test.csv", maze_lines(n, "test"))
    return root


def tokens_of(lines: Sequence[Line]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Questions and answers of Sudoku lines as HRM's builder converts them: '.' is 0, and every digit one more."""

    def converted(texts: Sequence[str]) -> NDArray[np.int64]:
        return np.array([[int(character) for character in text.replace(".", "0")] for text in texts]) + 1

    return converted([question for question, _, _ in lines]), converted([answer for _, answer, _ in lines])


def any_symmetry(grids: Grids, seed: int, box: tuple[int, int] = (3, 3)) -> Grids:
    """A random symmetry of Sudokus (k, N, N), the same of all: written apart from the code under test."""
    draws, side = np.random.default_rng(seed), grids.shape[-1]

    def lines(band: int) -> NDArray[np.int64]:
        return np.concatenate([block * band + draws.permutation(band) for block in draws.permutation(side // band)])

    moved = grids[:, lines(box[0])][:, :, lines(box[1])]
    if box[0] == box[1] and draws.random() < 0.5:
        moved = moved.swapaxes(1, 2)
    names = np.concatenate([[0], 1 + draws.permutation(side)]).astype(np.uint8)
    return names[moved]


def as_text(grid: Grids) -> str:
    """A grid as a line's question or answer."""
    return "".join(str(digit) if digit else "." for digit in np.asarray(grid).reshape(-1))


def seeded(seed: int = 0) -> torch.Generator:
    """A generator on the host."""
    return torch.Generator().manual_seed(seed)
