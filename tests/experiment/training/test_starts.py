"""Where solves begin: the distributions by their definitions, and the right sample's solution despite shuffling."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from deqrun.experiment.training.draws import START
from deqrun.experiment.training.objective import forward
from deqrun.experiment.training.seeding import generator
from deqrun.experiment.training.starts import Starts
from deqrun.gradients import OneStep, Unrolled
from deqrun.solvers import Budget
from tests.experiment.linear_model import WIDTH, Batch, Vectors, batch, draws, gradients, loss_at, model, settings, step

ROWS, SIZE = 2000, 40


def begin(kind: Literal["zeros", "normal", "mixture"], scale: float = 1.0, own: float = 0.0) -> Tensor:
    """z_0 (ROWS, 4, 10) where the cell's own start is `own` everywhere."""
    states = torch.full((ROWS, 4, SIZE // 4), own)
    return Starts(kind, scale, ROWS).begin(states, torch.arange(ROWS), generator(0, 1, START))


def test_zeros_is_the_cells_own_start() -> None:
    own = torch.randn(3, 2)
    assert Starts("zeros", 1.0, 3).begin(own, torch.arange(3), torch.Generator()) is own


@pytest.mark.parametrize("own", [0.0, 2.0])
def test_normal_has_the_moments_of_its_scale_about_the_own_start(own: float) -> None:
    """Mean `own`, deviation ½, kurtosis 3, each within 5 standard errors at n = 80,000."""
    z, n = begin("normal", 0.5, own).double() - own, ROWS * SIZE
    assert abs(float(z.mean())) < 5 * 0.5 / math.sqrt(n)
    assert abs(float(z.std()) - 0.5) < 5 * 0.5 / math.sqrt(2 * n)
    assert abs(float((z / 0.5).pow(4).mean()) - 3) < 5 * math.sqrt(96 / n)


def test_half_of_a_mixture_is_the_own_start_and_half_is_normal() -> None:
    """Whole samples are one or the other: 1000 of 2000 within 5 binomial deviations, and those normal."""
    z = begin("mixture", 2.0, 1.0)
    kept = (z == 1.0).flatten(1)
    assert torch.equal(kept.any(1), kept.all(1))
    assert abs(int(kept.all(1).sum()) - ROWS / 2) < 5 * math.sqrt(ROWS / 4)
    shaken = z[~kept.all(1)].double() - 1.0
    assert abs(float(shaken.mean())) < 5 * 2 / math.sqrt(shaken.numel())
    assert abs(float(shaken.std()) - 2) < 5 * 2 / math.sqrt(2 * shaken.numel())


@pytest.mark.parametrize("kind", ["normal", "mixture"])
def test_the_own_start_keeps_its_gradient(kind: Literal["normal", "mixture"]) -> None:
    """A cell that hears of x in its start alone has to be trained through it."""
    own = torch.zeros(64, 3, requires_grad=True)
    z = Starts(kind, 1.0, 64).begin(own, torch.arange(64), generator(0))
    (gradient,) = torch.autograd.grad(z.sum(), own)
    assert torch.equal(gradient, torch.ones(64, 3))


@pytest.mark.parametrize("kind", ["normal", "mixture"])
def test_a_step_begins_at_the_drawn_states(kind: Literal["normal", "mixture"]) -> None:
    """Two plain steps from the drawn z_0, by hand."""
    deq, samples = model(Unrolled(steps=2)), batch()
    made = step(deq, start=kind, start_scale=3.0)
    own = torch.zeros(6, WIDTH, dtype=torch.float64)
    z0 = Starts(kind, 3.0, 6).begin(own, samples.places, generator(0, 1, START))
    f = deq.bind(samples.x)
    expected = loss_at(deq, f(f(z0)), samples)
    torch.testing.assert_close(made.objective, expected, rtol=1e-13, atol=0)
    for found, exact in zip(gradients(deq, made.objective), gradients(deq, expected), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-15)


def test_previous_begins_where_that_sample_ended() -> None:
    """Three epochs of 2 iterations in different orders and batches are 6 iterations of every sample."""
    deq = model(OneStep(), Budget(max_iter=2, tol=0.0, keep="last"))
    samples, starts = batch(), Starts("previous", 1.0, 6)
    ends = torch.zeros(6, WIDTH, dtype=torch.float64)
    for places in ([3, 1], [0, 5, 4], [2], [5, 2, 0, 1, 3, 4], [4, 3, 2], [1, 0, 5]):
        chosen = torch.tensor(places)
        part = Batch(samples.x[chosen], samples.y[chosen], chosen)
        made = forward(deq, Vectors(), part, settings(start="previous"), 1, draws(), starts)
        ends[chosen] = made.solution.z
    f, z = deq.bind(samples.x), torch.zeros(6, WIDTH, dtype=torch.float64)
    for _ in range(6):
        z = f(z).detach()
    torch.testing.assert_close(ends, z, rtol=1e-12, atol=1e-14)


def test_previous_goes_on_from_a_saved_state() -> None:
    starts = Starts("previous", 1.0, 4)
    starts.end(torch.tensor([2, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    again = Starts("previous", 1.0, 4)
    again.load_state_dict(starts.state_dict())
    own = torch.full((4, 2), 9.0)
    expected = torch.tensor([[3.0, 4.0], [9.0, 9.0], [1.0, 2.0], [9.0, 9.0]])
    assert torch.equal(again.begin(own, torch.arange(4), torch.Generator()), expected)


def test_a_state_that_is_not_finite_is_not_begun_with() -> None:
    starts, own = Starts("previous", 1.0, 3), torch.zeros(3, 2, requires_grad=True)
    starts.end(torch.arange(3), torch.tensor([[1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0]]))
    z = starts.begin(own, torch.arange(3), torch.Generator())
    assert torch.equal(z, torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
    (gradient,) = torch.autograd.grad(z.sum(), own)
    assert torch.equal(gradient, torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]))


@pytest.mark.parametrize("kind", ["zeros", "normal", "mixture"])
def test_other_starts_remember_nothing(kind: Literal["zeros", "normal", "mixture"]) -> None:
    starts = Starts(kind, 1.0, 3)
    starts.end(torch.arange(3), torch.ones(3, 2))
    assert starts.state_dict() == {}
