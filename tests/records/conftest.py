"""Run folders and records that the tests of records and of the report look at."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deqrun.records.reading import read_run
from deqrun.records.rows import Epoch, SweepCell
from deqrun.records.run import RunRecord, RunStatus, Summary
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from tests.records.synthetic_run import write_synthetic_run


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed synthetic run; tests read it and leave it as it is."""
    return write_synthetic_run(tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="session")
def record(run_folder: Path) -> RunRecord:
    """The synthetic run, read."""
    return read_run(run_folder)


@pytest.fixture
def tiny_record() -> RunRecord:
    """Four test samples, three iterations, trained with Anderson at one: small enough to reckon by hand.

    Test samples: Picard forgets three right answers on the way from budget 1 to 3, Anderson gains one. Within
    three iterations both reach 1e-1 on all four samples (Picard with 3 evaluations, Anderson with 2), 1e-2 on
    three.
    """
    picard = _trajectory(
        [[1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5], [0.05, 0.05, 0.05, 0.05], [0.005, 0.005, 0.005, 0.02]],
        [[0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
    )
    anderson = _trajectory(
        [[1, 1, 1, 1], [0.05, 0.05, 0.05, 0.05], [0.005, 0.005, 0.005, 0.04], [np.nan, np.nan, np.nan, 0.02]],
        [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 1]],
    )
    accuracies = {  # by solver and split, for budgets 1, 2, 3 at the smallest tolerance
        ("anderson", "test"): (0.5, 0.5, 0.75),
        ("anderson", "validation"): (0.86, 0.88, 0.90),
        ("picard", "test"): (0.75, 0.25, 0.0),
        ("picard", "validation"): (0.60, 0.90, 0.80),
    }
    sweep = tuple(
        _cell(solver, split, budget, tol, accuracy)
        for (solver, split), row in accuracies.items()
        for tol in (1e-1, 1e-2)
        for budget, accuracy in enumerate(row, start=1)
    )
    return RunRecord(
        folder=Path("tiny"),
        config={"name": "tiny"},
        status=RunStatus("completed", "", 2),
        summary=Summary(
            name="tiny",
            model="mlp",
            dataset="digits",
            solver="anderson",
            parameters=1234,
            train_max_iter=1,
            train_tol=1e-2,
            n_validation=100,
            n_test=4,
            best_epoch=2,
            val_accuracy=0.86,
            test_accuracy=0.5,
            test_accuracy_low=0.15,
            test_accuracy_high=0.85,
            train_seconds=83.0,
        ),
        epochs=(Epoch(1, val_accuracy=0.7), Epoch(2, val_accuracy=0.86, nfe=2.0, residual=0.05, adjoint_residual=2e-3)),
        sweep=sweep,
        trajectories={
            TrajectoryKey(solver, "zeros", "test"): trajectory
            for solver, trajectory in (("picard", picard), ("anderson", anderson))
        },
    )


def repeated(record: RunRecord, times: int) -> RunRecord:
    """The record with each test sample so many times over."""

    def tiled(trajectory: Trajectory) -> Trajectory:
        columns = (trajectory.residual, trajectory.nfe, trajectory.correct)
        residual, nfe, correct = (np.tile(one, (1, times)) for one in columns)
        return replace(trajectory, residual=residual, nfe=nfe, correct=correct)

    return replace(record, trajectories={key: tiled(one) for key, one in record.trajectories.items()})


def _trajectory(residual: list[list[float]], correct: list[list[int]]) -> Trajectory:
    known = np.asarray(residual, dtype=np.float32)
    nfe = np.broadcast_to(np.arange(1, len(known) + 1, dtype=np.int32)[:, None], known.shape).copy()
    return Trajectory(known, nfe, np.asarray(correct, dtype=np.bool_), np.arange(1.0, len(known) + 1))


def _cell(solver: str, split: str, budget: int, tol: float, accuracy: float) -> SweepCell:
    converged = {1e-1: 1.0, 1e-2: 0.75}[tol] if budget == 3 else 0.0
    n = {"test": 4, "validation": 100}[split]
    return SweepCell(
        solver,
        "zeros",
        split,
        budget,
        tol,
        n,
        accuracy,
        accuracy - 0.1,
        accuracy + 0.1,
        nfe_mean=budget + 1.0,
        nfe_p95=budget + 1.0,
        seconds=0.5,
        converged=converged,
        diverged=0.0,
        residual_median=0.05,
    )
