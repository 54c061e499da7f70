"""MLflow: a store of local files, or the server that `tracker.uri` names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from deqrun.experiment.trackers.rows import Row, curve_rows, figure_files, placed, run_files, tables
from deqrun.experiment.trackers.tracker import RowTracker, TrackedRun
from deqrun.records.run import RunRecord, Summary
from deqrun.settings import TrackerSettings

STORE = Path("outputs") / "mlflow.db"
BATCH = 900
"""Values that are sent at once; MLflow takes at most 1000."""


class MlflowTracker(RowTracker):
    """A run of MLflow in `tracker.uri`, by default the data base `outputs/mlflow.db` below the current folder.

    The client is used without MLflow's global active run, so no two runs of a process meet.
    """

    def __init__(self, settings: TrackerSettings, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import RunStatus

        self._settings = settings
        # A store of local files unless a server is named.
        uri = settings.uri
        if uri is None:
            STORE.parent.mkdir(exist_ok=True)
            uri = f"sqlite:///{STORE.resolve()}"
        self._client = MlflowClient(tracking_uri=uri)
        self._running = RunStatus.to_string(RunStatus.RUNNING)
        # A run that goes on is the same run in the store.
        kept = run.folder / "mlflow-run-id.txt"
        if kept.is_file():
            self._id = kept.read_text().strip()
            self._client.update_run(self._id, status=self._running)
        else:
            self._id = self._begun(settings, run)
            kept.write_text(self._id + "\n")
        # Rows that the store has already are not sent again.
        curves = [key for key in self._client.get_run(self._id).data.metrics if key.startswith("evaluation/")]
        evaluated = max((self._known(key) for key in curves), default=0)
        super().__init__(self._known("train/loss"), self._known("steps/loss"), evaluated)

    def _begun(self, settings: TrackerSettings, run: TrackedRun) -> str:
        """The id of a new run."""
        found = self._client.get_experiment_by_name(settings.project)
        if found is None:
            where = (STORE.parent / "mlflow-artifacts").resolve().as_uri() if settings.uri is None else None
            experiment = self._client.create_experiment(settings.project, artifact_location=where)
        else:
            experiment = found.experiment_id
        # MLflow has no groups: they are tags.
        told = run.about(settings) | {"folder": str(run.folder.resolve())}
        tags = told.pop("tags")
        told |= {f"trained.{key}": value for key, value in run.trained.items()}
        told |= {tag.partition("=")[0].replace("@", "."): tag.partition("=")[2] or tag for tag in tags}
        made = self._client.create_run(
            experiment, run_name=run.title, tags={key: value for key, value in told.items() if value is not None}
        )
        for key, value in _flat(run.config):
            self._client.log_param(made.info.run_id, key, value[:500])
        return str(made.info.run_id)

    def _known(self, key: str) -> int:
        """The last place of a curve that the store has already."""
        return max((metric.step for metric in self._client.get_metric_history(self._id, key)), default=0)

    def log(self, row: Row) -> None:
        self._log([row])

    def log_results(self, record: RunRecord) -> None:
        self._log(curve_rows(record))
        # Tables, figures and files, as far as the settings ask for them.
        for table in tables(record):
            columns = {name: [row[i] for row in table.rows] for i, name in enumerate(table.columns)}
            self._client.log_dict(self._id, columns, f"tables/{table.name}.json")
        if self._settings.figures:
            for picture in figure_files(record).values():
                self._client.log_artifact(self._id, picture, "figures")
        for path in run_files(record, self._settings).values():
            self._client.log_artifact(self._id, str(path))
        self._log([{"epoch": 0, **{f"summary/{key}": value for key, value in record.figures().items()}}])

    def finish(self, summary: Summary | None) -> None:
        self._client.set_terminated(self._id, "FAILED" if summary is None else "FINISHED")

    def _log(self, rows: list[Row]) -> None:
        """Store every finite value of the rows."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        # Values that are not finite are left out; the others go in lots that MLflow takes.
        now = get_current_time_millis()
        values = []
        for row in rows:
            place, found = placed(row)
            values += [
                Metric(_plain(key), float(value), now, place) for key, value in found.items() if math.isfinite(value)
            ]
        for first in range(0, len(values), BATCH):
            self._client.log_batch(self._id, metrics=values[first : first + BATCH])


def _plain(key: str) -> str:
    """A name of letters that MLflow allows."""
    return key.replace("=", " ").replace("+", "")


def _flat(sections: Any, prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, value as text) of nested sections."""
    if isinstance(sections, dict) and sections:
        return [pair for key, value in sections.items() for pair in _flat(value, f"{prefix}.{key}" if prefix else key)]
    return [(prefix.replace("@", "."), str(sections))]
