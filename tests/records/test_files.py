"""A file is written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from deqrun.records import files
from deqrun.records.files import write_whole


def test_text_is_utf8_and_folders_are_made(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a" / "b.txt", "‖f(z) − z‖")
    assert path.read_bytes() == "‖f(z) − z‖".encode()
    assert os.listdir(path.parent) == ["b.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "record.json", b"old")

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new, and longer than what was there")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_the_name_changes_hands_only_after_the_content_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (order.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    write_whole(tmp_path / "record.json", b"new")
    assert order[:2] == ["fsync", "replace"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write_whole(tmp_path / "page.html", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
