"""Starts of a sweep: the formulas, and that nothing but seed, split and place bears on them."""

from __future__ import annotations

import pytest
import torch

from deqrun.experiment.sweep.starts import SweepStart, derangement, normal_start


def test_normal_starts_depend_on_the_place_alone() -> None:
    own = torch.full((10, 4, 5), 3.0)
    whole = normal_start(own, slice(0, 10), seed=1, split="test", scale=2.0)
    parts = [normal_start(own[a:b], slice(a, b), seed=1, split="test", scale=2.0) for a, b in ((0, 3), (3, 10))]
    assert torch.equal(whole, torch.cat(parts))
    double = normal_start(own.double(), slice(0, 10), seed=1, split="test", scale=2.0)
    assert torch.equal(whole, double.float())


def test_normal_starts_are_normal() -> None:
    """Of N = 40,000 draws the mean deviates from 0 by about 1/200, the variance from 1 by √2/200."""
    noise = (normal_start(torch.full((40, 1000), 7.0), slice(0, 40), seed=0, split="test", scale=0.5) - 7.0) / 0.5
    assert abs(float(noise.mean())) < 5 / 200
    assert abs(float(noise.var()) - 1) < 5 * 2**0.5 / 200
    rows = torch.corrcoef(noise)
    assert float((rows - torch.eye(40)).abs().max()) < 6 / 1000**0.5


@pytest.mark.parametrize("other", [{"seed": 2}, {"split": "validation"}, {"draw": 1}])
def test_another_seed_split_or_draw_is_another_start(other: dict[str, object]) -> None:
    base: dict[str, object] = {"seed": 1, "split": "test", "scale": 1.0}
    one, two = (normal_start(torch.zeros(2, 50), slice(0, 2), **(base | change)) for change in ({}, other))  # type: ignore[arg-type]
    assert not torch.isclose(one, two).any()


@pytest.mark.parametrize("n", [2, 3, 17, 1000])
def test_a_derangement_moves_every_sample_in_one_cycle(n: int) -> None:
    other = derangement(n, seed=5, split="test")
    assert sorted(other.tolist()) == list(range(n))
    place, seen = 0, set()
    for _ in range(n):
        seen.add(place)
        place = int(other[place])
    assert (place, len(seen)) == (0, n)


def test_of_a_single_sample_there_is_no_other() -> None:
    assert derangement(1, seed=0, split="test").tolist() == [0]


def test_other_begins_with_anothers_solution_unless_it_is_not_finite() -> None:
    solutions = torch.arange(1.0, 7.0)[:, None].repeat(1, 2)
    solutions[4, 1] = torch.inf
    start = SweepStart("other", seed=3, solutions=solutions)
    place, own = slice(2, 6), torch.zeros(4, 2)
    z0 = start.begin(own, place)
    for row, other in zip(z0, derangement(6, 3, "test")[place].tolist(), strict=True):
        assert row.tolist() == ([0.0, 0.0] if other == 4 else [other + 1.0, other + 1.0])


def test_zeros_is_the_cells_own_start_and_other_needs_solutions() -> None:
    own = torch.randn(3, 2)
    assert SweepStart().begin(own, slice(0, 3)) is own
    with pytest.raises(ValueError, match="solutions"):
        SweepStart("other")
