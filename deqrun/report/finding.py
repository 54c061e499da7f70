"""A finding, and the words that all findings share."""

import math
from dataclasses import dataclass

from deqrun.inference import Estimate, Told
from deqrun.records.rows import SweepCell
from deqrun.report import numbers


@dataclass(frozen=True)
class Finding:
    """A heading of a few words and one or two sentences."""

    title: str
    sentence: str


def change_in_words(change: Estimate, side: Told | None = None) -> str:
    """'falls: −1.2 points, 95 % interval −2.0 to −0.4', or that no change was detected.

    side  told of the change where it is one of a family; None: it stands by itself
    """
    interval = f"{numbers.points(change.mean)} points, 95 % interval {numbers.points(change.low)} to "
    interval += numbers.points(change.high)
    if change.includes_zero or side is Told.NOT:
        return f"shows no detectable change: {interval}"
    return f"{'rises' if change.mean > 0 else 'falls'}: {interval}"


def interval_in_words(accuracy: float | None, low: float | None, high: float | None, n: int | None) -> str:
    """'97.2 % (95 % interval 95.6 to 98.6 %, n = 360)'."""
    parts = [] if low is None or math.isnan(low) else [f"95 % interval {numbers.percent_range(low, high)}"]
    parts += [] if n is None else [f"n = {n:,}"]
    return numbers.percent(accuracy) + (f" ({', '.join(parts)})" if parts else "")


def enough_cell(cells: list[SweepCell]) -> SweepCell:
    """The cell of smallest budget whose accuracy is within one binomial standard error of the best one's."""
    best = max(cells, key=lambda cell: cell.accuracy)
    error = math.sqrt(best.accuracy * (1 - best.accuracy) / best.n)
    return min((c for c in cells if c.accuracy >= best.accuracy - error), key=lambda cell: cell.max_iter)
