"""The residual curve against hand-made trajectories."""

import numpy as np

from deqrun.records.residual_curve import MAX_POINTS, evaluation_grid, residual_after
from deqrun.records.trajectory import Trajectory


def test_rows_that_stopped_keep_their_last_residual_whatever_each_step_costs() -> None:
    """Two samples whose iterates cost 2 and 3 evaluations; the first stops after one step."""
    residual = np.array([[1.0, 1.0], [0.1, 0.5], [np.nan, 0.2]], dtype=np.float32)
    nfe = np.array([[1, 1], [3, 4], [3, 7]], dtype=np.int32)
    trajectory = Trajectory(residual, nfe, np.ones((3, 2), dtype=bool), np.arange(3.0))
    assert evaluation_grid(trajectory).tolist() == [1, 3, 4, 7]
    known, running = residual_after(trajectory, evaluation_grid(trajectory))
    np.testing.assert_allclose(known, [[1, 1], [0.1, 1], [0.1, 0.5], [0.1, 0.2]], rtol=1e-6)
    assert running.tolist() == [2, 1, 1, 0]


def test_long_trajectories_are_thinned_between_their_ends() -> None:
    steps = 1000
    residual = np.geomspace(1, 1e-6, steps, dtype=np.float32)[:, None]
    nfe = np.arange(1, steps + 1, dtype=np.int32)[:, None]
    grid = evaluation_grid(Trajectory(residual, nfe, np.ones((steps, 1), dtype=bool), np.arange(float(steps))))
    assert (len(grid), grid[0], grid[-1]) == (MAX_POINTS, 1, steps)
