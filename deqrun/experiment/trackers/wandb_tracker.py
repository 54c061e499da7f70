"""Weights & Biases."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from deqrun.experiment.trackers.rows import AXES, Row, curve_rows, figure_files, run_files, tables
from deqrun.experiment.trackers.tracker import RowTracker, TrackedRun
from deqrun.records.run import RunRecord, Summary
from deqrun.settings import TrackerSettings

DATA_DIR = "WANDB_DATA_DIR"
_TYPED_DATA_DIR = os.environ.get(DATA_DIR)


class WandbTracker(RowTracker):
    """Weights & Biases; offline by default: no account, no prompt, no network.

    Each family of curves has its own axis, see `AXES`. One run of deqrun is one run of W&B, with the same id however
    often it resumes, and nothing of another run of this process in it.
    """

    def __init__(self, settings: TrackerSettings, run: TrackedRun, init_timeout: float) -> None:
        import wandb

        # Artifacts are staged in the run's own folder; without this setting, below the home folder.
        os.environ[DATA_DIR] = _TYPED_DATA_DIR or str(run.folder / "wandb")
        os.environ.setdefault("WANDB_SILENT", "true")
        trained = run.trained
        self._settings, self._run_id = settings, wandb_id(run.folder)
        if settings.mode == "offline":
            # A resumed run tells all its rows again: an upload of both logs would hold the first rows twice.
            for old in run.folder.glob(f"wandb/offline-run-*-{self._run_id}"):
                shutil.rmtree(old, ignore_errors=True)
        self._run = wandb.init(
            dir=str(run.folder),
            name=run.title,
            config=run.config | ({"trained": trained} if trained else {}),
            notes=f"A sweep of {trained['name']} in {trained['folder']}" if trained else None,
            mode=settings.mode,
            project=settings.project,
            entity=settings.entity,
            **run.about(settings),
            id=self._run_id,
            resume="allow",
            settings=wandb.Settings(console="off", reinit="create_new", init_timeout=init_timeout),
        )
        # Online, the server of a resumed run has its rows already; an offline log is complete by itself.
        places = ("epoch", "step", "evaluation/step") if settings.mode == "online" else ()
        super().__init__(*(int(self._run.summary.get(key, 0)) for key in places))
        for metrics, axis in AXES.items():
            self._run.define_metric(axis)
            self._run.define_metric(metrics, step_metric=axis)

    def log(self, row: Row) -> None:
        self._run.log(row)

    def log_results(self, record: RunRecord) -> None:
        import wandb

        for row in curve_rows(record):
            self._run.log(row)
        media: dict[str, object] = {}
        for table in tables(record):
            media[f"tables/{table.name}"] = wandb.Table(columns=list(table.columns), data=table.rows)
        if self._settings.figures:
            media |= {f"figures/{name}": wandb.Image(path) for name, path in figure_files(record).items()}
        if media:
            self._run.log(media)
        for kind, path in run_files(record, self._settings).items():
            artifact = wandb.Artifact(f"{kind}-{self._run_id}", type=kind)
            artifact.add_file(str(path), policy="immutable", skip_cache=True)  # no copy of it is made
            self._run.log_artifact(artifact)
        self._run.summary.update(record.figures())

    def finish(self, summary: Summary | None) -> None:
        self._run.finish(exit_code=0 if summary is not None else 1)


def wandb_id(folder: Path) -> str:
    """The id of the run in `folder` at W&B, kept in the folder so that a resumed run continues there.

    An agent of a W&B sweep gives a new run its id.
    """
    kept = folder / "wandb" / "run-id.txt"
    if kept.is_file():
        return kept.read_text().strip()
    given = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
    kept.parent.mkdir(parents=True, exist_ok=True)
    run_id = given or os.urandom(6).hex()
    kept.write_text(run_id + "\n")
    return run_id
