"""Prefix sums: the answers are parities, no string is in two splits, and a seed gives the same strings everywhere."""

from __future__ import annotations

import re
from itertools import accumulate
from operator import xor
from typing import Any

import numpy as np
import pytest
import torch

from deqrun.datasets import IGNORED, SPLITS
from deqrun.datasets.generated_sequences import distinct_rows
from deqrun.datasets.prefix_sums import PADDING, PrefixSums

FEW = {"n_train": 20, "n_validation": 5, "n_test": 5}


def strings(dataset: PrefixSums, split: str) -> list[str]:
    """The bits of each string, without its padding."""
    symbols = {0: "0", 1: "1", PADDING: ""}
    return ["".join(symbols[bit] for bit in row) for row in dataset.load(split).inputs.tolist()]


@pytest.mark.parametrize(("length", "shortest"), [(5, None), (16, None), (64, None), (512, None), (24, 16), (5, 1)])
def test_the_target_is_the_parity_of_the_bits_so_far(length: int, shortest: int | None) -> None:
    data = PrefixSums(length=length, shortest=shortest, **FEW).load("train")
    for row, targets in zip(data.inputs.tolist(), data.targets.tolist(), strict=True):
        bits = [bit for bit in row if bit != PADDING]
        assert targets == [*accumulate(bits, xor), *[IGNORED] * (length - len(bits))]


def test_shapes_and_encoding() -> None:
    """One channel as long as the string; beyond its end the zero that a convolution finds beyond its input."""
    dataset = PrefixSums()
    assert (dataset.input_shape, dataset.output_shape, dataset.num_classes) == ((1, 16), (16,), 2)
    encoded = dataset.encode(torch.tensor([[0, 1, PADDING]], dtype=torch.uint8))
    assert torch.equal(encoded, torch.tensor([[[-1.0, 1.0, 0.0]]]))


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"length": 512},
        {"length": 24, "shortest": 16},
        {"length": 14, "shortest": 1},
        {"length": 6, "n_train": 43, "n_validation": 11, "n_test": 10},
    ],
)
def test_no_string_is_in_two_splits_or_twice_in_one(parameters: dict[str, Any]) -> None:
    dataset = PrefixSums(**parameters)
    parts = [strings(dataset, split) for split in SPLITS]
    sizes = [
        parameters.get(f"n_{split}", default) for split, default in zip(SPLITS, (10_000, 1_000, 1_000), strict=True)
    ]
    assert [len(part) for part in parts] == sizes
    assert len(set().union(*parts)) == sum(sizes)


def test_every_string_there_is_can_be_asked_for() -> None:
    """Of 1 to 3 bits there are 2 + 4 + 8: 2 + 3 + 6 of them train's, 0 + 1 + 1 validation's, 0 + 0 + 1 test's."""
    dataset = PrefixSums(length=3, shortest=1, n_train=11, n_validation=2, n_test=1)
    found = [string for split in SPLITS for string in strings(dataset, split)]
    assert sorted(found, key=lambda string: (len(string), string)) == [
        format(value, f"0{bits}b") for bits in (1, 2, 3) for value in range(2**bits)
    ]


TRAINED: list[dict[str, Any]] = [{}, {"length": 32, "shortest": 4}, {"data_seed": 1}, {"n_train": 40_000}]
ASKED: list[dict[str, Any]] = [
    {},
    {"length": 16},
    {"n_test": 3_000},
    {"data_seed": 1},
    {"data_seed": 2, "n_test": 10_000},
    {"length": 16, "shortest": None},
    {"length": 20, "shortest": 9, "data_seed": 3},
    {"n_train": 1, "n_validation": 1},
    {"length": 14, "shortest": None},
]


