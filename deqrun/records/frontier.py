"""The points of a sweep that no other beats in cost and gain."""

import math
from collections.abc import Sequence

__all__ = ["non_dominated"]


def non_dominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices, by rising cost, of the (cost, gain) points that no other beats.

    A point beats another where its cost is no more and its gain no less, and one of the two is better. Of points that
    coincide, the first stands for all.
    """
    chosen: list[int] = []
    best = -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i)):
        if points[index][1] > best:
            chosen.append(index)
            best = points[index][1]
    return chosen
