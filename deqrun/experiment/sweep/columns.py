"""Columns that several kinds of rows have: a figure with its interval, and two ways to answer, compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.inference import DIFFERENCE, Estimate, mean_interval

__all__ = ["compared", "interval"]


def interval(name: str, found: Estimate) -> dict[str, Any]:
    """The columns NAME, NAME_low and NAME_high of an estimate."""
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def compared(
    right: NDArray[np.bool_], nfe: NDArray[np.int64], base_right: NDArray[np.bool_], base_nfe: NDArray[np.int64]
) -> dict[str, Any]:
    """The columns `saved` and `gained` of one way to answer the same n samples beside another, the base; (n,) each.

    saved: the mean of the base's evaluations less the way's, within the bounds that a difference of such counts can
    have. gained: the mean of right answers, the way's less the base's. Both are paired by sample.
    """
    most = float(max(base_nfe.max(), nfe.max()))
    saved = mean_interval(base_nfe - nfe, (-most, most))
    gained = mean_interval(right.astype(np.int8) - base_right.astype(np.int8), DIFFERENCE)
    return interval("saved", saved) | interval("gained", gained)
