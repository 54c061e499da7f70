"""How answers are worded: estimates as cells of a table, and lists as words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deqrun.inference import Estimate
from deqrun.report import numbers

__all__ = ["among", "amounts", "enumeration", "percents", "point_texts", "words"]


def percents(found: Iterable[Estimate]) -> list[str]:
    """'97.2 [95.6, 98.6]' of each share, in per cent."""
    return [f"{100 * one.mean:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in found]


def point_texts(found: Iterable[Estimate]) -> list[str]:
    """'+1.4 [−0.3, +3.0]' of each difference of shares, in points."""
    return [f"{numbers.points(e.mean)} [{numbers.points(e.low)}, {numbers.points(e.high)}]" for e in found]


def amounts(found: Iterable[Estimate]) -> list[str]:
    """'12.4 [11.9, 13.0]' of each number; 'none' where it is infinite."""
    cut = numbers.significant
    return [f"{cut(one.mean)} [{cut(one.low)}, {cut(one.high)}]" for one in found]


def enumeration(parts: Sequence[str]) -> str:
    """'a, b and c'; 'none' of nothing."""
    if not parts:
        return "none"
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def words(name: str) -> str:
    """A variant's label as words: 'bits_to_settle' -> 'bits to settle'."""
    return name.replace("_", " ")


def among(names: Sequence[str], total: int) -> str:
    """'every variant', 'a and b', or '3 of 4 variants': short enough for a verdict."""
    if len(names) == total > 1:
        return "every variant"
    return enumeration(names) if len(names) <= 2 else f"{len(names)} of {total} variants"
