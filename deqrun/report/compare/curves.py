"""The curves of a run for the compare page, as plain lists: rounded, thinned, and small enough for 500 runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from deqrun.records.residual_curve import residual_points
from deqrun.records.rows import Epoch, SweepCell
from deqrun.records.run import RunRecord
from deqrun.report.charts.data import difficulty_cells

__all__ = ["TRAINING", "curves_of"]

TRAINING = ("val_accuracy", "train_accuracy", "loss", "val_loss", "nfe", "residual", "converged", "adjoint_nfe")
"""Columns of train.jsonl that the page draws."""

MOST_POINTS = 32
"""Points of a residual curve."""
MOST_EPOCHS = 50
"""Points of a training curve."""

Curves = dict[str, Any]


def curves_of(record: RunRecord) -> Curves:
    """What the page draws of a run; empty parts are left out.

    sweep     {split: {solver: {k, tol, n, acc, nfe}}}, one place for each cell
    residual  {solver: {x: evaluations, y: log10 of the median residual}}, of the test split
    training  {column: values}, with `epoch`
    halting   {rule, n, acc, nfe}: the threshold that validation chose, on test
    breadth   {agg, breadth, k, n, acc, nfe}: on test
    hard      {difficulty, k, n, acc}: on test, at the smallest tolerance
    """
    breadth = record.breadth_rows("test", record.main_solver or "")
    harder = [cell for cell in difficulty_cells(record) if cell.difficulty is not None]
    parts: Curves = {
        "sweep": _sweep(record),
        "residual": _residual(record),
        "training": _training(record.epochs),
        "halting": _halting(record),
        "breadth": _columns(breadth, "agg", "breadth", "k", "n", "acc", "nfe"),
        "hard": _columns(harder, "difficulty", "k", "n", "acc"),
    }
    return {name: part for name, part in parts.items() if part}


def share(value: float | None) -> float | None:
    """A fraction to four digits after the point; None where it is not known."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)


def short(value: float | None) -> float | None:
    """A number to four significant digits; None where it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _sweep(record: RunRecord) -> Curves:
    """Of the main start, precision and difficulty, in the order of `RunRecord.cells`."""
    start, precision, difficulty = record.main_start, record.main_precision, record.main_difficulty
    grouped: dict[tuple[str, str], list[SweepCell]] = {}
    for cell in record.sweep:
        if (cell.start, cell.precision, cell.difficulty) == (start, precision, difficulty):
            grouped.setdefault((cell.split, cell.solver), []).append(cell)
    found: Curves = {}
    for (split, solver), cells in grouped.items():
        ordered = sorted(cells, key=lambda cell: (cell.max_iter, -cell.tol))
        found.setdefault(split, {})[solver] = _columns(ordered, "k", "tol", "n", "acc", "nfe")
    return found


COLUMNS: dict[str, Callable[[Any], Any]] = {
    "k": lambda row: row.max_iter,
    "tol": lambda row: row.tol,
    "rule": lambda row: row.rule,
    "agg": lambda row: row.aggregation,
    "breadth": lambda row: row.breadth,
    "difficulty": lambda row: row.difficulty,
    "n": lambda row: row.n,
    "acc": lambda row: share(row.accuracy),
    "nfe": lambda row: short(row.nfe_mean),
}
"""What the page calls a field of the rows, and its values."""


def _columns(rows: Sequence[Any], *names: str) -> Curves:
    return {name: [COLUMNS[name](row) for row in rows] for name in names} if rows else {}


def _residual(record: RunRecord) -> Curves:
    """Median residuals; 0 and inf have no logarithm, and are gaps."""
    found: Curves = {}
    for point in residual_points(record, "test"):
        if point.start != record.main_start:
            continue
        curve = found.setdefault(point.solver, {"x": [], "y": []})
        drawable = 0 < point.median < math.inf
        curve["x"].append(point.nfe)
        curve["y"].append(round(math.log10(point.median), 3) if drawable else None)
    return {
        solver: {name: thinned(values, MOST_POINTS) for name, values in curve.items()}
        for solver, curve in found.items()
    }


def _training(epochs: Sequence[Epoch]) -> Curves:
    kept = thinned(epochs, MOST_EPOCHS)
    columns = {name: [short(getattr(epoch, name)) for epoch in kept] for name in TRAINING}
    known = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    return {"epoch": [epoch.epoch for epoch in kept], **known} if known else {}


def thinned(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def _halting(record: RunRecord) -> Curves:
    """The oracle has no threshold to choose; it is a bound, and shown."""
    rows = [row for row in record.halting_rows("test", record.main_solver or "") if row.chosen or row.rule == "oracle"]
    return _columns(rows, "rule", "n", "acc", "nfe")
