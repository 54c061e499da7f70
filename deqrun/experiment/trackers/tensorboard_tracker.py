"""TensorBoard: event files in the run's own folder."""

from __future__ import annotations

import json

from deqrun.experiment.trackers.rows import Row, curve_rows, figure_files, placed
from deqrun.experiment.trackers.tracker import RowTracker, TrackedRun
from deqrun.records.rows import Epoch
from deqrun.records.run import RunRecord, Summary
from deqrun.settings import TrackerSettings


class TensorBoardTracker(RowTracker):
    """Event files in `tensorboard/` of the run folder. `tensorboard --logdir outputs` shows all runs."""

    def __init__(self, settings: TrackerSettings, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__()
        # A resumed run tells all its rows again, so the events of its first part would stand there twice.
        folder = run.folder / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._settings = settings
        self._writer = SummaryWriter(str(folder))
        about = {"name": run.title} | run.about(settings) | {"trained": run.trained, "config": run.config}
        self._writer.add_text("about", f"```json\n{json.dumps(about, indent=1)}\n```")

    def log_epoch(self, epoch: Epoch) -> None:
        super().log_epoch(epoch)
        self._writer.flush()

    def log_results(self, record: RunRecord) -> None:
        import numpy as np
        from PIL import Image

        for row in curve_rows(record):
            self.log(row)
        if self._settings.figures:
            for name, path in figure_files(record).items():
                with Image.open(path) as picture:
                    self._writer.add_image(f"figures/{name}", np.asarray(picture.convert("RGB")), dataformats="HWC")
        for name, value in record.figures().items():
            self._writer.add_scalar(f"summary/{name}", value)

    def finish(self, summary: Summary | None) -> None:
        self._writer.add_text("status", "failed" if summary is None else "completed")
        self._writer.close()

    def log(self, row: Row) -> None:
        place, values = placed(row)
        for key, value in values.items():
            self._writer.add_scalar(key, value, place)
