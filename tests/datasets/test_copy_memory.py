"""Copying memory: sequences as published, the memoryless loss, and digits that are in one split only."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from deqrun.datasets import SPLITS
from deqrun.datasets.copy_memory import CopyMemory


@pytest.mark.parametrize("blanks", [1, 2, 50, 1000])
def test_sequences_are_as_published(blanks: int) -> None:
    """T + 20 symbols: ten digits from 1 to 8, zeros, 9 at the last eleven; the output is 0 but for its last ten."""
    dataset = CopyMemory(blanks=blanks, n_train=30)
    assert (dataset.input_shape, dataset.output_shape, dataset.num_classes) == ((10, blanks + 20), (blanks + 20,), 10)
    data = dataset.load("train")
    inputs, targets = data.inputs.long(), data.targets
    assert inputs.shape == targets.shape == (30, blanks + 20)
    assert (inputs[:, 10:-11] == 0).all()
    assert (inputs[:, -11:] == 9).all()
    assert inputs[:, :10].unique().tolist() == list(range(1, 9))
    assert (targets[:, :-10] == 0).all()
    assert torch.equal(targets[:, -10:], inputs[:, :10])


def test_inputs_are_one_hot() -> None:
    dataset = CopyMemory(blanks=3, n_train=4)
    inputs = dataset.load("train").inputs
    x = dataset.encode(inputs)
    assert x.dtype == torch.float32
    assert x.shape == (4, *dataset.input_shape)
    assert torch.equal(x.sum(1), torch.ones(4, 23))
    assert torch.equal(x.argmax(1), inputs.long())


@pytest.mark.parametrize(("blanks", "loss"), [(50, 0.29706), (500, 0.03999), (1000, 0.02039)])
def test_the_memoryless_loss(blanks: int, loss: float) -> None:
    """10 ln 8 / (T + 20), and what the loss says of a model that knows when to answer, but not what."""
    dataset = CopyMemory(blanks=blanks, n_test=20)
    assert dataset.memoryless_loss == pytest.approx(loss, abs=6e-6)
    targets = dataset.load("test").targets
    logits = torch.full((20, 10, blanks + 20), -math.inf)
    logits[:, 0, :-10] = 0.0
    logits[:, 1:9, -10:] = 0.0
    torch.testing.assert_close(dataset.loss(logits, targets), torch.full((20,), dataset.memoryless_loss))


def test_right_is_the_whole_output() -> None:
    dataset = CopyMemory(n_test=2)
    targets = dataset.load("test").targets
    logits = torch.nn.functional.one_hot(targets, 10).movedim(-1, 1).float()
    logits[1, :, 40] = torch.eye(10)[5]
    assert dataset.correct(logits, targets).tolist() == [True, False]


def test_no_ten_digits_are_in_two_splits() -> None:
    dataset = CopyMemory()
    parts = [{tuple(row) for row in dataset.load(split).inputs[:, :10].tolist()} for split in SPLITS]
    assert [len(part) for part in parts] == [10_000, 1_000, 1_000]
    assert len(set().union(*parts)) == 12_000


@pytest.mark.parametrize("asked", [{"n_test": 5_000}, {"data_seed": 1}, {"blanks": 9, "n_train": 7}], ids=str)
def test_no_digits_are_asked_that_were_trained_on_at_another_size_seed_or_number_of_blanks(
    asked: dict[str, int],
) -> None:
    known = {tuple(row) for row in CopyMemory(n_train=200_000).load("train").inputs[:, :10].tolist()}
    later = CopyMemory(**asked)
    for split in ("validation", "test"):
        assert known.isdisjoint(tuple(row) for row in later.load(split).inputs[:, :10].tolist())


def test_the_digits_are_uniform_and_the_same_for_every_number_of_blanks() -> None:
    digits = CopyMemory(blanks=1).load("train").inputs[:, :10]
    assert torch.equal(digits, CopyMemory(blanks=77).load("train").inputs[:, :10])
    counts = torch.stack([column.long().bincount(minlength=9)[1:] for column in digits.T])
    assert (counts - 1250).abs().max() < 5 * (10_000 * 1 / 8 * 7 / 8) ** 0.5


def test_the_first_digits_are_those_of_pcg64s_words() -> None:
    """Three bits of a word for each digit, by integer arithmetic."""
    word = int(np.random.PCG64(np.random.SeedSequence([3, 10])).random_raw())
    expected = [1 + word // 8**place % 8 for place in range(10)]
    dataset = CopyMemory(data_seed=3)
    assert expected in [dataset.load(split).inputs[0, :10].tolist() for split in SPLITS]


def test_loading_in_another_order_changes_nothing() -> None:
    one, other = CopyMemory(), CopyMemory()
    first = {split: one.load(split).inputs for split in SPLITS}
    second = {split: other.load(split).inputs for split in reversed(SPLITS)}
    assert all(torch.equal(first[split], second[split]) for split in SPLITS)
    assert not torch.equal(first["test"], CopyMemory(data_seed=1).load("test").inputs)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"blanks": 0}, "blanks=0 is too small: allowed are integers from 1 (nearest: 1)."),
        ({"n_train": 8**10}, "of the 1,073,741,824 distinct sequences of 10 digits 715,827,883 are in the train split"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(parameters: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        CopyMemory(**parameters)
