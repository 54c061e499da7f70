"""How well a number tells two kinds of samples apart."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from deqrun.inference.estimate import LEVEL, Estimate
from deqrun.inference.samples import midranks, normal, p_value

__all__ = ["auroc", "auroc_interval"]


def auroc(score: ArrayLike, positive: ArrayLike) -> float:
    """P(score of a positive sample > score of a negative one) + P(equal) / 2, over all pairs: score, positive (n,).

    The area under the receiver operating characteristic: 1/2 of a score that tells nothing, 1 of one that puts every
    positive sample above every negative one. inf is allowed. By midranks (Mann & Whitney 1947). NaN where one kind has
    no sample; raises ValueError where a score is NaN.
    """
    scores, kind = _checked(score, positive)
    ones, zeros = int(kind.sum()), int((~kind).sum())
    if not ones or not zeros:
        return math.nan
    ranks = midranks(scores)
    return float((ranks[kind].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def auroc_interval(score: ArrayLike, positive: ArrayLike) -> Estimate:
    """`auroc` with its 95 % interval over samples; p is of the value 1/2.

    The wider end on either side of two intervals: one symmetric in the logit with the variance of the samples'
    placements (DeLong, DeLong & Clarke-Pearson 1988), which knows the ties and the shape of the scores; and the score
    interval of Newcombe (2006, method 5), which leaves room where no pair is in doubt. With fewer than two samples of
    either kind the interval is [0, 1].
    """
    scores, kind = _checked(score, positive)
    area = auroc(scores, kind)
    ones, zeros = int(kind.sum()), int((~kind).sum())
    if ones < 2 or zeros < 2:
        return Estimate(area, 0.0, 1.0, len(scores), p=math.nan, versus=0.5)
    # Placements: of each sample the share of the other kind that it is told from.
    ranks = midranks(scores)
    of_ones = (ranks[kind] - midranks(scores[kind])) / zeros
    of_zeros = (ranks[~kind] - midranks(scores[~kind])) / ones
    error = math.sqrt(of_ones.var(ddof=1) / ones + of_zeros.var(ddof=1) / zeros)

    def ends(level: float) -> tuple[float, float]:
        low, high = _newcombe(area, ones, zeros, normal(level))
        if error > 0 and 0 < area < 1:
            logit, half = float(special.logit(area)), normal(level) * error / (area * (1 - area))
            low, high = min(low, float(special.expit(logit - half))), max(high, float(special.expit(logit + half)))
        return min(area, low), max(area, high)

    return Estimate(area, *ends(LEVEL), len(scores), p=p_value(area, ends, 0.5), versus=0.5)


def _newcombe(area: float, ones: int, zeros: int, z: float) -> tuple[float, float]:
    """The areas t with |area − t| ≤ z √variance(t), Hanley & McNeil's (1982) with both sizes put to their mean."""
    size = (ones + zeros) / 2 - 1

    def excess(t: float) -> float:
        spread = t * (1 - t) * (1 + size * (1 - t) / (2 - t) + size * t / (1 + t)) / (ones * zeros)
        return (area - t) ** 2 - z**2 * spread

    def root(far: float, near: float) -> float:
        """Where `excess` changes its sign, from above 0 at `far`."""
        for _ in range(50):
            middle = (far + near) / 2
            far, near = (middle, near) if excess(middle) > 0 else (far, middle)
        return near

    # At an area of 0 or 1 itself both sides are 0; the end is the other root.
    beside = 1e-9
    low = root(0.0, area - beside) if area > beside else 0.0
    return low, root(1.0, area + beside) if area < 1 - beside else 1.0


def _checked(score: ArrayLike, positive: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, kind = np.asarray(score, dtype=np.float64).ravel(), np.asarray(positive, dtype=np.bool_).ravel()
    if len(scores) != len(kind):
        raise ValueError(f"auroc needs a kind for each score, got {len(scores)} and {len(kind)}.")
    if np.isnan(scores).any():
        raise ValueError("auroc takes no score that is NaN.")
    return scores, kind
