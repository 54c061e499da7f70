"""What a trajectory says of every budget and tolerance."""

from dataclasses import replace

import numpy as np
import pytest

from deqrun.records.run import RunRecord
from deqrun.records.trajectory import Trajectory
from tests.records.synthetic_run import ITERATIONS

INF, NAN = np.inf, np.nan


@pytest.fixture
def trajectory() -> Trajectory:
    """Columns: converges at 3; rises again after 1; diverges at 2; never moves."""
    residual = [[1, 1, 1, 1], [0.5, 0.2, 3, 1], [0.1, 0.4, INF, 1], [0.01, 0.3, NAN, 1]]
    correct = [[0, 0, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 0, 1]]
    nfe = np.arange(1, 5)[:, None] * np.ones((1, 4), dtype=np.int32)
    return Trajectory(
        np.array(residual, dtype=np.float32),
        nfe.astype(np.int32),
        np.array(correct, dtype=bool),
        np.arange(4.0),
        np.array([0, 1, 3, 1], dtype=np.uint8),
    )


def test_where_rows_end(trajectory: Trajectory) -> None:
    assert trajectory.last().tolist() == [3, 3, 2, 3]
    assert trajectory.diverged.tolist() == [False, False, True, False]
    assert trajectory.stop(3, tol=0.2).tolist() == [2, 1, 2, 3]
    assert trajectory.stop(1, tol=0.01).tolist() == [1, 1, 1, 1]


def test_where_rows_end_that_must_not_stop_early(trajectory: Trajectory) -> None:
    late = replace(trajectory, min_iter=2)
    assert late.stop(3, tol=0.2).tolist() == [2, 3, 2, 3]  # the second was below at 1 alone
    assert late.stop(1, tol=0.2).tolist() == [1, 1, 1, 1]


def test_which_iterate_is_returned(trajectory: Trajectory) -> None:
    assert trajectory.returned(3, "best").tolist() == [3, 1, 0, 0]  # of equal residuals the first
    assert trajectory.returned(3, "last").tolist() == [3, 3, 2, 3]
    assert trajectory.returned(0).tolist() == [0, 0, 0, 0]
    assert trajectory.correct_at(3, "best").tolist() == [True, True, True, True]
    assert trajectory.correct_at(3, "last").tolist() == [True, False, False, True]


def test_evaluations_to_a_tolerance(trajectory: Trajectory) -> None:
    np.testing.assert_array_equal(trajectory.nfe_to(0.2), [3, 2, NAN, NAN])


def test_trajectories_give_back_the_sweep(record: RunRecord) -> None:
    """The sweep's cells were reckoned sample by sample in plain Python; the arrays must agree to the last sample."""
    checked = 0
    for cell in record.sweep:
        trajectory = record.trajectories[cell.key]
        columns = np.arange(trajectory.n)
        stop = trajectory.stop(cell.max_iter, cell.tol)
        kept = trajectory.returned(cell.max_iter, "best", cell.tol)
        assert trajectory.correct[kept, columns].mean() == pytest.approx(cell.accuracy, abs=1e-12)
        assert trajectory.nfe[stop, columns].mean() == pytest.approx(cell.nfe_mean, abs=1e-9)
        assert (trajectory.residual[kept, columns] <= cell.tol).mean() == pytest.approx(cell.converged, abs=1e-12)
        checked += 1
    assert checked == 300


def test_cells_are_narrowed_and_ordered(record: RunRecord) -> None:
    cells = record.cells("test", "anderson", tol=1e-3)
    assert [cell.max_iter for cell in cells] == list(ITERATIONS)
    assert record.cells("validation", "broyden") == []
    assert record.smallest_tol() == 1e-5
    training = record.training_cell()
    assert training is not None
    assert (training.solver, training.max_iter, training.tol) == ("anderson", 12, 1e-3)


def test_figures_are_of_the_runs_own_solver_alone(tiny_record: RunRecord) -> None:
    """To 1e-2 Anderson needs 3 evaluations on three of four samples, Picard 4."""
    for solver, needed in (("anderson", 3), ("picard", 4)):
        own = replace(tiny_record, summary=replace(tiny_record.summary, solver=solver))
        assert own.figures()["evaluations_to_tolerance"] == needed
        assert own.figures()["reached_tolerance"] == 0.75
    other = replace(tiny_record, summary=replace(tiny_record.summary, solver="broyden"))
    assert "evaluations_to_tolerance" not in other.figures()
