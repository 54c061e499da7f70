"""Trackio: the interface of W&B over a data base on this machine."""

from __future__ import annotations

import math
from importlib.util import find_spec

from deqrun.experiment.trackers.rows import Row, curve_rows, tables
from deqrun.experiment.trackers.tracker import RowTracker, TrackedRun
from deqrun.records.run import RunRecord, Summary
from deqrun.settings import TrackerSettings


class TrackioTracker(RowTracker):
    """A run in Trackio's data base below the home folder. `trackio show` opens the dashboard."""

    def __init__(self, settings: TrackerSettings, run: TrackedRun) -> None:
        import trackio

        kept = run.folder / "trackio-run.txt"
        begun = kept.is_file()
        name = kept.read_text().strip() if begun else f"{run.title} {run.folder.name}"
        about = run.about(settings) | ({"trained": run.trained} if run.trained else {})
        self._run = trackio.init(
            project=settings.project, name=name, config=run.config | about, resume="allow" if begun else "never"
        )
        kept.write_text(name + "\n")
        # Trackio has no way to ask for the rows that it holds, so the folder keeps how far they were told.
        self._kept = run.folder / "trackio-told.txt"
        told = self._kept.read_text().split() if self._kept.is_file() else []
        # Folders of before there were evaluations hold two numbers.
        super().__init__(*map(int, told if len(told) in (2, 3) else ()))

    def tell(self, kind: str, place: int, row: Row) -> None:
        super().tell(kind, place, row)
        self._kept.write_text(" ".join(map(str, self.told.values())) + "\n")

    def log_results(self, record: RunRecord) -> None:
        import trackio

        for row in curve_rows(record):
            self.log(row)
        if find_spec("pandas") is not None:  # of which Trackio's tables are made
            import pandas

            for table in tables(record):
                frame = pandas.DataFrame(table.rows, columns=table.columns)
                self._run.log({f"tables/{table.name}": trackio.Table(dataframe=frame)})
        self.log({f"summary/{key}": value for key, value in record.figures().items()})

    def finish(self, summary: Summary | None) -> None:
        self.log({"summary/failed": float(summary is None)})
        self._run.finish()

    def log(self, row: Row) -> None:
        """Log the finite values; 'step' is a word that Trackio keeps for itself."""
        named = {"steps/step" if key == "step" else key: value for key, value in row.items()}
        self._run.log({key: value for key, value in named.items() if math.isfinite(value)})
