"""When a solve reaches each iterate, by a clock that stands still while the iterates are looked at."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["SolveClock"]


class SolveClock:
    """Seconds of one batch: of its solve, without its observer, and of one read-out.

    A sweep reads the head out at every iterate and records signals there; a solve with a budget of its own reads out
    once, at its end. So the observer's time is taken from the clock, and one read-out is added.
    """

    def __init__(self, iterates: int, device: torch.device) -> None:
        """iterates: T + 1, the most that there will be."""
        self._device = device
        self._reached = np.zeros(iterates)
        self._last, self._observed = 0, 0.0
        self._readouts: list[tuple[int, float]] = []
        self._began = self._now()

    @contextmanager
    def observing(self, k: int) -> Iterator[None]:
        """Within, iterate k is looked at: the clock of the solve stands still."""
        entered = self._now()
        self._reached[k], self._last = entered - self._began - self._observed, k
        yield
        self._observed += self._now() - entered

    @contextmanager
    def reading(self, rows: int) -> Iterator[None]:
        """Within, so many rows are read out, and nothing else is done."""
        entered = self._now()
        yield
        self._readouts.append((rows, self._now() - entered))

    def seconds(self) -> NDArray[np.float64]:
        """(T+1,) seconds of a solve that ends at iterate k and is read out there; beyond the last, the last's.

        The read-out is of all rows: the median over the iterates that had as many.
        """
        most = max((rows for rows, _ in self._readouts), default=0)
        readout = statistics.median([seconds for rows, seconds in self._readouts if rows == most] or [0.0])
        reached = self._reached.copy()
        reached[self._last :] = reached[self._last]
        return reached + readout

    def _now(self) -> float:
        if self._device.type == "cuda":  # which works on while the host goes ahead
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
