"""Every iterate of a sweep's solves over the samples of a split: residuals, evaluations, and whether answers are right.

Shapes: T iterations, n samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqrun.records.halting_rules import HALTING_RULES


class TrajectoryKey(NamedTuple):
    """The key of a trajectory. difficulty: of the data, where the sweep asked for several; None: the run's own."""

    solver: str
    start: str
    split: str
    precision: str = "float32"
    difficulty: int | None = None

    @property
    def path(self) -> str:
        """The key as text: 'solver/start/split', where it is not float32 and the run's own difficulty with
        '/precision/difficulty' after it, an own difficulty being 'own'. No two keys share one."""
        parts = [self.solver, self.start, self.split]
        if (self.precision, self.difficulty) != ("float32", None):
            parts += [self.precision, "own" if self.difficulty is None else str(self.difficulty)]
        return "/".join(parts)

    @classmethod
    def from_path(cls, path: str) -> "TrajectoryKey":
        """The key that `path` writes. Raises ValueError where the text is none."""
        parts = path.split("/")
        if len(parts) not in (3, 5):
            raise ValueError(f"'{path}' names no trajectory: solver/start/split, or with /precision/difficulty.")
        solver, start, split, precision, difficulty = [*parts, "float32", "own"][:5]
        return cls(solver, start, split, precision, None if difficulty == "own" else int(difficulty))


SIGNALS = tuple(name for name, rule in HALTING_RULES.items() if rule.recorded)
"""Arrays of a trajectory that halting rules see beside the residual."""

MEASURES = ("positions", "cosine", "step")
"""Further arrays of a trajectory, which `sweep.measures` asks for."""

PER_ITERATE = ("residual", "nfe", "correct", "jvps", *SIGNALS, *MEASURES, "loss")
"""Arrays of a trajectory that have the shape (T+1, n)."""

DIVERGED = 3
"""The code of `deqrun.solvers.Status.DIVERGED` in a trajectory's status."""


