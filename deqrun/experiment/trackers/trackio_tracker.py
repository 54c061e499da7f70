"""Trackio: the interface of W&B over a data base on this machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from deqrun.experiment.trackers.rows import curve_rows, evaluation_row, scalars, tables
from deqrun.experiment.trackers.tracker import TrackedRun, Tracker
from deqrun.records.rows import BudgetEvaluation, Epoch, Step
from deqrun.records.run import RunRecord, Summary
from deqrun.settings import TrackerSettings


class TrackioTracker(Tracker):
    """A run in Trackio's data base below the home folder. `trackio show` opens the dashboard."""

    def __init__(self, settings: TrackerSettings, run: TrackedRun) -> None:
        import trackio

        kept = run.folder / "trackio-run.txt"
        begun = kept.is_file()
        name = kept.read_text().strip() if begun else f"{run.title} {run.folder.name}"
        about: dict[str, object] = {
            "group": run.group(settings),
            "job_type": run.job_type(settings),
            "tags": run.tags(settings),
        }
        about |= {"trained": run.trained} if run.trained else {}
        self._run = trackio.init(
            project=settings.project, name=name, config=run.config | about, resume="allow" if begun else "never"
        )
        kept.write_text(name + "\n")
        # Trackio has no way to ask for the rows that it holds, so the folder keeps how far they were told.
        self._told = run.folder / "trackio-told.txt"
        told = self._told.read_text().split() if self._told.is_file() else []
        # Folders of before there were evaluations hold two numbers.
        self._epoch, self._step, self._evaluated = (*map(int, told), 0)[:3] if len(told) in (2, 3) else (0, 0, 0)
        self._last = (self._epoch, self._step, self._evaluated)

    def log_step(self, step: Step) -> None:
        if step.step > self._step:
            self._log(scalars(step, "steps", "step"))
            self._keep(self._last[0], step.step, self._last[2])

    def log_evaluation(self, rows: Sequence[BudgetEvaluation]) -> None:
        if rows[0].step > self._evaluated:
            self._log(evaluation_row(rows))
            self._keep(*self._last[:2], rows[0].step)

    def log_epoch(self, epoch: Epoch) -> None:
        if epoch.epoch > self._epoch:
            self._log(scalars(epoch, "train", "epoch"))
            self._keep(epoch.epoch, *self._last[1:])

    def log_results(self, record: RunRecord) -> None:
        import trackio

        for row in curve_rows(record):
            self._log(row)
        if find_spec("pandas") is not None:  # of which Trackio's tables are made
            import pandas

            for table in tables(record):
                frame = pandas.DataFrame(table.rows, columns=table.columns)
                self._run.log({f"tables/{table.name}": trackio.Table(dataframe=frame)})
        self._log({f"summary/{key}": value for key, value in record.figures().items()})

    def finish(self, summary: Summary | None) -> None:
        self._log({"summary/failed": float(summary is None)})
        self._run.finish()

    def _log(self, row: dict[str, Any]) -> None:
        """Log the finite values; 'step' is a word that Trackio keeps for itself."""
        named = {"steps/step" if key == "step" else key: value for key, value in row.items()}
        self._run.log({key: value for key, value in named.items() if math.isfinite(value)})

    def _keep(self, epoch: int, step: int, evaluated: int) -> None:
        self._last = (epoch, step, evaluated)
        self._told.write_text(f"{epoch} {step} {evaluated}\n")
