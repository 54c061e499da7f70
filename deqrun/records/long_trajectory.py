"""Trajectories larger than memory should hold: written sample by sample, and read part by part."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deqrun.records.files import writing_whole
from deqrun.records.safe_reading import Header, open_npz, read_header
from deqrun.records.trajectory import MEASURES, PER_ITERATE, SIGNALS, Trajectory

__all__ = [
    "HELD",
    "AnyTrajectory",
    "ArraysInArchive",
    "LongTrajectory",
    "PartsInArchive",
    "PartsWriter",
    "Source",
    "write_trajectory",
]

HELD = 2**26
"""Bytes of trajectories that a reader holds in memory; whatever is beyond is read part by part."""

PART = 2**22
"""Bytes of one array that a part holds, about."""


class Source(Protocol):
    """The arrays of a trajectory in a file, in blocks of samples.

    names     of the arrays that are there
    n         samples
    iterates  T + 1
    """

    names: tuple[str, ...]
    n: int
    iterates: int

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """(T+1, b) or, of status, (b,) of each block of samples, in order; the same samples for each name."""
        ...

    def whole(self, name: str) -> NDArray[Any]:
        """An array at once."""
        ...


class LongTrajectory:
    """A trajectory in a file, with the names and the meanings of `Trajectory`.

    Methods go through the file part by part, so that memory holds one part and the result. An array is read as a whole
    each time that it is asked for; one that was not recorded is None.

    names  of the recorded arrays
    """

    residual: NDArray[np.floating]
    nfe: NDArray[np.int32]
    correct: NDArray[np.bool_]
    jvps: NDArray[np.int32] | None
    status: NDArray[np.uint8] | None

    def __init__(self, source: Source) -> None:
        self.source, self.names = source, source.names
        self.n, self.iterates = source.n, source.iterates
        self.seconds: NDArray[np.float64] = source.whole("seconds")
        self.min_iter = int(source.whole("min_iter")) if "min_iter" in source.names else 0

    def parts(self, signals: bool = False) -> Iterator[Trajectory]:
        """Trajectories of neighbouring samples, in order, which together are this one.

        signals  whether they have the signals of halting rules, and the further measures
        Seconds are the whole trajectory's in the first part, and 0 in the others.
        """
        names = [name for name in (*PER_ITERATE, "status") if name in self.names]
        names = [name for name in names if signals or name not in (*SIGNALS, *MEASURES)]
        seconds = self.seconds
        for arrays in zip(*(self.source.blocks(name) for name in names), strict=True):
            named: dict[str, Any] = dict(zip(names, arrays, strict=True))
            yield Trajectory(**named, seconds=seconds, min_iter=self.min_iter)
            seconds = np.zeros_like(seconds)

    def last(self) -> NDArray[np.intp]:
        """See `Trajectory.last`."""
        return np.concatenate([part.last() for part in self.parts()])

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """See `Trajectory.diverged`."""
        return np.concatenate([part.diverged for part in self.parts()])

    def stop(self, max_iter: int, tol: float = 0.0) -> NDArray[np.intp]:
        """See `Trajectory.stop`."""
        return np.concatenate([part.stop(max_iter, tol) for part in self.parts()])

    def returned(self, max_iter: int, keep: str = "best", tol: float = 0.0) -> NDArray[np.intp]:
        """See `Trajectory.returned`."""
        return np.concatenate([part.returned(max_iter, keep, tol) for part in self.parts()])

    def correct_at(self, max_iter: int, keep: str = "best") -> NDArray[np.bool_]:
        """See `Trajectory.correct_at`."""
        return np.concatenate([part.correct_at(max_iter, keep) for part in self.parts()])

    def nfe_to(self, tol: float) -> NDArray[np.float64]:
        """See `Trajectory.nfe_to`."""
        return np.concatenate([part.nfe_to(tol) for part in self.parts()])

    def at(self, name: str, iterate: NDArray[np.intp]) -> NDArray[Any]:
        """See `Trajectory.at`."""
        found, low = [], 0
        for block in self.source.blocks(name):
            found.append(np.take_along_axis(block, iterate[None, low : low + block.shape[1]], axis=0)[0])
            low += block.shape[1]
        return np.concatenate(found)

    def in_memory(self) -> Trajectory:
        """All of it at once."""
        whole = {name: self.source.whole(name) for name in self.names if name != "min_iter"}
        return Trajectory(**whole, min_iter=self.min_iter)

    def __getattr__(self, name: str) -> Any:
        if name not in (*PER_ITERATE, "status"):
            raise AttributeError(f"a trajectory has no {name}")
        return self.source.whole(name) if name in self.names else None

    @property
    def signals(self) -> dict[str, NDArray[Any]]:
        """See `Trajectory.signals`."""
        return {name: self.source.whole(name) for name in SIGNALS if name in self.names}

    @property
    def cost(self) -> NDArray[np.int64]:
        """See `Trajectory.cost`."""
        nfe, jvps = self.nfe.astype(np.int64), self.jvps
        return nfe if jvps is None else nfe + jvps


AnyTrajectory = Trajectory | LongTrajectory


class ArraysInArchive:
    """The source of a trajectory in an npz file, one member an array, its content sample by sample (Fortran order)."""

    def __init__(self, path: Path, stem: str, headers: Mapping[str, Header]) -> None:
        self.path, self.stem, self.headers = path, stem, headers
        self.names = tuple(headers)
        self.iterates, self.n = headers["residual"].shape

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """See `Source`."""
        shape, dtype = self.headers[name].shape, self.headers[name].dtype
        length = self.iterates if len(shape) == 2 else 1
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{self.stem}/{name}.npy") as file:
            read_header(file)
            rows = max(1, PART // (8 * self.iterates))
            for low in range(0, self.n, rows):
                count = min(rows, self.n - low)
                block = np.frombuffer(file.read(count * length * dtype.itemsize), dtype).reshape(count, length).T
                yield block if len(shape) == 2 else block[0]

    def whole(self, name: str) -> NDArray[Any]:
        """See `Source`."""
        with open_npz(self.path, by_parts=True) as arrays:
            return arrays[f"{self.stem}/{name}"]


class PartsInArchive:
    """The source of a trajectory in the file of a `PartsWriter`.

    Raises NotReadable where the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_npz(path, by_parts=True) as arrays:
            self._parts = sorted({name.partition("/")[0] for name in arrays if "/" in name})
            self.names = tuple(sorted({name.rpartition("/")[2] for name in arrays} - {"n"}))
            self.iterates = len(arrays["seconds"])
            self.n = int(arrays["n"])

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """See `Source`."""
        with open_npz(self.path, by_parts=True) as arrays:
            for part in self._parts:
                yield arrays[f"{part}/{name}"]

    def whole(self, name: str) -> NDArray[Any]:
        """See `Source`."""
        if name in ("seconds", "min_iter"):
            with open_npz(self.path, by_parts=True) as arrays:
                return arrays[name]
        return np.concatenate(list(self.blocks(name)), axis=-1)


