"""The numbers that the charts draw, each as a typed row: everything that can be checked without drawing."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from deqrun.records.frontier import non_dominated
from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord
from deqrun.records.trajectory import Trajectory

MAX_POINTS = 160
"""A residual curve has at most this many points: beyond it the eye sees no more, and the page only grows."""

# Panel of the training charts: which columns of train.jsonl it draws, and under which names.
PANELS: dict[str, tuple[tuple[str, str], ...]] = {
    "loss": (("loss", "training"), ("val_loss", "validation")),
    "accuracy": (("train_accuracy", "training"), ("val_accuracy", "validation")),
    "residual": (("residual", "forward"), ("adjoint_residual", "adjoint")),
    "evaluations": (("nfe", "forward"), ("adjoint_nfe", "adjoint")),
    "converged": (("converged", "forward"), ("adjoint_converged", "adjoint")),
    "gradient": (("gradient_share", "largest"),),
}


@dataclass(frozen=True)
class BudgetPoint:
    """Accuracy of one sweep cell at the smallest tolerance, with its interval."""

    solver: str
    start: str
    max_iter: int
    tol: float
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe_mean: float
    converged: float


@dataclass(frozen=True)
class ResidualPoint:
    """Quantiles over the samples of the residual known after some number of evaluations."""

    solver: str
    start: str
    nfe: int
    median: float
    low: float
    high: float
    running: int
    n: int


@dataclass(frozen=True)
class FrontierPoint:
    """Cost and accuracy of one sweep cell, and whether no other cell is at least as good in both."""

    solver: str
    start: str
    max_iter: int
    tol: float
    n: int
    nfe_mean: float
    nfe_p95: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    converged: float
    residual_median: float
    seconds: float
    frontier: bool


@dataclass(frozen=True)
class TrainingPoint:
    """One value of one training curve."""

    panel: str
    series: str
    epoch: int
    value: float


def budget_points(record: RunRecord, split: str = "test") -> list[BudgetPoint]:
    """Accuracy against budget at the smallest tolerance of the grid."""
    return [
        BudgetPoint(
            c.solver,
            c.start,
            c.max_iter,
            c.tol,
            c.n,
            c.accuracy,
            c.accuracy_low,
            c.accuracy_high,
            c.nfe_mean,
            c.converged,
        )
        for c in record.cells(split, tol=record.smallest_tol())
    ]


def frontier_points(record: RunRecord, split: str = "test") -> list[FrontierPoint]:
    """Every cell of a split as a point of cost and accuracy; cells whose cost isn't known are left out."""
    cells = [c for c in record.cells(split) if math.isfinite(c.nfe_mean)]
    joined = set(non_dominated([(c.nfe_mean, c.accuracy) for c in cells]))
    return [_frontier_point(c, index in joined) for index, c in enumerate(cells)]


def _frontier_point(cell: SweepCell, frontier: bool) -> FrontierPoint:
    return FrontierPoint(
        cell.solver,
        cell.start,
        cell.max_iter,
        cell.tol,
        cell.n,
        cell.nfe_mean,
        cell.nfe_p95,
        cell.accuracy,
        cell.accuracy_low,
        cell.accuracy_high,
        cell.converged,
        cell.residual_median,
        cell.seconds,
        frontier,
    )


def residual_points(record: RunRecord, split: str = "test") -> list[ResidualPoint]:
    """Residual against evaluations from the trajectories of a split: median, 10 % and 90 % quantile.

    Of untied layers the curve ends with the change that the last layer makes, and leaves out that none follows it.
    """
    return [
        point
        for key, trajectory in sorted(record.trajectories.items(), key=lambda item: item[0].path)
        if key[2:] == (split, record.main_precision, record.main_difficulty)
        if trajectory.residual.size
        for point in _trajectory_points(_layers(record, trajectory), key.solver, key.start)
    ]


def _layers(record: RunRecord, trajectory: Trajectory) -> Trajectory:
    """The trajectory; of untied layers without the iterates behind the last of them."""
    kind, layers = record.baseline
    if kind != "untied" or layers is None:
        return trajectory
    return replace(trajectory, residual=trajectory.residual[:layers], nfe=trajectory.nfe[:layers])


def _trajectory_points(trajectory: Trajectory, solver: str, start: str) -> list[ResidualPoint]:
    spent = evaluation_grid(trajectory)
    known, running = residual_after(trajectory, spent)
    # A quantile is the residual of some sample: interpolating between a finite one and inf has no meaning.
    low, median, high = np.quantile(known, [0.1, 0.5, 0.9], axis=1, method="inverted_cdf")
    return [
        ResidualPoint(solver, start, int(e), float(m), float(lo), float(hi), int(r), trajectory.n)
        for e, m, lo, hi, r in zip(spent, median, low, high, running, strict=True)
    ]


def evaluation_grid(trajectory: Trajectory) -> NDArray[np.int64]:
    """Numbers of evaluations at which some sample's residual became known, from where all samples have one."""
    iterate = ~np.isnan(trajectory.residual)
    spent = np.unique(trajectory.nfe[iterate])
    spent = spent[spent >= trajectory.nfe[0].max()]
    if len(spent) > MAX_POINTS:
        picks = np.unique(np.linspace(0, len(spent) - 1, MAX_POINTS).round().astype(np.int64))
        spent = spent[picks]
    return spent.astype(np.int64)


def residual_after(trajectory: Trajectory, spent: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The residual of each sample's latest iterate after `spent` (E,) evaluations, (E, n), and how many still run.

    A sample that stopped keeps its last residual.
    """
    last = trajectory.last()
    columns = np.arange(trajectory.n)
    steps = np.arange(trajectory.residual.shape[0])[:, None]
    # Beyond its last iterate a row spends nothing more, whatever stands in the record.
    nfe = np.where(steps <= last, trajectory.nfe.astype(np.int64), np.iinfo(np.int64).max)
    latest = np.stack([np.count_nonzero(nfe <= e, axis=0) - 1 for e in spent])
    known = trajectory.residual[np.maximum(latest, 0), columns].astype(np.float64)
    return known, np.count_nonzero(latest < last, axis=1)


def training_points(record: RunRecord) -> list[TrainingPoint]:
    """Every finite value of the training curves; a log panel takes only values above zero."""
    return [
        TrainingPoint(panel, series, epoch.epoch, float(value))
        for epoch in record.epochs
        for panel, curves in PANELS.items()
        for attribute, series in curves
        for value in [getattr(epoch, attribute)]
        if value is not None and math.isfinite(value) and (value > 0 or panel != "residual")
    ]
