"""Fetch files aside, so that an interrupted download leaves nothing behind."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

__all__ = ["folder_aside", "impatient", "move_files"]


@contextmanager
def folder_aside(root: Path) -> Iterator[Path]:
    """An empty folder in `root`, gone afterwards; so are `root` and its parents if they were made for it alone."""
    made = [folder for folder in (root, *root.parents) if not folder.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        aside = Path(mkdtemp(prefix=".fetching-", dir=root))
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        for folder in made:
            with suppress(OSError):  # raised where something is in it
                folder.rmdir()


def move_files(source: Path, destination: Path) -> None:
    """Move every file below `source` to its place below `destination`, replacing files; each whole or not at all.

    Both lie on one file system.
    """
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = destination / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        file.replace(place)


@contextmanager
def impatient(seconds: float) -> Iterator[None]:
    """Sockets opened within the context give up after this long without an answer; else they may wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
