"""Intervals over samples: of a mean, of a share, of a median. The samples are independent draws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from deqrun.inference.estimate import LEVEL, Estimate, Unit

SMALLEST_P = 1e-14


def mean_interval(values: ArrayLike, bounds: tuple[float, float] | None = None, versus: float = 0.0) -> Estimate:
    """Mean of `values` (n,) and its 95 % interval: Student's (1908), with two pseudo-values where values are bounded.

    Paired differences: pass a − b, sample by sample.

    bounds  (least, most) that a value can take, such as (−1, 1) of a difference of right and wrong. One value of each
            is added to the sample before Student's interval is taken, as Agresti & Min (2005) and Bonett & Price
            (2012) do for paired shares: n equal values then leave room for the rare other one. None: not known.
    versus  the reference value that p tests

    One value alone has the interval [−inf, inf]. Raises ValueError where there are no values.
    """
    sample = checked(values, "mean_interval")
    mean = float(sample.mean())
    centre, error, freedom = spread(sample, bounds)

    def ends(level: float) -> tuple[float, float]:
        half = student(freedom, level) * error
        return min(mean, centre - half), max(mean, centre + half)

    low, high = within(bounds, ends(LEVEL))
    return Estimate(mean, low, high, sample.size, p=p_value(mean, ends, versus), versus=versus)


def within(bounds: tuple[float, float] | None, ends: tuple[float, float]) -> tuple[float, float]:
    """The part of an interval that lies within the bounds."""
    return ends if bounds is None else (max(bounds[0], ends[0]), min(bounds[1], ends[1]))


def spread(sample: NDArray[np.float64], bounds: tuple[float, float] | None) -> tuple[float, float, int]:
    """Centre, standard error and degrees of freedom of Student's interval, pseudo-values included."""
    if bounds is not None:
        sample = np.append(sample, bounds)
    if sample.size < 2:
        return float(sample.mean()), math.inf, 1
    return float(sample.mean()), float(sample.std(ddof=1)) / math.sqrt(sample.size), sample.size - 1


def student(freedom: float, level: float) -> float:
    """The 1 − level/2 quantile of Student's t."""
    return float(special.stdtrit(freedom, 1 - level / 2))


def normal(level: float) -> float:
    """The 1 − level/2 quantile of the normal distribution."""
    return float(special.ndtri(1 - level / 2))


def p_value(mean: float, ends: Callable[[float], tuple[float, float]], versus: float) -> float:
    """The largest level at which the interval ends(level) around `mean` leaves `versus` out; 1 if none does."""
    if not math.isfinite(mean) or mean == versus:
        return 1.0

    def leaves_out(exponent: float) -> bool:
        low, high = ends(10.0**exponent)
        return low > versus if mean > versus else high < versus

    low, high = math.log10(SMALLEST_P), 0.0
    if leaves_out(low):
        return SMALLEST_P
    for _ in range(36):
        middle = (low + high) / 2
        low, high = (low, middle) if leaves_out(middle) else (middle, high)
    return float(10.0**high)


def from_interval(mean: float, low: float, high: float, n: int) -> Estimate:
    """An estimate from a recorded mean and 95 % interval; p is of the value 0, as if the error were normal.

    The error is taken from the side of the interval on which 0 lies. NaN bounds give p NaN: nothing is claimed.
    """
    error = ((mean - low) if mean > 0 else (high - mean)) / normal(LEVEL)
    if not math.isfinite(error):
        p = math.nan
    else:
        p = 1.0 if mean == 0 else 0.0 if error == 0 else 2 * float(special.ndtr(-abs(mean) / error))
    return Estimate(mean, low, high, n, p=p)


def one_error_below(share: float, n: int) -> float:
    """p − √(p (1 − p) / n): the least share that is as good as the best one, p, of n answers.

    The one-standard-error rule of Breiman, Friedman, Olshen & Stone (1984), with the binomial error.
    """
    return share - math.sqrt(share * (1 - share) / n)


def share_interval(right: ArrayLike, versus: float = math.nan) -> Estimate:
    """Share of true answers of `right` (n,) with its 95 % score interval (Wilson 1927), within [0, 1].

    Raises ValueError where there are no answers.
    """
    answers = checked(right, "share_interval")
    share = float(answers.mean())
    p = math.nan if math.isnan(versus) else p_value(share, lambda level: wilson(share, answers.size, level), versus)
    return Estimate(share, *wilson(share, answers.size), answers.size, p=p, versus=versus)


def wilson(share: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share of n answers. Raises ValueError where n < 1."""
    if n < 1:
        raise ValueError(f"A share of n={n} answers has no interval; it needs at least one.")
    z = normal(level)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(max(0.0, share * (1 - share)) / n + z**2 / (4 * n**2))
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def median_interval(values: ArrayLike, unit: Unit = Unit.SAMPLES, versus: float = math.nan) -> Estimate:
    """The median of `values` (n,), inf allowed, and its distribution-free 95 % interval; p is the sign test's.

    The interval is between two order statistics, whose ranks are quantiles of the binomial count of values below the
    median (Thompson 1936); it covers at least 95 % whatever the distribution. Below six values no two order
    statistics do, and it is [−inf, inf]. A value of inf lies beyond all that was seen, such as a tolerance never
    reached. Raises ValueError where there are no values or one is NaN.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64).ravel())
    n = sample.size
    if n == 0 or np.isnan(sample).any():
        raise ValueError("median_interval needs at least one value, and none that is NaN.")
    middle = sample[(n - 1) // 2], sample[n // 2]
    median = middle[0] if middle[0] == middle[1] else float(np.mean(middle))
    cumulative = special.bdtr(np.arange(n // 2 + 1), n, 0.5)  # P(Binomial(n, 1/2) <= r)
    rank = int(np.searchsorted(cumulative, LEVEL / 2))
    low, high = (-math.inf, math.inf) if rank < 1 else (float(sample[rank - 1]), float(sample[n - rank]))
    p = math.nan
    if not math.isnan(versus):
        fewer = min(int((sample <= versus).sum()), int((sample >= versus).sum()))
        p = min(1.0, 2 * float(special.bdtr(fewer, n, 0.5)))
    return Estimate(float(median), low, high, n, unit, p=p, versus=versus)


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: NDArray[np.int64] = counts.cumsum()
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def checked(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """The values, flat. Raises ValueError where there are none."""
    sample = np.asarray(values, dtype=np.float64).ravel()
    if sample.size == 0:
        raise ValueError(f"{name} was given no values; it needs at least one.")
    return sample
