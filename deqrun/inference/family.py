"""Families of claims: which of them hold, corrected for their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from deqrun.inference.estimate import LEVEL, Estimate


class Told(StrEnum):
    """Where a member of a family lies beside its reference value, as far as the data tell."""

    ABOVE = "above"
    BELOW = "below"
    NOT = "not told"
    TOO_FEW = "too few seeds"


def holm(p_values: Sequence[float], level: float = LEVEL) -> NDArray[np.bool_]:
    """Which hypotheses are rejected with a family-wise error of at most `level` (Holm 1979); NaN never is."""
    p = np.nan_to_num(np.asarray(p_values, dtype=np.float64), nan=1.0)
    rejected = np.zeros(len(p), dtype=bool)
    for place, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] > level / (len(p) - place):
            break
        rejected[index] = True
    return rejected


def told(family: Sequence[Estimate], level: float = LEVEL) -> list[Told]:
    """On which side of its reference value each member lies: one family in 20 errs at most, however large it is."""
    return [_side(one, bool(hit)) for one, hit in zip(family, holm([one.p for one in family], level), strict=True)]


def told_by_name(family: Mapping[str, Estimate], level: float = LEVEL) -> dict[str, Told]:
    """`told`, of named members."""
    return dict(zip(family, told(list(family.values()), level), strict=True))


def _side(one: Estimate, rejected: bool) -> Told:
    if not one.decides:
        return Told.TOO_FEW
    if not rejected or one.low <= one.versus <= one.high:
        return Told.NOT
    return Told.ABOVE if one.mean > one.versus else Told.BELOW
