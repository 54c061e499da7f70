"""What is fetched aside arrives whole or leaves no trace."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from deqrun.datasets.fetching import folder_aside, impatient, move_files


def interrupted(root: Path) -> None:
    """A fetch that is stopped in the middle of a file."""
    with folder_aside(root) as aside:
        (aside / "half").write_text("hal")
        raise KeyboardInterrupt


def test_an_interrupted_fetch_leaves_no_trace(tmp_path: Path) -> None:
    """The folders made for it go, those that were there stay as they were."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    for root in (tmp_path / "data", tmp_path / "new" / "deeper"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(root)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "mine.txt"]


def test_what_is_moved_stays_and_replaces_what_was_there(tmp_path: Path) -> None:
    root = tmp_path / "new" / "data"
    with folder_aside(root) as aside:
        (aside / "a").mkdir()
        (aside / "a" / "one").write_text("fetched")
        (root / "a").mkdir()
        (root / "a" / "one").write_text("damaged")
        (root / "a" / "two").write_text("mine")
        move_files(aside, root)
    found = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}
    assert found == {"a/one": "fetched", "a/two": "mine"}


def test_sockets_wait_for_so_long_and_as_before_afterwards() -> None:
    with impatient(7.0), socket.socket() as connection:
        assert connection.gettimeout() == 7.0
    assert socket.getdefaulttimeout() is None
