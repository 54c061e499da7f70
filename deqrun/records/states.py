"""The state of a run, as its status and its claim tell it together."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

from deqrun.records.claims import CLAIM, Owner, holds_only_traces
from deqrun.records.run import RunStatus

__all__ = ["RunState", "is_owned", "state_of"]


class RunState(StrEnum):
    """completed, running, interrupted (by the user), killed (its process is gone), failed, empty, or unknown."""

    COMPLETED = "completed"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    FAILED = "failed"
    EMPTY = "empty"
    UNKNOWN = "unknown"


def state_of(folder: Path, status: RunStatus) -> RunState:
    """The state of the run in a folder. status.json says `running` for ever after a kill: the claim tells better."""
    if status.status in ("running", "starting", "unknown") and is_owned(folder):
        return RunState.RUNNING
    if status.status == "starting" or (status.status == "unknown" and holds_only_traces(folder)):
        return RunState.EMPTY
    if status.status == "running":
        return RunState.KILLED
    try:
        return RunState(status.status)
    except ValueError:
        return RunState.UNKNOWN


def is_owned(folder: Path) -> bool:
    """Whether a living process has claimed the folder. A claim that can't be read is taken for one."""
    path = folder / CLAIM
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return True
    if content is None:
        return False
    try:
        return Owner(**content).alive
    except (TypeError, ValueError, AttributeError, OverflowError):
        return True
