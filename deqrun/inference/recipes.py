"""Claims of recipes: each is one point, however many seeds it was trained with."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deqrun.inference.estimate import LEVEL, Estimate, Unit
from deqrun.inference.samples import midranks, student

EXACT = 7
"""Up to so many recipes all permutations are tried; above it PERMUTATIONS of them."""
PERMUTATIONS = 4_999


def rank_correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's ρ of pairs (x_i, y_i), equals sharing the mean rank; NaN where either has a single value only.

    Raises ValueError for fewer than two pairs, or NaN among them. Source: Spearman 1904.
    """
    pairs = np.array([np.ravel(x), np.ravel(y)], dtype=np.float64)
    if pairs.shape[1] < 2 or np.isnan(pairs).any():
        raise ValueError(f"rank_correlation needs at least two pairs of numbers, got {pairs.shape[1]}.")
    if np.ptp(pairs, axis=1).min() == 0:
        return math.nan
    from scipy.stats import spearmanr  # here, since scipy.stats takes longer to import than all else of a report

    return float(spearmanr(*pairs).statistic)


def of_recipes(x_R: ArrayLike, y_R: ArrayLike, n: int = 0) -> Estimate:
    """Spearman's ρ over R recipes, x and y the means of each recipe's seeds: recipes are the unit.

    The interval is Fisher's z ± t · √((1 + ρ²/2) / (R − 3)) (Bonett & Wright 2000, with Student's quantile for few
    recipes); p is the permutation test's, which assumes no distribution and counts constant values as they are. Both
    must leave 0 out before a correlation is told: the interval is widened to 0 where the test does not, and five
    recipes are too few for the interval, in whatever order.

    n  networks that it rests on
    """
    x, y = np.ravel(np.asarray(x_R, dtype=np.float64)), np.ravel(np.asarray(y_R, dtype=np.float64))
    recipes = len(x)
    rho = rank_correlation(x, y) if recipes >= 2 else math.nan
    if recipes < 5 or math.isnan(rho):
        return Estimate(rho, -1.0, 1.0, n, Unit.RECIPES, recipes)
    clipped = min(max(rho, -1 + 1 / recipes**2), 1 - 1 / recipes**2)
    half = student(recipes - 2, LEVEL) * math.sqrt((1 + clipped**2 / 2) / (recipes - 3))
    low, high = math.tanh(math.atanh(clipped) - half), math.tanh(math.atanh(clipped) + half)
    p = _permutation_p(x, y)
    if p > LEVEL:
        low, high = min(low, 0.0), max(high, 0.0)
    return Estimate(rho, min(low, rho), max(high, rho), n, Unit.RECIPES, recipes, p)


def _permutation_p(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Two-sided: share of the orders of y whose ranks go with those of x as much as in the given order."""
    x, y = (ranks - ranks.mean() for ranks in (midranks(x), midranks(y)))
    seen = abs(x @ y) - 1e-9
    if len(x) <= EXACT:
        orders = np.array(list(permutations(range(len(x)))))
        return float((np.abs(y[orders] @ x) >= seen).mean())
    generator = np.random.default_rng(0)
    orders = np.argsort(generator.random((PERMUTATIONS, len(x))), axis=1)
    return float((1 + (np.abs(y[orders] @ x) >= seen).sum()) / (1 + PERMUTATIONS))
