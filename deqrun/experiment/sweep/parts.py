"""The finished trajectories of an interrupted sweep, so that it goes on where it stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deqrun.errors import UserError
from deqrun.experiment.ranks import leads
from deqrun.records.files import write_whole, writing_whole
from deqrun.records.long_trajectory import HELD, AnyTrajectory, LongTrajectory, PartsInArchive, PartsWriter
from deqrun.records.reading import read_rows
from deqrun.records.rows import ROW_KINDS
from deqrun.records.trajectory import TrajectoryKey
from deqrun.records.writing import json_lines

__all__ = ["SweepParts", "fingerprint_of"]


class SweepParts:
    """Finished trajectories of one sweep, a file each, below `sweep_parts/` of its run folder.

    Each file is written whole, when its trajectory is complete; `clear` removes them once the records that they are
    made into are written. Parts of other settings or other weights are never taken up: they are removed at once.

    Of several ranks the first writes; the others read the solutions that solves begin with, once they are there.

    folder       the run folder
    fingerprint  of settings and weights
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder / "sweep_parts"
        self._left = HELD
        if not leads():
            return
        # Parts of other weights would be mixed with new ones: they go.
        of = self.folder / "of.txt"
        if of.is_file() and of.read_text(encoding="utf-8").strip() != fingerprint:
            self.clear()
        if not of.is_file():
            write_whole(of, fingerprint + "\n")

    def read(self, key: TrajectoryKey) -> AnyTrajectory | None:
        """The trajectory, if it is finished: in memory, or in its file once `HELD` bytes are in memory."""
        path = self._path(key, "npz")
        if not path.is_file():
            return None
        # The first trajectories stay in memory, as far as that goes; later ones are read where they are needed.
        try:
            found = LongTrajectory(PartsInArchive(path))
            size = path.stat().st_size
            if size > self._left:
                return found
            self._left -= size
            return found.in_memory()
        except (ValueError, KeyError) as error:
            raise UserError(self._damaged(path)) from error

    def writing(self, key: TrajectoryKey) -> PartsWriter:
        """A writer of a trajectory, which is kept when it is complete."""
        return PartsWriter(self._path(key, "npz"))

    def read_solutions(self, key: TrajectoryKey) -> NDArray[Any] | None:
        """The states (n, *state_shape) that the solves ended with, if they were kept; they stay in their file."""
        path = self._path(key, "npy")
        if not path.is_file():
            return None
        try:
            found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:
            raise UserError(self._damaged(path)) from error
        return found

    @contextmanager
    def writing_solutions(self, key: TrajectoryKey, n: int) -> Iterator[Callable[[Tensor], None]]:
        """A function that takes the states of each batch, with which other solves of this sweep begin."""
        # A .npy file whose header is written with the first batch, when shape and dtype are known.
        with writing_whole(self._path(key, "npy")) as file:

            def add(states: Tensor) -> None:
                array = states.cpu().contiguous().numpy()
                if not file.tell():
                    descr = np.lib.format.dtype_to_descr(array.dtype)
                    header = {"descr": descr, "fortran_order": False, "shape": (n, *array.shape[1:])}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(array.tobytes())

            yield add

    def read_rows(self, key: TrajectoryKey, *kinds: str) -> list[list[Any]] | None:
        """The rows of each of these kinds (`ROW_KINDS`) that `write_rows` kept together; None if it has not ended."""
        paths = [self._path(key, ROW_KINDS[kind].file) for kind in kinds]
        if not all(path.is_file() for path in paths):
            return None
        return [list(read_rows(path, ROW_KINDS[kind].row)) for path, kind in zip(paths, kinds, strict=True)]

    def write_rows(self, key: TrajectoryKey, rows: dict[str, list[Any]]) -> None:
        """Keep the rows of several kinds, which are finished together."""
        # One file a kind: the rows are taken up again only if all of them are there.
        for kind, found in rows.items():
            write_whole(self._path(key, ROW_KINDS[kind].file), json_lines(found))

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
