"""How numbers are written, in one place, so that a table, a finding and a chart agree."""

import math
from typing import TypeGuard

UNKNOWN = "–"


def percent(fraction: float | None, digits: int = 1) -> str:
    """0.9722 -> '97.2 %'."""
    return f"{100 * fraction:.{digits}f} %" if _known(fraction) else UNKNOWN


def percent_range(low: float | None, high: float | None) -> str:
    """0.956, 0.986 -> '95.6 to 98.6 %'."""
    return f"{100 * low:.1f} to {100 * high:.1f} %" if _known(low) and _known(high) else UNKNOWN


def points(difference: float) -> str:
    """A difference of fractions in percentage points with its sign: 0.0031 -> '+0.3'. No '-0.0' is written."""
    rounded = round(100 * difference, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}".replace("-", "\N{MINUS SIGN}")


def tolerance(value: float | None) -> str:
    """1e-05 -> '1e-5'; 0.0003 -> '3e-4'; 0 -> '0'."""
    if not _known(value):
        return UNKNOWN
    if value == 0:
        return "0"
    mantissa, _, exponent = f"{value:.3e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def residual(value: float | None) -> str:
    """0.000123 -> '1.2e-4'; a residual that is not finite says so."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "inf"
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")


def count(value: float | None) -> str:
    """49482 -> '49,482'."""
    return f"{round(value):,}" if _known(value) else UNKNOWN


def mean(value: float | None) -> str:
    """A mean of counts, one decimal: 6.0833 -> '6.1'."""
    return f"{value:.1f}" if _known(value) else UNKNOWN


def duration(seconds: float | None) -> str:
    """4.21 -> '4.2 s'; 83 -> '1 min 23 s'; 3725 -> '1 h 2 min'."""
    if not _known(seconds):
        return UNKNOWN
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds >= 0.095 else f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def short_count(value: float | None) -> str:
    """49482 -> '49.5k'; 1203456 -> '1.2M'; 830 -> '830'."""
    if not _known(value):
        return UNKNOWN
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{letter}"
    return f"{value:.0f}"


def short_duration(seconds: float | None) -> str:
    """42.7 -> '43s'; 83 -> '1m23s'; 3725 -> '1h02m'."""
    if not _known(seconds):
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if whole < 10 else f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def significant(value: float, digits: int = 3) -> str:
    """1234.5 -> '1,230'; 0.01234 -> '0.0123'; 1.2e-5 -> '1.2e-5'."""
    if math.isinf(value):
        return "none" if value > 0 else UNKNOWN
    if math.isnan(value):
        return UNKNOWN
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.{max(0, digits - 2)}e}".replace("e-0", "e-")
    rounded = float(f"{value:.{digits}g}")
    if rounded == value == round(value):  # a count
        return f"{round(value):,}".replace("-", "\N{MINUS SIGN}")
    text = f"{rounded:,.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}" if rounded else "0"
    return text.replace("-", "\N{MINUS SIGN}")


def iterations(number: int) -> str:
    """1 -> '1 iteration'; 12 -> '12 iterations'."""
    return f"{number:,} iteration" + ("" if number == 1 else "s")


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
