"""Intervals against the exact distribution and against published values."""

import math

import numpy as np
import pytest
from deqrun.report.bootstrap import (
    MeanInterval,
    accuracy_interval,
    mean_interval,
    median_interval,
    student_interval,
    student_quantile,
)
from scipy import stats


@pytest.mark.parametrize(("right", "n"), [(18, 25), (97, 100), (12, 40)])
def test_bootstrap_of_a_share_is_binomial(right: int, n: int) -> None:
    """Resampling n right/wrong answers draws from Binomial(n, right/n): its quantiles are the interval."""
    interval = mean_interval([1] * right + [0] * (n - right), resamples=40_000)
    exact = stats.binom.ppf([0.025, 0.975], n, right / n) / n
    assert interval.mean == pytest.approx(right / n)
    assert [interval.low, interval.high] == pytest.approx(exact, abs=1 / n)


def test_bootstrap_agrees_with_scipy_on_counts() -> None:
    values = np.random.default_rng(3).integers(1, 30, size=200)
    ours = mean_interval(values)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(4)).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.1)
    assert ours.high == pytest.approx(theirs.high, abs=0.1)


def test_values_that_are_all_alike_leave_no_doubt() -> None:
    interval = mean_interval([3, 3, 3])
    assert (interval.mean, interval.low, interval.high, interval.n) == (3, 3, 3, 3)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_accuracy_interval_is_wilsons(right: int, n: int, low: float, high: float) -> None:
    """Newcombe (1998), Statistics in Medicine 17, table I, method 3."""
    interval = accuracy_interval([True] * right + [False] * (n - right))
    assert [interval.low, interval.high] == pytest.approx([low, high], abs=5e-5)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30])
def test_students_quantile_is_that_of_scipy(freedom: int) -> None:
    assert student_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-10)


def test_students_interval_of_three_seeds() -> None:
    found = student_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.high - found.mean) == (2.0, pytest.approx(4.302652730 / 3**0.5))
    assert student_interval([5.0]) == MeanInterval(5.0, -math.inf, math.inf, 1)


def test_a_medians_interval_has_the_ranks_of_the_binomial() -> None:
    """Of ten values P(Binomial(10, 1/2) <= 1) = 11/1024 <= 2.5 % < 56/1024: the second and the ninth."""
    assert median_interval(range(10, 0, -1)) == MeanInterval(5.5, 2.0, 9.0, 10)
    assert median_interval([1.0, math.inf, math.inf]) == MeanInterval(math.inf, -math.inf, math.inf, 3)
    assert median_interval([3.0] * 7 + [math.inf]) == MeanInterval(3.0, 3.0, math.inf, 8)
    with pytest.raises(ValueError, match="NaN"):
        median_interval([math.nan])


def test_a_medians_interval_covers_it_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0).exponential(size=(2000, 25))
    found = [median_interval(row) for row in draw]
    covered = np.mean([one.low <= math.log(2) <= one.high for one in found])
    assert 0.95 <= covered <= 0.985


def test_runs_that_disagree_leave_open_what_the_next_would_do() -> None:
    """Of two runs, one always right and one never: by chance both drawn are the one or the other, half of the time."""
    pooled = np.repeat([1.0, 0.0], 200)
    for found in (mean_interval(pooled, runs=2), accuracy_interval(pooled, runs=2)):
        assert (found.mean, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 400)
    assert mean_interval(pooled).high < 0.56  # as 400 samples of one model it would be told within five points


def test_runs_that_agree_count_their_samples_once() -> None:
    """Three copies of a run say what the run does, not what three times the samples would."""
    once = np.arange(300) < 60
    copies = np.tile(once, 3)
    found, single = mean_interval(copies, runs=3), mean_interval(once.astype(float))
    assert found.low == pytest.approx(single.low, abs=0.005)
    assert found.high == pytest.approx(single.high, abs=0.005)
    assert mean_interval(copies.astype(float)).high < single.high - 0.01
    shares = accuracy_interval(np.ones(300), runs=3)
    assert (shares.low, shares.high) == (accuracy_interval(np.ones(100)).low, 1.0)


def test_runs_have_as_many_samples_each() -> None:
    with pytest.raises(ValueError, match="7 values can't be those of 2 runs"):
        mean_interval(np.zeros(7), runs=2)
