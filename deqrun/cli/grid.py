"""A multirun as a grid that survives: what is finished is skipped, what was cut goes on, what fails costs no other job.

The grid's folder holds `grid.json`: the overrides that all jobs share, the keys that differ, and the folder of each job
by the fingerprint of its settings. So the same command, typed again, finds its folder and goes on there; and a grid to
which values were added does only what is new.
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
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from tqdm import tqdm

from deqrun.cli.run_folders import OUTPUTS, is_run
from deqrun.errors import one_line
from deqrun.records.files import write_whole
from deqrun.records.reading import read_run, read_status
from deqrun.records.run import RunStatus
from deqrun.settings import Settings
from deqrun.settings.sources import ConfigSources, quoted
from deqrun.studies.side_by_side import cores
from deqrun.studies.study import Study

FILE = "grid.json"
FAILED = 3
"""Exit code of a grid of which a job failed: 2 is for what was typed."""

NAME_LENGTH = 60
"""Characters of a job's folder name before what differs is elided."""

POLL = 0.5
"""Seconds between two looks at the jobs' states."""


@dataclass(frozen=True)
class GridJob:
    """One job of a grid: its overrides, what it is, and the folder that is its own."""

    number: int
    overrides: tuple[str, ...]
    what: Settings | Study
    differs: str
    folder: Path

    @property
    def status(self) -> RunStatus:
        """What the job's folder says; 'waiting' where it says nothing yet."""
        if isinstance(self.what, Study):
            return RunStatus("completed" if (self.folder / "answer.json").is_file() else "waiting")
        if not (self.folder / "status.json").is_file():
            return RunStatus("waiting")
        try:
            status = read_status(self.folder)
        except ValueError as error:
            return RunStatus("damaged", one_line(error))
        return RunStatus("running") if status.status == "starting" else status

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.status.status == "completed" and (isinstance(self.what, Study) or is_run(self.folder))


