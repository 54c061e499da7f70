"""Intervals of a mean by resampling the samples."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class MeanInterval:
    """A mean over n samples with its 95 % interval [low, high]."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def includes_zero(self) -> bool:
        """Whether 0 lies in [low, high]: then no difference was detected."""
        return self.low <= 0 <= self.high


RUNS_RESAMPLES = 2000
"""Of the bootstrap in two stages, each of which draws over all samples anew."""


def mean_interval(values: ArrayLike, resamples: int = 10_000, seed: int = 0, runs: int = 1) -> MeanInterval:
    """Mean of `values` (n,) and its 95 % percentile-bootstrap interval (Efron 1979).

    Drawing n samples with replacement is drawing how often each distinct value occurs from a multinomial
    distribution with the observed shares; this is exact, and for counts and for paired differences of right
    and wrong it costs the few distinct values rather than n. Paired differences: pass a − b, taken sample by
    sample. Raises ValueError where there are no values.

    runs  > 1: values are those of so many runs, one after the other, on the same samples. Then runs are drawn with
          replacement and, within them, samples (the bootstrap of a two-stage design, Davison & Hinkley 1997, section
          3.8): the interval knows of what training's chance does, as far as so few runs can tell.
    """
    sample: NDArray[np.float64] = np.asarray(values, dtype=np.float64).ravel()
    if sample.size == 0:
        raise ValueError("mean_interval was given no values; it needs at least one.")
    if runs > 1:
        return _over_runs(sample, runs, seed)
    distinct, counts = np.unique(sample, return_counts=True)
    shares = counts / counts.sum()
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(sample.size, shares, size=resamples)
    means = draws @ distinct / sample.size
    low, high = np.quantile(means, [0.025, 0.975])
    return MeanInterval(float(sample.mean()), float(low), float(high), int(sample.size))


def _over_runs(sample: NDArray[np.float64], runs: int, seed: int) -> MeanInterval:
    if sample.size % runs:
        raise ValueError(f"{sample.size} values can't be those of {runs} runs on the same samples.")
    table = sample.reshape(runs, -1)
    n = table.shape[1]
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(n, np.full(n, 1 / n), size=RUNS_RESAMPLES)
    drawn = generator.integers(runs, size=(RUNS_RESAMPLES, runs))
    means = np.take_along_axis(counts @ table.T / n, drawn, axis=1).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return MeanInterval(float(sample.mean()), float(low), float(high), int(sample.size))


def accuracy_interval(correct: ArrayLike, runs: int = 1) -> MeanInterval:
    """Share of right answers with its 95 % Wilson score interval (Wilson 1927).

    The bootstrap of a share collapses to a point where all answers are right or all are wrong, and claims
    certainty that n samples cannot give; Wilson's interval doesn't. Raises ValueError where there are no
    answers.

    runs  > 1: answers of so many runs on the same samples, as in `mean_interval`. The interval reaches as far as that
          of the two-stage bootstrap and that of Wilson for the samples of one run.
    """
    answers = np.asarray(correct, dtype=np.float64).ravel()
    if answers.size == 0:
        raise ValueError("accuracy_interval was given no answers; it needs at least one.")
    if runs > 1:
        over, within = _over_runs(answers, runs, 0), share_interval(float(answers.mean()), answers.size // runs)
        return MeanInterval(over.mean, min(over.low, within.low), max(over.high, within.high), over.n)
    return share_interval(float(answers.mean()), answers.size)


def share_interval(share: float, n: int) -> MeanInterval:
    """`accuracy_interval` of n answers of which this share is right. Raises ValueError where n < 1."""
    if n < 1:
        raise ValueError(f"share_interval was given n={n} answers; it needs at least one.")
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return MeanInterval(share, float(max(0.0, centre - half)), float(min(1.0, centre + half)), n)


def median_interval(values: ArrayLike) -> MeanInterval:
    """The median of `values` (n,), inf allowed, and its distribution-free 95 % interval, as `mean` and [low, high].

    The interval is between two order statistics, whose ranks are those of a binomial count of values below the median
    (Thompson 1936); it covers at least 95 % whatever the distribution. Below six values no two order statistics do,
    and it is [−inf, inf]. A value of inf is one that lies beyond all that was seen, such as evaluations never enough.
    Raises ValueError where there are no values or one is NaN.
    """
    sample = np.sort(np.asarray(values, dtype=np.float64).ravel())
    n = sample.size
    if n == 0 or np.isnan(sample).any():
        raise ValueError("median_interval needs at least one value, and none that is NaN.")
    middle = sample[(n - 1) // 2], sample[n // 2]
    median = middle[0] if middle[0] == middle[1] else float(np.mean(middle))
    below = 0.0  # P(Binomial(n, 1/2) < rank)
    rank = 0
    while below + (term := math.comb(n, rank) / 2**n) <= 0.025:
        below, rank = below + term, rank + 1
    if rank == 0:
        return MeanInterval(float(median), -math.inf, math.inf, n)
    return MeanInterval(float(median), float(sample[rank - 1]), float(sample[n - rank]), n)


def student_interval(values: ArrayLike) -> MeanInterval:
    """Mean of `values` (n,), one per seed, with its 95 % interval mean ± t · s/√n (Student 1908).

    With one value there is nothing to tell its spread by, and the interval is [−inf, inf]. Raises ValueError where
    there are no values.
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    n = sample.size
    if n == 0:
        raise ValueError("student_interval was given no values; it needs at least one.")
    mean = float(sample.mean())
    if n == 1:
        return MeanInterval(mean, -math.inf, math.inf, 1)
    half = student_quantile(n - 1) * float(sample.std(ddof=1)) / math.sqrt(n)
    return MeanInterval(mean, mean - half, mean + half, n)


def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with so many degrees of freedom, by bisection of its distribution."""
    low, high = 1.9, 13.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _student_within(t: float, freedom: int) -> float:
    """P(|T| <= t), in closed form for whole degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(theta), math.cos(theta)
    if freedom == 1:
        return 2 * theta / math.pi
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term
    for k in range(2 if not odd else 3, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
