"""How answers are worded: numbers with their intervals, and sentences that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deqrun.report import numbers
from deqrun.report.bootstrap import MeanInterval

__all__ = ["all_some_none", "enumeration", "number", "points", "ratio", "share", "verdict"]


def share(found: MeanInterval) -> str:
    """'72.3 % (95 % interval 67.1 to 77.0 %, n = 359)'."""
    interval = f"95 % interval {numbers.percent_range(found.low, found.high)}, " if math.isfinite(found.low) else ""
    return f"{numbers.percent(found.mean)} ({interval}n = {found.n:,})"


def points(found: MeanInterval, counted: str = "") -> str:
    """'+1.4 points (95 % interval −0.3 to +3.0, n = 359)'; '3 seeds' instead of 'n = 3' where seeds were counted."""
    interval = f"95 % interval {numbers.points(found.low)} to {numbers.points(found.high)}, "
    n = f"{found.n:,} {counted}" if counted else f"n = {found.n:,}"
    return f"{numbers.points(found.mean)} points ({interval if math.isfinite(found.low) else ''}{n})"


def number(found: MeanInterval, unit: str = "", digits: int = 3) -> str:
    """'12.4 evaluations (95 % interval 11.9 to 13.0, n = 359)'; no interval where none can be told."""
    unit = f" {unit}" if unit else ""
    interval = ""
    if math.isfinite(found.low) or math.isfinite(found.high):
        interval = f"95 % interval {significant(found.low, digits)} to {significant(found.high, digits)}, "
    return f"{significant(found.mean, digits)}{unit} ({interval}n = {found.n:,})"


def ratio(found: MeanInterval) -> str:
    """'1.27 times (95 % interval 1.21 to 1.33, n = 9)'."""
    return number(found, "times")


def significant(value: float, digits: int = 3) -> str:
    """1234.5 -> '1,230'; 0.01234 -> '0.0123'; 1.2e-5 -> '1.2e-5'."""
    if math.isinf(value):
        return "none" if value > 0 else f"{numbers.UNKNOWN}"
    if math.isnan(value):
        return numbers.UNKNOWN
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.{max(0, digits - 2)}e}".replace("e-0", "e-")
    rounded = float(f"{value:.{digits}g}")
    if rounded == value == round(value):  # a count
        return f"{round(value):,}".replace("-", "\N{MINUS SIGN}")
    text = f"{rounded:,.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}" if rounded else "0"
    return text.replace("-", "\N{MINUS SIGN}")


def verdict(change: MeanInterval, more: str, less: str, same: str) -> str:
    """One of three words for a difference: above 0, below 0, or not told from 0 by its interval."""
    if change.includes_zero:
        return same
    return more if change.mean > 0 else less


def all_some_none(fraction: float) -> str:
    """'all', 'most', 'some', 'few' or 'none' of the samples, for a fraction of them."""
    if fraction in (0.0, 1.0):
        return "all" if fraction else "none"
    return "most" if fraction > 0.5 else "some" if fraction >= 0.1 else "few"


def enumeration(parts: Sequence[str]) -> str:
    """'a, b and c'; 'none' of nothing."""
    if not parts:
        return "none"
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)
