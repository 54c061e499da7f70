"""Intervals of a mean by resampling the samples."""

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


def mean_interval(values: ArrayLike, resamples: int = 10_000, seed: int = 0) -> MeanInterval:
    """Mean of `values` (n,) and its 95 % percentile-bootstrap interval (Efron 1979).

    Drawing n samples with replacement is drawing how often each distinct value occurs from a multinomial
    distribution with the observed shares; this is exact, and for counts and for paired differences of right
    and wrong it costs the few distinct values rather than n. Paired differences: pass a − b, taken sample by
    sample. Raises ValueError where there are no values.
    """
    sample: NDArray[np.float64] = np.asarray(values, dtype=np.float64).ravel()
    if sample.size == 0:
        raise ValueError("mean_interval was given no values; it needs at least one.")
    distinct, counts = np.unique(sample, return_counts=True)
    shares = counts / counts.sum()
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(sample.size, shares, size=resamples)
    means = draws @ distinct / sample.size
    low, high = np.quantile(means, [0.025, 0.975])
    return MeanInterval(float(sample.mean()), float(low), float(high), int(sample.size))


def accuracy_interval(correct: ArrayLike) -> MeanInterval:
    """Share of right answers with its 95 % Wilson score interval (Wilson 1927).

    The bootstrap of a share collapses to a point where all answers are right or all are wrong, and claims
    certainty that n samples cannot give; Wilson's interval doesn't. Raises ValueError where there are no
    answers.
    """
    answers = np.asarray(correct, dtype=np.float64).ravel()
    if answers.size == 0:
        raise ValueError("accuracy_interval was given no answers; it needs at least one.")
    return share_interval(float(answers.mean()), answers.size)


def share_interval(share: float, n: int) -> MeanInterval:
    """`accuracy_interval` of n answers of which this share is right. Raises ValueError where n < 1."""
    if n < 1:
        raise ValueError(f"share_interval was given n={n} answers; it needs at least one.")
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return MeanInterval(share, float(max(0.0, centre - half)), float(min(1.0, centre + half)), n)
