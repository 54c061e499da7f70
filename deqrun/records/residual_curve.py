"""The residual against the evaluations spent, over the samples of a trajectory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from deqrun.records.long_trajectory import AnyTrajectory
from deqrun.records.rows import CurveRow
from deqrun.records.run import RunRecord
from deqrun.records.trajectory import Trajectory, TrajectoryKey

__all__ = ["MAX_POINTS", "evaluation_grid", "residual_after", "residual_curve", "residual_points"]

MAX_POINTS = 160
"""A residual curve has at most this many points: beyond it the eye sees no more, and the page only grows."""

QUANTILES = (0.1, 0.5, 0.9)


def residual_curve(key: TrajectoryKey, trajectory: AnyTrajectory, layers: int | None = None) -> list[CurveRow]:
    """Median, 10 % and 90 % quantile of the residual at each number of evaluations, and the samples that still run.

    layers  of an untied net, whose iterates behind the last layer are left out; None: of any other
    """
    if not trajectory.iterates * trajectory.n:
        return []
    spent = evaluation_grid(trajectory, layers)
    parts = [residual_after(_cut(part, layers), spent) for part in trajectory.parts()]
    known = np.concatenate([residual for residual, _ in parts], axis=1)
    running = sum(still for _, still in parts)
    # A quantile is the residual of some sample: interpolating between a finite one and inf has no meaning.
    low, median, high = np.quantile(known, QUANTILES, axis=1, method="inverted_cdf")
    return [
        CurveRow(
            **key._asdict(), nfe=int(e), median=float(m), low=float(lo), high=float(hi), running=int(r), n=trajectory.n
        )
        for e, m, lo, hi, r in zip(spent, median, low, high, np.asarray(running), strict=True)
    ]


def residual_points(record: RunRecord, split: str = "test") -> list[CurveRow]:
    """Residual against evaluations on a split, in the main precision and difficulty.

    From curves.jsonl where the run kept curves, else from its trajectories. Of untied layers the curve ends with the
    change that the last layer makes, and leaves out that none follows it.
    """
    shown = (split, record.main_precision, record.main_difficulty)
    if record.curves:
        return [row for row in record.curves if row.key[2:] == shown]
    kind, layers = record.baseline
    return [
        row
        for key, trajectory in sorted(record.trajectories.items(), key=lambda item: item[0].path)
        if key[2:] == shown
        for row in residual_curve(key, trajectory, layers if kind == "untied" else None)
    ]


def _cut(part: Trajectory, layers: int | None) -> Trajectory:
    return part if layers is None else replace(part, residual=part.residual[:layers], nfe=part.nfe[:layers])


def evaluation_grid(trajectory: AnyTrajectory, layers: int | None = None) -> NDArray[np.int64]:
    """Numbers of evaluations at which some sample's residual became known, from where all samples have one."""
    found, first = [], 0
    for part in trajectory.parts():
        cut = _cut(part, layers)
        found.append(np.unique(cut.nfe[~np.isnan(cut.residual)]))
        first = max(first, int(cut.nfe[0].max()))
    spent = np.unique(np.concatenate(found))
    spent = spent[spent >= first]
    if len(spent) > MAX_POINTS:
        picks = np.unique(np.linspace(0, len(spent) - 1, MAX_POINTS).round().astype(np.int64))
        spent = spent[picks]
    return spent.astype(np.int64)


def residual_after(part: Trajectory, spent: NDArray[np.int64]) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """The residual of each sample's latest iterate after `spent` (E,) evaluations, (E, n), and how many still run.

    A sample that stopped keeps its last residual.
    """
    last = part.last()
    steps = np.arange(part.iterates)[:, None]
    # Beyond its last iterate a row spends nothing more, whatever stands in the record.
    nfe = np.where(steps <= last, part.nfe.astype(np.int64), np.iinfo(np.int64).max)
    latest = np.stack([np.count_nonzero(nfe <= e, axis=0) - 1 for e in spent])
    return part.residual[np.maximum(latest, 0), np.arange(part.n)], np.count_nonzero(latest < last, axis=1)
