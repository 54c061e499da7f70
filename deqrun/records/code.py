"""Which code a run was made with: the git commit of the working folder. Imports no torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Code", "code_in"]


@dataclass(frozen=True)
class Code:
    """commit: 40 hexadecimal digits; dirty: whether a tracked file differs from it. Both None where git knows none."""

    commit: str | None = None
    dirty: bool | None = None


def code_in(folder: Path) -> Code:
    """The commit that a folder's working tree is at. Files that git does not track, as a run's own, are no changes."""
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return Code()
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return Code(commit.strip(), None if changes is None else bool(changes.strip()))


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git, None where there is no git, no repository, or no answer within seconds."""
    # No program that a repository's configuration names is run, and no lock is taken.
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, env=environment, check=False)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout if done.returncode == 0 else None
