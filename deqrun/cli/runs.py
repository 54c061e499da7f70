"""`deqrun runs`: what lies in outputs/, and deleting what came to nothing."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deqrun.cli.compare import Parser, found_or_refused
from deqrun.cli.run_folders import OUTPUTS
from deqrun.errors import UserError, one_line, unknown
from deqrun.records.claims import claimed, holds_only_traces
from deqrun.records.folders import FoundFolders, find_folders
from deqrun.records.reading import read_status, read_summary
from deqrun.records.states import RunState, state_of
from deqrun.records.yaml_text import read_yaml

__all__ = ["run_runs"]

PROPOSED = (RunState.FAILED, RunState.KILLED, RunState.INTERRUPTED, RunState.EMPTY)
"""States of the runs that `--clean` proposes to delete where no others are named."""

DELETABLE = (*PROPOSED, RunState.COMPLETED)

SECTIONS = {"choices", "model", "dataset", "solver", "train"}
"""Sections that config.yaml of every run has: a folder without them is somebody else's, and is never deleted."""


@dataclass(frozen=True)
class ListedRun:
    """One run folder as the list has it. status: as status.json has it; reason: why it ended, or can't be read."""

    folder: Path
    state: RunState
    status: str
    reason: str
    accuracy: float | None
    epoch: int | None
    changed: float
    size: int


def run_runs(arguments: Sequence[str]) -> int:
    """List the runs, or propose to delete some; nothing is deleted that was not confirmed."""
    parser = Parser("runs")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--state", metavar="STATES")
    parser.add_argument("--yes", action="store_true")
    given = parser.read(arguments)
    # What goes together, and which states, before any folder is read.
    if given.yes and not given.clean:
        raise UserError("--yes goes with --clean: it deletes without asking.")
    states = _states(given.state, given.clean)
    # Nothing found is told as deqrun compare tells it.
    found = find_folders(given.folders or [OUTPUTS], sweeps=True)
    listed = _listed(found) or _listed(found_or_refused("runs", given.folders, sweeps=True))
    runs = [run for run in listed if run.state in states]
    if not given.clean:
        _print(runs)
        for left in found.left_out:
            if not holds_only_traces(left.path):
                print(one_line(left.reason))
        return 0
    return _clean([run for run in runs if _may_go(run)], asks=not given.yes)


def _states(text: str | None, clean: bool) -> set[RunState]:
    """The states that are asked for. Raises UserError for one that there isn't, or that is never deleted."""
    if text is None:
        return set(PROPOSED) if clean else set(RunState)
    # Runs that are going on are never deleted.
    allowed = [str(state) for state in (DELETABLE if clean else RunState)]
    for name in text.split(","):
        if name not in allowed:
            raise UserError(unknown(f"--state {name}", "a state of runs" + " to delete" * clean, allowed, name))
    return {RunState(name) for name in text.split(",")}


def _listed(found: FoundFolders) -> list[ListedRun]:
    """Every run folder, newest last; those that were stopped before they began among them."""
    empty = [left.path for left in found.left_out if holds_only_traces(left.path)]
    return sorted((_read(folder) for folder in (*found.runs, *empty)), key=lambda run: run.changed)


def _read(folder: Path) -> ListedRun:
    written, reason, accuracy, epoch = "", "", None, None
    # A folder that can't be read is listed with its reason.
    try:
        status, summary = read_status(folder), read_summary(folder)
        state, written, reason = state_of(folder, status), status.status, status.reason
        epoch, accuracy = status.epoch, summary.test_accuracy
    except Exception as error:  # whatever a stranger's folder holds
        state, reason = RunState.UNKNOWN, str(error)
    size, changed = _measured(folder)
    return ListedRun(folder, state, written, " ".join(reason.split()), accuracy, epoch, changed, size)


def _measured(folder: Path) -> tuple[int, float]:
    """Bytes of all files below a folder, and when the newest of them changed; links are not followed."""
    size, changed = 0, 0.0
    # A file may vanish meanwhile, as in a run that goes on.
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                stat = os.lstat(os.path.join(parent, name))
            except OSError:
                continue
            size, changed = size + stat.st_size, max(changed, stat.st_mtime)
    return size, changed or folder.stat().st_mtime


def _print(runs: Sequence[ListedRun]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from deqrun.report import numbers
    from deqrun.report.compare.keys import printable

    # The folder takes the room that is left; a reason stands below it.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("state", no_wrap=True)
    for heading in ("test %", "age", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("folder", overflow="fold")
    for run in runs:
        where = Text(printable(str(run.folder)))
        if run.reason:
            where.append(f"\n{printable(run.reason)[:200]}", style="dim")
        accuracy = numbers.percent(run.accuracy).removesuffix(" %")
        table.add_row(str(run.state), accuracy, _age(run.changed), _size(run.size), where)
    console = Console(width=None if sys.stdout.isatty() else 80)
    console.print(table)
    number = f"{len(runs):,} run{'' if len(runs) == 1 else 's'}"
    console.print(f"{number}, {_size(sum(run.size for run in runs))}", highlight=False)


def _age(changed: float) -> str:
    seconds = max(0.0, time.time() - changed)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(size: int) -> str:
    """1536 -> '1.5 kB'."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def _may_go(run: ListedRun) -> bool:
    """Whether a folder is a run of deqrun's that can be deleted: no link, and not around the current folder."""
    # A link's target is somewhere else, and the current folder is in use.
    if run.folder.is_symlink() or Path.cwd().resolve().is_relative_to(run.folder.resolve()):
        return False
    if run.state is RunState.EMPTY and holds_only_traces(run.folder):
        return True
    try:
        return read_yaml(run.folder / "config.yaml").keys() >= SECTIONS
    except (OSError, ValueError, AttributeError):
        return False


def _clean(runs: Sequence[ListedRun], *, asks: bool) -> int:
    """Propose, ask, delete. Without a terminal and --yes nothing is deleted."""
    if not runs:
        print("Nothing to delete.")
        return 0
    _print(runs)
    # Nothing is deleted unseen: a person agrees, or --yes was typed.
    if asks and not sys.stdin.isatty():
        print("Nothing was deleted: there is no terminal to ask in. --yes deletes these without asking.")
        return 0
    if asks and not _agreed(runs):
        print("Nothing was deleted.")
        return 0
    return _delete(runs)


def _agreed(runs: Sequence[ListedRun]) -> bool:
    number = f"{len(runs):,} folder{'' if len(runs) == 1 else 's'}"
    try:
        answer = input(f"Delete {number} with all that is in them? [y/N] ")
    except EOFError:
        print()
        return False
    return answer.strip().lower() in ("y", "yes")


def _delete(runs: Iterable[ListedRun]) -> int:
    """Delete each folder while it is claimed: a run that has just gone on keeps its own."""
    deleted, code = 0, 0
    for run in runs:
        try:
            with claimed(run.folder, of_a_run=False):
                # Between the list and this moment the run may have gone on.
                if _read(run.folder).status != run.status:
                    raise UserError(f"{run.folder} has changed meanwhile, and was kept.")
                shutil.rmtree(run.folder)
            deleted += 1
        except (UserError, OSError) as error:
            print(f"deqrun: {one_line(error)}", file=sys.stderr)
            code = 1
    print(f"{deleted:,} folder{'' if deleted == 1 else 's'} deleted.")
    return code
