"""Accuracy by the difficulty that a data set's publisher gives each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from deqrun.inference.samples import wilson

__all__ = ["RatedAccuracy", "accuracy_by_rating", "rating_edges"]


@dataclass(frozen=True)
class RatedAccuracy:
    """The samples with low <= rating < high, in the last bucket with high itself; both are NaN of unrated samples.

    accuracy is their share of right answers, with Wilson's 95 % interval over these samples.
    """

    low: float
    high: float
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float


def rating_edges(ratings: ArrayLike, buckets: int = 5) -> tuple[float, ...]:
    """Bounds that put about as many samples in each bucket: quantiles of the ratings, each once.

    Where many samples share a rating there are fewer buckets. Raises ValueError for fewer than one bucket.
    """
    if buckets < 1:
        raise ValueError(f"buckets={buckets} is too small: allowed are whole numbers from 1 (nearest: 1).")
    known = np.asarray(ratings, dtype=np.float64)
    known = known[~np.isnan(known)]
    if known.size == 0:
        return ()
    found = np.unique(np.quantile(known, np.linspace(0, 1, buckets + 1), method="inverted_cdf"))
    return tuple(found.tolist()) if len(found) > 1 else (float(found[0]), float(found[0]))


def accuracy_by_rating(
    right: ArrayLike, ratings: ArrayLike, edges: Sequence[float] | None = None
) -> list[RatedAccuracy]:
    """The share of right answers in each bucket of ratings; a bucket without samples is left out.

    right    (n,) whether each sample's answer is right
    ratings  (n,) in any unit; NaN where a sample is not rated: such samples make a bucket of their own, the last
    edges    ascending bounds of the buckets; None: `rating_edges` of the ratings. Samples outside are in none

    Raises ValueError where the two differ in length, and where edges do not ascend.
    """
    answers, values = np.asarray(right, dtype=np.bool_), np.asarray(ratings, dtype=np.float64)
    if answers.shape != values.shape or answers.ndim != 1:
        raise ValueError(f"right and ratings are of shapes {answers.shape} and {values.shape}; both must be (n,).")
    bounds = rating_edges(values) if edges is None else tuple(float(edge) for edge in edges)
    if any(not low <= high for low, high in pairwise(bounds)):
        raise ValueError(f"edges={list(bounds)} do not ascend; give them in order, as in [0, 1, 10, 100].")
    rows = []
    for place, (low, high) in enumerate(pairwise(bounds)):
        last = place == len(bounds) - 2
        rows.append((low, high, (values >= low) & ((values <= high) if last else (values < high))))
    rows.append((math.nan, math.nan, np.isnan(values)))
    return [_row(low, high, answers[inside]) for low, high, inside in rows if inside.any()]


def _row(low: float, high: float, right: np.ndarray) -> RatedAccuracy:
    share = float(right.mean())
    return RatedAccuracy(low, high, len(right), share, *wilson(share, len(right)))
