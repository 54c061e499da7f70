"""Claims of these models and of the recipe: S networks, trained with S seeds, that answer the same n samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deqrun.inference.estimate import LEAST_SEEDS, LEVEL, Estimate, Unit
from deqrun.inference.samples import median_interval, normal, p_value, share_interval, spread, student, wilson, within

RESAMPLES = 400
"""Of the bootstrap over samples, for statistics without a formula."""

AT_ONCE = 2_000_000
"""Numbers that are drawn at a time."""

RARE_SEED = 0.001
"""Weight of a pseudo-seed at each end of a share's range: a few seeds at 100 % leave room for others that are not."""

SHARE = (0.0, 1.0)
DIFFERENCE = (-1.0, 1.0)
"""Bounds of right answers, and of differences of right answers."""

Bounds = tuple[float, float] | None
Ends = Callable[[float], tuple[float, float]]


def claim(
    values_SN: ArrayLike, bounds: Bounds = None, weights_SN: ArrayLike | None = None, versus: float = 0.0
) -> Estimate:
    """`of_the_recipe` from LEAST_SEEDS seeds on, `of_these_models` below. Values (S, n), or (n,) of one model."""
    values = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    make = of_the_recipe if len(values) >= LEAST_SEEDS else of_these_models
    return make(values, bounds, weights_SN, versus)


def of_these_models(
    values_SN: ArrayLike, bounds: Bounds = None, weights_SN: ArrayLike | None = None, versus: float = 0.0
) -> Estimate:
    """Mean over these S models and the samples that they might have been asked: samples are the unit.

    values   (S, n) or (n,): each model's value on each sample, such as right answers or paired differences
    bounds   (least, most) that a value can take; SHARE makes it a share, with Wilson's interval
    weights  (S, n): Σ values / Σ weights of each model in place of its mean; a sample that enters several times, or
             not at all, is one cluster. Values are then sums over a sample's entries, weights their number
    versus   the reference value that p tests

    A sample's value is its mean over the models, so that models which share samples aren't taken for more samples.
    Raises ValueError where there is nothing to take a mean of.
    """
    values, weights = _table(values_SN, weights_SN)
    clusters, mean = _clusters(values, weights)
    if bounds == SHARE and weights is None and len(values) == 1:
        return share_interval(clusters, versus)
    ends = _over_samples(clusters, mean, bounds)
    low, high = within(bounds, ends(LEVEL))
    p, own = p_value(mean, ends, versus), tuple(map(float, _ratios(values, weights)))
    return Estimate(mean, low, high, len(clusters), Unit.SAMPLES, len(values), p, versus, own)


def of_the_recipe(
    values_SN: ArrayLike, bounds: Bounds = None, weights_SN: ArrayLike | None = None, versus: float = 0.0
) -> Estimate:
    """Mean over networks that the recipe might have trained, on samples like these: seeds are the unit.

    Two sources of chance: the seeds, told by Student's interval over the S seeds' own means; and the samples that all
    seeds share, which no spread over seeds shows, told by the interval of `of_these_models`. Both half-widths are
    added in squares, each with its own degrees of freedom (as for sums of variances, Graybill & Wang 1980). Seeds of
    a share are joined by pseudo-seeds of weight RARE_SEED at 0 and at 1.
    Arguments as for `of_these_models`. Raises ValueError for fewer than 2 seeds.

    The claim is of the recipe's typical seed. Where seeds scatter evenly that is their mean; a rare seed that is lost
    moves the mean, and S seeds need not show it.
    """
    values, weights = _table(values_SN, weights_SN)
    clusters, mean = _clusters(values, weights)
    return of_seeds(_ratios(values, weights), _over_samples(clusters, mean, bounds), len(clusters), bounds, versus)


def of_seeds(
    own: ArrayLike, over_samples: Ends, n: int, bounds: Bounds = None, versus: float = 0.0, among: int = 1
) -> Estimate:
    """`of_the_recipe` for any statistic: `own` (S,), the seeds' values, and the interval of their mean over samples.

    over_samples  level -> (low, high) around the mean of `own`, as samples alone would have it
    n             samples
    among         candidates of which this one was chosen by these very seeds: the interval then holds for all of them
                  at once (Bonferroni), and p is the family's

    Raises ValueError for fewer than 2 seeds.
    """
    seeds = np.asarray(own, dtype=np.float64).ravel()
    if len(seeds) < 2:
        raise ValueError(f"A claim of the recipe needs at least 2 seeds, got {len(seeds)}.")
    if not np.isfinite(seeds).all():
        apart = tuple(map(float, seeds))
        return Estimate(_mean(seeds), -math.inf, math.inf, n, Unit.SEEDS, len(seeds), 1.0, versus, apart)
    mean, error, freedom = spread(seeds, None)
    if bounds == SHARE:
        error = math.hypot(error, math.sqrt(RARE_SEED * (mean**2 + (1 - mean) ** 2) / (freedom * len(seeds))))

    def ends(level: float) -> tuple[float, float]:
        low, high = over_samples(level)
        half = student(freedom, level) * error
        return mean - math.hypot(half, max(0.0, mean - low)), mean + math.hypot(half, max(0.0, high - mean))

    low, high = within(bounds, ends(LEVEL / among))
    p = min(1.0, among * p_value(mean, ends, versus))
    return Estimate(mean, low, high, n, Unit.SEEDS, len(seeds), p, versus, tuple(map(float, seeds)))


