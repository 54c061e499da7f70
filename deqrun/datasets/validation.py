"""Checks of data sets' parameters: a refusal is one sentence with what was given, allowed, and nearest."""

from __future__ import annotations

import operator

__all__ = ["require_at_least", "require_share"]


def require_at_least(name: str, value: int, minimum: int) -> int:
    """`value` as an int if it is whole and >= `minimum`; raises ValueError otherwise."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} is not an integer: allowed are whole numbers from {minimum}.") from None
    if whole < minimum:
        raise ValueError(f"{name}={value} is too small: allowed are integers from {minimum} (nearest: {minimum}).")
    return whole


def require_share(name: str, value: float) -> float:
    """`value` as a float if it is above 0 and below 1; raises ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < 1.0:
        raise ValueError(f"{name}={value!r} is not a share: allowed are numbers above 0 and below 1, e.g. 0.1.")
    return float(value)
