"""The rows and tables that trackers show: plain numbers, made from a run's record.

A row is a point of one axis, with a value for each curve, so that the curves of several runs overlay in one panel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.records.frontier import non_dominated
from deqrun.records.long_trajectory import AnyTrajectory
from deqrun.records.rows import BreadthRow, BudgetEvaluation, HaltingRow, SweepCell
from deqrun.records.run import RunRecord
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.settings import TrackerSettings

Row = dict[str, float]

AXES = {
    "train/*": "epoch",
    "steps/*": "step",
    "evaluation/*": "evaluation/step",
    "residual/*": "residual/iter",
    "accuracy/*": "budget/iters",
    "frontier/*": "frontier/evaluations",
    "halting/*": "halting/evaluations",
    "breadth/*": "breadth/starts",
}
"""The horizontal axis of each family of curves."""

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}


def scalars(row: object, family: str, axis: str) -> Row:
    """A row of train.jsonl or steps.jsonl as 'family/column' against its axis; missing values are left out."""
    values = {key: value for key, value in asdict(row).items() if value is not None}  # type: ignore[call-overload]
    place = values.pop(axis)
    return {axis: place, **{f"{family}/{key}": value for key, value in values.items()}}


def evaluation_row(rows: Iterable[BudgetEvaluation]) -> Row:
    """Accuracy and loss of one evaluation, a curve for each budget."""
    made: Row = {}
    for row in rows:
        made["evaluation/step"] = row.step
        made |= {f"evaluation/{name}/iters={row.max_iter}": getattr(row, name) for name in ("accuracy", "loss")}
    return made


def curve_rows(record: RunRecord) -> list[Row]:
    """All rows that follow a sweep."""
    return [
        *residual_rows(record.trajectories),
        *accuracy_rows(record.sweep),
        *frontier_rows(record.sweep),
        *halting_rows(record.halting),
        *breadth_rows(record.breadth),
    ]


def residual_rows(trajectories: Mapping[TrajectoryKey, AnyTrajectory]) -> list[Row]:
    """A row per iterate: quantiles of the residual over the samples; a stopped sample keeps its last residual."""
    rows: dict[int, Row] = {}
    for key, trajectory in trajectories.items():
        if not trajectory.iterates * trajectory.n:
            continue
        # Part by part: a long trajectory does not lie in memory as a whole.
        kept = np.concatenate([_held_residual(part) for part in trajectory.parts()], axis=1)
        # A quantile that is one of the values: between a number and infinity there is none.
        values = np.quantile(kept, list(QUANTILES.values()), axis=1, method="inverted_cdf")
        for name, curve in zip(QUANTILES, values, strict=True):
            for k, value in enumerate(curve):
                rows.setdefault(k, {"residual/iter": k})[f"residual/{key.path}/{name}"] = float(value)
    return [rows[k] for k in sorted(rows)]


def _held_residual(part: Trajectory) -> NDArray[np.floating]:
    """(T+1, n) residuals, the last one held behind where a sample stopped."""
    latest = np.minimum(np.arange(part.iterates)[:, None], part.last())
    return np.take_along_axis(part.residual, latest, axis=0)


def accuracy_rows(cells: Iterable[SweepCell]) -> list[Row]:
    """A row per budget: the accuracy of each trajectory at each tolerance."""
    rows: dict[int, Row] = {}
    for cell in cells:
        row = rows.setdefault(cell.max_iter, {"budget/iters": cell.max_iter})
        row[f"accuracy/{cell.key.path}/tol={cell.tol:g}"] = cell.accuracy
    return [rows[budget] for budget in sorted(rows)]


def frontier_rows(cells: Iterable[SweepCell]) -> list[Row]:
    """A row per cell that no other cell of its trajectory beats in both mean evaluations and accuracy."""
    by_key = sorted((cell for cell in cells if math.isfinite(cell.nfe_mean)), key=lambda cell: cell.key.path)
    rows = []
    for path, group in groupby(by_key, key=lambda cell: cell.key.path):
        cells_of = list(group)
        for place in non_dominated([(cell.nfe_mean, cell.accuracy) for cell in cells_of]):
            cell = cells_of[place]
            rows.append({"frontier/evaluations": cell.nfe_mean, f"frontier/{path}": cell.accuracy})
    return sorted(rows, key=lambda row: row["frontier/evaluations"])


def halting_rows(rows: Iterable[HaltingRow]) -> list[Row]:
    """A row per threshold of each rule: accuracy against mean evaluations."""
    made = [
        {"halting/evaluations": row.nfe_mean, f"halting/{row.key.path}/{row.rule}": row.accuracy}
        for row in rows
        if math.isfinite(row.nfe_mean)
    ]
    return sorted(made, key=lambda row: row["halting/evaluations"])


def breadth_rows(rows: Iterable[BreadthRow]) -> list[Row]:
    """A row per number of starts: the accuracy of each aggregation at each budget."""
    made: dict[int, Row] = {}
    for row in rows:
        key = TrajectoryKey(row.solver, row.start, row.split, row.precision, row.difficulty)
        line = made.setdefault(row.breadth, {"breadth/starts": row.breadth})
        noise = f"/noise={row.noise:g}" if row.noise else ""
        line[f"breadth/{key.path}{noise}/{row.aggregation}/iters={row.max_iter}"] = row.accuracy
    return [made[starts] for starts in sorted(made)]


@dataclass(frozen=True)
class Table:
    """A table under a name."""

    name: str
    columns: tuple[str, ...]
    rows: list[list[Any]]


def tables(record: RunRecord) -> list[Table]:
    """Every row of sweep.jsonl, halting.jsonl, breadth.jsonl and savings.jsonl; a kind without rows has no table."""
    kinds: dict[str, Sequence[Any]] = {"cells": record.sweep, "halting": record.halting, "breadth": record.breadth}
    kinds["savings"] = record.savings
    return [_table(name, rows) for name, rows in kinds.items() if rows]


def _table(name: str, rows: Sequence[Any]) -> Table:
    columns = tuple(field.name for field in fields(rows[0]))
    values = attrgetter(*columns)
    return Table(name, columns, [[_cell(value) for value in values(row)] for row in rows])


def _cell(value: Any) -> Any:
    """Tables hold None for NaN and infinity, so that a column has one type."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def placed(row: Row) -> tuple[int, Row]:
    """The place of a row on its axis, as a whole number, and its values."""
    axis = next(key for key in AXES.values() if key in row)
    return round(row[axis]), {key: value for key, value in row.items() if key != axis}


def run_files(record: RunRecord, settings: TrackerSettings) -> dict[str, Path]:
    """The run's report and checkpoint, as far as the settings ask for them and they are there."""
    named = {"report": "report.html", "checkpoint": "checkpoints/best.pt"}
    wanted = {kind: record.folder / name for kind, name in named.items() if getattr(settings, kind)}
    return {kind: path for kind, path in wanted.items() if path.is_file()}


def figure_files(record: RunRecord) -> dict[str, str]:
    """The drawn figures of a run, by name."""
    return {path.stem: str(path) for path in sorted((record.folder / "figures").glob("*.png"))}
