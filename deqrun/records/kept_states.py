"""The iterates of a few samples, whole: states.npz, and their principal components."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deqrun.records.files import writing_whole
from deqrun.records.safe_reading import is_there, open_npz

__all__ = ["FILE", "KeptStates", "Projection", "read_kept_states", "write_kept_states"]

FILE = "states.npz"


@dataclass(frozen=True)
class Projection:
    """The states of s samples on the first k principal components of all of them together.

    points     (s, T+1, k), NaN behind each sample's last iterate
    explained  (k,) share of the variance along each component
    """

    points: NDArray[np.float64]
    explained: NDArray[np.float64]


@dataclass(frozen=True)
class KeptStates:
    """Every iterate of s samples of the test split, by the training solver from the run's main start.

    states   (s, T+1, D) float32: z_k, flat; held behind each sample's last iterate
    correct  (s, T+1): whether the read-out of that iterate is right
    last     (s,): the iterate at which each sample stopped
    places   (s,): the samples' places in the split
    """

    states: NDArray[np.float32]
    correct: NDArray[np.bool_]
    last: NDArray[np.int64]
    places: NDArray[np.int64]

    def projection(self, components: int = 2) -> Projection:
        """Principal components of all finite states up to each sample's end, by the eigenvectors of their Gram matrix.

        Equal to the singular value decomposition of the centred states, up to the sign of each component; signs are
        such that the largest coordinate of each is positive.
        """
        s, iterates, _ = self.states.shape
        used = np.arange(iterates)[None, :] <= self.last[:, None]
        used &= np.isfinite(self.states).all(axis=2)
        rows = self.states[used].astype(np.float64)
        points = np.full((s, iterates, components), np.nan)
        if not len(rows):
            return Projection(points, np.zeros(components))
        rows -= rows.mean(axis=0)
        # (states · states): few beside the numbers of a state.
        power, vectors = np.linalg.eigh(rows @ rows.T)
        power, vectors = power[::-1].clip(min=0.0), vectors[:, ::-1]
        found = vectors[:, :components] * np.sqrt(power[:components])
        found *= np.where(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])] < 0, -1.0, 1.0)
        points[used, : found.shape[1]] = found
        explained = power[:components] / power.sum() if power.sum() > 0 else np.zeros(found.shape[1])
        return Projection(points, np.pad(explained, (0, components - len(explained))))


def write_kept_states(folder: Path, kept: KeptStates) -> None:
    """Write states.npz, whole or not at all."""
    with writing_whole(folder / FILE) as file:
        np.savez(file, **vars(kept))


def read_kept_states(folder: Path) -> KeptStates | None:
    """states.npz of a run folder; None where it has none. Raises ValueError where the file can't be understood."""
    path = folder / FILE
    if not is_there(path):
        return None
    with open_npz(path) as arrays:
        found = {name: arrays[name] for name in ("states", "correct", "last", "places") if name in arrays}
    shape = found["states"].shape if len(found) == 4 else ()
    if len(shape) != 3 or found["correct"].shape != shape[:2] or len(found["last"]) != shape[0]:
        raise ValueError(f"'{path}' does not hold the iterates of samples; sweep the run anew.")
    return KeptStates(**found)
