"""Right answers at every iterate: as measurements keep them, and as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.inference import SHARE, claim
from deqrun.report.charts.answers import Point

__all__ = ["bands", "course_points", "courses", "packed_course"]

DRAWN = 80
"""Points of a curve at most."""


def packed_course(right: NDArray[np.bool_]) -> dict[str, Any]:
    """Right answers (T+1, n) as JSON has them: the number of iterates, and eight iterates to a number."""
    return {"iterates": len(right), "right": np.packbits(right, axis=0).tolist()}


def courses(parts: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """(S, T+1, n) of the measurements of S runs, each with a `packed_course`."""
    bits = [np.asarray(part["right"], dtype=np.uint8) for part in parts]
    counts = [part["iterates"] for part in parts]
    return np.stack([np.unpackbits(one, axis=0, count=n) for one, n in zip(bits, counts, strict=True)]).astype(bool)


def course_points(series: str, right: NDArray[np.bool_]) -> list[Point]:
    """Accuracy at iterates at equal factors, of right answers (S, T+1, n), with the band that `bands` names."""
    places = np.unique(np.geomspace(1, right.shape[1] - 1, DRAWN).round()).astype(int)
    if len(right) == 1:
        return [Point.of(series, float(t), claim(right[:, t], SHARE)) for t in places]
    shares = [(t, right[:, t].mean(axis=1)) for t in places]
    return [Point(series, float(t), float(s.mean()), float(s.min()), float(s.max())) for t, s in shares]


def bands(seeds: int) -> str:
    """What the band of a curve of so many seeds is."""
    return "95 % intervals" if seeds == 1 else f"from the worst to the best of {seeds} seeds"
