"""Finding run folders below the paths that somebody names, and saying of the others why they are none."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deqrun.errors import UserError, one_line
from deqrun.records.claims import holds_only_traces

__all__ = ["FoundFolders", "LeftOut", "find_folders"]

DEEPEST = 6
"""Levels below a named folder that are searched; outputs/train/<date>/<study>/runs/<run> needs five."""

PARTS_OF_A_RUN = ("status.json", "summary.json", "train.jsonl", "sweep.jsonl", "checkpoints")
"""Files that a run writes after config.yaml: a folder that holds one without the config is a damaged run."""


@dataclass(frozen=True)
class LeftOut:
    """A path that is not compared, and the reason in a sentence."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FoundFolders:
    """Run folders, each once and in the order of their names, and the paths that were left out."""

    runs: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]


def find_folders(given: Iterable[str | Path], *, sweeps: bool = False) -> FoundFolders:
    """The run folders that are named, that match a pattern, or that lie below a named folder.

    given   run folders, folders that hold some (a multirun, a study, outputs), and glob patterns
    sweeps  whether `sweep/` below a named folder is searched: it holds runs that were asked again, not trained

    Raises UserError where a pattern matches nothing.
    """
    runs: dict[Path, Path] = {}
    left_out: dict[Path, LeftOut] = {}
    for path in (path for name in given for path in _matches(name)):
        for found in _below(path, sweeps):
            if isinstance(found, LeftOut):
                left_out.setdefault(found.path, found)
            else:
                runs.setdefault(Path(os.path.realpath(found)), found)
    return FoundFolders(tuple(runs.values()), tuple(left_out.values()))


def _matches(name: str | Path) -> list[Path]:
    """The path itself, or the paths that a glob pattern matches."""
    text = os.path.expanduser(str(name))
    if os.path.lexists(text) or not glob.has_magic(text):
        return [Path(text)]
    matches = sorted(path for path in map(Path, glob.glob(text, recursive=True)) if path.is_dir())
    if not matches:
        raise UserError(f"{name} matches no folder{_nearest(Path(text))}")
    return matches


def _below(path: Path, sweeps: bool) -> Iterator[Path | LeftOut]:
    """The runs at and below a named path, or the reason why there are none."""
    if not os.path.exists(path):  # False for a name that is too long, too
        state = "is a link to nothing" if os.path.islink(path) else "does not exist"
        yield LeftOut(path, f"{path} {state}{_nearest(path)}")
        return
    if not path.is_dir():
        yield LeftOut(path, f"{path} is a file; give a run folder, or a folder that holds some.")
        return
    skipped = set() if sweeps else {path / "sweep"}
    found = list(_walk(path, 0, set(), skipped))
    yield from found or [LeftOut(path, f"{path} holds no run; a run folder holds config.yaml.")]


def _walk(folder: Path, depth: int, seen: set[str], skipped: set[Path]) -> Iterator[Path | LeftOut]:
    """The run folders at and below a folder; links are followed, and no folder is entered twice."""
    real = os.path.realpath(folder)
    if real in seen or folder in skipped:
        return
    seen.add(real)
    try:
        entries = {entry.name: entry for entry in os.scandir(folder)}
    except OSError as error:
        yield LeftOut(folder, one_line(f"{folder} can't be read: {error.strerror or error}"))
        return
    if "config.yaml" in entries:
        is_run = (folder / "config.yaml").is_file()
        yield folder if is_run else LeftOut(folder, f"{folder / 'config.yaml'} is not a file.")
        return
    if any(name in entries for name in PARTS_OF_A_RUN) and "study.yaml" not in entries:
        begun = "was stopped before it began" if holds_only_traces(folder) else "is half a run: it has no config.yaml"
        yield LeftOut(folder, f"{folder} {begun}.")
        return
    if depth < DEEPEST:
        for name in sorted(entries):
            if _is_folder(entries[name]):
                yield from _walk(folder / name, depth + 1, seen, skipped)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _nearest(path: Path) -> str:
    """'; the nearest is PATH.', of the folders beside a missing one; else the kinds of folder to give."""
    parent = next((parent for parent in path.parents if os.path.isdir(parent)), Path())
    try:
        beside = [str(parent / name) for name in os.listdir(parent) if (parent / name).is_dir()]
    except OSError:
        beside = []
    alike = difflib.get_close_matches(str(path), beside, n=1, cutoff=0.5)
    return f"; the nearest is {alike[0]}." if alike else "; give a run's folder, or one that holds runs."
