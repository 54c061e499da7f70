"""Intervals over samples against SciPy, published tables, and arithmetic by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from deqrun.inference import (
    DIFFERENCE,
    SHARE,
    Unit,
    from_interval,
    mean_interval,
    median_interval,
    one_error_below,
    p_value,
    share_interval,
    wilson,
)

VALUES = np.random.default_rng(0).normal(0.3, 1.0, size=40)


def answers(right: int, n: int) -> np.ndarray:
    return np.arange(n) < right


# --- means


@pytest.mark.parametrize("n", [2, 3, 10, 40])
def test_a_means_interval_is_students(n: int) -> None:
    found = mean_interval(VALUES[:n])
    expected = stats.t.interval(0.95, n - 1, VALUES[:n].mean(), stats.sem(VALUES[:n]))
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-10)
    assert (found.mean, found.n, found.unit) == (pytest.approx(VALUES[:n].mean()), n, Unit.SAMPLES)


@pytest.mark.parametrize("versus", [0.0, 0.25, -0.5, 1.0])
def test_a_means_p_is_that_of_the_t_test(versus: float) -> None:
    found = mean_interval(VALUES, versus=versus)
    assert found.p == pytest.approx(stats.ttest_1samp(VALUES, versus).pvalue, rel=1e-6)
    assert found.versus == versus


def test_pseudo_values_of_paired_shares() -> None:
    """Of 40 pairs 12 are better and 3 worse. With one more of each (Bonett & Price 2012) the mean is 9/42, and the sum
    of squares about it 17 − 81/42; Student's quantile of 41 degrees of freedom is 2.01954."""
    found = mean_interval([1] * 12 + [-1] * 3 + [0] * 25, DIFFERENCE)
    half = 2.01954 * math.sqrt((17 - 81 / 42) / 41 / 42)
    assert found.mean == 9 / 40
    assert (found.low, found.high) == pytest.approx((9 / 42 - half, 9 / 42 + half), abs=1e-5)
    assert (found.low, found.high) == pytest.approx((0.0253, 0.4032), abs=1e-4)
    t = (9 / 42) / math.sqrt((17 - 81 / 42) / 41 / 42)
    assert found.p == pytest.approx(2 * stats.t.sf(t, 41), rel=1e-6)


def test_equal_answers_leave_room_for_the_rare_other_one() -> None:
    """Of 100 pairs none differs: pseudo-values 1 and −1 alone give ±1.98373 · √(2 / 101 / 102)."""
    found = mean_interval(np.zeros(100), DIFFERENCE)
    half = 1.98373 * math.sqrt(2 / 101 / 102)
    assert (found.mean, found.low, found.high) == (0, pytest.approx(-half, abs=1e-5), pytest.approx(half, abs=1e-5))
    assert found.p == 1
    known = mean_interval(np.full(100, 3.0))
    assert (known.low, known.high) == (3.0, 3.0)
    assert known.p < 1e-13


def test_an_interval_keeps_within_its_bounds_and_about_its_mean() -> None:
    assert mean_interval([1, 1, 1], DIFFERENCE).high == 1
    assert mean_interval([-1, -1, -1], DIFFERENCE).low == -1
    for values in ([1, 1, 1], [0, 0, 1], [-1, 0, 0, 0]):
        found = mean_interval(values, DIFFERENCE)
        assert -1 <= found.low <= found.mean <= found.high <= 1


def test_too_few_values_for_a_mean() -> None:
    one = mean_interval([5.0])
    assert (one.mean, one.low, one.high, one.p) == (5.0, -math.inf, math.inf, 1.0)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_order_and_sign_of_the_samples() -> None:
    found, mixed = mean_interval(VALUES, (-9, 9)), mean_interval(VALUES[::-1], (-9, 9))
    flipped = mean_interval(-VALUES, (-9, 9))
    assert (mixed.mean, mixed.low, mixed.high, mixed.p) == pytest.approx((found.mean, found.low, found.high, found.p))
    expected = -found.mean, -found.high, -found.low, found.p
    assert (flipped.mean, flipped.low, flipped.high, flipped.p) == pytest.approx(expected)


# --- shares


