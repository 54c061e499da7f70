"""The test-time sweep: one trajectory per solver, from which every (budget, tolerance) cell is derived."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from deqrun.datasets import Dataset, Split
from deqrun.experiment.evaluate import batches
from deqrun.models import DEQ
from deqrun.report.bootstrap import accuracy_interval
from deqrun.report.records import SweepCell, Trajectory
from deqrun.solvers import Budget, Solution, Solver, solve


@torch.no_grad()
def trace(
    deq: DEQ, dataset: Dataset, split: Split, solver: Solver, budget: Budget, batch_size: int, label: str = ""
) -> Trajectory:
    """Solve every sample of `split` once, reading the head out at every iterate.

    budget: the largest budget and the smallest tolerance that a cell will ask for.
    Iterates depend on neither, so one trajectory holds the answer to every smaller budget and larger tolerance.
    """
    device = next(deq.parameters()).device
    was_training = deq.training
    deq.eval()
    recorder = _Recorder.empty(budget.max_iter + 1, len(split))
    bar = tqdm(total=len(split), desc=label or "sweep", unit="sample", leave=False, dynamic_ncols=True, disable=None)
    for x, y, place in batches(dataset, split, batch_size, device):
        with deq.cell.fixed_weights():
            reader = _Reader(deq, dataset, y, budget.max_iter + 1)
            f = deq.bind(x)
            solution = solve(f, deq.start(f), solver=solver, budget=budget, observe=reader)
        recorder.add(place, solution, reader)
        bar.update(len(x))
    bar.close()
    deq.train(was_training)
    return recorder.trajectory()


class _Reader:
    """Reads the head out along the way: correct (T+1, batch), and when each iterate was reached."""

    def __init__(self, deq: DEQ, dataset: Dataset, targets: Tensor, iterates: int) -> None:
        self.deq, self.dataset, self.targets = deq, dataset, targets
        self.correct = torch.zeros(iterates, len(targets), dtype=torch.bool, device=targets.device)
        self.times = np.zeros(iterates)
        self.began = time.perf_counter()
        self.reached = 0

    def __call__(self, k: int, z: Tensor, rows: Tensor) -> None:
        logits = self.deq.cell.readout(z)
        self.correct[k] = self.correct[k - 1]  # a row that stopped keeps its last answer
        self.correct[k, rows] = self.dataset.correct(logits, self.targets[rows])
        self.times[k] = time.perf_counter() - self.began
        self.reached = k


@dataclass
class _Recorder:
    """Arrays of a whole split, filled batch by batch."""

    residual: NDArray[np.float32]
    nfe: NDArray[np.int32]
    jvps: NDArray[np.int32]
    correct: NDArray[np.bool_]
    status: NDArray[np.uint8]
    seconds: NDArray[np.float64]

    @classmethod
    def empty(cls, iterates: int, n: int) -> _Recorder:
        return cls(
            residual=np.full((iterates, n), np.nan, dtype=np.float32),
            nfe=np.zeros((iterates, n), dtype=np.int32),
            jvps=np.zeros((iterates, n), dtype=np.int32),
            correct=np.zeros((iterates, n), dtype=np.bool_),
            status=np.zeros(n, dtype=np.uint8),
            seconds=np.zeros(iterates),
        )

    def add(self, place: slice, solution: Solution, reader: _Reader) -> None:
        known = len(solution.residuals)
        self.residual[:known, place] = solution.residuals.cpu().numpy()
        self.nfe[:known, place] = solution.nfes.cpu().numpy()
        self.nfe[known:, place] = self.nfe[known - 1, place]
        self.jvps[:known, place] = solution.products.cpu().numpy()
        self.jvps[known:, place] = self.jvps[known - 1, place]
        self.correct[:known, place] = reader.correct[:known].cpu().numpy()
        self.correct[known:, place] = self.correct[known - 1, place]
        self.status[place] = solution.status.cpu().numpy()
        times = reader.times.copy()
        times[reader.reached :] = times[reader.reached]
        self.seconds += times

    def trajectory(self) -> Trajectory:
        return Trajectory(self.residual, self.nfe, self.correct, self.seconds, self.status, self.jvps)


def cells(
    trajectory: Trajectory,
    iterations: Sequence[int],
    tolerances: Sequence[float],
    *,
    solver: str,
    start: str,
    split: str,
    keep: str,
) -> list[SweepCell]:
    """The row of every (budget, tolerance), each equal to what a solve with that budget and tolerance gives.

    `seconds` is the trajectory's time, prorated: the time of iterate k is shared equally among the rows that were
    iterating at k, and a cell takes the shares of the rows that it would still have iterated.
    """
    grid = [(max_iter, tol) for tol in tolerances for max_iter in iterations]
    stop_CN = np.stack([trajectory.stop(max_iter, tol) for max_iter, tol in grid])
    kept_CN = stop_CN if keep == "last" else _at(trajectory.lowest(), stop_CN)
    tol_C1 = np.array([[tol] for _, tol in grid])
    converged_CN = _at(trajectory.residual, stop_CN) <= tol_C1
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
            solver, start, split, max_iter, tol, trajectory.n, accuracy.mean, accuracy.low, accuracy.high,
            *map(float, figures),
        )
        for (max_iter, tol), correct, *figures in columns
        for accuracy in [accuracy_interval(correct)]
    ]  # fmt: skip


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
