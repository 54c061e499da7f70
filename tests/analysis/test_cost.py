"""Saved bytes of graphs that can be counted by hand, and costs that add up."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from deqrun.analysis.cost import cost_of_answers, saved_for_backward
from deqrun.models import MLPCell, describe

FLOAT = 4  # bytes


def leaf(*shape: int) -> torch.Tensor:
    return torch.ones(shape, requires_grad=True)


def test_a_product_saves_both_factors_and_a_square_one() -> None:
    x, w = leaf(4, 3), leaf(4, 3)
    with saved_for_backward() as saved:
        product = x * w
    assert (saved.now, saved.tensors) == (2 * 12 * FLOAT, 2)
    with saved_for_backward() as saved:
        square = x * x
    assert (saved.now, saved.tensors) == (12 * FLOAT, 2)
    assert product.requires_grad
    assert square.requires_grad


def test_an_exponential_saves_its_value_and_a_sum_nothing() -> None:
    x = leaf(10)
    with saved_for_backward() as saved:
        total = x.exp().sum()
    assert saved.now == 10 * FLOAT
    with saved_for_backward() as nothing:
        plain = x.sum() + x.mean() + 2 * x[0]
    assert nothing.now == 0
    assert total.requires_grad
    assert plain.requires_grad


def test_a_linear_layer_saves_its_input_and_its_weight() -> None:
    layer, x = nn.Linear(5, 7), leaf(3, 5)
    with saved_for_backward() as saved:
        y = layer(x)
    assert saved.now == (3 * 5 + 5 * 7) * FLOAT
    assert y.requires_grad


def test_views_of_one_storage_count_once_and_in_full() -> None:
    x = leaf(6, 2)
    base = x + 0
    with saved_for_backward() as saved:
        y = base[:2] * base[2:4] * base[4:]
    assert saved.now == (12 + 4) * FLOAT  # the storage of base, and the first product
    assert y.requires_grad


def test_what_is_let_go_is_held_no_longer() -> None:
    x = leaf(8)
    with saved_for_backward() as saved:
        first = x.exp()
        second = first.exp()
        assert saved.now == 2 * 8 * FLOAT
        del second
        assert saved.now == 8 * FLOAT
        first.sum().backward()
        assert saved.now == 0
    assert saved.peak == 2 * 8 * FLOAT
    torch.testing.assert_close(x.grad, torch.full((8,), math.e))


def test_counting_changes_no_derivative() -> None:
    """d²/dx² of exp(x)² is 4 exp(2x), through the saved value of exp."""
    x = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    with saved_for_backward():
        (first,) = torch.autograd.grad(x.exp() ** 2, x, create_graph=True)
        (second,) = torch.autograd.grad(first, x)
    assert second.item() == pytest.approx(4 * math.exp(1.0))


def test_a_chain_keeps_one_state_per_step_until_its_backward_pass() -> None:
    """tanh saves its value: n steps of d numbers."""
    z = leaf(3, 5)
    with saved_for_backward() as saved:
        end = z
        for _ in range(7):
            end = end.tanh()
    assert saved.now == 7 * 15 * FLOAT
    end.sum().backward()
    assert (saved.now, saved.peak) == (0, 7 * 15 * FLOAT)


def test_nothing_is_saved_without_gradients() -> None:
    with saved_for_backward() as saved, torch.no_grad():
        leaf(5).exp()
    assert (saved.now, saved.peak, saved.tensors) == (0, 0, 0)


def test_costs_add_up() -> None:
    description = describe(MLPCell(input_shape=(3,), num_classes=2, width=40))
    one = cost_of_answers(description, 10, seconds=0.5)
    assert one.multiply_adds == description.answer_multiply_adds(10)
    assert (one.evaluations, one.products, one.seconds) == (10, 0, 0.5)
    looking = cost_of_answers(description, 10, readouts=11, products=4)
    assert looking.multiply_adds - one.multiply_adds == 10 * description.readout_multiply_adds
    assert looking.products == 4
    assert math.isnan(looking.seconds)
    with pytest.raises(ValueError, match="nfe must be a number >= 0, got -1"):
        cost_of_answers(description, -1)