@dataclass(frozen=True)
class Trajectory:
    """Every iterate of one solver from one start over the n samples of one split.

    residual (T+1, n): NaN after a row stopped, inf where not finite; float64 where the model was. nfe (T+1, n):
    evaluations spent when that residual was known. correct (T+1, n): whether the read-out of that iterate is right.
    seconds (T+1,): of the solve up to that iterate, and of one read-out, whatever else was looked at on the way. status
    (n,): why the row stopped, as `deqrun.solvers.Status` codes (3: diverged). jvps (T+1, n): Jacobian products spent by
    then, beside the evaluations. change, kl, entropy, stable, confidence, margin, acceleration and head (T+1, n) are
    signals of halting rules, and positions, cosine and step (T+1, n) further measures, as `deqrun.analysis.signals`
    defines them. loss (T+1, n): of that iterate's read-out, in nats, held behind the last iterate. All from status on
    are None where they weren't recorded. min_iter: no row stopped by its tolerance before that iterate.
    """

    residual: NDArray[np.floating]
    nfe: NDArray[np.int32]
    correct: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    status: NDArray[np.uint8] | None = None
    jvps: NDArray[np.int32] | None = None
    change: NDArray[np.float32] | None = None
    kl: NDArray[np.float32] | None = None
    entropy: NDArray[np.float32] | None = None
    stable: NDArray[np.int32] | None = None
    confidence: NDArray[np.float32] | None = None
    margin: NDArray[np.float32] | None = None
    acceleration: NDArray[np.float32] | None = None
    head: NDArray[np.float32] | None = None
    positions: NDArray[np.float32] | None = None
    cosine: NDArray[np.float32] | None = None
    step: NDArray[np.float32] | None = None
    loss: NDArray[np.floating] | None = None
    min_iter: int = 0

    @property
    def signals(self) -> dict[str, NDArray[Any]]:
        """The recorded signals of halting rules, by name."""
        named = {name: getattr(self, name) for name in SIGNALS}
        return {name: array for name, array in named.items() if array is not None}

    @property
    def cost(self) -> NDArray[np.int64]:
        """Evaluations and Jacobian products, one for one, (T+1, n); products that weren't recorded are not in it."""
        nfe = self.nfe.astype(np.int64)
        return nfe if self.jvps is None else nfe + self.jvps

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.residual.shape[1])

    @property
    def iterates(self) -> int:
        """T + 1."""
        return len(self.residual)

    def parts(self, signals: bool = False) -> Iterator["Trajectory"]:
        """The trajectory itself, as its only part: `LongTrajectory` has several."""
        yield self

    def at(self, name: str, iterate: NDArray[np.intp]) -> NDArray[Any]:
        """(n,) of each sample the value of the array `name` at its own iterate (n,)."""
        values: NDArray[Any] = np.take_along_axis(getattr(self, name), iterate[None], axis=0)[0]
        return values

    def last(self) -> NDArray[np.intp]:
        """Index of the last iterate of each row, (n,): the number of iterates that have a residual, less one."""
        return np.maximum(np.count_nonzero(~np.isnan(self.residual), axis=0) - 1, 0)

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Whether the row ended by diverging, (n,)."""
        return np.zeros(self.n, dtype=np.bool_) if self.status is None else self.status == DIVERGED

    def stop(self, max_iter: int, tol: float = 0.0) -> NDArray[np.intp]:
        """Index of the iterate at which a solve with this budget and tolerance stops, (n,).

        The first iterate, from min_iter on, with residual <= tol, else min(max_iter, last).
        """
        end = np.minimum(max_iter, self.last())
        reached = np.asarray(self.residual <= tol)  # False where NaN
        reached[: self.min_iter] = False
        first = np.argmax(reached, axis=0)
        return np.where(reached.any(axis=0) & (first <= end), first, end)

    def returned(self, max_iter: int, keep: str = "best", tol: float = 0.0) -> NDArray[np.intp]:
        """Index of the iterate that a solve with this budget and tolerance returns, (n,).

        'best': the first iterate of lowest residual up to where it stops. 'last': the one at which it stops.
        """
        stop = self.stop(max_iter, tol)
        return stop if keep == "last" else np.take_along_axis(self.lowest(), stop[None], axis=0)[0]

    def lowest(self) -> NDArray[np.intp]:
        """(T+1, n): index of the first iterate of lowest residual among 0 … k."""
        known = np.where(np.isnan(self.residual), np.inf, self.residual)
        before = np.minimum.accumulate(known, axis=0)
        new = np.ones_like(known, dtype=np.bool_)
        new[1:] = known[1:] < before[:-1]
        return np.maximum.accumulate(np.where(new, np.arange(len(known))[:, None], 0), axis=0)

    def correct_at(self, max_iter: int, keep: str = "best") -> NDArray[np.bool_]:
        """Whether the answer that a solve with this budget gives is right, (n,)."""
        return self.correct[self.returned(max_iter, keep), np.arange(self.n)]

    def nfe_to(self, tol: float) -> NDArray[np.float64]:
        """Evaluations each row needs to first reach residual <= tol, (n,); NaN where it never does."""
        reached = (self.residual <= tol) & np.isfinite(self.residual)
        first = np.argmax(reached, axis=0)
        return np.where(reached.any(axis=0), self.nfe[first, np.arange(self.n)], np.nan)


def joined(parts: Sequence[Trajectory]) -> Trajectory:
    """Trajectories of neighbouring samples as one; seconds add up."""
    first = parts[0]

    def whole(name: str) -> Any:
        if getattr(first, name) is None:
            return None
        return np.concatenate([getattr(part, name) for part in parts], axis=-1)

    seconds = np.zeros(first.iterates)
    for part in parts:
        seconds += part.seconds
    arrays = {name: whole(name) for name in (*PER_ITERATE, "status")}
    return Trajectory(**arrays, seconds=seconds, min_iter=first.min_iter)
