"""Whether told probabilities are the shares that come true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deqrun.inference.samples import checked, wilson

__all__ = ["ReliabilityBin", "expected_calibration_error", "reliability"]


@dataclass(frozen=True)
class ReliabilityBin:
    """Samples whose told probabilities lie between low and high.

    n          of the samples
    told       mean of their probabilities
    right      share of them that came true, and
    right_low, right_high   its 95 % interval (Wilson)
    """

    low: float
    high: float
    n: int
    told: float
    right: float
    right_low: float
    right_high: float


def reliability(told: ArrayLike, right: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """The bins of equal width, from 0 to 1, that have samples: a reliability diagram.

    told   (n,) probabilities; right  (n,) bool: whether each came true
    A probability on the border of two bins is in the upper one, and 1 in the last.
    Raises ValueError where there are no values, where their numbers differ, or where a probability is not in [0, 1].
    """
    p, came = checked(told, "reliability"), checked(right, "reliability")
    if p.size != came.size:
        raise ValueError(f"reliability needs as many probabilities as answers, got {p.size} and {came.size}.")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("reliability needs probabilities between 0 and 1.")
    place = np.minimum((p * bins).astype(int), bins - 1)
    found = []
    for index in np.unique(place):
        inside = place == index
        share, n = float(came[inside].mean()), int(inside.sum())
        low, high = index / bins, (index + 1) / bins
        found.append(ReliabilityBin(low, high, n, float(p[inside].mean()), share, *wilson(share, n)))
    return found


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Σ_b n_b / n · |right_b − told_b| over the bins of `reliability` (Naeini, Cooper & Hauskrecht 2015).

    Of few samples in a bin it is above 0 also where the probabilities are right.
    """
    total = sum(one.n for one in bins)
    return sum(one.n * abs(one.right - one.told) for one in bins) / total
