"""Claims of these models and of the recipe: both sources of chance by hand, clusters, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from deqrun.inference import (
    DIFFERENCE,
    SHARE,
    Estimate,
    Told,
    Unit,
    claim,
    claim_median,
    claim_statistic,
    mean_interval,
    median_interval,
    of_seeds,
    of_the_recipe,
    of_these_models,
    resampled,
    share_interval,
    told,
)
from deqrun.inference.units import RARE_SEED

GENERATOR = np.random.default_rng(0)
VALUES = GENERATOR.normal(0.4, 1, size=(5, 60)) + GENERATOR.normal(0, 0.2, size=(5, 1))
RIGHT = GENERATOR.random((5, 80)) < 0.9


def numbers_of(one: Estimate) -> tuple[float, ...]:
    return one.mean, one.low, one.high, one.p


def half_width(values: np.ndarray, level: float = 0.05) -> float:
    """Student's, of values (n,)."""
    return float(stats.t.ppf(1 - level / 2, len(values) - 1) * stats.sem(values))


# --- which claim it is


@pytest.mark.parametrize(
    ("seeds", "unit", "decides"),
    [(1, Unit.SAMPLES, True), (2, Unit.SAMPLES, True), (3, Unit.SEEDS, False), (5, Unit.SEEDS, True)],
)
def test_of_what_a_claim_is(seeds: int, unit: Unit, decides: bool) -> None:
    for found in (
        claim(VALUES[:seeds]),
        claim_statistic(lambda drawn: drawn.mean(axis=1), VALUES[:seeds]),
        claim_median(VALUES[:seeds]),
    ):
        assert (found.unit, found.seeds, found.n, found.decides) == (unit, seeds, 60, decides)


def test_one_model_is_its_samples() -> None:
    assert numbers_of(claim(VALUES[0])) == pytest.approx(numbers_of(mean_interval(VALUES[0])))
    difference = RIGHT[0].astype(float) - RIGHT[1]
    assert numbers_of(claim(difference, DIFFERENCE)) == pytest.approx(numbers_of(mean_interval(difference, DIFFERENCE)))
    assert claim(RIGHT[0], SHARE, versus=0.8) == share_interval(RIGHT[0], 0.8)


def test_models_that_share_samples_are_not_taken_for_more_samples() -> None:
    one, two = of_these_models(VALUES[0]), of_these_models(np.stack([VALUES[0], VALUES[0]]))
    assert numbers_of(two) == pytest.approx(numbers_of(one))
    assert (two.seeds, two.n) == (2, 60)
    copies = of_these_models(np.stack([RIGHT[0]] * 2), SHARE, versus=0.8)
    assert numbers_of(copies) == pytest.approx(numbers_of(share_interval(RIGHT[0], 0.8)))


def test_these_models_are_the_mean_over_them() -> None:
    found = of_these_models(VALUES)
    expected = mean_interval(VALUES.mean(axis=0))
    assert numbers_of(found) == pytest.approx(numbers_of(expected))


# --- the recipe


def test_both_sources_of_chance_are_added_in_squares() -> None:
    found = of_the_recipe(VALUES)
    half = math.hypot(half_width(VALUES.mean(axis=1)), half_width(VALUES.mean(axis=0)))
    assert found.mean == pytest.approx(VALUES.mean())
    assert (found.low, found.high) == pytest.approx((VALUES.mean() - half, VALUES.mean() + half))


def test_its_p_is_the_level_of_the_interval_that_touches() -> None:
    def short(exponent: float) -> float:
        level = 10**exponent
        return math.hypot(half_width(VALUES.mean(axis=1), level), half_width(VALUES.mean(axis=0), level)) - (
            VALUES.mean() - 0.1
        )

    expected = 10 ** optimize.brentq(short, -12, -1e-9)
    assert of_the_recipe(VALUES, versus=0.1).p == pytest.approx(expected, rel=1e-6)


def test_three_seeds_by_hand() -> None:
    """Each seed's samples are alike, so that only the seeds' means 50, 60 and 70 % scatter: 60 ± 4.30265 · 10 / √3."""
    found = of_the_recipe(np.repeat([[0.5], [0.6], [0.7]], 40, axis=1))
    half = 4.302652730 * 0.1 / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.6 - half, 0.6 + half))


def test_seeds_that_agree_leave_the_samples() -> None:
    found = of_the_recipe(np.stack([VALUES[0]] * 5))
    alone = of_these_models(VALUES[0])
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    assert found.unit is Unit.SEEDS


def seeds_of_a_share(own: np.ndarray) -> float:
    """Student's half-width, a pseudo-seed of weight RARE_SEED at 0 and one at 1 among the squares about the mean."""
    count, mean = len(own), own.mean()
    squares = ((own - mean) ** 2).sum() + RARE_SEED * (mean**2 + (1 - mean) ** 2)
    return float(stats.t.ppf(0.975, count - 1) * math.sqrt(squares / (count - 1) / count))


