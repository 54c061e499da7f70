"""What every cell owes a solver: its shapes, rows that are problems of their own, gradients everywhere."""

from __future__ import annotations

import pytest
import torch

from deqrun.models import BoundCell, Cell
from tests.models.cells import CELLS, CLASSES, bound, build, inputs, states

every_cell = pytest.mark.parametrize("name", CELLS)


@every_cell
def test_shapes_are_those_declared(name: str) -> None:
    cell = build(name)
    z = bound(cell)(states(cell))
    assert z.shape == (5, *cell.state_shape)
    assert cell.readout(z).shape == (5, CLASSES, *cell.output_shape)
    assert all(len(part) == 5 for part in cell.inject(inputs(cell)))
    assert cell.state_size == z[0].numel() == sum(torch.Size(shape).numel() for shape in cell.state_shapes)


@every_cell
@pytest.mark.parametrize("training", [False, True])
def test_a_row_alone_equals_that_row_in_the_batch(name: str, training: bool) -> None:
    cell = build(name).train(training)
    f, z = bound(cell), states(cell)
    together = f(z)
    for row in range(len(z)):
        alone = BoundCell(cell, tuple(part[row : row + 1] for part in f.injection))
        torch.testing.assert_close(alone(z[row : row + 1]), together[row : row + 1], rtol=1e-10, atol=1e-12)


@every_cell
def test_other_rows_have_no_influence(name: str) -> None:
    cell = build(name)
    f, z = bound(cell), states(cell).requires_grad_()
    (gradient,) = torch.autograd.grad(f(z)[1].square().sum(), z)
    assert gradient[1].abs().max() > 0
    assert gradient[[0, 2, 3, 4]].abs().max() == 0


@every_cell
@pytest.mark.parametrize("training", [False, True])
def test_take_equals_slicing(name: str, training: bool) -> None:
    cell = build(name).train(training)
    f, z, rows = bound(cell), states(cell), torch.tensor([3, 0, 4])
    torch.testing.assert_close(f.take(rows)(z[rows]), f(z)[rows], rtol=1e-10, atol=1e-12)
    # Rows index the batch of the map on which take is called: the second of (3, 0, 4) is row 0.
    torch.testing.assert_close(f.take(rows).take(torch.tensor([1]))(z[:1]), f(z)[:1], rtol=1e-10, atol=1e-12)


@every_cell
def test_an_evaluation_leaves_state_and_injection_as_they_were(name: str) -> None:
    cell = build(name)
    f, z = bound(cell), states(cell)
    before = [part.clone() for part in (z, *f.injection)]
    first, second = f(z), f(z)
    assert torch.equal(first, second)
    assert all(torch.equal(part, copy) for part, copy in zip((z, *f.injection), before, strict=True))


@every_cell
def test_one_evaluation_sends_a_gradient_to_every_parameter(name: str) -> None:
    # In evaluation mode: in training a bias before a batch norm has none, as the norm subtracts it again.
    cell = build(name)
    logits = cell.readout(bound(cell)(states(cell)))
    (logits * torch.randn(logits.shape, dtype=logits.dtype)).sum().backward()
    without = [name for name, p in cell.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert without == []


@every_cell
def test_the_gradient_of_one_evaluation_is_the_finite_difference(name: str) -> None:
    cell = build(name)
    f, z = bound(cell, batch=2), states(cell, batch=2).requires_grad_()
    direction, weights = (states(cell, batch=2).flip(0), torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z))
    (gradient,) = torch.autograd.grad((f(z) * weights).sum(), z)
    step = 1e-7
    with torch.no_grad():
        difference = ((f(z + step * direction) - f(z - step * direction)) * weights).sum() / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-6)


def test_a_map_in_16_bits_still_returns_the_states_dtype() -> None:
    cell = build("conv").float()
    f = BoundCell(cell, cell.inject(inputs(cell).float()))
    z = states(cell).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = f(z)
    assert value.dtype == torch.float32
    # bfloat16 has 8 significant bits: the autocast did take place, and the value is near the exact one.
    error = (value - f(z)).norm() / f(z).norm()
    assert 1e-5 < error < 5e-2


def test_a_cell_without_reparametrised_weights_needs_no_context() -> None:
    cell: Cell = build("mlp")
    with cell.fixed_weights():
        inside = bound(cell)(states(cell))
    assert torch.equal(inside, bound(cell)(states(cell)))
