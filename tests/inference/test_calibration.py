"""Reliability: bins by hand, and probabilities that come true."""

from __future__ import annotations

import numpy as np
import pytest

from deqrun.inference import expected_calibration_error, reliability, wilson


def test_bins_by_hand() -> None:
    """0.1 and 0.3 are borders and lie in the upper bin; 1 is in the last one."""
    told = [0.05, 0.1, 0.15, 0.3, 0.95, 1.0, 1.0]
    right = [False, True, False, True, True, True, False]
    bins = reliability(told, right)
    assert [(one.low, one.high, one.n) for one in bins] == [(0.0, 0.1, 1), (0.1, 0.2, 2), (0.3, 0.4, 1), (0.9, 1.0, 3)]
    assert [one.told for one in bins] == pytest.approx([0.05, 0.125, 0.3, 2.95 / 3])
    assert [one.right for one in bins] == pytest.approx([0, 0.5, 1, 2 / 3])
    for one in bins:
        assert (one.right_low, one.right_high) == wilson(one.right, one.n)
    error = (1 * 0.05 + 2 * 0.375 + 1 * 0.7 + 3 * (2.95 / 3 - 2 / 3)) / 7
    assert expected_calibration_error(bins) == pytest.approx(error)


def test_probabilities_that_come_true_have_little_error_and_others_their_shift() -> None:
    """Answers drawn by their probabilities: the error is that of a share of n / 10 draws; told 0.2 too high, 0.2."""
    draw = np.random.default_rng(0)
    p = draw.random(40_000)
    right = draw.random(40_000) < p
    bins = reliability(p, right)
    assert expected_calibration_error(bins) < 4 * np.sqrt(0.25 / 4_000)
    inside = sum(one.right_low <= one.told <= one.right_high for one in bins)
    assert inside >= 8
    low = p < 0.7
    assert expected_calibration_error(reliability(p[low] + 0.2, right[low])) == pytest.approx(0.2, abs=0.01)


def test_what_has_no_bins_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability([0.5, 1.1], [True, False])
    with pytest.raises(ValueError, match="as many probabilities as answers, got 2 and 1"):
        reliability([0.5, 0.6], [True])
    with pytest.raises(ValueError, match="no values"):
        reliability([], [])
