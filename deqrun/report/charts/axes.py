"""Axes: logarithmic ones labelled at powers of ten, and accuracies, whole or near the best."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from deqrun.records.rows import HaltingRow
from deqrun.report.charts.data import BudgetPoint, FrontierPoint
from deqrun.report.charts.style import NEAR

EDGE = 6
"""Pixels between the outermost mark and the edge of a linear axis, so that the edge cuts none in two."""
ROOM = 1.25
"""Factor left free beyond the smallest and the largest value."""


def accuracy_axis(
    points: Sequence[BudgetPoint | FrontierPoint | HaltingRow], split: str, close: bool = False
) -> dict[str, Any] | None:
    """Title, scale and axis of a split's accuracies.

    close: from NEAR below the best accuracy to the top; None where all lie within 2 NEAR, and the whole view does.
    """
    best, worst = max(point.accuracy for point in points), min(point.accuracy for point in points)
    ends = [end for point in points for end in (point.accuracy_low, point.accuracy_high) if math.isfinite(end)]
    if close:
        if best - worst <= 2 * NEAR:
            return None
        domain = [best - NEAR, min(max([best, *ends]) + NEAR / 25, 1.0)]
    else:
        # Whole steps of NEAR around all values and intervals, and no accuracy above 100 %.
        steps = round(1 / NEAR)
        low, high = (round(steps * end, 9) for end in (min([worst, *ends]), max([best, *ends])))
        top = min(max(math.ceil(high), 1), steps)
        domain = [min(math.floor(low), top - 1) / steps, top / steps]
    scale = alt.Scale(domain=domain, nice=False, padding=EDGE)
    return {"title": f"{split} accuracy", "scale": scale, "axis": alt.Axis(format=".3~p", tickCount=6)}


@dataclass(frozen=True)
class LogAxis:
    """A log axis from `low` to `high`, both above zero, with ticks at the powers of ten between them."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Sequence[float]) -> "LogAxis":
        """The axis that shows all values, and no fewer than two powers of ten, so that the scale can be read."""
        low, high = min(values) / ROOM, max(values) * ROOM
        if len(_powers(low, high)) < 2:
            low = min(low, 10.0 ** math.floor(math.log10(min(values)) + 1e-9))
            high = max(high, 10.0 ** math.ceil(math.log10(max(values)) - 1e-9))
        if len(_powers(low, high)) < 2:
            low /= 10
        return cls(low, high)

    def clip(self, value: float) -> float:
        """The value, or the end of the axis that it lies beyond: zero has no place on a log axis, nor has inf."""
        return min(max(value, self.low), self.high)

    @property
    def scale(self) -> alt.Scale:
        """Vega's scale."""
        return alt.Scale(type="log", domain=[self.low, self.high], nice=False)

    def axis(self, most: int = 10) -> alt.Axis:
        """Ticks at every power of ten, or at every second, third … where there are more than `most`."""
        powers = _powers(self.low, self.high)
        shown = powers[:: math.ceil(len(powers) / most)]
        # Numbers of size one and more in figures, smaller ones as powers: '10', '1', '1e-1'.
        power = "replace(format(datum.value, '.0e'), '+', '')"
        label = f"datum.value >= 1 && datum.value < 1e5 ? format(datum.value, ',d') : {power}"
        return alt.Axis(values=[10.0**power for power in shown], labelExpr=label)


def _powers(low: float, high: float) -> list[int]:
    """Exponents of the powers of ten in [low, high]."""
    return list(range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1))
