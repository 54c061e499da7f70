"""Files of the field's puzzles: Sudoku-Extreme's and Maze-Hard's CSV, HRM's folders of arrays, and ARC's JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.datasets.dataset import DataUnavailable
from deqrun.datasets.puzzle_symmetries import SIDES

__all__ = ["FORMATS", "Layout", "Puzzles", "read_layout"]

MOST_ELSE = 64
"""Characters of a CSV line beside question and answer, at most."""

FORMATS = ("sudoku_csv", "maze_csv", "hrm", "arc")

VALIDATION_NAMES = ("validation", "valid", "val")

EMPTY = 1
"""Token of an empty cell; 0 is padding, and digit d is d + 1, as in HRM's own conversion."""

MAZE_CHARACTERS = "# SGo"
"""Tokens 1 to 5 of a maze, in the order of HRM's conversion: wall, free, start, goal, path."""

FREE, ON_PATH = 2, 5

ARC_SIDE, ARC_TOKENS = 30, 11
"""Sides of a padded grid; tokens are 0 outside the grid, and colour + 1."""


@dataclass(frozen=True)
class Puzzles:
    """Puzzles of one part.

    inputs    (n, …) tokens
    answers   (n, *output_shape) tokens; negative where nothing is asked
    ratings   (n,) float64 difficulty as the file has it, NaN where it has none
    place     names the place of a puzzle in its files, for messages, by its number
    """

    inputs: NDArray[np.uint8]
    answers: NDArray[np.int16]
    ratings: NDArray[np.float64]
    place: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.inputs)

    def only(self, chosen: NDArray[np.intp]) -> Puzzles:
        """The puzzles at these places, in that order."""
        place = self.place
        return Puzzles(self.inputs[chosen], self.answers[chosen], self.ratings[chosen], lambda i: place(int(chosen[i])))


