"""Two properties of the same samples, crossed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deqrun.inference.estimate import Estimate
from deqrun.inference.samples import share_interval

__all__ = ["Crossed", "crossed"]


@dataclass(frozen=True)
class Crossed:
    """Shares of all samples, each with Wilson's 95 % interval; the four add up to 1.

    both, first, second, neither   samples with both properties, with the first or the second alone, with neither
    """

    both: Estimate
    first: Estimate
    second: Estimate
    neither: Estimate


def crossed(first: ArrayLike, second: ArrayLike) -> Crossed:
    """The 2x2 table of two properties (n,) of n samples. Raises ValueError for other lengths, and without samples."""
    one, two = np.asarray(first, dtype=np.bool_).ravel(), np.asarray(second, dtype=np.bool_).ravel()
    if len(one) != len(two):
        raise ValueError(f"crossed needs both properties of each sample, got {len(one)} and {len(two)}.")
    return Crossed(*(share_interval(cell) for cell in (one & two, one & ~two, ~one & two, ~one & ~two)))
