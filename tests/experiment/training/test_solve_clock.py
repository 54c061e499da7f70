"""A cell's seconds, by a clock that ticks for evaluations, read-outs and signals as the test says."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.analysis.signals import SignalRecorder
from deqrun.datasets import Split
from deqrun.experiment.sweep.trace import cells, trace
from deqrun.gradients import OneStep
from deqrun.models import DEQ
from deqrun.records.trajectory import TrajectoryKey
from deqrun.solvers import Anderson, Budget, Picard, Solver
from tests.experiment.linear_model import LinearCell, Vectors

EVALUATION, READOUT, SIGNALS = 8.0, 0.5, 64.0
"""Seconds of a row."""


class Clock:
    """Stands still but for what is told."""

    seconds = 0.0

    def tick(self, seconds: float) -> None:
        self.seconds += seconds


class Timed(LinearCell):
    def __init__(self, clock: Clock, readout: float) -> None:
        super().__init__()
        self.clock, self.cost = clock, readout

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        self.clock.tick(EVALUATION * len(z))
        return super().forward(z, injection)

    def readout(self, z: Tensor) -> Tensor:
        self.clock.tick(self.cost * len(z))
        return super().readout(z)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made, plain = Clock(), SignalRecorder.__call__

    def slow(recorder: SignalRecorder, k: int, z: Tensor, logits: Tensor, rows: Tensor, halt: Tensor | None) -> None:
        made.tick(SIGNALS * len(rows))
        plain(recorder, k, z, logits, rows, halt)

    monkeypatch.setattr(time, "perf_counter", lambda: made.seconds)
    monkeypatch.setattr(SignalRecorder, "__call__", slow)
    return made


class Eyes(Vectors):
    """Unit vectors, whose rates of convergence differ."""

    def load(self, split: str) -> Split:
        return Split(torch.eye(5, dtype=torch.float64), torch.zeros(5, dtype=torch.long))


def evaluations(max_iter: int, tol: float, solver: Solver) -> int:
    """Of all rows together, by separate solves of the clockless cell."""
    cell = LinearCell()
    deq = DEQ(cell, solver, Budget(max_iter, tol), OneStep()).eval()
    with torch.no_grad():
        return int(deq(torch.eye(5, dtype=torch.float64))[1].nfe.sum())


@pytest.mark.parametrize("signals", [False, True])
@pytest.mark.parametrize("batch_size", [5, 2])
@pytest.mark.parametrize("solver", [Picard(), Anderson(memory=2)], ids=["picard", "anderson"])
def test_a_cell_takes_its_evaluations_and_one_readout(
    solver: Solver, batch_size: int, signals: bool, clock: Clock
) -> None:
    """Rows stop one after the other; a cell has the evaluations of its own solve, and reads each row out once."""
    deq = DEQ(Timed(clock, READOUT), solver, Budget(), OneStep()).eval()
    found = trace(deq, Eyes(), Eyes().load("test"), solver, Budget(20, 0.0), batch_size, signals=signals)
    for cell in cells(found, [0, 1, 7, 20], [1e-2, 1e-4], key=TrajectoryKey("s", "zeros", "test"), keep="last"):
        expected = EVALUATION * evaluations(cell.max_iter, cell.tol, solver) + READOUT * 5
        assert cell.seconds == pytest.approx(expected, rel=1e-12)


def test_neither_readouts_nor_signals_on_the_way_count(clock: Clock) -> None:
    """A head a thousand times as dear adds its one read-out to every iterate, and nothing between two of them."""
    found = []
    for readout in (READOUT, 1000 * READOUT):
        deq = DEQ(Timed(clock, readout), Picard(), Budget(), OneStep()).eval()
        found.append(trace(deq, Eyes(), Eyes().load("test"), Picard(), Budget(20, 1e-3), 5, signals=True).seconds)
    np.testing.assert_allclose(found[1] - found[0], 999 * READOUT * 5)
