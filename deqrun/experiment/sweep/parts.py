"""The finished trajectories of an interrupted sweep, so that it goes on where it stopped."""

from __future__ import annotations

import io
import shutil
import zipfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from deqrun.errors import UserError
from deqrun.records.files import write_whole
from deqrun.records.reading import read_rows, read_trajectories
from deqrun.records.rows import BreadthRow
from deqrun.records.safe_reading import available_memory, require_honest_zip
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.records.writing import json_lines, trajectory_arrays

__all__ = ["SweepParts", "fingerprint_of"]


class SweepParts:
    """Finished trajectories of one sweep, a file each, below `sweep_parts/` of its run folder.

    Each file is written whole, when its trajectory is complete; `clear` removes them once the records that they are
    made into are written. Parts of other settings or other weights are never taken up: they are removed at once.

    folder       the run folder
    fingerprint  of settings and weights
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / "sweep_parts"
        # Parts of other weights would be mixed with new ones: they go.
        of = self.folder / "of.txt"
        if of.is_file() and of.read_text(encoding="utf-8").strip() != fingerprint:
            self.clear()
        if not of.is_file():
            write_whole(of, fingerprint + "\n")

    def read(self, key: TrajectoryKey) -> Trajectory | None:
        """The trajectory, if it is finished."""
        path = self._path(key, "npz")
        if not path.is_file():
            return None
        try:
            return read_trajectories(path)[key]
        except (ValueError, KeyError) as error:
            raise UserError(self._damaged(path)) from error

    def write(self, key: TrajectoryKey, trajectory: Trajectory) -> None:
        """Keep a finished trajectory."""
        buffer = io.BytesIO()
        np.savez(buffer, **trajectory_arrays(key, trajectory))  # type: ignore[arg-type]
        write_whole(self._path(key, "npz"), buffer.getvalue())

    def read_solutions(self, key: TrajectoryKey) -> Tensor | None:
        """The states (n, *state_shape) that the solves ended with, if they were kept."""
        path = self._path(key, "pt")
        if not path.is_file():
            return None
        try:
            # As with a checkpoint: sizes before contents, and tensors alone.
            with zipfile.ZipFile(path) as archive:
                require_honest_zip(archive, available_memory() // 2)
            found: Tensor = torch.load(path, weights_only=True)
        except Exception as error:
            raise UserError(self._damaged(path)) from error
        return found

    def write_solutions(self, key: TrajectoryKey, solutions: Tensor) -> None:
        """Keep the states, with which other solves of this sweep begin."""
        buffer = io.BytesIO()
        torch.save(solutions, buffer)
        write_whole(self._path(key, "pt"), buffer.getvalue())

    def read_breadth(self, key: TrajectoryKey) -> list[BreadthRow] | None:
        """The rows of finished solves from several starts."""
        path = self._path(key, "jsonl")
        return list(read_rows(path, BreadthRow)) if path.is_file() else None

    def write_breadth(self, key: TrajectoryKey, rows: list[BreadthRow]) -> None:
        """Keep the rows of solves from several starts."""
        write_whole(self._path(key, "jsonl"), json_lines(rows))

    def clear(self) -> None:
        """Remove all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _damaged(self, path: Path) -> str:
        return f"'{path}' is damaged; remove {self.folder}, and the sweep solves anew what it had solved."

    def _path(self, key: TrajectoryKey, suffix: str) -> Path:
        return self.folder / f"{key.path.replace('/', ',')}.{suffix}"


def fingerprint_of(settings: str, model: nn.Module) -> str:
    """Hexadecimal digits that two sweeps share exactly where settings (their fingerprint) and all weights agree."""
    # Of the bytes of every weight: two trainings of equal settings may differ by rounding.
    digest = sha256(settings.encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]
