"""Sums against Python's own integers, the share of carries in closed form, and splits."""

from __future__ import annotations

import pytest
import torch

from deqrun.datasets.arithmetic import Arithmetic
from deqrun.datasets.dataset import SPLITS


def number(digits: list[int], base: int) -> int:
    return sum(digit * base**place for place, digit in enumerate(digits))


@pytest.mark.parametrize(("digits", "base"), [(2, 10), (8, 10), (40, 10), (12, 2), (5, 36)])
def test_digits_are_of_the_sum(digits: int, base: int) -> None:
    data = Arithmetic(digits=digits, base=base, n_train=200, n_validation=50, n_test=50)
    for split in map(data.load, SPLITS):
        for (a, b), total in zip(split.inputs.tolist(), split.targets.tolist(), strict=True):
            assert number(a, base) + number(b, base) == number(total, base)
            assert (a[-1], b[-1]) == (0, 0)


@pytest.mark.parametrize("base", [2, 10])
def test_carries_are_as_frequent_as_they_must_be(base: int) -> None:
    """A carry leaves digit i with probability ½ (1 − base^−(i+1)): P = P(a + b >= base^(i+1))."""
    split = Arithmetic(digits=6, base=base, n_train=20_000).load("train")
    plain = split.inputs.long().sum(1) % base
    for place in range(1, 7):
        carried = ((split.targets[:, place] - plain[:, place]) % base).double().mean()
        expected = 0.5 * (1 - float(base) ** -place)
        assert float(carried) == pytest.approx(expected, abs=5 * 0.5 / 20_000**0.5)


def test_inputs_are_one_hot_of_both_numbers() -> None:
    data = Arithmetic(digits=3, base=7, n_test=20)
    inputs = data.load("test").inputs
    x = data.encode(inputs)
    assert x.shape == (20, 14, 4)
    assert torch.equal(x[:, :7].argmax(1), inputs[:, 0].long())
    assert torch.equal(x[:, 7:].argmax(1), inputs[:, 1].long())
    assert torch.equal(x.sum(1), torch.full((20, 4), 2.0))


def test_no_sum_is_in_two_splits_of_any_seed_in_whatever_order() -> None:
    """Of two digits in base 4 there are 16 · 17 / 2 = 136 unordered pairs: most are met, each in one split alone."""
    owners: dict[tuple[int, int], set[str]] = {}
    for seed in (0, 1, 2):
        data = Arithmetic(digits=2, base=4, n_train=400, n_validation=60, n_test=60, data_seed=seed)
        for split in SPLITS:
            for a, b in data.load(split).inputs.long().tolist():
                numbers = [sum(digit * 4**place for place, digit in enumerate(number)) for number in (a, b)]
                owners.setdefault((min(numbers), max(numbers)), set()).add(split)
    assert len(owners) > 100
    assert {len(found) for found in owners.values()} == {1}


@pytest.mark.parametrize(
    ("parameters", "told"), [({"digits": 1}, "digits=1"), ({"base": 1}, "base=1"), ({"base": 37}, "2 to 36")]
)
def test_wrong_parameters_are_refused(parameters: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Arithmetic(**parameters)  # type: ignore[arg-type]
