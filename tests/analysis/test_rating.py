"""Accuracy by rating: buckets by hand, Wilson's published interval, and arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deqrun.analysis.rating import accuracy_by_rating, rating_edges


def test_buckets_by_hand() -> None:
    ratings = [0, 0, 1, 5, 9, 10, 11, math.nan]
    right = [1, 0, 1, 1, 0, 1, 1, 0]
    rows = accuracy_by_rating(right, ratings, [0, 1, 10])
    assert [(row.low, row.high, row.n, row.accuracy) for row in rows[:2]] == [(0, 1, 2, 0.5), (1, 10, 4, 0.75)]
    assert math.isnan(rows[2].low)
    assert (rows[2].n, rows[2].accuracy) == (1, 0.0)
    assert len(rows) == 3


def test_the_interval_is_wilson_s() -> None:
    """Newcombe 1998, table I, method 3: 15 of 148 have [0.0624, 0.1605]."""
    [row] = accuracy_by_rating([1] * 15 + [0] * 133, np.zeros(148), [0, 0])
    assert row.accuracy_low == pytest.approx(0.0624, abs=5e-5)
    assert row.accuracy_high == pytest.approx(0.1605, abs=5e-5)


def test_every_rated_sample_is_in_one_bucket_of_quantiles() -> None:
    draws = np.random.default_rng(0)
    for ratings in (
        draws.normal(size=501),
        draws.integers(0, 3, 200).astype(float),
        np.zeros(7),
        draws.geometric(0.2, 300),
    ):
        right = draws.random(len(ratings)) < 0.6
        rows = accuracy_by_rating(right, ratings)
        assert sum(row.n for row in rows) == len(ratings)
        assert sum(row.n * row.accuracy for row in rows) == pytest.approx(right.sum())
    assert [row.n for row in accuracy_by_rating(np.ones(500), np.arange(500))] == pytest.approx([100] * 5, abs=1)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="both must be"):
        accuracy_by_rating([1, 0], [1.0])
    with pytest.raises(ValueError, match="do not ascend"):
        accuracy_by_rating([1, 0], [1.0, 2.0], [3, 1])
    with pytest.raises(ValueError, match="buckets=0"):
        rating_edges([1.0], 0)
    assert accuracy_by_rating([], []) == []
