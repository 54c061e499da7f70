"""The stored vectors' products and combinations against einsum, at sizes on every side of torch's plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deqrun.solvers.history import NAIVE_BELOW, History

SLOTS = 6
WIDTHS = {"elementwise": 8, "padded": NAIVE_BELOW // SLOTS - 2, "as they are": NAIVE_BELOW}
EVERY_WIDTH = pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())


def filled(width: int, count: int) -> tuple[History, Tensor]:
    """A history of which `count` slots have been written, and what has been."""
    vectors = torch.randn(count, 4, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    history = History(SLOTS, vectors[0])
    for slot, vector in enumerate(vectors):
        history[slot].copy_(vector)
    return history, vectors


def test_the_widths_take_every_way() -> None:
    assert [filled(width, 1)[0].padded for width in WIDTHS.values()] == [False, True, False]


@EVERY_WIDTH
@pytest.mark.parametrize("count", [1, 3, SLOTS])
def test_products(width: int, count: int) -> None:
    history, vectors = filled(width, count)
    v = torch.linspace(-1, 1, 4 * width, dtype=torch.float64).view(4, width)
    torch.testing.assert_close(history.products(v, count), torch.einsum("mbd,bd->bm", vectors, v))


@EVERY_WIDTH
@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, SLOTS), (2, 3)])
def test_combination(width: int, first: int, count: int) -> None:
    history, vectors = filled(width, first + count)
    weights = torch.linspace(-1, 2, 4 * count, dtype=torch.float64).view(4, count)
    onto = torch.full_like(vectors[0], 3.0)
    expected = 3 + torch.einsum("mbd,bm->bd", vectors[first:], weights)
    torch.testing.assert_close(history.combination(weights, first, onto=onto), expected)
    strided = weights.T.contiguous().T
    torch.testing.assert_close(history.combination(strided, first, onto=onto), expected)
    assert bool((onto == 3).all())
    found = history.combination(weights, first, onto=onto, in_place=True)
    assert found.data_ptr() == onto.data_ptr()
    torch.testing.assert_close(onto, expected)


@EVERY_WIDTH
@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 3), (1, 2)])
def test_combination_of_every_other_slot(width: int, first: int, count: int) -> None:
    history, vectors = filled(width, SLOTS)
    weights = torch.linspace(-1, 2, 4 * count, dtype=torch.float64).view(4, count)
    onto = torch.full_like(vectors[0], 3.0)
    expected = 3 + torch.einsum("mbd,bm->bd", vectors[first : first + 2 * count : 2], weights)
    torch.testing.assert_close(history.combination(weights, first, every=2, onto=onto), expected)


@EVERY_WIDTH
@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, SLOTS - 1), (4, 2), (SLOTS - 1, 0)])
@pytest.mark.parametrize("count", [1, 4, SLOTS])
def test_pair_products(width: int, one: int, other: int, count: int) -> None:
    history, vectors = filled(width, SLOTS)
    for found, slot in zip(history.pair_products(one, other, count), (one, other), strict=True):
        torch.testing.assert_close(found, torch.einsum("mbd,bd->bm", vectors[:count], vectors[slot]))


@EVERY_WIDTH
def test_a_row_that_is_not_finite_stays_by_itself(width: int) -> None:
    history, vectors = filled(width, SLOTS)
    weights = torch.ones(4, SLOTS, dtype=torch.float64)
    onto = torch.zeros_like(vectors[0])
    products, combination = history.products(vectors[0], SLOTS), history.combination(weights, onto=onto)
    history[2][1] = torch.nan
    others = torch.tensor([0, 2, 3])
    assert torch.equal(history.products(vectors[0], SLOTS)[others], products[others])
    assert torch.equal(history.combination(weights, onto=onto)[others], combination[others])
    assert bool(history.combination(weights, onto=onto)[1].isnan().all())


def test_small_states_round_alike_in_any_company() -> None:
    history, vectors = filled(WIDTHS["elementwise"], SLOTS)
    weights = torch.linspace(-1, 2, 4 * SLOTS, dtype=torch.float64).view(4, SLOTS)
    onto = torch.zeros_like(vectors[0])
    products, combination = history.products(vectors[0], SLOTS), history.combination(weights, onto=onto)
    pair = history.pair_products(1, 4, SLOTS)
    history.take(torch.tensor([2]))
    assert torch.equal(history.products(vectors[0, 2:3], SLOTS), products[2:3])
    assert torch.equal(history.combination(weights[2:3], onto=onto[2:3]), combination[2:3])
    for found, whole in zip(history.pair_products(1, 4, SLOTS), pair, strict=True):
        assert torch.equal(found, whole[2:3])
