"""A multirun as a grid that survives: finished jobs are skipped, cut ones go on, and a failed one costs no other.

The grid's folder holds `grid.json`: the overrides that all jobs share, the keys that differ, and each job's folder.
The same command, typed again, finds that folder and goes on there. With more values it does only the new jobs.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus

from deqrun.cli.run_folders import OUTPUTS, is_run
from deqrun.errors import RankLost, UserError, one_line
from deqrun.records.files import read_json_if_any, write_whole
from deqrun.settings.sources import quoted
from deqrun.studies.study import Study

if TYPE_CHECKING:  # records need NumPy, settings pydantic; a command that only composes does without
    from deqrun.records.run import RunStatus, Summary
    from deqrun.settings import Settings

FILE = "grid.json"
FAILED = 3
"""Exit code of a grid of which a job failed: 2 is for a mistake on the command line."""

NAME_LENGTH = 60
"""Characters of a job's folder name before it is elided."""

POLL = 0.5
"""Seconds between two looks at the jobs' states."""


@dataclass(frozen=True)
class GridJob:
    """One job of a grid: its overrides, the run or study that they describe, and the folder that is its own."""

    number: int
    overrides: tuple[str, ...]
    task: Settings | Study
    differs: str
    folder: Path

    @property
    def status(self) -> RunStatus:
        """The status that the job's folder holds; 'waiting' where there is none yet."""
        from deqrun.records.reading import read_status
        from deqrun.records.run import RunStatus

        if isinstance(self.task, Study):
            return RunStatus("completed" if (self.folder / "answer.json").is_file() else "waiting")
        if not (self.folder / "status.json").is_file():
            return RunStatus("waiting")
        try:
            status = read_status(self.folder)
        except ValueError as error:
            return RunStatus("damaged", one_line(error))
        return RunStatus("running") if status.status == "starting" else status

    @property
    def written(self) -> int:
        """When the job's status was last written; 0 where it says nothing yet."""
        path = self.folder / "status.json"
        return path.stat().st_mtime_ns if path.is_file() else 0

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.status.status == "completed" and (isinstance(self.task, Study) or is_run(self.folder))


