"""TensorBoard: event files in the run's own folder."""

from __future__ import annotations

import json
from collections.abc import Sequence

from deqrun.experiment.trackers.rows import AXES, curve_rows, evaluation_row, figure_files, scalars
from deqrun.experiment.trackers.tracker import TrackedRun, Tracker
from deqrun.records.rows import BudgetEvaluation, Epoch, Step
from deqrun.records.run import RunRecord, Summary
from deqrun.settings import TrackerSettings


class TensorBoardTracker(Tracker):
    """Event files in `tensorboard/` of the run folder. `tensorboard --logdir outputs` shows all runs."""

    def __init__(self, settings: TrackerSettings, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # A resumed run tells all its rows again, so the events of its first part would stand there twice.
        folder = run.folder / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._settings = settings
        self._writer = SummaryWriter(str(folder))
        about = {
            "name": run.title,
            "group": run.group(settings),
            "job_type": run.job_type(settings),
            "tags": run.tags(settings),
            "trained": run.trained,
            "config": run.config,
        }
        self._writer.add_text("about", f"```json\n{json.dumps(about, indent=1)}\n```")

    def log_step(self, step: Step) -> None:
        self._add(scalars(step, "steps", "step"))

    def log_evaluation(self, rows: Sequence[BudgetEvaluation]) -> None:
        self._add(evaluation_row(rows))

    def log_epoch(self, epoch: Epoch) -> None:
        self._add(scalars(epoch, "train", "epoch"))
        self._writer.flush()

    def log_results(self, record: RunRecord) -> None:
        import numpy as np
        from PIL import Image

        for row in curve_rows(record):
            self._add(row)
        if self._settings.figures:
            for name, path in figure_files(record).items():
                with Image.open(path) as picture:
                    self._writer.add_image(f"figures/{name}", np.asarray(picture.convert("RGB")), dataformats="HWC")
        for name, value in record.figures().items():
            self._writer.add_scalar(f"summary/{name}", value)

    def finish(self, summary: Summary | None) -> None:
        self._writer.add_text("status", "failed" if summary is None else "completed")
        self._writer.close()

    def _add(self, row: dict[str, float]) -> None:
        axis = next(key for key in AXES.values() if key in row)
        for key, value in row.items():
            if key != axis:
                self._writer.add_scalar(key, value, round(row[axis]))
