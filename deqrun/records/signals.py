"""Signals that end a run: at once, or as soon as the step under way is done. Imports no torch."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

__all__ = ["ENDING", "Stop", "ending_as_interrupted", "handled_as_interruption", "held"]

ENDING = ("SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals that end a run as Ctrl-C does: of a batch system, of a closed terminal, and SLURM's warning."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def ending_as_interrupted() -> Iterator[None]:
    """Within: SIGTERM, SIGHUP and SIGUSR1 end a run as Ctrl-C does.

    A SIGHUP that is ignored, as nohup has it, stays ignored. A program that handles the signal itself keeps it: a job
    of submitit ignores SIGTERM, and is queued again on SIGUSR2. Elsewhere than in the main thread nothing changes.
    """
    with _handled(ENDING, signal.SIG_DFL, _interrupt):
        yield


def handled_as_interruption() -> list[str]:
    """Names of the signals that `ending_as_interrupted` handles just now."""
    return [name for name in ENDING if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == _interrupt]


class Stop:
    """Whether a signal has asked the run to end."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come."""
        if self.requested:
            raise KeyboardInterrupt

    def note(self, signum: int, frame: FrameType | None) -> None:
        """The handler: a signal is kept in mind. A second Ctrl-C is impatience, and ends the run at once."""
        if self.requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def held() -> Iterator[Stop]:
    """Within: a signal that would end the run is noted, and the work looks for it where it can stop.

    Held are Ctrl-C and the signals of `ending_as_interrupted`, as far as no other program handles them. A signal that
    the work did not look for is raised at the end.
    """
    stop = Stop()
    with _handled(("SIGINT",), signal.default_int_handler, stop.note), _handled(ENDING, _interrupt, stop.note):
        yield stop
    stop.check()


@contextmanager
def _handled(names: tuple[str, ...], present: Any, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within: the signals whose handler is `present` have this one instead."""
    before = {}
    for name in names:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == present:
            with suppress(ValueError):  # not the main thread
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