def test_seeds_that_are_all_right_leave_room_for_one_that_is_not() -> None:
    """Of 100 right answers Wilson's interval begins at 1 / (1 + z²/100) = 0.9630; that of five such seeds below it."""
    found = of_the_recipe(np.ones((5, 100)), SHARE)
    wilson = 1 - 1 / (1 + stats.norm.ppf(0.975) ** 2 / 100)
    seeds = stats.t.ppf(0.975, 4) * math.sqrt(RARE_SEED / 4 / 5)
    assert (found.mean, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - math.hypot(wilson, seeds))
    assert found.low < 1 - wilson


def test_shares_of_seeds_have_wilsons_part_on_either_side() -> None:
    found, mean = of_the_recipe(RIGHT, SHARE), RIGHT.mean()
    z, n = stats.norm.ppf(0.975), 80
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n**2))
    seeds = seeds_of_a_share(RIGHT.mean(axis=1))
    assert found.low == pytest.approx(mean - math.hypot(seeds, mean - centre + half))
    assert found.high == pytest.approx(min(1.0, mean + math.hypot(seeds, centre + half - mean)))


def test_a_lost_seed_is_lost_to_the_interval_too() -> None:
    """Four seeds that are right and one that is lost: the claim must not say that the recipe is right."""
    right = np.ones((5, 100))
    right[4] = 0
    found = of_the_recipe(right, SHARE, versus=0.5)
    assert found.mean == pytest.approx(0.8)
    assert found.low < 0.5
    assert told([found]) == [Told.NOT]


@pytest.mark.parametrize("own", [[1.0, math.inf, 2.0], [1.0, math.nan, 2.0]])
def test_a_seed_without_a_number_leaves_everything_open(own: list[float]) -> None:
    found = of_seeds(own, lambda level: (0.0, 2.0), 10)
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1.0)
    assert not math.isfinite(found.mean)


def test_what_a_claim_needs() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds, got 1"):
        of_the_recipe(VALUES[:1])
    with pytest.raises(ValueError, match="needs values"):
        claim(np.zeros((3, 0)))
    for weights in (np.zeros((5, 60)), np.ones((5, 59))):
        with pytest.raises(ValueError, match="weight above 0"):
            claim(VALUES, weights_SN=weights)


@pytest.mark.parametrize("seeds", [2, 5])
def test_each_seed_keeps_its_own_value(seeds: int) -> None:
    values, weights = VALUES[:seeds], np.arange(60) % 3 + np.ones((seeds, 1))
    means = pytest.approx(tuple(values.mean(axis=1)))
    assert claim(values).own == means
    assert claim_statistic(lambda drawn: drawn.mean(axis=1), values).own == means
    assert claim(values * weights, None, weights).own == pytest.approx(
        tuple(np.average(values, axis=1, weights=weights))
    )
    assert claim_median(values).own == pytest.approx(tuple(np.median(values, axis=1)))
    lost = values.copy()
    lost[1] = math.inf
    assert claim_median(lost).own == pytest.approx((np.median(values[0]), math.inf, *np.median(values[2:], axis=1)))


# --- clusters


@pytest.mark.parametrize("seeds", [1, 2, 5])
@pytest.mark.parametrize("bounds", [None, (-5.0, 5.0)])
def test_weights_of_one_are_no_weights(seeds: int, bounds: tuple[float, float] | None) -> None:
    values = VALUES[:seeds]
    weighted = claim(values, bounds, np.ones_like(values))
    assert numbers_of(weighted) == pytest.approx(numbers_of(claim(values, bounds)))


@pytest.mark.parametrize("make", [of_these_models, of_the_recipe])
def test_a_sample_that_enters_several_times_is_one_cluster(make: object) -> None:
    """All entries three times over: the same estimate and interval. As samples of their own they would narrow it."""
    assert callable(make)
    once = make(VALUES)
    clusters = make(3 * VALUES, None, np.full(VALUES.shape, 3.0))
    apart = make(np.repeat(VALUES, 3, axis=1))
    assert numbers_of(clusters) == pytest.approx(numbers_of(once))
    assert clusters.n == 60
    assert apart.mean == pytest.approx(once.mean)
    assert apart.high - apart.low < once.high - once.low
    if make is of_these_models:
        ratio = stats.t.ppf(0.975, 179) / stats.t.ppf(0.975, 59) * math.sqrt(59 / 179)
        assert (apart.high - apart.low) / (once.high - once.low) == pytest.approx(ratio)


