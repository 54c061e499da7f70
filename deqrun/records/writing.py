"""Writing a run folder: every file whole or not at all, so that a kill at any instant leaves a readable record."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from deqrun.records.files import write_whole, writing_whole
from deqrun.records.long_trajectory import AnyTrajectory, write_trajectory
from deqrun.records.rows import ROW_KINDS
from deqrun.records.run import RunStatus, Summary
from deqrun.records.trajectory import TrajectoryKey


class RunFolder:
    """The files of one run, by name. Reading them back is `deqrun.records.reading.read_run`.

    writes  whether anything is written: of the ranks of a run, one writes
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write_config(self, yaml: str) -> None:
        self._write("config.yaml", yaml)

    def write_status(self, status: str, reason: str = "", epoch: int | None = None) -> None:
        """status: running, completed, interrupted or failed; reason: a sentence."""
        self._write_json("status.json", RunStatus(status, reason, epoch))

    def write_rows(self, kind: str, rows: Iterable[Any]) -> None:
        """Write the rows of one kind of `ROW_KINDS` as JSON lines; numbers that are not finite become null."""
        self._write(ROW_KINDS[kind].file, json_lines(rows))

    def write_summary(self, summary: Summary) -> None:
        self._write_json("summary.json", summary)

    def write_trajectories(self, trajectories: Mapping[TrajectoryKey, AnyTrajectory]) -> None:
        """`trajectories.npz` with keys `TrajectoryKey.path`/array, written part by part."""
        if not self.writes:
            return
        with (
            writing_whole(self.path / "trajectories.npz") as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for key, trajectory in trajectories.items():
                write_trajectory(archive, key.path, trajectory)

    def _write_json(self, name: str, content: Any) -> None:
        self._write(name, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")

    def _write(self, name: str, text: str) -> None:
        if self.writes:
            write_whole(self.path / name, text)


def json_lines(rows: Iterable[Any]) -> str:
    """A line of JSON for each row, a dataclass or a mapping; numbers that are not finite become null."""
    return "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows)


def _plain(value: Any) -> Any:
    """Dataclasses as objects, and non-finite numbers as null: JSON has no word for them."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
