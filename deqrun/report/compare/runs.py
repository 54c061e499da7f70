"""Reading run folders for a comparison: each becomes its settings, its numbers and its curves, or a reason why not."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from deqrun.errors import one_line
from deqrun.records.claims import CLAIM
from deqrun.records.folders import LeftOut
from deqrun.records.reading import read_run
from deqrun.records.rows import ROW_KINDS
from deqrun.records.run import RunRecord, Summary
from deqrun.records.states import RunState, state_of
from deqrun.report.compare.curves import curves_of
from deqrun.report.compare.keys import printable, settings_of
from deqrun.report.tables import training_cost

__all__ = ["METRICS", "ComparedRun", "Metric", "read_runs", "signature"]


@dataclass(frozen=True)
class Metric:
    """A number of a run that is compared.

    name     as `--sort` and exports have it
    heading  of its column
    better   1 where more is better, -1 where less is, 0 where neither
    unit     share, evaluations, residual, count or seconds: how it is written
    what     one line that says it whole
    """

    name: str
    heading: str
    better: int
    unit: str
    what: str


METRICS = (
    Metric("val_accuracy", "val %", 1, "share", "validation accuracy of the chosen epoch, at the training budget"),
    Metric("test_accuracy", "test %", 1, "share", "test accuracy of the chosen epoch, at the training budget"),
    Metric("evaluations", "evals", -1, "evaluations", "mean evaluations on test, at the training budget"),
    Metric("residual", "resid.", -1, "residual", "median residual on test, at the training budget"),
    Metric("parameters", "params", 0, "count", "trained parameters"),
    Metric("train_seconds", "time", -1, "seconds", "time of training"),
)


@dataclass(frozen=True)
class ComparedRun:
    """One well-formed run folder.

    folder    the run's
    settings  what can change a number, by dotted key; a choice goes by its group
    groups    names of the config groups of `choices`
    seed      of the run, None where it has none
    state     completed, running, …
    reason    why it ended where it isn't completed
    epoch     the last one that is recorded
    title     model and data set, for runs that differ in nothing
    command   as it was typed, where that is recorded
    values    by metric; None where the run has no such number
    samples   of the split that a share was counted on, by metric; without those that are not known
    trained   the solver of training
    curves    for the page, see `curves_of`
    changed   time of the newest file that says how the run goes, in seconds since 1970
    """

    folder: Path
    settings: dict[str, Any]
    groups: frozenset[str]
    seed: int | None
    state: RunState
    reason: str
    epoch: int | None
    title: str
    command: str
    values: dict[str, float | None]
    samples: dict[str, int]
    trained: str | None
    curves: dict[str, Any] = field(repr=False)
    changed: float = 0.0

    @property
    def completed(self) -> bool:
        return self.state is RunState.COMPLETED


def read_runs(folders: Iterable[Path]) -> tuple[list[ComparedRun], list[LeftOut]]:
    """The runs that can be read, and the folders that can't, each with its reason. No folder stops the others."""
    return sorted_out([read_one(folder) for folder in followed(list(folders))])


def sorted_out(found: Sequence[ComparedRun | LeftOut]) -> tuple[list[ComparedRun], list[LeftOut]]:
    """The runs, and the folders that could not be read, in their order."""
    return [one for one in found if isinstance(one, ComparedRun)], [one for one in found if isinstance(one, LeftOut)]


def followed(folders: Sequence[Path]) -> Iterable[Path]:
    """The folders, with a bar in a terminal where there are many."""
    if len(folders) < MANY or not sys.stderr.isatty():
        return folders
    console = Console(stderr=True)
    return track(folders, "reading runs", console=console, transient=True)


def read_one(folder: Path) -> ComparedRun | LeftOut:
    """One run, or why it can't be compared. Whatever a stranger's folder holds, it costs no other run."""
    try:
        return _compared(read_run(folder))
    except Exception as error:
        reason = str(error) if isinstance(error, ValueError) else f"{folder}: {type(error).__name__}: {error}"
        return LeftOut(folder, printable(one_line(reason)[:400]))


MANY = 40
"""Runs whose reading takes so long that a bar is shown."""

ROW_FILES = tuple(kind.file for kind in ROW_KINDS.values())
FILES = ("config.yaml", "status.json", "summary.json", *ROW_FILES, "trajectories.npz", CLAIM, "report.html")
"""Files whose change makes a run's row another."""


def signature(folder: Path) -> tuple[tuple[int, int], ...]:
    """Times and sizes of the files that a comparison reads; equal as long as none of them changes."""
    found = []
    for name in FILES:
        try:
            stat = (folder / name).stat()
            found.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            found.append((0, -1))
    return tuple(found)


def _compared(record: RunRecord) -> ComparedRun:
    summary, config = record.summary, record.config
    seed = summary.seed if summary.seed is not None else config.get("seed")
    choices = config.get("choices")
    model, dataset = record.choice("model"), record.choice("dataset")
    state = state_of(record.folder, record.status)
    return ComparedRun(
        folder=record.folder,
        settings=settings_of(config),
        groups=frozenset(map(str, choices)) if isinstance(choices, dict) else frozenset(),
        seed=seed if isinstance(seed, int) else None,
        state=state,
        reason=printable(" ".join(record.status.reason.split())[:300]),
        epoch=record.epochs[-1].epoch if record.epochs else record.status.epoch,
        title=printable(" on ".join(name for name in (model, dataset) if name) or record.name),
        command=printable(summary.command or ""),
        values=_values(record, state),
        samples=_samples(summary),
        trained=record.main_solver,
        curves=curves_of(record),
        changed=_changed(record.folder),
    )


def _samples(summary: Summary) -> dict[str, int]:
    counts = {"val_accuracy": summary.n_validation, "test_accuracy": summary.n_test}
    return {name: count for name, count in counts.items() if isinstance(count, int) and count > 0}


def _changed(folder: Path) -> float:
    paths = [folder / name for name in ("status.json", "train.jsonl", "config.yaml")]
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)


def _values(record: RunRecord, state: RunState) -> dict[str, float | None]:
    """The run's numbers. Raises ValueError, a sentence, where an accuracy is no share."""
    summary = record.summary
    nfe, residual = training_cost(record)
    seen = [epoch.val_accuracy for epoch in record.epochs if epoch.val_accuracy is not None]
    best = max(seen, default=None) if summary.val_accuracy is None else summary.val_accuracy
    found = {
        "val_accuracy": best,
        "test_accuracy": summary.test_accuracy,
        "evaluations": nfe,
        "residual": residual,
        "parameters": summary.parameters,
        "train_seconds": summary.train_seconds,
    }
    for name in ("val_accuracy", "test_accuracy"):
        value = found[name]
        if value is not None and not math.isnan(value) and not 0 <= value <= 1:
            raise ValueError(f"{record.folder} has {name}={value:g}, which is no share from 0 to 1.")
    return {name: None if value is None or not math.isfinite(value) else float(value) for name, value in found.items()}
