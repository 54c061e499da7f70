"""Standard streams that a run outlives: closed, broken, or on a full disk, they end nothing."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


def open_closed_streams() -> None:
    """Open streams that the shell closed, as by `2>&-`: else the next opened file takes the number, and the lines."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is the closed stream's own, as a rule.
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


class _Outlived:
    """A stream whose failure ends the printing, and nothing else."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
        except UnicodeEncodeError:  # as with LC_ALL=C, which has no letters beyond ASCII
            return self._stream.write(text.encode("ascii", "replace").decode("ascii"))
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Drop all output to come, and all that is still held back."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def outlived_streams() -> Iterator[None]:
    """Within: a reader that goes away, such as head, and a full disk behind `>` keep no run from going on.

    Warnings for people are printed without the line of code that they come from.
    """
    out, err, form = sys.stdout, sys.stderr, warnings.formatwarning

    def told(message: Warning | str, category: type[Warning], *where: Any, **named: Any) -> str:
        return f"deqrun: {message}\n" if category is UserWarning else form(message, category, *where, **named)

    # Both streams: progress goes to one, sentences to the other.
    sys.stdout, sys.stderr = cast(TextIO, _Outlived(out)), cast(TextIO, _Outlived(err))
    warnings.formatwarning = told
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        sys.stdout, sys.stderr, warnings.formatwarning = out, err, form
