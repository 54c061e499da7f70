"""When a solve reaches each iterate, by a clock that stands still while the iterates are looked at."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.solvers.device import Mark, mark, seconds_between

__all__ = ["SolveClock"]


class SolveClock:
    """Seconds of one batch: of its solve, without its observer, and of one read-out.

    A sweep reads the head out at every iterate and records signals there; a solve with a budget of its own reads out
    once, at its end. So the observer's time is taken from the clock, and one read-out is added. On an accelerator the
    moments are marks in its queue, and the host waits for none until `seconds` is asked for.
    """

    def __init__(self, iterates: int, device: torch.device) -> None:
        """iterates: T + 1, the most that there will be."""
        self._device, self._iterates = device, iterates
        self._observed: list[tuple[int, Mark, Mark]] = []
        self._readouts: list[tuple[int, Mark, Mark]] = []
        self._began = mark(device)

    @contextmanager
    def observing(self, k: int) -> Iterator[None]:
        """Within, iterate k is looked at: the clock of the solve stands still."""
        entered = mark(self._device)
        yield
        self._observed.append((k, entered, mark(self._device)))

    @contextmanager
    def reading(self, rows: int) -> Iterator[None]:
        """Within, so many rows are read out, and nothing else is done."""
        entered = mark(self._device)
        yield
        self._readouts.append((rows, entered, mark(self._device)))

    def seconds(self) -> NDArray[np.float64]:
        """(T+1,) seconds of a solve that ends at iterate k and is read out there; beyond the last, the last's.

        The read-out is of all rows: the median over the iterates that had as many.
        """
        # Read-outs of fewer rows, late in a solve, take less: they tell nothing of a whole batch.
        most = max((rows for rows, _, _ in self._readouts), default=0)
        readouts = [seconds_between(*moments) for rows, *moments in self._readouts if rows == most]
        # Time on the way to each iterate, less what was spent on looking at earlier ones.
        reached, looked_on, last = np.zeros(self._iterates), 0.0, 0
        for last, entered, left in self._observed:
            reached[last] = seconds_between(self._began, entered) - looked_on
            looked_on += seconds_between(entered, left)
        reached[last:] = reached[last]
        return reached + statistics.median(readouts or [0.0])
