"""Reading files that a stranger may have made: their sizes are known before anything is read or allocated."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Arrays",
    "Header",
    "NotReadable",
    "available_memory",
    "is_there",
    "open_npz",
    "parse_json",
    "read_header",
    "read_json",
    "read_text",
    "require_honest_zip",
]

MOST_TEXT = 512 * 2**20
"""Bytes of a text file; a record of a million epochs has half of them."""

MOST_BY_PARTS = 2**36
"""Bytes that an archive read part by part may unpack to: a limit to the time that a hostile one takes."""

MOST_RATIO = 1040
"""By which deflated bytes can grow: 258 bytes from two bits are the most (RFC 1951)."""

MOST_MEMBERS = 100_000
"""Files in an archive; a sweep of a thousand trajectories has ten thousand."""


def available_memory() -> int:
    """Bytes that can be had without swapping, of the machine or of the container, whichever is less."""
    found = [_available_of_machine(), *_left_in_container()]
    return min(value for value in found if value > 0)


def _available_of_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**40  # not known: no limit


def _left_in_container() -> list[int]:
    """Memory that cgroups, version 2 and 1, leave; empty where there is no limit."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = int(Path(limit).read_text(encoding="ascii")), int(Path(used).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if most < 2**60:
            return [max(1, most - now + _cached(Path(limit).parent / "memory.stat"))]
    return []


def _cached(stat: Path) -> int:
    """Bytes of files in memory that a container gives back when it needs them."""
    try:
        lines = dict(line.split() for line in stat.read_text(encoding="ascii").splitlines())
        return int(lines.get("inactive_file", lines.get("total_inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def is_there(path: Path) -> bool:
    """Whether there is a file to be read. ValueError, a sentence, where a folder, a pipe or a broken link is there."""
    if path.is_file():
        return True
    if path.is_symlink():
        raise ValueError(f"'{path}' is a link to nothing that can be read; put a file in its place.")
    if path.exists():
        raise ValueError(f"'{path}' is {'a folder' if path.is_dir() else 'no file'}; put a file in its place.")
    return False


def read_text(path: Path) -> str:
    """The text of a file; ValueError, half a sentence, where it is too large or not UTF-8."""
    size = path.stat().st_size
    if size > MOST_TEXT:
        raise ValueError(f"'{path}' has {size:,} bytes, and at most {MOST_TEXT:,} are read")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is not text in UTF-8 at byte {error.start:,}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError where it is none."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """The content of a JSON text; ValueError where it is none, or is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def require_honest_zip(archive: zipfile.ZipFile, most: int) -> None:
    """ValueError where an archive would unpack to more than `most` bytes, or holds too many files."""
    members = archive.infolist()
    size = sum(member.file_size for member in members)
    if len(members) > MOST_MEMBERS:
        raise NotReadable(f"it holds {len(members):,} files, and at most {MOST_MEMBERS:,} are read")
    if size > most:
        raise NotReadable(f"it would unpack to {size:,} bytes, and {most:,} are the most that fit")
    for member in members:
        if member.file_size > MOST_RATIO * member.compress_size + 1024:
            raise NotReadable(
                f"{member.filename} would unpack to {member.file_size:,} bytes, and has {member.compress_size:,}"
            )


@contextmanager
def open_npz(path: Path, *, by_parts: bool = False) -> Iterator[Arrays]:
    """The arrays of an npz file by their names, read when they are asked for; no pickle is opened.

    by_parts  whether the arrays are never all in memory at once, so that more may be in the file than memory holds

    Raises OSError, or `NotReadable` where the file is none, is damaged, or would not fit into half of the memory.
    """
    if path.exists() and not path.is_file():
        raise NotReadable("it is no file")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise NotReadable(str(error)) from error
    with archive:
        require_honest_zip(archive, MOST_BY_PARTS if by_parts else available_memory() // 2)
        yield Arrays(archive)


class NotReadable(ValueError):  # noqa: N818  (it names what is the case)
    """A file of the wrong kind or content; the message is a clause that says why."""


class Header(NamedTuple):
    """Of an npy file: shape, whether the first axis is the fastest (Fortran), and the type of its numbers."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


class Arrays(Mapping[str, NDArray[Any]]):
    """Arrays of an archive whose headers say no more than their files hold."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.names = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        self._most = available_memory() // 2

    def __getitem__(self, name: str) -> NDArray[Any]:
        member = self.names[name]
        if self.archive.getinfo(member).file_size > self._most:
            raise NotReadable(f"{name} would not fit into half of the memory")
        with _damage_told(name):
            file = io.BytesIO(self.archive.read(member))
            header = read_header(file)
            _require_content(name, header, len(file.getbuffer()) - file.tell())
            file.seek(0)
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def size(self, name: str) -> int:
        """Bytes of an array."""
        return self.archive.getinfo(self.names[name]).file_size

    def header(self, name: str) -> Header:
        """The header of an array whose file holds what it says; all of the file is read, and nothing of it is kept."""
        with _damage_told(name), self.archive.open(self.names[name]) as file:
            found, rest = read_header(file), 0
            while block := file.read(2**20):
                rest += len(block)
        _require_content(name, found, rest)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    try:
        yield
    except NotReadable:
        raise
    except (ValueError, KeyError, TypeError, SyntaxError, OverflowError, MemoryError) as error:
        raise NotReadable(f"{name} is no array ({' '.join(str(error).split())})") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError, zlib.error) as error:
        raise NotReadable(f"{name} can't be unpacked ({error})") from error


def read_header(file: IO[bytes]) -> Header:
    """The header of an npy file, after which its content follows. Raises ValueError or KeyError where there is none."""
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return Header(*read[version](file))


def _require_content(name: str, header: Header, size: int) -> None:
    count = int(np.prod(header.shape, dtype=object)) if header.shape else 1
    why = "it holds no numbers" if header.dtype.kind not in "biuf" else ""
    if count < 0 or count * header.dtype.itemsize != size:
        why = why or "its header does not fit its content"
    if why:
        raise NotReadable(f"{name} is no array ({why})")
