"""Disturbances of known size, and returns whose number of steps a rate or a basin decides."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deqrun.analysis.path_independence import derangement
from deqrun.analysis.perturbation import DISTURBANCES, disturb, recovery
from deqrun.solvers import Anderson, Budget, Picard
from tests.problems import LinearNonNormal, RowMap

FLOAT64 = torch.float64


def contraction(rates: list[float]) -> tuple[RowMap, Tensor]:
    """z ← z* + r (z − z*) with z* = (3, 4), from 0; a rate per row."""
    target = torch.tensor([3.0, 4.0], dtype=FLOAT64)
    f = RowMap(lambda z, rate: target.to(z) + rate * (z - target.to(z)), (torch.tensor(rates, dtype=FLOAT64)[:, None],))
    return f, torch.zeros(len(rates), 2, dtype=FLOAT64)


def steps_to(rate: float, away: float, within: float = 1e-2) -> int:
    return max(0, math.ceil(math.log(within / away) / math.log(rate)))


def test_a_reset_takes_a_contraction_as_long_as_the_first_time() -> None:
    """From distance 1 to 1e-2 in ⌈ln 100 / ln(1/r)⌉ steps; after 5 steps the control has r⁵ left to shrink."""
    rates = [0.5, 0.8, 0.1]
    f, start = contraction(rates)
    found = recovery(f, start, 5, "reset", solver=Picard(), budget=Budget(60, 1e-8))
    assert found.disturbed.steps.tolist() == [steps_to(rate, 1.0) for rate in rates]
    assert found.control.steps.tolist() == [steps_to(rate, rate**5) for rate in rates]
    assert found.disturbed.returned.all()
    torch.testing.assert_close(found.shift, torch.ones(3, dtype=FLOAT64))
    assert found.disturbed.answer_steps is None
    expected = torch.tensor(rates, dtype=FLOAT64) ** 3
    torch.testing.assert_close(
        found.disturbed.distance[3], expected, rtol=0, atol=1e-6
    )  # z* is known to 1e-8 / (1 − r)


@pytest.mark.parametrize("size", [0.0, 0.3, 5.0])
def test_noise_has_exactly_its_size(size: float) -> None:
    f, start = contraction([0.5, 0.8])
    found = recovery(f, start, 40, "noise", size=size, solver=Picard(), budget=Budget(200, 1e-10))
    torch.testing.assert_close(found.shift, torch.full((2,), size, dtype=FLOAT64), rtol=1e-9, atol=1e-12)
    if size:
        assert found.disturbed.steps.tolist() == [steps_to(rate, size) for rate in (0.5, 0.8)]
    else:
        assert torch.equal(found.disturbed.distance, found.control.distance)


def two_basins(z: Tensor) -> Tensor:
    """Halfway to +1 or −1, whichever side z is on."""
    return 0.5 * z + 0.5 * torch.where(z >= 0, 1.0, -1.0).to(z)


def test_a_swap_across_basins_does_not_return_and_within_one_it_does() -> None:
    start = torch.tensor([[0.5], [-0.5], [0.25], [0.1]], dtype=FLOAT64)
    draw = torch.Generator().manual_seed(3)
    other = derangement(4, torch.Generator().manual_seed(3))
    same_side = (start.sign() == start[other].sign())[:, 0]
    assert 0 < int(same_side.sum()) < 4
    found = recovery(
        two_basins,
        start,
        3,
        "swap",
        budget=Budget(40, 1e-10),
        generator=draw,
        readout=lambda z: torch.cat([z, -z], dim=1),
    )
    assert found.disturbed.returned.tolist() == same_side.tolist()
    answers = found.disturbed.answer_returned
    assert answers is not None
    assert answers.tolist() == same_side.tolist()
    assert found.disturbed.steps[~same_side].tolist() == [41] * int((~same_side).sum())
    assert found.control.returned.all()


def test_an_answer_can_return_before_its_state() -> None:
    """z from −1 towards 1: z_j = 1 − 2 · 0.5ʲ is positive from j = 2 (0.5), at which 1 is still half of it away."""
    f = RowMap(lambda z, one: 0.5 * z + 0.5 * one, (torch.ones(1, 1, dtype=FLOAT64),))
    found = recovery(
        f,
        torch.full((1, 1), -1.0, dtype=FLOAT64),
        10,
        "reset",
        budget=Budget(40, 1e-12),
        readout=lambda z: torch.stack([z - 1e-9, torch.zeros_like(z)], dim=1),
    )
    assert found.disturbed.answer_steps is not None
    assert found.disturbed.answer_steps.tolist() == [2]
    assert found.disturbed.steps.tolist() == [8]  # 2 · 0.5⁸ < 0.01 < 2 · 0.5⁷


def test_only_the_asked_positions_answer() -> None:
    """The sign of z_i is the answer at position i: 3 − 8 · 0.5ʲ is positive from j = 2, 3 − 64 · 0.5ʲ from j = 5."""
    start, target = torch.tensor([[-5.0, -61.0]], dtype=FLOAT64), torch.tensor([3.0, 3.0], dtype=FLOAT64)
    for asked, steps in (([True, False], 2), ([True, True], 5), ([False, True], 5)):
        found = recovery(
            lambda z: target + 0.5 * (z - target),
            start,
            9,
            "reset",
            budget=Budget(60, 1e-12),
            readout=lambda z: torch.stack([-z, z], dim=1),
            asked=torch.tensor([asked]),
        )
        assert found.disturbed.answer_steps is not None
        assert found.disturbed.answer_steps.tolist() == [steps]


def test_back_means_for_good() -> None:
    """Nobody is back who passes by: a quarter turn about (2, 0), which ends at (2, 0) for nobody but the centre."""
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=FLOAT64)
    centre = torch.tensor([2.0, 0.0], dtype=FLOAT64)
    start = torch.tensor([[3.0, 0.0]], dtype=FLOAT64)
    found = recovery(lambda z: centre + (z - centre) @ turn.T, start, 0, "none", budget=Budget(41, 1e-9))
    passes = (found.control.distance <= 1e-2).sum()
    assert passes == 11  # of the 42 iterates every fourth is where the 41st is: 1, 5, …, 41
    assert found.control.steps.tolist() == [41]


def test_every_solver_finds_its_way_back_on_a_contraction() -> None:
    problem = LinearNonNormal(0.8)
    f, start = problem.f(4), problem.start(4, FLOAT64)
    for kind in DISTURBANCES:
        found = recovery(f, start, 4, kind, solver=Anderson(), budget=Budget(150, 1e-9))
        assert found.disturbed.returned.all()
        assert (found.residual <= 1e-9).all()


def test_what_diverged_does_not_return() -> None:
    found = recovery(
        lambda z: 3 * z, torch.ones(1, 2), 2, "reset", budget=Budget(60, 1e-6), readout=lambda z: torch.cat([z, -z], 1)
    )
    assert not found.disturbed.returned.any()


def test_disturbances_themselves() -> None:
    z = torch.arange(12.0, dtype=FLOAT64).reshape(3, 2, 2) + 1
    start = torch.zeros(3, 2, 2, dtype=FLOAT64)
    assert torch.equal(disturb(z, "none", start=start), z)
    assert torch.equal(disturb(z, "reset", start=start), start)
    swapped = disturb(z, "swap", start=start, generator=torch.Generator().manual_seed(0))
    assert torch.equal(swapped, z[derangement(3, torch.Generator().manual_seed(0))])
    with pytest.raises(ValueError, match="no disturbance 'shake'; there are none, reset, noise, swap"):
        disturb(z, "shake", start=start)
    with pytest.raises(ValueError, match="size must be a number >= 0"):
        disturb(z, "noise", start=start, size=-1.0)
    with pytest.raises(ValueError, match="at must be an iterate"):
        recovery(torch.tanh, z, -1, "none")
