"""Fates of maps whose ends are known, and events of trajectories that can be read off."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.analysis.fates import Fate, fates, first_converged, first_correct, overthinking
from deqrun.solvers import Budget, Picard, solve
from tests.problems import RowMap, rotation

LAST = Budget(60, 1e-6, keep="last")


def turned(angles: list[float], scales: list[float]) -> RowMap:
    """f(z) = s R(φ) z, a turn about the origin and a scale per row."""
    pairs = zip(angles, scales, strict=True)
    matrices = torch.stack([scale * torch.as_tensor(rotation(angle)) for angle, scale in pairs])
    return RowMap(lambda z, matrix: torch.einsum("bij,bj->bi", matrix, z), (matrices,))


def ones(batch: int) -> Tensor:
    return torch.ones(batch, 2, dtype=torch.float64)


def test_turns_by_a_fraction_of_the_circle_have_its_period_and_others_drift() -> None:
    """A third, a fifth, a half; one radian never closes; a growing one diverges once the scale is 1e8 of the start."""
    f = turned([2 * math.pi / 3, 2 * math.pi / 5, math.pi, 1.0, 1.0], [1, 1, 1, 1, 1.5])
    found = fates(f, solve(f, ones(5), solver=Picard(), budget=LAST))
    assert found.fate.tolist() == [Fate.CYCLE, Fate.CYCLE, Fate.CYCLE, Fate.DRIFT, Fate.DIVERGENCE]
    assert found.period.tolist() == [3, 5, 2, 0, 0]
    assert found.distance[4] == math.inf
    assert found.share(Fate.CYCLE) == 3 / 5
    assert found.nfe.tolist()[:3] == [6, 10, 4]  # two laps


def test_rest_is_a_fixed_point_whether_or_not_the_solver_said_so() -> None:
    """Absolute residual of 0.5^k is 0.5^(k+1): below 1e-6 at k = 19, and 1e-4 beyond where a budget of 15 stops it."""
    f = turned([0.0, 0.0], [0.5, 0.5])
    shifted = RowMap(lambda z, one: f.take(torch.arange(len(z)))(z - 1) + one, (ones(2),))
    for max_iter, converged in ((60, True), (15, False)):
        solution = solve(shifted, torch.zeros(2, 2, dtype=torch.float64), budget=Budget(max_iter, 1e-6, keep="last"))
        assert bool(solution.converged.all()) is converged
        found = fates(shifted, solution)
        assert found.fate.tolist() == [Fate.FIXED_POINT, Fate.FIXED_POINT]
        assert found.period.tolist() == [1, 1]
        assert (found.nfe == 0).all().item() is converged


def test_without_take_the_map_sees_the_whole_batch() -> None:
    f = turned([2 * math.pi / 3, 1.0, 0.3], [1, 1, 0.2])
    solution = solve(lambda z: f(z), ones(3), budget=Budget(40, 1e-6, norm="absolute", keep="last"))
    found = fates(lambda z: f(z), solution)
    assert found.fate.tolist() == [Fate.CYCLE, Fate.DRIFT, Fate.FIXED_POINT]


def test_an_undecided_sample_must_be_where_it_has_got_to() -> None:
    """The absolute residual grows by 1.2 a step, so that the best is the start."""
    f = turned([1.0], [1.2])
    with pytest.raises(ValueError, match='solve with Budget\\(keep="last"\\)'):
        fates(f, solve(f, ones(1), budget=Budget(3, 0.0, norm="absolute")))


def test_every_fate_has_its_sentence() -> None:
    assert len({fate.sentence for fate in Fate}) == len(Fate)


def test_first_events_and_never() -> None:
    correct = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]], dtype=bool)
    assert first_correct(correct).tolist() == [1, 0, 3, 2]
    residual = np.array([[0.9, 0.5, np.inf], [0.1, np.nan, np.inf], [0.05, np.nan, np.inf]])
    assert first_converged(residual, 0.1).tolist() == [1, 3, 3]
    assert first_converged(residual, 0.5).tolist() == [1, 0, 3]
    assert [(first_correct(correct) <= k).mean() for k in range(3)] == [0.25, 0.5, 0.75]


def test_overthinking_gap() -> None:
    """Accuracy 1/4, 3/4, 1/2: two were right and are not; one of them at the best iterate."""
    correct = np.array([[0, 1, 0, 0], [1, 0, 1, 1], [1, 0, 0, 1]], dtype=bool)
    found = overthinking(correct)
    assert (found.best, found.gap) == (1, 0.25)
    assert found.accuracy.tolist() == [0.25, 0.75, 0.5]
    assert found.change.tolist() == [0, 0, 1, 0]
    assert found.lost.tolist() == [False, True, True, False]
    assert overthinking(correct, best=0).gap == -0.25
    assert overthinking(correct, best=2).gap == 0


def test_the_gap_of_its_own_maximum_is_biased_upwards_and_of_a_given_iterate_is_not() -> None:
    """Answers right by a coin at every iterate: the true gap is 0."""
    coins = np.random.default_rng(0).random((300, 20, 50)) < 0.5
    own = np.mean([overthinking(correct).gap for correct in coins])
    given = np.mean([overthinking(correct, best=5).gap for correct in coins])
    assert own > 0.08
    assert abs(given) < 4 * math.sqrt(0.5 / 50 / 300)


def test_senseless_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="best must be an iterate, 0 to 2, got 3"):
        overthinking(np.ones((3, 2), dtype=bool), best=3)
    with pytest.raises(ValueError, match="at least one of each"):
        overthinking(np.ones((3, 0), dtype=bool))
