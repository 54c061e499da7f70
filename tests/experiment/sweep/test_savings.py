"""Savings at equal accuracy: chosen by plain search on validation, and compared sample by sample on test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deqrun.experiment.sweep.breadth import AGGREGATIONS, BY_RESIDUAL, Starts, breadth_rows
from deqrun.experiment.sweep.savings import choices, depth_alone, measured, saving_rows
from deqrun.records.rows import BreadthRow
from deqrun.records.trajectory import TrajectoryKey
from deqrun.settings import Settings
from tests.experiment.sweep.test_sweep_grid import everything, sequences

DEPTHS, BREADTHS, LEVELS, N = [1, 2, 4], [1, 3], [0.0, 0.1], 60


def drawn(seed: int, level: float) -> Starts:
    """Answers that are right more often after more steps, with more draws and with noise, at Picard's cost."""
    rng = np.random.default_rng(seed)
    depth = np.array([0.2, 0.35, 0.5])[None, :, None]
    breadth = np.array([0.0, 0.1, 0.2])[:, None, None]
    correct = {
        name: rng.random((3, 3, N)) < depth + breadth * (2 + place) / 3 + level
        for place, name in enumerate(AGGREGATIONS)
    }
    nfe = np.broadcast_to(np.array(DEPTHS, dtype=np.int32)[None, :, None], (3, 3, N)).copy()
    nfe[:, 2, : N // 3] = 3  # a third of the samples has stopped before
    running = np.ones((3, 3, N), dtype=bool)
    running[:, 2, : N // 3] = False
    spent = np.zeros((3, 5), dtype=np.int64)
    spent[:, DEPTHS] = nfe.sum(axis=2)
    with_residual = spent.copy()
    with_residual[:, DEPTHS] += running.sum(axis=2)
    spents = {name: with_residual if name in BY_RESIDUAL else spent for name in AGGREGATIONS}
    for name in AGGREGATIONS:
        correct[name][0] = correct["mean"][0]  # of one draw all ways are one
    return Starts(correct, correct["mean"], spents, nfe, running)


def rows_of(seed: int, level: float, split: str) -> list[BreadthRow]:
    key = TrajectoryKey("picard", "breadth", split)
    return breadth_rows(drawn(seed, level), BREADTHS, DEPTHS, key, noise=level)


@pytest.mark.parametrize("seed", range(4))
def test_choice_and_comparison_are_those_of_a_plain_search(seed: int) -> None:
    validation = [row for level in LEVELS for row in rows_of(seed, level, "validation")]
    chosen = choices(validation)
    assert [choice.goal for choice in chosen] == ["depth", "all"]
    test = {level: drawn(seed + 100, level) for level in LEVELS}
    found = {}
    for level in LEVELS:
        found |= measured(chosen, test[level], DEPTHS, level, "normal")
    for choice, row in zip(chosen, saving_rows(chosen, found), strict=True):
        # By hand: the target, then the cheapest cell and the cheapest depth alone that reach it.
        alone = [one for one in validation if one.breadth == 1 and one.noise == 0]
        best = max(one.accuracy for one in (alone if choice.goal == "depth" else validation))
        target = best - math.sqrt(best * (1 - best) / N)
        assert row.target == pytest.approx(target)
        costs = [one.nfe_mean for one in validation if one.accuracy >= target]
        cell = (row.noise, row.aggregation, row.breadth, row.max_iter)
        (mine,) = (one for one in validation if (one.noise, one.aggregation, one.breadth, one.max_iter) == cell)
        assert mine.nfe_mean == min(costs)
        assert mine.accuracy >= target
        # On test, sample by sample.
        level, way, breadth, depth = cell
        place, own = DEPTHS.index(depth), test[level]
        right = [bool(own.correct[way][breadth - 1, place, i]) for i in range(N)]
        paid = [
            sum(int(own.nfe[b, place, i]) for b in range(breadth))
            + (way in BY_RESIDUAL) * sum(bool(own.running[b, place, i]) for b in range(breadth))
            for i in range(N)
        ]
        assert row.accuracy == pytest.approx(sum(right) / N, abs=1e-12)
        assert row.nfe_mean == pytest.approx(sum(paid) / N, abs=1e-12)
        deep = [one for one in alone if one.accuracy >= target]
        if not deep:
            assert row.deep_iter == 0
            assert math.isnan(row.saved)
            continue
        cheapest = min(one.nfe_mean for one in deep)
        assert min(one.nfe_mean for one in deep if one.max_iter == row.deep_iter) == cheapest
        place = DEPTHS.index(row.deep_iter)
        saved = [int(test[0.0].nfe[0, place, i]) - paid[i] for i in range(N)]
        gained = [int(right[i]) - int(test[0.0].singles[0, place, i]) for i in range(N)]
        assert row.saved == pytest.approx(sum(saved) / N, abs=1e-12)
        assert row.gained == pytest.approx(sum(gained) / N, abs=1e-12)
        assert row.saved_low <= row.saved <= row.saved_high
        assert row.gained_low <= row.gained <= row.gained_high


def test_depth_alone_against_itself_saves_nothing() -> None:
    """Of one draw without noise the chosen cell is depth alone."""
    validation = [replace(row) for row in rows_of(0, 0.0, "validation") if row.breadth == 1]
    chosen = choices(validation)
    (row, _) = saving_rows(chosen, measured(chosen, drawn(7, 0.0), DEPTHS, 0.0, "normal"))
    assert (row.saved, row.gained, row.max_iter) == (0.0, 0.0, row.deep_iter)


def test_depth_alone_is_the_cells_own_start_where_it_was_swept(
    settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    """Its accuracy is the read-out of iterate k, or of where the sample stopped, and its cost k evaluations at most."""
    asked = ("sweep.breadth=[2]", "sweep.tolerances=[0.3]", "sweep.iterations=[1,2,4]")
    found = everything(sequences(settings_of, *asked, "budget.tol=0.0"), tmp_path)
    (key,) = (key for key in found.trajectories if key.split == "test")
    trajectory, last = found.trajectories[key], found.trajectories[key].last()
    assert last.min() < 4  # some have stopped before
    alone = depth_alone(trajectory, [1, 2, 4])
    for place, depth in enumerate((1, 2, 4)):
        for i in range(trajectory.n):
            k = min(depth, int(last[i]))
            assert alone.singles[0, place, i] == trajectory.correct[k, i]
            assert alone.nfe[0, place, i] == (depth if depth <= last[i] else last[i] + 1)
    assert found.rows["savings"]
    for row in found.rows["savings"]:
        assert row.deep_start == ("zeros" if row.deep_iter else "")
        if row.deep_iter:
            place = (1, 2, 4).index(row.deep_iter)
            assert row.deep_accuracy == alone.singles[0, place].mean()
            assert row.deep_nfe_mean == alone.nfe[0, place].mean()


def test_without_a_single_draw_there_is_nothing_to_compare_with() -> None:
    assert choices([row for row in rows_of(0, 0.0, "validation") if row.breadth > 1]) == []
    assert choices(rows_of(0, 0.1, "validation")) == []


def test_a_sweep_has_savings_of_test_where_it_has_validation(
    settings_of: Callable[..., Settings], tmp_path: Path
) -> None:
    """The mean evaluations of its rows are those of the same cells among the rows of test; parts have them, too."""
    asked = ("sweep.breadth=[1,2]", "sweep.noise=[0.3]", "sweep.starts=[normal]")
    settings = sequences(settings_of, *asked, "sweep.splits=[test,validation]")
    found = everything(settings, tmp_path).rows
    cells = {
        (row.noise, row.aggregation, row.breadth, row.max_iter): row for row in found["breadth"] if row.split == "test"
    }
    assert found["savings"]
    for row in found["savings"]:
        cell = cells[row.noise, row.aggregation, row.breadth, row.max_iter]
        assert (row.accuracy, row.nfe_mean) == (cell.accuracy, pytest.approx(cell.nfe_mean, rel=1e-12))
    again = everything(settings, tmp_path).rows
    assert [repr(row) for row in again["savings"]] == [repr(row) for row in found["savings"]]
    alone = sequences(settings_of, "sweep.breadth=[1,2]", "sweep.splits=[test]")
    assert everything(alone, tmp_path / "alone").rows["savings"] == []
