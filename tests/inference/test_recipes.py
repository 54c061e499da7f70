"""Claims of recipes: Spearman's ρ against SciPy, its p against all permutations."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from deqrun.inference import Told, Unit, of_recipes, rank_correlation, told


def recipes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=count)
    return x, x + generator.normal(size=count)


def by_all_permutations(x: np.ndarray, y: np.ndarray) -> float:
    """Two-sided p of |ρ|, each order of y ranked anew by SciPy."""
    seen = abs(stats.spearmanr(x, y).statistic)
    orders = [abs(stats.spearmanr(x, order).statistic) for order in permutations(y)]
    return float(np.mean(np.array(orders) >= seen - 1e-12))


@pytest.mark.parametrize("count", [2, 5, 12, 30])
def test_rank_correlation_is_spearmans(count: int) -> None:
    x, y = recipes(count)
    assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert rank_correlation(np.exp(x), y) == pytest.approx(rank_correlation(x, y))
    assert of_recipes(x, y, 7).mean == pytest.approx(rank_correlation(x, y))


def test_rank_correlation_by_hand() -> None:
    """Ranks (1, 2, 3, 4, 5) beside (2, 1, 4, 3, 5): ρ = 1 − 6 · 4 / (5 · 24). Of ties, (1, 2.5, 2.5) beside (1, 2, 3)
    is √3/2."""
    assert rank_correlation([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]) == pytest.approx(0.8)
    assert rank_correlation([1, 7, 7], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)


def test_what_has_no_rank_correlation() -> None:
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert math.isnan(rank_correlation([1, 2, 3], [1, 1, 1]))
    for x, y in (([1], [2]), ([1, math.nan], [1, 2])):
        with pytest.raises(ValueError, match="at least two pairs"):
            rank_correlation(x, y)


@pytest.mark.parametrize(("count", "seed"), [(5, 0), (5, 1), (6, 2), (6, 3)])
def test_p_is_the_share_of_all_permutations(count: int, seed: int) -> None:
    x, y = recipes(count, seed)
    assert of_recipes(x, y).p == pytest.approx(by_all_permutations(x, y))


def test_p_with_ties_is_the_share_of_all_permutations() -> None:
    x, y = np.array([1.0, 1.0, 2.0, 3.0, 4.0, 4.0]), np.array([0.1, 0.2, 0.2, 0.5, 0.4, 0.9])
    assert of_recipes(x, y).p == pytest.approx(by_all_permutations(x, y))


def test_p_of_a_perfect_order() -> None:
    """Of n! orders two are perfect, up and down; from eight recipes on it is 1 + as many of 4,999 drawn, of 5,000."""
    assert of_recipes(range(5), range(5)).p == pytest.approx(2 / math.factorial(5))
    assert of_recipes(range(7), range(7)).p == pytest.approx(2 / math.factorial(7))
    assert of_recipes(range(12), range(12)).p == pytest.approx(1 / 5000)


def test_drawn_permutations_agree_with_all_of_them() -> None:
    x, y = recipes(8, 4)
    ranks_x, ranks_y = (stats.rankdata(one) - 4.5 for one in (x, y))
    orders = np.array(list(permutations(range(8))))
    exact = float((np.abs(ranks_y[orders] @ ranks_x) >= abs(ranks_x @ ranks_y) - 1e-9).mean())
    assert of_recipes(x, y).p == pytest.approx(exact, abs=3 * math.sqrt(exact * (1 - exact) / 5000))


@pytest.mark.parametrize("count", [6, 12, 40])
def test_the_interval_is_bonetts_and_wrights(count: int) -> None:
    """Fisher's z ± t(R − 2) · √((1 + ρ²/2) / (R − 3)), widened to 0 where the permutations don't tell ρ from 0."""
    x, y = recipes(count, 5)
    found = of_recipes(x, y)
    rho = stats.spearmanr(x, y).statistic
    half = stats.t.ppf(0.975, count - 2) * math.sqrt((1 + rho**2 / 2) / (count - 3))
    low, high = np.tanh(np.arctanh(rho) - half), np.tanh(np.arctanh(rho) + half)
    if found.p > 0.05:
        low, high = min(low, 0), max(high, 0)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_recipes_are_the_unit() -> None:
    found = of_recipes(range(12), range(12), n=36)
    assert (found.unit, found.seeds, found.n, found.decides) == (Unit.RECIPES, 12, 36, True)
    assert (found.mean, found.high) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found.low > 0.8
    assert told([found]) == [Told.ABOVE]
    falling = of_recipes(range(12), -np.arange(12))
    assert (falling.low, falling.high, falling.p) == (-found.high, -found.low, found.p)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 1, 1, 1, 1, 1], [1, 2, 3, 4, 5, 6]), ([1, 2, 3, 4, 5, 6], [0] * 6), ([1.0], [1.0])]
)
def test_constant_recipes_tell_nothing(x: list[float], y: list[float]) -> None:
    found = of_recipes(x, y)
    assert math.isnan(found.mean)
    assert math.isnan(found.p)
    assert (found.low, found.high) == (-1, 1)
    assert told([found]) == [Told.NOT]


def test_four_recipes_are_too_few() -> None:
    """Even a perfect order of four has p = 2/24."""
    found = of_recipes(range(4), range(4))
    assert (found.mean, found.low, found.high) == (pytest.approx(1.0), -1, 1)
    assert told([found]) == [Told.NOT]


def test_orders_by_chance_are_told_as_rarely_as_said() -> None:
    generator = np.random.default_rng(0)
    ones = [of_recipes(generator.normal(size=6), generator.normal(size=6)) for _ in range(600)]
    wrong = np.mean([side is not Told.NOT for one in ones for side in told([one])])
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)