def test_the_ratios_interval_by_hand() -> None:
    """R = Σv/Σw, and Student's interval of the linearised n (v − R w) / Σw: Cochran 1977, section 6.3."""
    counts = np.arange(60) % 4 + 1.0
    sums = VALUES[0] * counts
    found = of_these_models(sums, None, counts)
    repeated = np.repeat(VALUES[0], counts.astype(int))
    ratio = repeated.mean()
    half = half_width(60 * (sums - ratio * counts) / counts.sum())
    assert numbers_of(found)[:3] == pytest.approx((ratio, ratio - half, ratio + half))


def test_samples_without_weight_take_no_part() -> None:
    weights = np.where(np.arange(60) < 30, 2.0, 0.0) * np.ones((5, 1))
    found = claim(VALUES * weights, None, weights)
    assert numbers_of(found) == pytest.approx(numbers_of(claim(VALUES[:, :30])))
    assert found.n == 30


# --- statistics without a formula


def test_constant_data_has_no_width() -> None:
    for found in (
        claim_statistic(lambda drawn: drawn.mean(axis=1), np.full((5, 20), 3.0), versus=2.0),
        claim_median(np.full((5, 20), 3.0), versus=2.0),
    ):
        assert (found.mean, found.low, found.high) == (3, 3, 3)
        assert told([found]) == [Told.ABOVE]
    assert claim_median(np.full((5, 20), 3.0), versus=3.0).p == 1


def test_the_bootstrap_of_a_mean_is_near_its_formula() -> None:
    """Its half-width is 1.96 sd/√n up to the noise of 400 resamples, about a tenth."""
    values = np.random.default_rng(3).normal(0, 2, size=400)
    found = claim_statistic(lambda drawn: drawn.mean(axis=1), values)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.mean - found.low, found.high - found.mean) == pytest.approx((half, half), rel=0.2)


def test_of_seeds_the_statistic_has_both_sources() -> None:
    values = VALUES + np.arange(5)[:, None]
    found = claim_statistic(lambda drawn: drawn.mean(axis=1), values)
    half = math.hypot(half_width(values.mean(axis=1)), 1.96 * values.mean(axis=0).std() / math.sqrt(60))
    assert found.high - found.mean == pytest.approx(half, rel=0.05)


def test_resampled_quantiles_are_scaled_as_normal_ones() -> None:
    """Of means −500, −499, …, 500 the 95 % interval is ±475; at the level 0.05/8 it is 2.7344 / 1.95996 as wide."""
    ends = resampled(0.0, np.arange(-500.0, 501.0))
    assert ends(0.05) == pytest.approx((-475, 475), abs=1)
    low, high = ends(0.05)
    factor = stats.norm.ppf(1 - 0.05 / 16) / stats.norm.ppf(0.975)
    assert ends(0.05 / 8) == pytest.approx((factor * low, factor * high))
    assert resampled(0.0, np.array([0.0] * 97 + [math.inf] * 3))(0.05) == (-math.inf, math.inf)


def test_medians_of_one_model_and_of_several() -> None:
    one = claim_median(VALUES[0], 0.1)
    assert numbers_of(one) == numbers_of(median_interval(VALUES[0], versus=0.1))
    rounds = claim_median(VALUES[0], 1.0, Unit.ROUNDS)
    assert rounds.unit is Unit.ROUNDS
    for seeds in (2, 5):
        assert claim_median(VALUES[:seeds]).mean == pytest.approx(np.median(VALUES[:seeds], axis=1).mean())


def test_a_seed_whose_median_never_comes() -> None:
    values = np.ones((5, 20))
    values[2, :15] = math.inf
    found = claim_median(values, versus=1.0)
    assert (found.mean, found.low, found.high, found.p) == (math.inf, -math.inf, math.inf, 1.0)


# --- seeds of which only their estimates are kept


# --- what must not matter


@pytest.mark.parametrize("bounds", [None, (-6.0, 6.0)])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_order_of_samples_and_seeds_and_sign(bounds: tuple[float, float] | None, seeds: int) -> None:
    values = VALUES[:seeds]
    found = claim(values, bounds)
    order = np.random.default_rng(1).permutation(60)
    assert numbers_of(claim(values[::-1][:, order], bounds)) == pytest.approx(numbers_of(found))
    assert numbers_of(claim(-values, bounds)) == pytest.approx((-found.mean, -found.high, -found.low, found.p))


def test_a_share_and_its_complement() -> None:
    for right in (RIGHT, RIGHT[:1]):
        found, other = claim(right, SHARE, versus=0.8), claim(~right, SHARE, versus=0.2)
        assert numbers_of(other) == pytest.approx((1 - found.mean, 1 - found.high, 1 - found.low, found.p))


def test_a_shift_of_values_and_reference() -> None:
    found, moved = claim(VALUES, versus=0.1), claim(VALUES + 7, versus=7.1)
    assert numbers_of(moved) == pytest.approx((found.mean + 7, found.low + 7, found.high + 7, found.p), rel=1e-6)
