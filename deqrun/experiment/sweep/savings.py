"""Evaluations for the same accuracy: depth alone beside the cheapest of depth, draws, noise and aggregation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.sweep.breadth import AGGREGATIONS, BY_RESIDUAL, Starts, breadth_rows
from deqrun.experiment.sweep.columns import compared, interval
from deqrun.inference import one_error_below, share_interval
from deqrun.records.long_trajectory import AnyTrajectory
from deqrun.records.rows import BreadthRow, SavingRow
from deqrun.records.trajectory import TrajectoryKey

__all__ = ["Choice", "Measured", "choices", "depth_alone", "measured", "rows_alone", "saving_rows"]

Cell = tuple[str, float, str, int, int]
"""Start, noise, aggregation, draws, depth."""

OF_THE_CELL = ("solver", "aggregation", "breadth", "max_iter", "noise", "start", "precision", "difficulty")
"""Columns of a saving that are its cell's."""


@dataclass(frozen=True)
class Choice:
    """What validation chooses for one goal.

    goal    depth: the accuracy that one draw without noise reaches; all: the accuracy that any cell reaches
    target  accuracy on validation, one standard error below the best
    cell    the cheapest of all cells that reaches the target
    deep    the cheapest depth of one draw without noise that does; None: no depth does
    tried   cells among which `cell` was chosen
    """

    goal: str
    target: float
    cell: BreadthRow
    deep: BreadthRow | None
    tried: int


@dataclass(frozen=True)
class Measured:
    """One cell on test, (n,) each: whether each answer is right, and its evaluations."""

    right: NDArray[np.bool_]
    nfe: NDArray[np.int64]


def depth_alone(trajectory: AnyTrajectory, depths: Sequence[int]) -> Starts:
    """The answers of a trajectory at each depth, as of one draw: of iterate k, or where the sample had stopped."""
    # A sample that stopped before a depth keeps its last answer, and costs no more.
    last = trajectory.last()
    at = [np.minimum(depth, last) for depth in depths]
    right = np.stack([trajectory.at("correct", iterate) for iterate in at])[None]
    running = np.stack([depth <= last for depth in depths])[None]
    nfe = (np.stack([trajectory.at("nfe", iterate) for iterate in at])[None] - running).astype(np.int32)
    # With one draw every aggregation gives the same answer; those that look at a residual pay for it.
    spent = {}
    for name in AGGREGATIONS:
        spent[name] = np.zeros((1, max(depths) + 1), dtype=np.int64)
        spent[name][:, list(depths)] = (nfe + running * (name in BY_RESIDUAL)).sum(axis=2)
    return Starts(dict.fromkeys(AGGREGATIONS, right), right, spent, nfe, running)


def rows_alone(trajectory: AnyTrajectory, depths: Sequence[int], key: TrajectoryKey) -> list[BreadthRow]:
    """A row for each depth of a trajectory from the cell's own start."""
    rows = breadth_rows(depth_alone(trajectory, depths), [1], depths, key, start="zeros")
    return [row for row in rows if row.aggregation == "mean"]


def choices(validation: Sequence[BreadthRow], alone: Sequence[BreadthRow] = ()) -> list[Choice]:
    """What validation chooses: rows of one solver, precision and difficulty at every level of the noise.

    alone  rows of depth alone (`rows_alone`); none: those of one draw without noise, of which there must be some
    """
    # Depth alone: from the cell's own start if it was solved, else the first draw without noise.
    single = [row for row in validation if (row.breadth, row.noise, row.aggregation) == (1, 0.0, "mean")]
    deep = list(alone) or single
    if not deep or not validation:
        return []
    # Two goals: the best accuracy of depth alone, and of all cells; each less one standard error.
    cells, found = [*alone, *validation], []
    for goal, rows in (("depth", deep), ("all", cells)):
        best = max(rows, key=lambda row: row.accuracy)
        target = one_error_below(best.accuracy, best.n)
        cell = _cheapest(cells, target)
        if cell is not None:
            found.append(Choice(goal, target, cell, _cheapest(deep, target), len(cells)))
    return found


def _cheapest(rows: Iterable[BreadthRow], target: float) -> BreadthRow | None:
    reaching = [row for row in rows if row.accuracy >= target]
    return min(reaching, key=lambda row: (row.nfe_mean, -row.accuracy), default=None)


def cell_of(row: BreadthRow) -> Cell:
    """Where a row stands in the grid."""
    return row.start, row.noise, row.aggregation, row.breadth, row.max_iter


def measured(
    chosen: Sequence[Choice], starts: Starts, depths: Sequence[int], noise: float, start: str
) -> dict[Cell, Measured]:
    """The chosen cells of these draws, by their level of the noise and their start, on the samples that were solved."""
    # Of all that was solved only the chosen cells are held.
    both = [row for choice in chosen for row in (choice.cell, choice.deep) if row is not None]
    rows = [row for row in both if (row.noise, row.start) == (noise, start)]
    found = {}
    for row in rows:
        place = list(depths).index(row.max_iter)
        right = starts.correct[row.aggregation][row.breadth - 1, place]
        found[cell_of(row)] = Measured(right.copy(), starts.evaluations(row.aggregation, row.breadth, place))
    return found


def saving_rows(chosen: Sequence[Choice], found: dict[Cell, Measured]) -> list[SavingRow]:
    """A row for each goal: both choices on test, and their paired differences."""
    return [_row(choice, found) for choice in chosen]


def _row(choice: Choice, found: dict[Cell, Measured]) -> SavingRow:
    at, deep = found[cell_of(choice.cell)], {}
    share = share_interval(at.right)
    # Paired by sample: both cells answered the same questions.
    if choice.deep is not None:
        alone = found[cell_of(choice.deep)]
        deep = compared(at.right, at.nfe, alone.right, alone.nfe) | {
            "deep_iter": choice.deep.max_iter,
            "deep_accuracy": float(alone.right.mean()),
            "deep_nfe_mean": float(alone.nfe.mean()),
            "deep_start": choice.deep.start,
        }
    return SavingRow(
        **{name: getattr(choice.cell, name) for name in OF_THE_CELL},
        split="test",
        goal=choice.goal,
        target=choice.target,
        cells=choice.tried,
        n=share.n,
        nfe_mean=float(at.nfe.mean()),
        **interval("accuracy", share),
        **deep,
    )
