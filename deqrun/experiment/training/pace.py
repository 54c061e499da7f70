"""How often something is written while a run trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ROWS_EVERY", "Pace"]

ROWS_EVERY = 10.0
"""Seconds, at least, between two writes of rows within an epoch."""


class Pace:
    """Says when the next write is due.

    seconds  between two writes; inf: never
    share    of the time that writes may take: a slow one is followed by a longer wait; None: however long they take
    """

    def __init__(self, seconds: float, share: float | None = None) -> None:
        self.seconds, self.share = seconds, share
        self._wait = seconds
        self.restart()

    def restart(self) -> None:
        """Count from now."""
        self._since = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._since >= self._wait

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Within, something is written; the count begins anew at its end."""
        began = time.monotonic()
        yield
        self.restart()
        if self.share is not None:
            self._wait = max(self.seconds, (self._since - began) / self.share)