def claim_statistic(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    values_SN: ArrayLike,
    versus: float = 0.0,
    among: int = 1,
) -> Estimate:
    """A claim about any statistic of the samples: of the recipe from LEAST_SEEDS seeds on, of these models below.

    statistic  values (S, …, n), with samples repeated or left out -> (S, …), along the last axis. Where it is of
               several values of a sample, given as (S, V, n), it takes (S, V, …, n) -> (S, …)

    The samples' part comes from the percentile bootstrap over the shared samples (Efron 1979).
    """
    values = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    seeds, n = len(values), values.shape[-1]
    own = np.asarray(statistic(values), dtype=np.float64)
    mean = _mean(own)
    unit = Unit.SEEDS if seeds >= LEAST_SEEDS else Unit.SAMPLES
    apart = tuple(map(float, own))
    if not np.isfinite(own).all():
        return Estimate(mean, -math.inf, math.inf, n, unit, seeds, 1.0, versus, apart)
    draws = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    parts = np.array_split(draws, max(1, values.size * RESAMPLES // AT_ONCE))
    over_samples = resampled(mean, np.concatenate([statistic(values[..., part]).mean(axis=0) for part in parts]))
    if unit is Unit.SEEDS:
        return of_seeds(own, over_samples, n, versus=versus, among=among)
    return Estimate(mean, *over_samples(LEVEL), n, unit, seeds, p_value(mean, over_samples, versus), versus, apart)


def claim_median(values_SN: ArrayLike, versus: float = 0.0, unit: Unit = Unit.SAMPLES, among: int = 1) -> Estimate:
    """The median over samples, inf allowed: of one model Thompson's interval, else the mean of the models' medians.

    unit   of the values of one model: samples, or rounds of the clock
    among  as for `of_seeds`
    """
    values = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    if len(values) == 1:
        return median_interval(values[0], unit, versus)
    return claim_statistic(lambda drawn: np.median(drawn, axis=-1), values, versus, among)


def resampled(mean: float, drawn: NDArray[np.float64]) -> Ends:
    """level -> (low, high): the 95 % percentile interval of bootstrap means, scaled to other levels as a normal one."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < 0.975 * len(drawn):
        return lambda level: (-math.inf, math.inf)
    low, high = np.quantile(known, [LEVEL / 2, 1 - LEVEL / 2], method="closest_observation")
    below, above = max(0.0, mean - float(low)), max(0.0, float(high) - mean)

    def ends(level: float) -> tuple[float, float]:
        scale = normal(level) / normal(LEVEL)
        return mean - scale * below, mean + scale * above

    return ends


def _mean(own: NDArray[np.float64]) -> float:
    """The mean over seeds; infinite where one is, NaN where one has no value."""
    return float(np.nan if np.isnan(own).any() else own.mean() if np.isfinite(own).all() else own[~np.isfinite(own)][0])


def shares_of_seeds(shares: ArrayLike, n: int) -> Estimate:
    """`of_the_recipe` from the seeds' own shares of n samples, where the answers themselves aren't kept.

    A single share has Wilson's interval, and is of this model.
    """
    own = np.asarray(shares, dtype=np.float64).ravel()
    mean = float(own.mean())
    if len(own) == 1:
        return Estimate(mean, *wilson(mean, n), n, versus=math.nan, own=(mean,))
    return of_seeds(own, lambda level: wilson(mean, n, level), n, SHARE, math.nan)


def _over_samples(clusters: NDArray[np.float64], mean: float, bounds: Bounds) -> Ends:
    """level -> (low, high): the interval of the mean over samples; Wilson's where the values are shares."""
    centre, error, freedom = spread(clusters, bounds)

    def ends(level: float) -> tuple[float, float]:
        if bounds == SHARE:
            return wilson(mean, len(clusters), level)
        half = student(freedom, level) * error
        return min(mean, centre - half), max(mean, centre + half)

    return ends


def _table(
    values_SN: ArrayLike, weights_SN: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    values = np.atleast_2d(np.asarray(values_SN, dtype=np.float64))
    weights = None if weights_SN is None else np.atleast_2d(np.asarray(weights_SN, dtype=np.float64))
    if values.ndim != 2 or not values.size:
        raise ValueError(f"A claim needs values (seeds, samples), got shape {values.shape}.")
    if weights is not None and (weights.shape != values.shape or (weights.sum(axis=1) <= 0).any()):
        raise ValueError("Each seed needs a weight above 0 on some sample, and as many weights as values.")
    return values, weights


def _ratios(values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """(S,) each seed's own mean, or ratio of sums."""
    return np.asarray(values.mean(axis=1) if weights is None else values.sum(axis=1) / weights.sum(axis=1))


def _clusters(values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> tuple[NDArray[np.float64], float]:
    """A value of each sample whose mean is the estimate: its mean over seeds, or the ratio's linearisation.

    Samples without weight in any seed take no part.
    """
    if weights is None:
        clusters = values.mean(axis=0)
        return clusters, float(clusters.mean())
    own = _ratios(values, weights)
    used = weights.sum(axis=0) > 0
    influence = ((values - own[:, None] * weights) / weights.sum(axis=1, keepdims=True)).mean(axis=0)[used]
    return own.mean() + used.sum() * influence, float(own.mean())


__all__ = [
    "DIFFERENCE",
    "SHARE",
    "claim",
    "claim_median",
    "claim_statistic",
    "of_seeds",
    "of_the_recipe",
    "of_these_models",
    "resampled",
    "shares_of_seeds",
]