def fingerprint(what: Settings | Study) -> str:
    """Hexadecimal digits that two jobs share exactly where their numbers are meant to be the same."""
    if isinstance(what, Settings):
        asked = "" if what.run is None else str(what.run.resolve())  # by a sweep
        return sha256(f"{what.fingerprint()} {asked}".encode()).hexdigest()[:12]
    parts = [what.name, what.size, repr(sorted(what.ask.items()))]
    parts += [f"{variant.label} {variant.settings.fingerprint()}" for variant in what.variants]
    return sha256("\n".join(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Shape:
    """What two calls of one grid share: the overrides of all jobs, and the keys that differ between them."""

    command: str
    shared: tuple[str, ...]
    differing: tuple[str, ...]

    def written(self) -> dict[str, Any]:
        """As `grid.json` has it."""
        return {"command": self.command, "shared": list(self.shared), "differing": list(self.differing)}


def begun_grid(shape: Shape, root: Path = OUTPUTS) -> Path | None:
    """The newest folder below outputs/ in which a grid of this shape was begun; its values may be others."""
    found = [path for path in root.glob(f"*/*/*/{FILE}") if _read(path.parent).get("shape") == shape.written()]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def laid_out(home: Path, shape: Shape, jobs: Sequence[tuple[Sequence[str], Settings | Study]]) -> list[GridJob]:
    """Every job with its folder: the one that it had before, else a new one, named by number and what differs."""
    known: dict[str, str] = _read(home).get("folders", {})
    made = []
    for place, (overrides, what) in enumerate(jobs):
        own, differs = fingerprint(what), _differs(overrides, shape.differing)
        if own not in known:
            known[own] = f"{len(known):03}{_elided(differs)}"
        made.append(GridJob(place, tuple(overrides), what, differs, home / known[own]))
    write_whole(home / FILE, json.dumps({"shape": shape.written(), "folders": known}, indent=1) + "\n")
    return made


def _read(home: Path) -> dict[str, Any]:
    try:
        content = json.loads((home / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    folders = content.get("folders") if isinstance(content, dict) else None
    safe = isinstance(folders, dict) and all(re.fullmatch(r"[\w.,=+-]+", str(name)) for name in folders.values())
    return content if safe else {}


def _differs(overrides: Sequence[str], keys: Sequence[str]) -> str:
    own = [text for text in overrides if text.partition("=")[0].lstrip("+~").partition("@")[0] in keys]
    return " ".join(own)


def _elided(differs: str) -> str:
    """What differs as the end of a folder's name: the last part of each key, and as much as there is room for."""
    words = [re.sub(r"^[\w.@/]*\.(?=\w+=)", "", word) for word in differs.split(" ") if word]
    text = re.sub(r"[^\w.,=+-]+", "_", ",".join(words)).strip("_")
    short = text if len(text) <= NAME_LENGTH else f"{text[: NAME_LENGTH - 8]}-{sha256(text.encode()).hexdigest()[:7]}"
    return f"-{short}" if short else ""


def threads_of_jobs(
    sources: ConfigSources, config_name: str, hydra: Sequence[str], overrides: Sequence[Override]
) -> list[str]:
    """`threads=K` for each job, with jobs at a time x K at most the cores, where several run at a time; else nothing.

    Nothing is set where threads= was typed.
    """
    launcher = sources.compose(config_name, list(hydra), multirun=True).hydra.launcher
    at_a_time = launcher.get("n_jobs")
    if not isinstance(at_a_time, int) or any(override.key_or_group == "threads" for override in overrides):
        return []
    at_a_time = cores() if at_a_time < 0 else at_a_time
    threads = max(1, cores() // max(1, at_a_time))
    print(f"jobs    {at_a_time} at a time, threads={threads} each, on {cores()} cores", flush=True)
    return [f"threads={threads}"]


def launched(jobs: Sequence[GridJob], start: Callable[[], object]) -> list[tuple[GridJob, JobReturn]]:
    """Each job with how it ended. `start` starts Hydra, whose own sweeper hands these jobs to the launcher.

    Each job is composed by itself, so that a key may stand that only some of the options have, and none ends another.
    """
    ended: list[JobReturn] = []

    def sweep(sweeper: BasicSweeper, arguments: list[str]) -> Sequence[JobReturn]:
        assert sweeper.launcher is not None
        texts = [[*job.overrides, f"hydra.sweep.subdir={quoted(job.folder.name)}"] for job in jobs]
        ended.extend(sweeper.launcher.launch(texts, initial_job_idx=0))
        return ended

    # Hydra imports its plugins anew, so that the class it makes sweepers of is the one that it has registered.
    used: Any = Plugins.instance().class_name_to_class[f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"]
    own = used.sweep
    used.sweep = sweep
    try:
        start()
    finally:
        used.sweep = own
    return list(zip(jobs, ended, strict=True))


def run_grid(jobs: Sequence[GridJob], start: Callable[[], object]) -> int:
    """Run what is left of the jobs, and say how each ended; the exit code. `start` starts Hydra as a multirun."""
    left = [job for job in jobs if not job.done]
    if len(left) < len(jobs):
        print(f"{len(jobs) - len(left)} of {len(jobs)} jobs are complete already", flush=True)
    with watched(jobs):
        ended = launched(left, start) if left else []
    reasons = {job.number: one_line(end._return_value) for job, end in ended if end.status is JobStatus.FAILED}
    _print(jobs, reasons)
    return FAILED if reasons else 0


def _print(jobs: Sequence[GridJob], reasons: Mapping[int, str]) -> None:
    """A row for each job; `reasons` are those of the jobs that failed, by number."""
    from rich.console import Console

    from deqrun.report.tables import grid_table

    rows = [
        (
            str(job.number),
            job.differs or "–",
            "failed" if job.number in reasons else "completed",
            _accuracy(job),
            reasons.get(job.number, ""),
        )
        for job in jobs
    ]
    console = Console()
    console.print(grid_table(rows))
    console.print(f"grid    {jobs[0].folder.parent}", soft_wrap=True, highlight=False)


def _accuracy(job: GridJob) -> float | None:
    if not job.done or isinstance(job.what, Study):
        return None
    return read_run(job.folder).summary.test_accuracy


@contextmanager
def watched(jobs: Sequence[GridJob]) -> Iterator[None]:
    """Within: one bar over the grid in a terminal, with the time left; elsewhere a line whenever a job ends."""
    ended, stop = {job.number for job in jobs if job.done}, threading.Event()
    already = len(ended)
    bar = tqdm(total=len(jobs), initial=already, desc="grid", unit="job", dynamic_ncols=True, disable=None, leave=False)

    def look() -> None:
        states = [(job, job.status) for job in jobs if job.number not in ended]
        for job, status in states:
            if status.status in ("completed", "failed"):
                ended.add(job.number)
                line = f"job {job.number} {status.status}: {job.differs}  ({len(ended)} of {len(jobs)})"
                tqdm.write(line if not status.reason else f"{line}: {status.reason}")
                bar.update()
        running = [job.number for job, status in states if status.status == "running"]
        bar.set_postfix_str(f"running {', '.join(map(str, running))}" if running else "", refresh=True)

    def watch() -> None:
        while not stop.wait(POLL):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()
        bar.close()
