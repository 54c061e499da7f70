"""The numbers that the charts draw, against a second way of reckoning them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from deqrun.records.residual_curve import residual_points
from deqrun.records.run import RunRecord, Summary
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.report.charts.data import budget_points, frontier_points, training_points


def known_after(trajectory: Trajectory, column: int, spent: int) -> float:
    """The residual of one sample's latest iterate after `spent` evaluations, by walking along it."""
    known = np.nan
    for k in range(trajectory.residual.shape[0]):
        if not np.isnan(trajectory.residual[k, column]) and trajectory.nfe[k, column] <= spent:
            known = float(trajectory.residual[k, column])
    return known


@pytest.mark.parametrize("solver", ["picard", "broyden"])
def test_residual_curve_is_the_quantiles_of_what_each_sample_knows(record: RunRecord, solver: str) -> None:
    trajectory = record.trajectories[TrajectoryKey(solver, "zeros", "test")]
    points = [point for point in residual_points(record) if point.solver == solver]
    for point in points[::7]:
        values = sorted(known_after(trajectory, column, point.nfe) for column in range(trajectory.n))
        # The q-quantile of 360 sorted values is the first with at least 360 q values up to it.
        assert (point.low, point.median, point.high) == (values[35], values[179], values[323])
    assert [point.nfe for point in points] == list(range(1, len(trajectory.residual) + 1))


def test_frontier_of_the_sweep_rises(record: RunRecord) -> None:
    points = frontier_points(record)
    joined = sorted((p.nfe_mean, p.accuracy) for p in points if p.frontier)
    assert len(points) == 3 * 12 * 5
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(joined))
    assert joined[-1][1] == max(point.accuracy for point in points)
    assert joined[0][0] == min(point.nfe_mean for point in points)


def test_budget_curve_is_the_sweep_at_its_smallest_tolerance(record: RunRecord) -> None:
    points = budget_points(record)
    assert {point.tol for point in points} == {1e-5}
    for point in points:
        trajectory = record.trajectories[TrajectoryKey(point.solver, "zeros", "test")]
        assert point.accuracy == pytest.approx(trajectory.correct_at(point.max_iter).mean(), abs=1e-12)
    assert len(points) == 3 * 12
    assert {p.solver for p in budget_points(record, "validation")} == {"anderson", "picard"}


def test_training_curves_leave_out_what_is_not_there(tiny_record: RunRecord) -> None:
    points = {(p.panel, p.series, p.epoch): p.value for p in training_points(tiny_record)}
    assert points == {
        ("accuracy", "validation", 1): 0.7,
        ("accuracy", "validation", 2): 0.86,
        ("evaluations", "forward", 2): 2.0,
        ("residual", "forward", 2): 0.05,
        ("residual", "adjoint", 2): 2e-3,
    }


def test_the_residual_curve_of_untied_layers_ends_with_the_last_layers_change(tiny_record: RunRecord) -> None:
    """Three layers, which change the state by 1, 0.5 and 0.25; iterate 3 is the answer, behind which there is none."""
    residual = np.array([[1.0], [0.5], [0.25], [0.0], [np.nan]], dtype=np.float32)
    trajectory = Trajectory(
        residual, np.array([[1], [2], [3], [3], [3]], dtype=np.int32), np.zeros((5, 1), dtype=bool), np.zeros(5)
    )
    trajectories = {TrajectoryKey("picard", "zeros", "test"): trajectory}
    net = replace(tiny_record, trajectories=trajectories, summary=Summary(baseline="untied", baseline_layers=3))
    assert [(point.nfe, point.median) for point in residual_points(net)] == [(1, 1.0), (2, 0.5), (3, 0.25)]
    deq = replace(net, summary=Summary())
    assert residual_points(deq)[-1].median == 0.0
