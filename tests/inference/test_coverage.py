"""How often intervals cover and families err, in simulated worlds whose truth is known. Seeds are fixed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim, claim_median, median_interval, told

WORLDS = 400


def at_least(share: float, worlds: int = WORLDS) -> float:
    """What is not told to be below `share`: three standard errors of the simulation less."""
    return share - 3 * math.sqrt(share * (1 - share) / worlds)


def covered(found: list[Estimate], truth: float) -> float:
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def right_answers(
    generator: np.random.Generator, share: float, spread: float, seeds: int = 5, samples: int = 200
) -> NDArray[np.bool_]:
    """Each seed has a share of its own, and samples that are hard for one are hard for all: a Gaussian copula."""
    own = generator.normal(share, spread, size=(seeds, 1)).clip(0, 1)
    common, alone = generator.normal(size=samples), generator.normal(size=(seeds, samples))
    return special.ndtr(math.sqrt(0.7) * common + math.sqrt(0.3) * alone) < own


def test_shares_of_a_recipe_whose_seeds_scatter() -> None:
    generator = np.random.default_rng(0)
    found = [claim(right_answers(generator, 0.8, 0.05), SHARE) for _ in range(WORLDS)]
    assert covered(found, 0.8) >= at_least(0.93)


def test_an_interval_over_samples_alone_would_not_do() -> None:
    """The simulation can fail: one model's interval does not cover its recipe's mean where seeds scatter."""
    generator = np.random.default_rng(0)
    found = [claim(right_answers(generator, 0.8, 0.15)[:1], SHARE) for _ in range(WORLDS)]
    assert covered(found, 0.8) < 0.8


def test_differences_of_a_recipe_whose_seeds_scatter() -> None:
    """Normal values: seeds' means scatter by 0.05 about 0.1, samples, the same in each seed, by 0.5."""
    generator = np.random.default_rng(1)
    found = [
        claim(
            0.1 + generator.normal(0, 0.05, (5, 1)) + generator.normal(0, 0.5, 200) + generator.normal(0, 0.3, (5, 200))
        )
        for _ in range(WORLDS)
    ]
    assert covered(found, 0.1) >= at_least(0.93)
    assert covered(found, 0.1) <= 0.995  # and is not so wide that it says nothing


@pytest.mark.parametrize("seeds", [1, 5])
def test_shares_of_nearly_all(seeds: int) -> None:
    generator = np.random.default_rng(2)
    found = [claim(right_answers(generator, 0.999, 0.0, seeds), SHARE) for _ in range(WORLDS)]
    assert covered(found, 0.999) >= 0.92


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize(("better", "worse"), [(0.005, 0.005), (0.02, 0.005), (0.01, 0.0)])
def test_sparse_paired_differences(seeds: int, better: float, worse: float) -> None:
    """Of most samples both are right or both wrong: only one in a hundred or so differs."""
    generator = np.random.default_rng(3)
    drawn = generator.random((WORLDS, seeds, 200))
    values = (drawn < better).astype(float) - (drawn > 1 - worse)
    assert covered([claim(one, DIFFERENCE) for one in values], better - worse) >= at_least(0.93)


@pytest.mark.parametrize("seeds", [1, 5])
def test_a_family_of_eight_null_claims_rarely_says_anything(seeds: int) -> None:
    """Eight variants beside the same baseline, whose seeds all scatter: none of them differs in truth."""
    generator = np.random.default_rng(4)
    wrong = 0
    for _ in range(WORLDS):
        own = generator.normal(0, 0.05, (9, seeds, 1)) if seeds > 1 else np.zeros((9, 1, 1))
        values = own + generator.normal(0, 0.4, (9, seeds, 100))
        sides = told([claim(values[variant] - values[0]) for variant in range(1, 9)])
        wrong += any(side is not Told.NOT for side in sides)
    assert wrong / WORLDS <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / WORLDS)


def test_a_clear_effect_is_told() -> None:
    """Eight gains of ten points with seeds that scatter by two: told in nearly every world, or nothing ever is."""
    generator = np.random.default_rng(5)
    hits = []
    for _ in range(40):
        values = 0.1 + generator.normal(0, 0.02, (8, 5, 1)) + generator.normal(0, 0.2, (8, 5, 200))
        hits += [side is Told.ABOVE for side in told([claim(one) for one in values])]
    assert np.mean(hits) > 0.95


def test_a_medians_interval_covers_it_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0).exponential(size=(2000, 25))
    found = [median_interval(row) for row in draw]
    assert 0.95 <= covered(found, math.log(2)) <= 0.985


def test_medians_of_a_recipe() -> None:
    generator = np.random.default_rng(6)
    found = [claim_median(generator.normal(0, 0.05, (5, 1)) + generator.normal(0, 0.5, (5, 60))) for _ in range(100)]
    assert covered(found, 0.0) >= at_least(0.93, 100)
