"""Text: windows that stay in their part, a vocabulary from training alone, and one sentence where there is none."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from deqrun.cli import main
from deqrun.datasets import SPLITS, DataUnavailable
from deqrun.datasets.text import Text

LENGTH = 20
BOUNDS = {"train": (0, 1800), "validation": (1800, 1900), "test": (1900, 2000)}
"""90, 5 and 5 % of the 2,000 characters below."""


@pytest.fixture
def letters() -> str:
    """2,000 random letters: every run of twenty is in one place only."""
    return "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=2000))


@pytest.fixture
def file(tmp_path: Path, letters: str) -> Path:
    path = tmp_path / "letters.txt"
    path.write_text(letters, encoding="utf-8")
    return path


def windows(dataset: Text, split: str) -> list[tuple[str, str]]:
    """(input, answers) of every window, as text."""
    characters = [*dataset.corpus.vocabulary, "�"]
    data = dataset.load(split)
    return [
        ("".join(characters[i] for i in row), "".join(characters[i] for i in answer))
        for row, answer in zip(data.inputs.tolist(), data.targets.tolist(), strict=True)
    ]


@pytest.mark.parametrize("stride", [None, 1, 7, 33])
@pytest.mark.parametrize("split", SPLITS)
def test_no_window_straddles_two_parts(file: Path, letters: str, split: str, stride: int | None) -> None:
    """Input and answers together are characters low … low + length of the text, all within the split's bounds."""
    low, high = BOUNDS[split]
    step = stride or LENGTH if split == "train" else LENGTH
    found = windows(Text(path=str(file), length=LENGTH, stride=stride), split)
    places = [letters.index(given) for given, _ in found]
    assert places == list(range(low, high - LENGTH, step))
    assert [answers for _, answers in found] == [letters[place + 1 : place + LENGTH + 1] for place in places]
    assert places[-1] + LENGTH < high


def test_each_held_out_character_is_predicted_once(file: Path, letters: str) -> None:
    """All but the first, which nothing precedes, and the rest after the last whole window."""
    answers = "".join(answers for _, answers in windows(Text(path=str(file), length=11, stride=1), "validation"))
    assert answers == letters[1801:1900]


def test_the_vocabulary_is_that_of_the_training_part(tmp_path: Path) -> None:
    """Characters by code point, whatever they are; one that training has not seen takes the last place."""
    path = tmp_path / "text.txt"
    path.write_bytes(("𝛑é\r\n" * 45 + "aé" * 5 + "ébéb" * 2 + "éb").encode())
    dataset = Text(path=str(path), length=4)
    assert dataset.corpus.vocabulary == "\n\ré𝛑"
    assert (dataset.num_classes, dataset.input_shape, dataset.output_shape) == (5, (5, 4), (4,))
    assert dataset.load("train").inputs[0].tolist() == [3, 2, 1, 0]
    assert windows(dataset, "validation")[0] == ("�é�é", "é�é�")
    assert windows(dataset, "test")[0] == ("é�é�", "�é�é")


def test_inputs_are_one_hot(file: Path) -> None:
    dataset = Text(path=str(file), length=LENGTH)
    inputs = dataset.load("test").inputs
    x = dataset.encode(inputs)
    assert x.dtype == torch.float32
    assert x.shape == (len(inputs), *dataset.input_shape) == (4, 27, LENGTH)
    assert torch.equal(x.sum(1), torch.ones(4, LENGTH))
    assert torch.equal(x.argmax(1), inputs)


def test_a_guess_among_all_classes_costs_log2_of_them_in_bits_per_character(file: Path) -> None:
    dataset = Text(path=str(file), length=LENGTH)
    loss = dataset.loss(torch.zeros(4, 27, LENGTH), dataset.load("test").targets)
    torch.testing.assert_close(loss / math.log(2), torch.full((4,), math.log2(27)))


def test_right_is_the_last_answer(file: Path) -> None:
    dataset = Text(path=str(file), length=3)
    targets = torch.tensor([[1, 2, 3], [1, 2, 3]])
    answers = torch.tensor([[0, 0, 3], [1, 2, 4]])
    logits = torch.nn.functional.one_hot(answers, 27).movedim(-1, 1).float()
    assert dataset.correct(logits, targets).tolist() == [True, False]
    assert dataset.asked(targets).tolist() == [[False, False, True]] * 2
    logits[0, :, :2] = math.nan
    assert dataset.correct(logits, targets).tolist() == [True, False]
    logits[0, 0, 2] = math.nan
    assert dataset.correct(logits, targets).tolist() == [False, False]


def test_a_file_is_read_once_until_it_changes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (reads.append(path), read_bytes(path))[1])
    for length in (5, 10):
        dataset = Text(path=str(file), length=length)
        assert dataset.num_classes == 27
        for split in SPLITS:
            dataset.load(split)
    assert len(reads) == 1
    file.write_text("ab" * 500)
    assert Text(path=str(file), length=5).num_classes == 3
    assert len(reads) == 2


def test_a_constructor_needs_no_file() -> None:
    assert Text(path="nowhere.txt", length=9).output_shape == (9,)


@pytest.mark.parametrize(
    ("content", "parameters", "sentence"),
    [
        (None, {}, "given.txt' can't be read (No such file or directory)"),
        (b"abc\xff", {}, "is not UTF-8 at byte 3"),
        (b"", {}, "has 0 characters"),
        (b"a" * 1280, {}, "has 1,280 characters, and 5 % of them hold no window of dataset.length=64"),
        (b"a" * 1280, {}, "give a text of 1,300 or more, or dataset.length=63 or less."),
    ],
)
def test_a_text_that_cannot_be_had_is_told_in_one_sentence(
    tmp_path: Path, content: bytes | None, parameters: dict[str, int], sentence: str
) -> None:
    path = tmp_path / "given.txt"
    if content is not None:
        path.write_bytes(content)
    for ask in (lambda text: text.num_classes, lambda text: text.input_shape, lambda text: text.load("train")):
        with pytest.raises(DataUnavailable) as raised:
            ask(Text(path=str(path), **parameters))
        assert sentence in str(raised.value)
        assert "\n" not in str(raised.value)


def test_the_shortest_text_that_is_asked_for_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 1300)
    assert [len(Text(path=str(path)).load(split)) for split in SPLITS] == [18, 1, 1]


@pytest.mark.parametrize("command", ["train", "describe"])
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ((), "needs a text file in UTF-8; name one with dataset.path=FILE."),
        (("dataset.path=none.txt",), "none.txt"),
        (("dataset.path=.",), "Is a directory"),
    ],
)
def test_a_command_without_its_text_ends_with_code_2_and_one_sentence(
    command: str,
    given: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command, "dataset=text", *given]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "value"), [("length", 0), ("stride", 0), ("length", 1.5)])
def test_a_parameter_out_of_range_is_told(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value} is .*: allowed are .* from 1"):
        Text(**{name: value})  # type: ignore[arg-type]


def test_a_modules_source_is_a_text_and_nothing_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "texts_of_mine"
    package.mkdir()
    source = "raise RuntimeError('imported')\n" * 200
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "words.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    named, given = Text(path="module:texts_of_mine.words"), Text(path=str(package / "words.py"))
    assert torch.equal(named.corpus.tokens, given.corpus.tokens)
    assert named.corpus.vocabulary == given.corpus.vocabulary


@pytest.mark.parametrize("module", ["no_such_module_of_mine", "no.such.module", "_struct", ""])
def test_a_module_without_a_source_is_told(module: str) -> None:
    with pytest.raises(DataUnavailable, match="is no Python module with a source"):
        _ = Text(path=f"module:{module}").num_classes