def identity(task: Settings | Study, differs: str) -> str:
    """Hexadecimal digits that a job keeps from call to call: of its settings and of the values that differ.

    The values count too: device=cpu,cuda makes two jobs, although a fingerprint leaves the device out.
    """
    # A run by its numbers; a study by its question and all of its runs.
    if isinstance(task, Study):
        parts = [task.name, task.size, repr(sorted(task.ask.items()))]
        parts += [f"{variant.label} {variant.settings.fingerprint()}" for variant in task.variants]
    else:
        parts = [task.fingerprint(), "" if task.run is None else str(task.run.resolve())]  # a sweep's run
    return sha256("\n".join([*parts, differs]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Shape:
    """The parts that two calls of one grid share: the overrides of all jobs, and the keys that differ between them."""

    command: str
    shared: tuple[str, ...]
    differing: tuple[str, ...]

    def written(self) -> dict[str, Any]:
        """As `grid.json` has it."""
        return {"command": self.command, "shared": list(self.shared), "differing": list(self.differing)}


def begun_grid(shape: Shape, root: Path = OUTPUTS) -> Path | None:
    """The newest folder below outputs/ in which a grid of this shape was begun; its values may be others."""
    # By its shape: values may have been added since.
    found = [path for path in root.glob(f"*/*/*/{FILE}") if _read(path.parent).get("shape") == shape.written()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def laid_out(home: Path, shape: Shape, jobs: Sequence[tuple[Sequence[str], Settings | Study]]) -> list[GridJob]:
    """Every job with its folder: its earlier one, else a new one, named by number and by the values that differ."""
    # A job keeps the folder that it had; new ones get the next number.
    known: dict[str, str] = _read(home).get("folders", {})
    made = []
    for place, (overrides, task) in enumerate(jobs):
        differs = _differs(overrides, shape.differing)
        own = identity(task, differs)
        if own not in known:
            known[own] = f"{len(known):03}{_elided(differs)}"
        made.append(GridJob(place, tuple(overrides), task, differs, home / known[own]))
    write_whole(home / FILE, json.dumps({"shape": shape.written(), "folders": known}, indent=1) + "\n")
    return made


def _read(home: Path) -> dict[str, Any]:
    content = read_json_if_any(home / FILE)
    # Names from a file are paths: only such as deqrun writes are taken.
    folders = content.get("folders") if isinstance(content, dict) else None
    safe = isinstance(folders, dict) and all(re.fullmatch(r"\d{3,}[\w.,=+-]*", str(name)) for name in folders.values())
    return content if safe else {}


def _differs(overrides: Sequence[str], keys: Sequence[str]) -> str:
    own = [text for text in overrides if text.partition("=")[0].lstrip("+~").partition("@")[0] in keys]
    return " ".join(own)


def _elided(differs: str) -> str:
    """The values that differ, as the end of a folder's name: the last part of each key, cut to the room there is."""
    # The last part of each key is enough to tell jobs apart; cut ones end in digits of their own.
    words = [re.sub(r"^[\w.@/]*\.(?=\w+=)", "", word) for word in differs.split(" ") if word]
    text = re.sub(r"[^\w.,=+-]+", "_", ",".join(words)).strip("_")
    short = text if len(text) <= NAME_LENGTH else f"{text[: NAME_LENGTH - 8]}-{sha256(text.encode()).hexdigest()[:7]}"
    return f"-{short}" if short else ""


def run_grid(jobs: Sequence[GridJob], launch: Callable[[list[list[str]]], Sequence[JobReturn]]) -> int:
    """Run the jobs that are left, and print how each ended; the exit code.

    launch  runs jobs from their overrides, and returns how each ended
    """
    # Complete jobs are not launched; their rows are in the table.
    left = [job for job in jobs if not job.done]
    if len(left) < len(jobs):
        print(f"{len(jobs) - len(left)} of {len(jobs)} jobs are complete already", flush=True)
    with watched(left, len(jobs)):
        texts = [[*job.overrides, f"hydra.sweep.subdir={quoted(job.folder.name)}"] for job in left]
        ended = launch(texts) if left else []
    reasons = {job.number: _reason(end) for job, end in zip(left, ended, strict=True) if end.status is JobStatus.FAILED}
    _print(jobs, reasons)
    return FAILED if reasons else 0


def _reason(end: JobReturn) -> str:
    """Why a job failed: a sentence for the user, or the name of an error that nobody expected."""
    error = end._return_value
    return one_line(error if isinstance(error, (UserError, RankLost)) else f"{type(error).__name__}: {error}")


def _print(jobs: Sequence[GridJob], reasons: Mapping[int, str]) -> None:
    """A row for each job, then a line for each that failed; `reasons` are by number."""
    from deqrun.report import numbers
    from deqrun.report.tables import interval_text

    # Jobs of earlier calls are in the table as well.
    states = {job.number: "failed" if job.number in reasons else "completed" for job in jobs}
    summaries = [_summary(job) for job in jobs]
    tests = [
        numbers.UNKNOWN if s is None else interval_text(s.test_accuracy, s.test_accuracy_low, s.test_accuracy_high)
        for s in summaries
    ]
    rows = [(job.number, job.differs, states[job.number], test) for job, test in zip(jobs, tests, strict=True)]
    counts = sorted({s.n_test for s in summaries if s is not None and s.n_test})
    caption = f"test: n = {' or '.join(f'{n:,}' for n in counts)}, 95 % over samples, of each job's model"
    told = [f"job {number}: {reason}" for number, reason in reasons.items()]
    print_jobs(rows, "test % [95 %]", [*told, f"grid    {jobs[0].folder.parent}"], caption if counts else None)


def print_jobs(
    rows: Sequence[tuple[int, str, str, str]], heading: str, lines: Sequence[str], caption: str | None = None
) -> None:
    """Print a table of (number, values that differ, state, figure) of each job, and lines below it."""
    from rich.console import Console

    from deqrun.report.tables import grid_table

    console = Console()
    console.print(grid_table(rows, heading, caption))
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _summary(job: GridJob) -> Summary | None:
    """The summary of a completed run; None of a study, and of a job that failed."""
    from deqrun.records.reading import read_run

    return None if not job.done or isinstance(job.task, Study) else read_run(job.folder).summary


@contextmanager
def watched(left: Sequence[GridJob], total: int) -> Iterator[None]:
    """Within: one bar over the grid in a terminal, with the time left; elsewhere a line whenever a job ends.

    left   the jobs that are run now. A status that stands from an earlier call says nothing of this one
    total  jobs of the grid, those that were complete before included
    """
    # A status older than this call is of an earlier one.
    from tqdm import tqdm

    before, ended, stop = {job.number: job.written for job in left}, set[int](), threading.Event()
    bar = tqdm(
        total=total, initial=total - len(left), desc="grid", unit="job", dynamic_ncols=True, disable=None, leave=False
    )

    def look() -> None:
        # Only what changed since the last look.
        begun = [job for job in left if job.number not in ended and job.written != before[job.number]]
        running = []
        for job in begun:
            status = job.status
            if status.status not in ("completed", "failed"):
                running.append(str(job.number))
                continue
            ended.add(job.number)
            place = f"{total - len(left) + len(ended)} of {total}"
            reason = f": {status.reason}" if status.reason else ""
            tqdm.write(f"job {job.number} {status.status}: {job.differs}  ({place}){reason}")
            bar.update()
        bar.set_postfix_str(f"running {', '.join(running)}" if running else "")

    def watch() -> None:
        while not stop.wait(POLL):
            look()

    # Jobs may run in other processes: their status files are the only news of them.
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()
        bar.close()
