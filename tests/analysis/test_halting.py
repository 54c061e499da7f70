"""Halting rules on trajectories whose stops can be read off."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from deqrun.analysis.halting import (
    HaltingPoint,
    Recording,
    choose,
    choose_within,
    curve,
    evaluate,
    frontier,
    stops,
    thresholds,
)

NAN, INF = np.nan, np.inf


def recording() -> Recording:
    """Three samples, T = 3. The second converged at iterate 2; the third ran to the end of the budget, never right."""
    residual = [[0.9, 0.8, 0.7], [0.1, 0.2, 0.6], [0.05, 0.001, 0.5], [0.01, NAN, 0.4]]
    return Recording(
        residual=np.array(residual, dtype=np.float32),
        nfe=np.array([[1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 3, 4]]),
        correct=np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool),
        signals={
            "change": np.array([[INF, INF, INF], [0.5, 0.5, 0.5], [0.4, 0.1, 0.3], [0.2, NAN, 0.3]]),
            "stable": np.array([[0, 0, 0], [0, 0, 1], [1, 0, 2], [0, 0, 3]]),
        },
    )


@pytest.mark.parametrize(
    ("rule", "threshold", "iterate", "nfe", "fired"),
    [
        ("residual", 0.2, [1, 1, 3], [2, 2, 4], [1, 1, 0]),
        ("residual", 1.0, [0, 0, 0], [1, 1, 1], [1, 1, 1]),
        ("residual", 1e-4, [3, 2, 3], [4, 3, 4], [0, 0, 0]),
        ("change", 0.4, [2, 2, 2], [2, 2, 2], [1, 1, 1]),
        # the solve's own check ended sample 1, and had seen its residual; the budget ended sample 2 at z_3
        ("change", 0.05, [3, 2, 3], [3, 3, 3], [0, 0, 0]),
        ("stable", 1, [2, 2, 1], [2, 3, 1], [1, 0, 1]),
        ("stable", 3, [3, 2, 3], [3, 3, 3], [0, 0, 1]),
        ("budget", 0, [0, 0, 0], [0, 0, 0], [1, 1, 1]),
        ("budget", 2, [2, 2, 2], [2, 2, 2], [1, 1, 1]),
        ("budget", 3, [3, 2, 3], [3, 3, 3], [1, 0, 1]),
        ("oracle", NAN, [1, 2, 3], [1, 2, 3], [1, 1, 0]),
    ],
)
def test_stops_that_can_be_read_off(
    rule: str, threshold: float, iterate: list[int], nfe: list[int], fired: list[int]
) -> None:
    found = stops(recording(), rule, threshold)
    assert found.iterate.tolist() == iterate
    assert found.nfe.tolist() == nfe
    assert found.fired.tolist() == [bool(one) for one in fired]
    assert found.correct.tolist() == recording().correct[iterate, [0, 1, 2]].tolist()


def test_a_point_is_the_mean_and_the_quantile_over_the_samples() -> None:
    point = evaluate(recording(), "stable", 1)
    assert (point.n, point.accuracy, point.nfe_mean, point.fired) == (3, 2 / 3, 2.0, 2 / 3)
    assert point.nfe_p95 == pytest.approx(2.9)  # of 1, 2, 3, by linear interpolation
    assert point.accuracy == pytest.approx(2 / 3)


def test_evaluations_of_a_solver_that_spends_more_than_one_a_step() -> None:
    """3 evaluations a step and one for the residual: z_k costs 3k."""
    residual = np.array([[1.0], [0.5], [0.1]])
    nfe, correct = np.array([[1], [4], [7]]), np.ones((3, 1), dtype=bool)
    given = Recording(residual, nfe, correct, {"change": np.array([[INF], [0.4], [0.2]])})
    assert [int(stops(given, "change", tol).nfe[0]) for tol in (0.4, 0.2, 0.0)] == [3, 6, 6]
    assert [int(stops(given, "residual", tol).nfe[0]) for tol in (0.5, 0.1, 0.0)] == [4, 7, 7]


signals = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, math.inf]), min_size=4, max_size=4), min_size=1, max_size=7
)


@given(signals, st.sampled_from([0.0, 0.1, 0.3, 1.0, 5.0]))
def test_equal_to_going_through_the_iterates_one_by_one(values: list[list[float]], threshold: float) -> None:
    signal = np.array(values)
    nfe = np.broadcast_to(np.arange(1, len(signal) + 1)[:, None], signal.shape)
    given = Recording(np.ones_like(signal), nfe, signal > 0.7, {"kl": signal})
    for sample, (iterate, cost) in enumerate(zip(*_slowly(signal, threshold), strict=True)):
        found = stops(given, "kl", threshold)
        assert (found.iterate[sample], found.nfe[sample]) == (iterate, cost)


def _slowly(signal: NDArray[np.float64], threshold: float) -> tuple[list[int], list[int]]:
    iterates = []
    for column in signal.T:
        hits = [k for k, value in enumerate(column) if value <= threshold]
        iterates.append(hits[0] if hits else len(column) - 1)
    return iterates, iterates


@given(signals, st.sampled_from([0.0, 0.1, 0.3, 1.0, 5.0]), st.sampled_from(["confidence", "margin"]))
def test_certainties_stop_at_the_first_value_of_at_least_the_threshold(
    values: list[list[float]], threshold: float, rule: str
) -> None:
    """And their thresholds are values that were seen, ascending; a higher one never stops earlier."""
    signal = np.minimum(np.array(values), 9.0)
    nfe = np.broadcast_to(np.arange(1, len(signal) + 1)[:, None], signal.shape)
    given = Recording(np.ones_like(signal), nfe, signal > 0.7, {rule: signal})
    found = stops(given, rule, threshold)
    for sample, column in enumerate(signal.T):
        hits = [k for k, value in enumerate(column) if value >= threshold]
        assert found.iterate[sample] == (hits[0] if hits else len(column) - 1)
        assert found.fired[sample] == bool(hits)
    grid = thresholds(given, rule)
    assert all(np.isin(grid, signal))
    assert (np.diff(grid) > 0).all()
    ordered = [stops(given, rule, threshold) for threshold in grid]
    assert all(stop.fired.any() for stop in ordered)
    assert all((lower.iterate <= higher.iterate).all() for lower, higher in pairwise(ordered))


def test_a_certainty_that_is_not_known_stops_nobody() -> None:
    signal = np.array([[NAN, 0.2], [NAN, NAN], [0.9, 0.3]])
    given = Recording(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2), dtype=bool), {"confidence": signal})
    assert stops(given, "confidence", 0.25).iterate.tolist() == [2, 2]
    assert stops(given, "confidence", 0.95).fired.tolist() == [False, False]


@given(signals)
def test_a_stricter_threshold_never_stops_earlier_and_every_one_stops_somebody(values: list[list[float]]) -> None:
    signal = np.array(values)
    given = Recording(np.ones_like(signal), np.cumsum(np.ones_like(signal), axis=0), signal > 0.7, {"entropy": signal})
    grid = thresholds(given, "entropy")
    found = [stops(given, "entropy", threshold) for threshold in grid]
    assert all(np.isin(grid, signal))
    assert all(stop.fired.any() for stop in found)
    assert all((later.iterate <= earlier.iterate).all() for earlier, later in pairwise(found))


def test_thresholds_are_quantiles_of_what_validation_showed() -> None:
    """101 samples that each show one value, 0.00 … 1.00, at k = 1: eleven quantiles are every tenth."""
    signal = np.stack([np.full(101, INF), np.arange(101) / 100])
    given = Recording(np.ones((2, 101)), np.ones((2, 101)), np.ones((2, 101), dtype=bool), {"kl": signal})
    np.testing.assert_allclose(thresholds(given, "kl", 11), np.arange(11) / 10)
    assert thresholds(given, "budget").tolist() == [0, 1]
    assert len(thresholds(given, "oracle")) == 1


def test_thresholds_of_counts_are_whole_numbers() -> None:
    assert thresholds(recording(), "stable").tolist() == [1, 2, 3]
    assert thresholds(recording(), "budget").tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [1, 2, 40])
def test_counts_are_never_thinned(count: int) -> None:
    """65 budgets, and runs of 1 to 64 iterates, however few thresholds another rule may take."""
    k = np.broadcast_to(np.arange(65)[:, None], (65, 3))
    given = Recording(np.ones((65, 3)), k + 1, k > 4, {"stable": k})
    assert thresholds(given, "budget", count).tolist() == list(range(65))
    assert thresholds(given, "stable", count).tolist() == list(range(1, 65))


def test_nothing_is_worth_trying_where_nothing_moved() -> None:
    given = Recording(np.ones((1, 2)), np.ones((1, 2)), np.ones((1, 2), dtype=bool), {"kl": np.full((1, 2), INF)})
    assert len(thresholds(given, "kl")) == 0


def point(accuracy: float, nfe: float, n: int = 100) -> HaltingPoint:
    return HaltingPoint("kl", nfe, n, accuracy, nfe, nfe, 1.0)


def test_frontier() -> None:
    cheap, beaten, good, dear, equal = point(0.5, 1), point(0.4, 2), point(0.8, 3), point(0.8, 4), point(0.5, 1)
    assert frontier([dear, good, beaten, cheap, equal]) == [cheap, good]


def test_choice_is_the_cheapest_within_a_standard_error_of_the_best() -> None:
    """Best 0.8 of 100: one standard error is 0.04."""
    points = [point(0.755, 1), point(0.765, 5), point(0.77, 5), point(0.8, 9)]
    assert choose(points) == points[2]
    assert choose(points, target=0.7) == points[0]
    assert choose(points, target=0.9) is None
    assert [choose_within(points, nfe) for nfe in (0.5, 1, 8, 20)] == [None, points[0], points[2], points[3]]
    with pytest.raises(ValueError, match="no points to choose from"):
        choose([])


def test_the_oracle_bounds_every_rule_at_the_same_trajectory() -> None:
    """No rule that answers by an iterate is right where no iterate is."""
    rng = np.random.default_rng(0)
    shape = (9, 200)
    given = Recording(
        rng.random(shape),
        np.broadcast_to(np.arange(1, 10)[:, None], shape),
        rng.random(shape) < 0.2,
        {"kl": rng.random(shape), "stable": rng.integers(0, 4, shape)},
    )
    bound = evaluate(given, "oracle")
    assert bound.accuracy == pytest.approx(given.correct.any(axis=0).mean())
    for rule in ("residual", "kl", "stable", "budget"):
        assert all(one.accuracy <= bound.accuracy for one in curve(given, rule, thresholds(given, rule)))


def test_senseless_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no halting rule 'entropy' here; there are residual, change, stable, budget"):
        stops(recording(), "entropy", 0.1)
    with pytest.raises(ValueError, match=r"kl must have the residual's shape \(4, 3\)"):
        Recording(recording().residual, recording().nfe, recording().correct, {"kl": np.zeros((3, 3))})
    with pytest.raises(ValueError, match="count must be at least 1"):
        thresholds(recording(), "change", 0)
