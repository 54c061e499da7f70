"""The test-time sweep: one trajectory per solver and start, from which every (budget, tolerance) cell is derived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.analysis.signals import SignalRecorder
from deqrun.datasets import Dataset, Split
from deqrun.experiment.evaluate import batches
from deqrun.experiment.sweep.precision import autocast, cast
from deqrun.experiment.sweep.starts import SweepStart
from deqrun.experiment.training.solve_clock import SolveClock
from deqrun.inference import share_interval
from deqrun.models import DEQ
from deqrun.records.rows import SweepCell
from deqrun.records.trajectory import SIGNALS, Trajectory, TrajectoryKey
from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.device import to_host
from deqrun.solvers.precision import warn_if_unreachable


@torch.no_grad()
def trace(
    deq: DEQ,
    dataset: Dataset,
    split: Split,
    solver: Solver,
    budget: Budget,
    batch_size: int,
    *,
    start: SweepStart | None = None,
    precision: str = "float32",
    signals: bool = False,
    solved: Callable[[slice, Solution], object] | None = None,
    ends: list[Tensor] | None = None,
) -> Trajectory:
    """Solve every sample of `split` once, reading the head out at every iterate.

    Iterates depend on neither budget nor tolerance, so one trajectory holds the answer to every smaller budget and
    larger tolerance.

    budget     the largest budget and the smallest tolerance that a cell will ask for
    start      where solves begin; None: the cell's own start
    precision  float32; bfloat16: under autocast, the solver's state in float32; float64: of a model in float64
    signals    whether to record the signals of halting rules, too
    solved     called as solved(place, solution) when the samples at `place` in the split have been solved
    ends       to it the kept iterates of each batch are added, on the host
    """
    # In evaluation mode, with a recorder that has room for every iterate of every sample.
    device = next(deq.parameters()).device
    was_training = deq.training
    deq.eval()
    start = start or SweepStart()
    if precision == "bfloat16":  # the solver sees the float32 that the cell's values are turned into
        warn_if_unreachable(budget.tol, torch.bfloat16)
    recorder = _Recorder.empty(budget.max_iter + 1, len(split), precision, signals)
    # One solve a batch. The reader sees each iterate as the solve comes by it; nothing is solved twice for a read-out.
    for x, y, place in batches(dataset, split, batch_size, device):
        with autocast(precision, device), deq.cell.fixed_weights():
            reader = _Reader(deq, dataset, y, budget.max_iter + 1, signals)
            f = deq.bind(cast(x, precision))
            z0 = start.begin(deq.start(f), place)
            solution = solve(f, z0, solver=solver, budget=budget, observe=reader)
        recorder.add(place, solution, reader, ends)
        if solved is not None:
            solved(place, solution)
    deq.train(was_training)
    return recorder.trajectory(budget.min_iter)


class _Reader:
    """Reads the head out along the way: correct (T+1, batch), signals if asked; the clock stands still meanwhile."""

    def __init__(self, deq: DEQ, dataset: Dataset, targets: Tensor, iterates: int, signals: bool) -> None:
        self.deq, self.dataset, self.targets = deq, dataset, targets
        self.signals = SignalRecorder(iterates, len(targets), dataset.asked(targets)) if signals else None
        self.correct = torch.zeros(iterates, len(targets), dtype=torch.bool, device=targets.device)
        self.clock = SolveClock(iterates, targets.device)

    def __call__(self, k: int, z: Tensor, rows: Tensor) -> None:
        with self.clock.observing(k):
            with self.clock.reading(len(rows)):
                logits = self.deq.cell.readout(z)
            self.correct[k] = self.correct[k - 1]  # a row that stopped keeps its last answer
            self.correct[k, rows] = self.dataset.correct(logits, self.targets[rows])
            if self.signals is not None:
                self.signals(k, z, logits, rows)


@dataclass
class _Recorder:
    """Arrays of a whole split, filled batch by batch."""

    residual: NDArray[np.floating]
    nfe: NDArray[np.int32]
    jvps: NDArray[np.int32]
    correct: NDArray[np.bool_]
    status: NDArray[np.uint8]
    seconds: NDArray[np.float64]
    signals: dict[str, list[NDArray[Any]]] | None  # of each batch, in order

    @classmethod
    def empty(cls, iterates: int, n: int, precision: str, signals: bool) -> _Recorder:
        return cls(
            residual=np.full((iterates, n), np.nan, dtype=np.float64 if precision == "float64" else np.float32),
            nfe=np.zeros((iterates, n), dtype=np.int32),
            jvps=np.zeros((iterates, n), dtype=np.int32),
            correct=np.zeros((iterates, n), dtype=np.bool_),
            status=np.zeros(n, dtype=np.uint8),
            seconds=np.zeros(iterates),
            signals={name: [] for name in SIGNALS} if signals else None,
        )

    def add(self, place: slice, solution: Solution, reader: _Reader, ends: list[Tensor] | None) -> None:
        # One copy to the host for all records of the batch.
        known = len(solution.residuals)
        tables = (solution.residuals, solution.nfes, solution.products, reader.correct[:known])
        signals = [] if reader.signals is None else reader.signals.tensors()
        states = [] if ends is None else [solution.z]
        copied = to_host([*tables, solution.status, solution.steps, *signals, *states])
        residual, nfe, jvps, correct, status, steps, *signals = copied[: len(copied) - len(states)]
        if ends is not None:
            ends.append(copied[-1])
        self.residual[:known, place] = residual.numpy()
        # Behind the last iterate every count and answer stays as it was.
        for table, values in ((self.nfe, nfe), (self.jvps, jvps), (self.correct, correct)):
            table[:known, place] = values.numpy()
            table[known:, place] = table[known - 1, place]
        self.status[place] = status.numpy()
        if self.signals is not None and reader.signals is not None:
            for name, array in reader.signals.arrays(steps, signals).items():
                self.signals[name].append(array)
        self.seconds += reader.clock.seconds()

    def trajectory(self, min_iter: int) -> Trajectory:
        signals = {name: np.concatenate(parts, axis=1) for name, parts in (self.signals or {}).items()}
        return Trajectory(
            self.residual, self.nfe, self.correct, self.seconds, self.status, self.jvps, **signals, min_iter=min_iter
        )


def cells(
    trajectory: Trajectory, iterations: Sequence[int], tolerances: Sequence[float], *, key: TrajectoryKey, keep: str
) -> list[SweepCell]:
    """The row of every (budget, tolerance), each equal to a separate solve's with that budget and tolerance.

    `seconds` are the time of the trajectory's solve and of one read-out, prorated: the time of iterate k is shared
    equally among the rows that were iterating at k, and a cell takes the shares of the rows that it would still have
    iterated.
    """
    grid = [(max_iter, tol) for tol in tolerances for max_iter in iterations]
    stop_CN = _stops(trajectory, iterations, tolerances)
    kept_CN = stop_CN if keep == "last" else _at(trajectory.lowest(), stop_CN)
    # In the residual's dtype, as the solver and `Trajectory.stop` compare them.
    tol_C1 = np.array([[tol] for _, tol in grid], dtype=trajectory.residual.dtype)
    residual_CN = _at(trajectory.residual, stop_CN)
    converged_CN = (residual_CN <= tol_C1) & np.isfinite(residual_CN)
    diverged_CN = trajectory.diverged & (stop_CN == trajectory.last()) & ~converged_CN
    nfe_CN = _at(trajectory.nfe, stop_CN)
    columns = zip(
        grid,
        _at(trajectory.correct, kept_CN),
        nfe_CN.mean(axis=1),
        np.quantile(nfe_CN, 0.95, axis=1),
        _prorated_seconds(trajectory, stop_CN),
        converged_CN.mean(axis=1),
        diverged_CN.mean(axis=1),
        np.median(_at(trajectory.residual, kept_CN), axis=1),
        _mean_products(trajectory, stop_CN),
        strict=True,
    )
    return [
        SweepCell(
            key.solver,
            key.start,
            key.split,
            max_iter,
            tol,
            trajectory.n,
            share.mean,
            share.low,
            share.high,
            *map(float, figures),
            precision=key.precision,
            difficulty=key.difficulty,
        )
        for (max_iter, tol), correct, *figures in columns
        for share in [share_interval(correct)]
    ]


def _stops(trajectory: Trajectory, iterations: Sequence[int], tolerances: Sequence[float]) -> NDArray[np.intp]:
    """(tolerances · iterations, n): `Trajectory.stop` of every cell; the first iterate at most min(max_iter, …)."""
    reached_KN = np.stack([trajectory.stop(len(trajectory.residual), tol) for tol in tolerances])
    ends_I11 = np.array(iterations, dtype=np.intp)[:, None, None]
    return np.minimum(reached_KN, ends_I11).transpose(1, 0, 2).reshape(-1, trajectory.n)


def _at(values_TN: NDArray[Any], index_CN: NDArray[np.intp]) -> NDArray[Any]:
    """(cells, n): of each sample the value at the iterate that each cell names."""
    return np.take_along_axis(values_TN, index_CN, axis=0)


def _mean_products(trajectory: Trajectory, stop_CN: NDArray[np.intp]) -> NDArray[np.float64]:
    """(cells,) mean Jacobian products; NaN where they weren't recorded."""
    if trajectory.jvps is None:
        return np.full(len(stop_CN), np.nan)
    return _at(trajectory.jvps, stop_CN).mean(axis=1)


def _prorated_seconds(trajectory: Trajectory, stop_CN: NDArray[np.intp]) -> NDArray[np.float64]:
    """(cells,) seconds: Σ_k (time of iterate k) · (rows a cell iterates at k) / (rows that were iterating at k)."""
    spent_T = np.diff(trajectory.seconds, prepend=0.0)
    share_T = spent_T / np.maximum(np.bincount(trajectory.last(), minlength=len(spent_T))[::-1].cumsum()[::-1], 1)
    return np.take(share_T.cumsum(), stop_CN).sum(axis=1)
