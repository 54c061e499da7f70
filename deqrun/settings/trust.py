"""Which folders of Python code the user has allowed: asked once per folder, kept in the user's config directory.

A run folder can't allow anything: the record of trust lies outside of it, and holds only answers given in a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path

TRUSTED_PACKAGES = ("deqrun", "torch")
"""A `_target_` outside of these packages is refused unless `allow_foreign_targets=true`."""

__all__ = ["admit", "how_to_allow", "is_packaged", "is_trusted", "remember", "trusted_file", "use_folder"]

MOST_BYTES = 1_000_000
"""Size of the list beyond which it is not read."""

_of_this_process: set[str] = set()
"""Folders that were allowed where the list can't be written."""

_untrusted: list[Path] = []
"""The folder of `--config-dir` that is not allowed, for the sentence."""


def trusted_file() -> Path:
    """The list of allowed folders: deqrun/trusted.json in $XDG_CONFIG_HOME, by default ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(base) if base and Path(base).is_absolute() else Path("~/.config").expanduser()
    return home / "deqrun" / "trusted.json"


def trusted_folders() -> set[str]:
    """The allowed folders, as absolute paths; none where there is no list, or none that can be read."""
    try:
        file = trusted_file()
        if file.stat().st_size > MOST_BYTES:
            return set(_of_this_process)
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError, RecursionError):
        return set(_of_this_process)
    folders = content.get("folders") if isinstance(content, dict) else None
    listed = {folder for folder in folders if isinstance(folder, str)} if isinstance(folders, list) else set()
    return listed | _of_this_process


def remember(folder: Path) -> None:
    """Allow the code in `folder`, for later commands too."""
    folders = sorted({*trusted_folders(), str(folder.resolve())})
    _of_this_process.add(str(folder.resolve()))
    file = trusted_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{os.getpid()}.part")
        aside.write_text(json.dumps({"folders": folders}, indent=2) + "\n", encoding="utf-8")
        os.replace(aside, file)
    except OSError:
        pass  # asked again next time


def is_packaged(target: str) -> bool:
    """Whether a dotted name means code of deqrun or torch, by its beginning."""
    return target.startswith(tuple(f"{package}." for package in TRUSTED_PACKAGES))


def is_trusted(target: str) -> bool:
    """Whether a dotted name means code of a folder on the import path that the user has allowed."""
    folders = trusted_folders()
    if not folders or "." not in target:
        return False
    spec = PathFinder.find_spec(target.partition(".")[0], sys.path)
    places = [spec.origin] if spec and spec.origin else list(spec.submodule_search_locations or ()) if spec else []
    return bool(places) and all(_is_below(place, folders) for place in places)


def _is_below(place: str, folders: set[str]) -> bool:
    path = Path(place).resolve()
    return any(str(parent) in folders for parent in path.parents)


def use_folder(folder: Path) -> None:
    """Put a folder on the import path, last: nothing that there is already can be replaced by it."""
    text = str(folder.resolve())
    if text not in sys.path:
        sys.path.append(text)


def admit(folder: Path, *, allowed: bool) -> None:
    """Put the code of a `--config-dir` folder on the import path, if the user allows it; asks once, in a terminal.

    allowed  whether allow_foreign_targets=true was typed on this command line, which is not kept
    """
    if not any(folder.glob("*.py")) and not any(folder.glob("*/__init__.py")):
        return
    _untrusted.clear()
    if not allowed and str(folder.resolve()) not in trusted_folders():
        if not _asked(folder):
            _untrusted.append(folder)
            return
        remember(folder)
    use_folder(folder)


def _asked(folder: Path) -> bool:
    """The answer of a person in a terminal; no where there is none."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(
        f"{folder.resolve()} holds Python code, which deqrun would run. The answer is kept in {trusted_file()}.",
        file=sys.stderr,
    )
    print("Do you trust this folder? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def how_to_allow() -> str:
    """The end of the sentence that refuses a target: how a user who trusts it allows it."""
    if _untrusted:
        return (
            f"and {_untrusted[0]} is not a folder that you have allowed; if you trust it, give the command once in a "
            "terminal, where deqrun asks, or with allow_foreign_targets=true"
        )
    return (
        "and would run its code; if you trust it, give --config-dir with the folder that it is in, or "
        "allow_foreign_targets=true"
    )
