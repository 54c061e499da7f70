"""Views of a run for a dashboard. A tracker that fails says so once and never stops the run."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from deqrun.report.records import Epoch, Summary
from deqrun.report.sweep_rows import SweepCell
from deqrun.report.trajectory import Trajectory, TrajectoryKey
from deqrun.settings import TrackerSettings


class Tracker(ABC):
    """Takes in what a run finds out."""

    @abstractmethod
    def log_epoch(self, epoch: Epoch) -> None:
        """Scalars of one epoch of training."""

    @abstractmethod
    def log_sweep(self, cells: list[SweepCell], trajectories: dict[TrajectoryKey, Trajectory]) -> None:
        """Residual and accuracy curves, each against its own step axis."""

    @abstractmethod
    def finish(self, summary: Summary | None) -> None:
        """Close the record, with the summary's figures; None: of a run that did not come to its end."""


class NoTracker(Tracker):
    """Keeps the run to its folder."""

    def log_epoch(self, epoch: Epoch) -> None: ...

    def log_sweep(self, cells: list[SweepCell], trajectories: dict[TrajectoryKey, Trajectory]) -> None: ...

    def finish(self, summary: Summary | None) -> None: ...


class WandbTracker(Tracker):
    """Weights & Biases; offline by default: no account, no prompt, no network.

    Training goes against `epoch`. After the sweep, residual curves go against `residual/iter` and accuracy curves
    against `budget/iters`, one key per trajectory, so that the curves of several runs overlay in one panel.
    """

    def __init__(self, settings: TrackerSettings, folder: Path, name: str, config: dict[str, Any]) -> None:
        import wandb

        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))  # else staged under the home folder
        os.environ.setdefault("WANDB_SILENT", "true")
        self._run = wandb.init(
            dir=str(folder), name=name, config=config, mode=settings.mode, project=settings.project,
            entity=settings.entity, group=settings.group, job_type=settings.job_type, tags=list(settings.tags),
            id=_run_id(folder), resume="allow",
            settings=wandb.Settings(console="off", reinit="create_new"),  # never another job's run
        )  # fmt: skip
        for metrics, axis in (("train/*", "epoch"), ("residual/*", "residual/iter"), ("accuracy/*", "budget/iters")):
            self._run.define_metric(axis)
            self._run.define_metric(metrics, step_metric=axis)

    def log_epoch(self, epoch: Epoch) -> None:
        values = {f"train/{key}": value for key, value in asdict(epoch).items() if value is not None}
        self._run.log({"epoch": values.pop("train/epoch"), **values})

    def log_sweep(self, cells: list[SweepCell], trajectories: dict[TrajectoryKey, Trajectory]) -> None:
        for row in residual_rows(trajectories) + accuracy_rows(cells):
            self._run.log(row)

    def finish(self, summary: Summary | None) -> None:
        if summary is not None:
            kept = {key: value for key, value in asdict(summary).items() if isinstance(value, (int, float))}
            self._run.summary.update(kept)
        self._run.finish(exit_code=0 if summary is not None else 1)


def _run_id(folder: Path) -> str:
    """The same id for the same folder, so that a resumed run goes on in the dashboard."""
    kept = folder / "wandb" / "run-id.txt"
    if kept.is_file():
        return kept.read_text().strip()
    kept.parent.mkdir(parents=True, exist_ok=True)
    run_id = os.urandom(6).hex()
    kept.write_text(run_id + "\n")
    return run_id


def residual_rows(trajectories: dict[TrajectoryKey, Trajectory]) -> list[dict[str, float]]:
    """A row per iterate: `residual/iter`, and the median over samples per solver; a stopped row keeps its last."""
    rows: dict[int, dict[str, float]] = {}
    for key, trajectory in trajectories.items():
        latest = np.minimum(np.arange(len(trajectory.residual))[:, None], trajectory.last())
        for k, values in enumerate(np.take_along_axis(trajectory.residual, latest, axis=0)):
            row = rows.setdefault(k, {"residual/iter": k})
            row[f"residual/{key.path}"] = float(np.median(values))
    return [rows[k] for k in sorted(rows)]


def accuracy_rows(cells: list[SweepCell]) -> list[dict[str, float]]:
    """A row per budget: `budget/iters`, and per solver the accuracy at the sweep's smallest tolerance."""
    smallest = min((cell.tol for cell in cells), default=0.0)
    rows: dict[int, dict[str, float]] = {}
    for cell in cells:
        if cell.tol == smallest:
            row = rows.setdefault(cell.max_iter, {"budget/iters": cell.max_iter})
            row[f"accuracy/{cell.key.path}"] = cell.accuracy
    return [rows[budget] for budget in sorted(rows)]


class SafeTracker(Tracker):
    """Another tracker, whose first failure is told in a warning and is its last call but for closing its record."""

    def __init__(self, make: Callable[[], Tracker]) -> None:
        self._tracker: Tracker | None = None
        self._tracker = self._try(make)

    def log_epoch(self, epoch: Epoch) -> None:
        self._call("log_epoch", epoch)

    def log_sweep(self, cells: list[SweepCell], trajectories: dict[TrajectoryKey, Trajectory]) -> None:
        self._call("log_sweep", cells, trajectories)

    def finish(self, summary: Summary | None) -> None:
        """Close the record; a second call does nothing."""
        self._call("finish", summary)
        self._tracker = None

    def _call(self, method: str, *arguments: object) -> None:
        if self._tracker is not None:
            self._try(lambda: getattr(self._tracker, method)(*arguments))

    def _try(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            failed, self._tracker = self._tracker, None
            if failed is not None:
                with suppress(Exception):
                    failed.finish(None)
            first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
            warnings.warn(
                f"The tracker failed and is off for the rest of the run, which goes on: "
                f"{type(error).__name__}: {first_line}",
                stacklevel=3,
            )
            return None


def make_tracker(settings: TrackerSettings, folder: Path, name: str, config: dict[str, Any]) -> Tracker:
    """The tracker that the settings name, made safe."""
    if settings.name == "none" or settings.mode == "disabled":
        return NoTracker()
    return SafeTracker(lambda: WandbTracker(settings, folder, name, config))


@contextmanager
def tracked(settings: TrackerSettings, folder: Path, name: str, config: dict[str, Any]) -> Iterator[Tracker]:
    """Within: the tracker that the settings name. Whatever ends the run early, its record is closed as failed."""
    tracker = make_tracker(settings, folder, name, config)
    try:
        yield tracker
    except BaseException:
        tracker.finish(None)
        raise