class PartsWriter:
    """Writes a trajectory as its parts are made; the file is there when `finish` has been called, whole.

    with PartsWriter(path) as writer:
        writer.add(part)        # for each batch of samples, in order
    """

    def __init__(self, path: Path) -> None:
        self._whole = writing_whole(path)
        self._seconds: NDArray[np.float64] | None = None
        self._parts, self._n, self._min_iter = 0, 0, 0

    def __enter__(self) -> PartsWriter:
        self._archive = zipfile.ZipFile(self._whole.__enter__(), "w", zipfile.ZIP_STORED)
        return self

    def add(self, part: Trajectory) -> None:
        """Write the next samples."""
        for name in (*PER_ITERATE, "status"):
            if (array := getattr(part, name)) is not None:
                self._write(f"{self._parts:09d}/{name}", array)
        self._seconds = part.seconds if self._seconds is None else self._seconds + part.seconds
        self._parts, self._n, self._min_iter = self._parts + 1, self._n + part.n, part.min_iter

    def __exit__(self, kind: type | None, *rest: Any) -> bool | None:
        if kind is None:
            for name, value in (("seconds", self._seconds), ("min_iter", self._min_iter), ("n", self._n)):
                self._write(name, np.asarray(value))
        self._archive.close()
        return self._whole.__exit__(kind, *rest)

    def _write(self, name: str, array: NDArray[Any]) -> None:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        self._archive.writestr(f"{name}.npy", buffer.getvalue())


def write_trajectory(archive: zipfile.ZipFile, stem: str, trajectory: AnyTrajectory) -> None:
    """Write the arrays of a trajectory into an npz archive, as STEM/NAME, each sample by sample."""
    whole = {"seconds": trajectory.seconds, "min_iter": np.asarray(trajectory.min_iter)}
    for name, array in whole.items():
        with archive.open(f"{stem}/{name}.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)
    for name in (*PER_ITERATE, "status"):
        blocks = _blocks(trajectory, name)
        if (first := next(blocks, None)) is None:
            continue
        with archive.open(f"{stem}/{name}.npy", "w", force_zip64=True) as file:
            shape = (*first.shape[:-1], trajectory.n)
            descr = np.lib.format.dtype_to_descr(first.dtype)
            np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": True, "shape": shape})
            for block in chain([first], blocks):
                file.write(np.ascontiguousarray(block.T).tobytes())


def _blocks(trajectory: AnyTrajectory, name: str) -> Iterator[NDArray[Any]]:
    """The array in blocks of samples; none where it was not recorded."""
    if isinstance(trajectory, LongTrajectory):
        if name in trajectory.names:
            yield from trajectory.source.blocks(name)
    elif (array := getattr(trajectory, name)) is not None:
        yield array