@pytest.mark.parametrize(("right", "n"), [(0, 20), (1, 29), (15, 148), (81, 263), (97, 100), (40, 40), (1, 1)])
def test_a_shares_interval_is_wilsons(right: int, n: int) -> None:
    found = share_interval(answers(right, n))
    theirs = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert (found.mean, found.n) == (right / n, n)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_a_shares_interval_is_the_published_one(right: int, n: int, low: float, high: float) -> None:
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3."""
    assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("level", [0.2, 0.01, 0.05 / 8])
def test_wilsons_interval_at_other_levels(level: float) -> None:
    theirs = stats.binomtest(12, 40).proportion_ci(1 - level, method="wilson")
    assert wilson(12 / 40, 40, level) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize(("right", "versus"), [(97, 0.9), (80, 0.9), (100, 0.95), (0, 0.5), (52, 0.5)])
def test_a_shares_p_is_that_of_the_score_test(right: int, versus: float) -> None:
    z = (right / 100 - versus) / math.sqrt(versus * (1 - versus) / 100)
    expected = max(2 * stats.norm.sf(abs(z)), 1e-14)
    assert share_interval(answers(right, 100), versus).p == pytest.approx(expected, rel=1e-6)


def test_a_share_at_its_reference_and_one_without() -> None:
    assert share_interval(answers(9, 10), 0.9).p == 1
    assert math.isnan(share_interval(answers(9, 10)).p)
    for empty in (lambda: share_interval([]), lambda: wilson(0.5, 0)):
        with pytest.raises(ValueError, match="at least one"):
            empty()


def test_bounds_of_a_share_are_those_of_its_answers() -> None:
    assert SHARE == (0, 1)
    assert DIFFERENCE == (-1, 1)


# --- the p-value by inverting any interval


def test_p_is_the_level_at_which_the_interval_touches() -> None:
    """An interval 2 ± (1 − level) leaves 1.25 out from level 0.25 on, and 0.5 at no level; 3.5 just the same."""

    def ends(level: float) -> tuple[float, float]:
        return 2 - (1 - level), 2 + (1 - level)

    assert p_value(2.0, ends, 1.25) == pytest.approx(0.25, abs=1e-9)
    assert p_value(2.0, ends, 2.75) == pytest.approx(0.25, abs=1e-9)
    assert p_value(2.0, ends, 2.0) == 1
    assert p_value(2.0, ends, 0.5) == pytest.approx(1e-14)
    assert p_value(math.nan, ends, 0.5) == p_value(math.inf, ends, 0.5) == 1


# --- medians


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (8, 1), (9, 2), (10, 2), (25, 8), (100, 40)])
def test_a_medians_interval_has_the_ranks_of_the_binomial(n: int, rank: int) -> None:
    """Published ranks (e.g. Conover 1999, table A3): P(Binomial(n, 1/2) < rank) <= 2.5 % < P(Binomial <= rank)."""
    assert stats.binom.cdf(rank - 1, n, 0.5) <= 0.025 < stats.binom.cdf(rank, n, 0.5)
    found = median_interval(np.random.default_rng(n).permutation(n) + 1.0)
    assert (found.mean, found.low, found.high, found.n) == ((n + 1) / 2, rank, n + 1 - rank, n)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_than_six_values_tell_no_interval(n: int) -> None:
    found = median_interval(np.arange(n))
    assert (found.mean, found.low, found.high) == ((n - 1) / 2, -math.inf, math.inf)


def test_medians_of_values_that_never_come() -> None:
    two = median_interval([1.0, math.inf, math.inf])
    assert (two.mean, two.low, two.high) == (math.inf, -math.inf, math.inf)
    eight = median_interval([3.0] * 7 + [math.inf])
    assert (eight.mean, eight.low, eight.high) == (3.0, 3.0, math.inf)
    all_of_them = median_interval([math.inf] * 8)
    assert (all_of_them.mean, all_of_them.low, all_of_them.high) == (math.inf, math.inf, math.inf)
    for wrong in ([], [math.nan]):
        with pytest.raises(ValueError, match="at least one value, and none that is NaN"):
            median_interval(wrong)


@pytest.mark.parametrize("versus", [0.0, 0.2, 1.0])
def test_a_medians_p_is_that_of_the_sign_test(versus: float) -> None:
    found = median_interval(VALUES, Unit.ROUNDS, versus)
    expected = stats.binomtest(int((versus < VALUES).sum()), len(VALUES)).pvalue
    assert found.p == pytest.approx(expected)
    assert (found.unit, found.versus) == (Unit.ROUNDS, versus)
    assert (found.p < 0.05) == (not found.low <= versus <= found.high)


def test_values_at_the_reference_speak_for_neither_side() -> None:
    assert median_interval([1.0] * 20, versus=1.0).p == 1
    assert median_interval([1.0] * 20, versus=0.0).p == pytest.approx(2 * 0.5**20)
    assert math.isnan(median_interval([1.0] * 20).p)


def test_p_of_a_recorded_interval_is_that_of_a_normal_error() -> None:
    """A mean of 2 errors has p = 2 Φ(−2) = 0.0455, and one whose interval ends at 0 has p = 0.05."""
    error = 0.3
    at_two = from_interval(2 * error, 2 * error - 1.959964 * error, 9.0, 10)
    assert at_two.p == pytest.approx(0.0455, abs=1e-4)
    assert from_interval(-1.0, -5.0, 0.0, 10).p == pytest.approx(0.05)
    assert from_interval(0.0, -1.0, 1.0, 10).p == 1.0
    assert math.isnan(from_interval(1.0, math.nan, math.nan, 10).p)


def test_one_standard_error_below_the_best() -> None:
    """√(0.9 · 0.1 / 100) = 0.03."""
    assert one_error_below(0.9, 100) == pytest.approx(0.87)
    assert one_error_below(1.0, 100) == 1.0