@dataclass(frozen=True)
class Layout:
    """What a folder holds, known from its first lines alone.

    format    one of FORMATS
    kind      sudoku, maze, arc or other: the symmetries that its puzzles have
    tokens    kinds of tokens
    shape     of the positions
    parts     files or folders, by split; 'train' and 'test' are there
    groups    grids of a sample: 1, and of ARC the demonstrations' too
    ignored   HRM's label where nothing is asked; None: it has none
    sets      HRM's names of the sets of arrays in a part
    """

    format: str
    kind: str
    tokens: int
    shape: tuple[int, ...]
    parts: dict[str, Path]
    groups: int = 1
    ignored: int | None = None
    sets: tuple[str, ...] = field(default=("all",))

    def count(self, split: str) -> int:
        """Puzzles of a part at least, from the sizes of its files; 0 where those do not tell, as of ARC."""
        part = self.parts[split]
        try:
            if self.format == "hrm":
                arrays = [np.load(part / f"{name}__inputs.npy", mmap_mode="r") for name in self.sets]
                return sum(len(array) for array in arrays)
            if self.format == "arc":
                return 0
            # Question and answer are a character for each position; source and rating are short.
            return part.stat().st_size // (2 * math.prod(self.shape) + MOST_ELSE)
        except (OSError, ValueError):  # which is told when the part is read
            return 0

    def read(self, split: str) -> Puzzles:
        """The puzzles of a part; raises DataUnavailable, one sentence, where a file is damaged."""
        part = self.parts[split]
        try:
            if self.format == "hrm":
                return _read_arrays(part, self)
            if self.format == "arc":
                return _read_tasks(part, self.groups // 2)
            return _read_csv(part, self)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataUnavailable(f"{part} can't be read ({' '.join(str(error).split())}).") from error


def read_layout(root: str | None, kind: str, demonstrations: int) -> Layout:
    """The layout of a folder of puzzles; `kind` is auto or one of FORMATS. Raises DataUnavailable, one sentence."""
    if root is None:
        raise DataUnavailable("dataset=puzzles needs a folder of puzzles; name one with dataset.root=FOLDER.")
    folder = Path(root).expanduser().resolve()
    if not folder.is_dir():
        raise DataUnavailable(f"There is no folder {folder}; name one of puzzles with dataset.root=FOLDER.")
    try:
        found = {name: parts for name in ("csv", "hrm", "arc") if (parts := _parts(folder, name))}
        asked = "csv" if kind.endswith("_csv") else kind
        chosen = next(iter(found), "") if kind == "auto" else asked
        if chosen not in found:
            raise DataUnavailable(
                f"{folder} holds no puzzles{'' if kind == 'auto' else f' in the format {kind}'}; allowed are train.csv "
                "with test.csv, train/dataset.json with test/dataset.json (HRM), and training/*.json with "
                "evaluation/*.json (ARC)."
            )
        layout = {"csv": _csv_layout, "hrm": _array_layout, "arc": _arc_layout}[chosen](found[chosen])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataUnavailable(f"{folder} can't be read ({' '.join(str(error).split())}).") from error
    if kind not in ("auto", layout.format):
        raise DataUnavailable(f"{folder} is in the format {layout.format}, not {kind}; give dataset.format=auto.")
    return replace(layout, groups=2 * demonstrations + 1) if layout.format == "arc" else layout


def _parts(folder: Path, form: str) -> dict[str, Path]:
    """Train, validation and test parts in a format; empty where it isn't this format's folder."""
    train, test, ending, is_part = {
        "csv": ("train.csv", "test.csv", ".csv", Path.is_file),
        "hrm": ("train", "test", "", lambda part: (part / "dataset.json").is_file()),
        "arc": ("training", "evaluation", "", _has_tasks),
    }[form]
    names = {"train": [train], "validation": [f"{name}{ending}" for name in VALIDATION_NAMES], "test": [test]}
    parts = {}
    for split, allowed in names.items():
        if present := [folder / name for name in allowed if is_part(folder / name)]:
            parts[split] = present[0]
    if "train" in parts and "test" not in parts:
        raise DataUnavailable(f"{parts['train']} has no {test} beside it; add the puzzles to test on.")
    return parts if "train" in parts else {}


def _has_tasks(part: Path) -> bool:
    return part.is_dir() and any(part.glob("*.json"))


# CSV: one puzzle a line.


def _csv_layout(parts: dict[str, Path]) -> Layout:
    line = next(_lines(parts["train"]), None)
    if line is None:
        raise DataUnavailable(f"{parts['train']} holds no puzzle.")
    _, question, _, _ = line
    side = math.isqrt(len(question))
    if side * side == len(question) and set(question) <= set(MAZE_CHARACTERS):
        return Layout("maze_csv", "maze", len(MAZE_CHARACTERS) + 1, (side, side), parts)
    if side in SIDES and side < 10 and side * side == len(question):
        return Layout("sudoku_csv", "sudoku", side + 2, (side, side), parts)
    raise DataUnavailable(
        f"{parts['train']}: the first question has {len(question):,} characters and is neither a Sudoku (16, 36 or 81 "
        "of digits and '.') nor a square maze (of '#', ' ', 'S', 'G')."
    )


def _lines(file: Path) -> Iterator[tuple[int, str, str, float]]:
    """(number, question, answer, rating) of every line."""
    with file.open(newline="", encoding="utf-8") as text:
        rows = csv.reader(text)
        header = [name.strip().lower() for name in next(rows, [])]
        missing = [name for name in ("question", "answer") if name not in header]
        if missing:
            raise DataUnavailable(
                f"{file} has no column {missing[0]}; its first line must name source, question, answer, rating, and it "
                f"names {', '.join(header[:8]) or 'nothing'}."
            )
        at = {name: header.index(name) for name in ("question", "answer", "rating") if name in header}
        for row in rows:
            if not row:
                continue
            number = rows.line_num
            if len(row) != len(header):
                raise DataUnavailable(f"{file}, line {number:,} has {len(row)} columns; its header has {len(header)}.")
            rating = math.nan
            if row[at["rating"]].strip() if "rating" in at else "":
                try:
                    rating = float(row[at["rating"]])
                except ValueError:
                    raise DataUnavailable(
                        f"{file}, line {number:,}: the rating {row[at['rating']]!r} is no number."
                    ) from None
            yield number, row[at["question"]], row[at["answer"]], rating


def _read_csv(file: Path, layout: Layout) -> Puzzles:
    size, numbers, ratings = math.prod(layout.shape), [], []
    questions, answers = bytearray(), bytearray()
    for number, question, answer, rating in _lines(file):
        for name, given in (("question", question), ("answer", answer)):
            if len(given) != size or not given.isascii():
                raise DataUnavailable(
                    f"{file}, line {number:,}: the {name} has {len(given):,} characters; all others have {size:,}."
                )
        numbers.append(number)
        ratings.append(rating)
        questions += question.encode()
        answers += answer.encode()
    lines = np.array(numbers)
    names = _tokens_of_characters(layout)

    def grids(given: bytearray, what: str) -> NDArray[np.uint8]:
        codes = np.frombuffer(bytes(given), np.uint8).reshape(len(lines), size)
        tokens = names[codes]
        _refuse_first((tokens == 0).any(1), lambda i: f"{file}, line {lines[i]:,}: {what} {_odd(codes[i], names)}")
        return tokens

    inputs, solved = grids(questions, "the question has"), grids(answers, "the answer has")
    # An answer must complete its question: where a cell was given, or a wall stood, it says the same.
    free = inputs == (EMPTY if layout.kind == "sudoku" else FREE)
    _refuse_first(
        (~free & (inputs != solved)).any(1),
        lambda i: f"{file}, line {lines[i]:,}: the answer differs from its question where a cell is given.",
    )
    if layout.kind == "sudoku":
        wrong = ~_is_solved(solved.reshape(-1, *layout.shape).astype(np.int64) - EMPTY)
        _refuse_first(
            wrong,
            lambda i: f"{file}, line {lines[i]:,}: the answer is no Sudoku: a row, column or box repeats a digit.",
        )
    else:
        _refuse_first(
            (free & (solved != FREE) & (solved != ON_PATH)).any(1),
            lambda i: f"{file}, line {lines[i]:,}: the answer marks a free cell other than by ' ' or 'o'.",
        )
    return Puzzles(
        inputs.reshape(-1, *layout.shape),
        solved.reshape(-1, *layout.shape).astype(np.int16),
        np.array(ratings, dtype=np.float64),
        lambda i: f"{file.name}, line {lines[i]:,}",
    )


def _tokens_of_characters(layout: Layout) -> NDArray[np.uint8]:
    """Token of each character code; 0 for none. Tokens count the characters from 1; a Sudoku's '0' is as its '.'."""
    characters = MAZE_CHARACTERS if layout.kind == "maze" else ".123456789"[: layout.shape[0] + 1]
    names = np.zeros(256, np.uint8)
    names[[ord(character) for character in characters]] = np.arange(1, len(characters) + 1)
    if layout.kind == "sudoku":
        names[ord("0")] = EMPTY
    return names


def _odd(codes: NDArray[np.uint8], names: NDArray[np.uint8]) -> str:
    odd = chr(codes[names[codes] == 0][0])
    allowed = " ".join(repr(chr(code)) for code in np.flatnonzero(names))
    return f"the character {odd!r}; allowed are {allowed}."


def _is_solved(grids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether every row, column and box of full grids (n, N, N) holds each digit 1 … N once."""
    n, side, _ = grids.shape
    rows, columns = SIDES[side]
    bits = np.left_shift(1, grids)
    boxes = bits.reshape(n, side // rows, rows, side // columns, columns).swapaxes(2, 3).reshape(n, side, side)
    whole = sum(1 << digit for digit in range(1, side + 1))
    parts = (bits, bits.swapaxes(1, 2), boxes)
    return np.logical_and.reduce([(np.bitwise_or.reduce(part, axis=2) == whole).all(1) for part in parts])


def _refuse_first(wrong: NDArray[np.bool_], sentence: Callable[[int], str]) -> None:
    if wrong.any():
        raise DataUnavailable(sentence(int(wrong.argmax())))


# HRM: arrays in a folder for each part.

_KEYS = ("seq_len", "vocab_size")


def _array_layout(parts: dict[str, Path]) -> Layout:
    known = {split: _metadata(part) for split, part in parts.items()}
    first = known["train"]
    for split, other in known.items():
        for key in (*_KEYS, "ignore_label_id"):
            if other.get(key) != first.get(key):
                raise DataUnavailable(
                    f"{parts[split] / 'dataset.json'} has {key}={other.get(key)}, and {parts['train'].name}/ has "
                    f"{first.get(key)}; both must be of one kind."
                )
    length, tokens = first["seq_len"], first["vocab_size"]
    side = math.isqrt(length)
    square = side * side == length
    kind = "other"
    if square and side in SIDES and side < 10 and tokens == side + 2:
        kind = "sudoku"
    elif square and tokens == len(MAZE_CHARACTERS) + 1:
        kind = "maze"
    shape = (side, side) if square else (length,)
    sets = tuple(first.get("sets") or ("all",))
    return Layout("hrm", kind, tokens, shape, parts, ignored=first.get("ignore_label_id"), sets=sets)


def _metadata(part: Path) -> dict[str, Any]:
    file = part / "dataset.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataUnavailable(f"{file} is no JSON ({error}).") from error
    if not isinstance(known, dict):
        raise DataUnavailable(f"{file} is no table of names and values.")
    for key in _KEYS:
        most = 256 if key == "vocab_size" else 2**20
        if type(known.get(key)) is not int or not 1 <= known[key] <= most:
            raise DataUnavailable(f"{file} has {key}={known.get(key)!r}; allowed are whole numbers from 1 to {most:,}.")
    return known


def _read_arrays(part: Path, layout: Layout) -> Puzzles:
    inputs, answers = [], []
    for name in layout.sets:
        inputs.append(_array(part, f"{name}__inputs", 2))
        answers.append(_array(part, f"{name}__labels", 2))
        _require_one_identifier(part, name)
    length = math.prod(layout.shape)
    for given, solved in zip(inputs, answers, strict=True):
        for what, array in (("inputs", given), ("labels", solved)):
            if array.shape != (len(given), length):
                raise DataUnavailable(f"{part}: {what} are of shape {list(array.shape)}; they must be [n, {length}].")
    given, solved = np.concatenate(inputs), np.concatenate(answers)
    asked: NDArray[np.bool_] = np.ones(solved.shape, np.bool_)
    if layout.ignored is not None:
        asked = np.not_equal(solved, layout.ignored)
    for what, array, where in (("inputs", given, np.ones_like(asked)), ("labels", solved, asked)):
        outside = where & ((array < 0) | (array >= layout.tokens))
        if outside.any():
            raise DataUnavailable(
                f"{part}: {what} hold the token {int(array[outside][0])}; allowed are 0 to {layout.tokens - 1}."
            )
    _refuse_first(np.logical_not(asked.any(axis=1)), lambda i: f"{part}: puzzle {i:,} asks for nothing.")
    return Puzzles(
        given.astype(np.uint8).reshape(-1, *layout.shape),
        np.where(asked, solved, -1).astype(np.int16).reshape(-1, *layout.shape),
        np.full(len(given), math.nan),
        lambda i: f"{part.name}/, puzzle {i:,}",
    )


def _require_one_identifier(part: Path, name: str) -> None:
    """Refuse sets where the puzzle's number, and not its input alone, says what is asked, as HRM's form of ARC."""
    if not (part / f"{name}__puzzle_identifiers.npy").is_file():
        return
    found = np.unique(_array(part, f"{name}__puzzle_identifiers", 1))
    if len(found) > 1:
        raise DataUnavailable(
            f"{part} has {len(found):,} puzzle identifiers, so an input alone does not say what is asked; allowed are "
            "sets with one, and ARC's own JSON files."
        )


def _array(part: Path, name: str, axes: int) -> NDArray[np.int64]:
    file = part / f"{name}.npy"
    if not file.is_file():
        raise DataUnavailable(f"There is no file {file}, which {part / 'dataset.json'} asks for.")
    try:
        array = np.load(file, allow_pickle=False)
    except ValueError as error:
        raise DataUnavailable(f"{file} is no array of numbers ({' '.join(str(error).split())}).") from error
    if array.dtype.kind not in "iub" or array.ndim != axes:
        raise DataUnavailable(f"{file} holds {array.dtype} of {array.ndim} axes; it must be whole numbers of {axes}.")
    return array.astype(np.int64) if array.dtype.kind == "b" else array


# ARC: a JSON file for each task.


def _arc_layout(parts: dict[str, Path]) -> Layout:
    return Layout("arc", "arc", ARC_TOKENS, (ARC_SIDE, ARC_SIDE), parts)


def _read_tasks(part: Path, demonstrations: int) -> Puzzles:
    """One sample for each test pair: its input, then the first demonstrations' inputs and outputs in turn."""
    inputs, answers, names = [], [], []
    for file in sorted(part.glob("*.json")):
        try:
            task = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataUnavailable(f"{file} is no JSON ({error}).") from error
        pairs = {name: _pairs(file, task, name) for name in ("train", "test")}
        shown = [grid for pair in pairs["train"][:demonstrations] for grid in pair]
        shown += [np.zeros((ARC_SIDE, ARC_SIDE), np.uint8)] * (2 * demonstrations - len(shown))
        for number, (asked, answer) in enumerate(pairs["test"]):
            inputs.append(np.stack([asked, *shown]))
            answers.append(answer)
            names.append(f"{part.name}/{file.name}, test {number}")
    return Puzzles(
        np.stack(inputs), np.stack(answers).astype(np.int16), np.full(len(inputs), math.nan), lambda i: names[i]
    )


def _pairs(file: Path, task: object, name: str) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    pairs = task.get(name) if isinstance(task, dict) else None
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, dict) for pair in pairs):
        raise DataUnavailable(f"{file} has no list of pairs named {name}; a task is {{train: [...], test: [...]}}.")
    for pair in pairs:
        for side in ("input", "output"):
            if side not in pair:
                raise DataUnavailable(f"{file} has a pair in {name} without its {side}; leave such tasks out.")
    return [(_padded(file, pair["input"]), _padded(file, pair["output"])) for pair in pairs]


def _padded(file: Path, rows: object) -> NDArray[np.uint8]:
    """(30, 30) tokens of a grid in the upper left corner: colour + 1, and 0 outside."""
    whole = np.zeros((ARC_SIDE, ARC_SIDE), np.uint8)
    try:
        grid = np.array(rows, dtype=np.int64)
    except (ValueError, TypeError, OverflowError):
        grid = np.zeros(0, np.int64)
    if grid.ndim != 2 or not 1 <= max(grid.shape) <= ARC_SIDE or grid.size == 0:
        raise DataUnavailable(f"{file} has a grid that isn't a table of 1x1 to 30x30 whole numbers.")
    if grid.min() < 0 or grid.max() > ARC_TOKENS - 2:
        raise DataUnavailable(
            f"{file} has the colour {int(grid.min() if grid.min() < 0 else grid.max())}; there are 0 to 9."
        )
    whole[: grid.shape[0], : grid.shape[1]] = grid + 1
    return whole
