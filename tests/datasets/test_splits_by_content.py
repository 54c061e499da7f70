"""A content is in one split, whatever it is asked beside; of the strings of a length each split has its exact share."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest

from deqrun.datasets import SPLITS
from deqrun.datasets.splits_by_content import owned, split_of_bits, split_of_rows

MULTIPLIERS = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53, 0x9E3779B97F4A7C15


def permuted(value: int, bits: int) -> int:
    for multiplier in MULTIPLIERS:
        value = (value ^ value >> (bits + 1) // 2) * multiplier % 2**bits
    return value


def split_by_hand(string: str) -> str:
    """By Python's own integers; the first character is the lowest bit."""
    parts = [int(string[begin : begin + 64][::-1], 2) for begin in range(0, len(string), 64)]
    bits = min(len(string), 64)
    rank = permuted(parts[0], bits)
    for part in parts[1:]:
        rank = permuted(rank ^ part, 64)
    return ("train", "train", "train", "train", "validation", "test")[rank * 6 // 2**bits]


def words_of(strings: list[str], width: int) -> tuple[np.ndarray, np.ndarray]:
    values = [int(string[::-1], 2) for string in strings]
    words = [[value >> 64 * place & 2**64 - 1 for place in range(width)] for value in values]
    return np.array(words, dtype=np.uint64), np.array([len(string) for string in strings], dtype=np.uint64)


def test_two_thirds_of_contents_are_trains_and_a_sixth_each_of_the_others() -> None:
    rows = np.arange(12_000, dtype="<u4").view(np.uint8).reshape(-1, 4)
    counts = np.bincount(split_of_rows(rows, "any"), minlength=3)
    expected = np.array([8_000, 2_000, 2_000])
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # chi-squared, 2 degrees of freedom, p = 0.001


def test_kinds_of_content_are_divided_independently() -> None:
    rows = np.arange(12_000, dtype="<u4").view(np.uint8).reshape(-1, 4)
    agree = (split_of_rows(rows, "mazes") == split_of_rows(rows, "other")).mean()
    assert abs(agree - (4 * 4 + 1 + 1) / 36) < 0.02


@pytest.mark.parametrize("bits", range(1, 17))
def test_splits_own_four_one_and_one_sixths_of_all_strings_to_the_string(bits: int) -> None:
    every = np.arange(2**bits, dtype=np.uint64)[:, None]
    counts = np.bincount(split_of_bits(every, np.full(2**bits, bits, dtype=np.uint64)), minlength=3)
    bounds = [ceil(Fraction(sixth * 2**bits, 6)) for sixth in (0, 4, 5, 6)]
    assert counts.tolist() == np.diff(bounds).tolist() == [owned(bits, split) for split in SPLITS]


@pytest.mark.parametrize("longest", [20, 64, 130])
def test_the_split_of_a_string_is_that_of_integer_arithmetic(longest: int) -> None:
    """Strings of any length beside others: a shorter one's split does not depend on the longest one's words."""
    draw = np.random.default_rng(0)
    strings = ["".join(map(str, draw.integers(0, 2, size=draw.integers(1, longest + 1)))) for _ in range(500)]
    found = split_of_bits(*words_of(strings, -(-longest // 64)))
    assert [SPLITS[index] for index in found] == [split_by_hand(string) for string in strings]


@pytest.mark.parametrize("bits", [14, 16])
def test_a_split_is_told_by_no_bit_and_by_no_parity(bits: int) -> None:
    """Within five standard deviations: single bits, pairs of bits, and the parity of all of them."""
    every = np.arange(2**bits, dtype=np.uint64)[:, None]
    signs = 1.0 - 2.0 * (every >> np.arange(bits, dtype=np.uint64) & np.uint64(1)).astype(float)
    split = split_of_bits(every, np.full(2**bits, bits, dtype=np.uint64))
    for index in range(3):
        own = signs[split == index]
        pairs = own.T @ own / len(own) - np.eye(bits)
        means = np.array([*own.mean(0), own.prod(1).mean(), *pairs.ravel()])
        assert np.abs(means).max() < 5 / len(own) ** 0.5