@pytest.mark.parametrize("trained", TRAINED, ids=str)
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_no_string_is_asked_that_was_trained_on_at_another_length_size_or_seed(
    trained: dict[str, Any], asked: dict[str, Any]
) -> None:
    seen, later = PrefixSums(**trained), PrefixSums(**{**trained, "n_train": 5_000, **asked})
    known = set(strings(seen, "train"))
    assert known.isdisjoint(strings(later, "validation"))
    assert known.isdisjoint(strings(later, "test"))
    assert set(strings(seen, "validation")).isdisjoint(strings(later, "test"))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {"length": 13},
            "n_train=10,000 is too many: of the 8,192 distinct strings of 13 bits 5,462 are in the train split, at any "
            "seed and size; allowed are 1 to 5,462 (nearest: 5,462), or a length from 14.",
        ),
        (
            {"length": 16, "n_test": 12_000},
            "n_test=12,000 is too many: of the 65,536 distinct strings of 16 bits 10,922 are in the test split, at any "
            "seed and size; allowed are 1 to 10,922 (nearest: 10,922), or a length from 17.",
        ),
        (
            {"length": 3, "shortest": 1, "n_train": 1, "n_validation": 1, "n_test": 2},
            "n_test=2 is too many: of the 14 distinct strings of 1 to 3 bits 1 are in the test split, at any seed and "
            "size; allowed are 1 to 1 (nearest: 1), or a length from 4.",
        ),
        (
            {"length": 2, "n_train": 3, "n_validation": 1, "n_test": 1},
            "n_test=1 is too many: of the 4 distinct strings of 2 bits 0 are in the test split, at any seed and size; "
            "allowed are a length from 3.",
        ),
    ],
)
def test_too_few_strings_are_told_in_one_sentence(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as raised:
        PrefixSums(**parameters)
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"length": 0}, "length=0 is too small: allowed are integers from 1"),
        ({"length": 8, "shortest": 9}, "shortest=9 exceeds length=8: allowed are 1 to 8"),
        ({"shortest": 0}, "shortest=0 is too small"),
        ({"n_test": 0}, "n_test=0 is too small"),
        ({"data_seed": -1}, "data_seed=-1 is too small"),
        ({"length": 2.5}, "length=2.5 is not an integer"),
    ],
)
def test_a_parameter_out_of_range_is_told(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        PrefixSums(**parameters)


@pytest.mark.parametrize(("length", "shortest"), [(16, None), (100, None), (24, 16)])
def test_the_first_string_is_that_of_pcg64s_words(length: int, shortest: int | None) -> None:
    """Bit i of a string is bit i of its words, by integer arithmetic; the first is the first of its split."""
    least = shortest or length
    stream = np.random.PCG64(np.random.SeedSequence([7, least, length]))
    first, *words = (int(word) for word in stream.random_raw(1 + -(-length // 64)))
    bits = least + first % (length - least + 1)
    value = sum(word << 64 * place for place, word in enumerate(words))
    expected = "".join(str(value >> i & 1) for i in range(bits))
    dataset = PrefixSums(length=length, shortest=shortest, data_seed=7)
    assert expected in [strings(dataset, split)[0] for split in SPLITS]


def test_splits_depend_neither_on_the_order_of_loading_nor_on_global_randomness() -> None:
    one, other = PrefixSums(), PrefixSums()
    first = {split: one.load(split).inputs for split in SPLITS}
    torch.manual_seed(1)
    np.random.seed(1)
    second = {split: other.load(split).inputs for split in reversed(SPLITS)}
    assert all(torch.equal(first[split], second[split]) for split in SPLITS)
    assert not torch.equal(first["test"], PrefixSums(data_seed=1).load("test").inputs)


def test_the_test_strings_are_the_same_however_many_train() -> None:
    few, many = PrefixSums(n_train=10), PrefixSums(n_train=43_690)
    for split in ("validation", "test"):
        assert torch.equal(few.load(split).inputs, many.load(split).inputs)
    assert torch.equal(few.load("train").inputs, many.load("train").inputs[:10])


def test_bits_and_lengths_are_uniform() -> None:
    """Of 12,000 fair draws a share is within five standard deviations of what it should be."""
    data = PrefixSums(length=24, shortest=17).load("train").inputs
    lengths = (data != PADDING).sum(1)
    counts = lengths.bincount(minlength=25)[17:]
    assert (counts - 1250).abs().max() < 5 * (10_000 * 1 / 8 * 7 / 8) ** 0.5
    ones = (data[:, :17] == 1).double().mean(0)
    assert (ones - 0.5).abs().max() < 5 * 0.5 / 10_000**0.5


def test_only_the_asked_positions_count() -> None:
    """A string of three bits in a place for five, with one wrong parity: loss and right answers by hand."""
    dataset = PrefixSums(length=14, shortest=3)
    targets = torch.tensor([[1, 0, 0, IGNORED, IGNORED]] * 2)
    right = torch.nn.functional.one_hot(targets.clamp(min=0), 2).movedim(-1, 1).float()
    wrong = right.clone()
    wrong[1, :, 2] = torch.tensor([0.0, 1.0])
    assert dataset.correct(wrong, targets).tolist() == [True, False]
    softplus = np.log1p(np.exp(-1.0))
    expected = torch.tensor([softplus, (2 * softplus + np.log1p(np.e)) / 3], dtype=torch.float32)
    torch.testing.assert_close(dataset.loss(wrong, targets), expected)


def test_distinct_rows_are_the_first_of_each_kind() -> None:
    stream = iter([3, 1, 3, 2, 1, 0, 2, 4])
    rows = distinct_rows(lambda n: np.array([[next(stream)] for _ in range(n)], dtype=np.uint8), 4)
    assert rows.tolist() == [[3], [1], [2], [0]]
