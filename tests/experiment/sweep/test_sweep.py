"""Each cell of a sweep equals what a solve of its own, with that budget and tolerance, gives."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from deqrun.datasets import Digits, Split
from deqrun.experiment.evaluate import evaluate
from deqrun.experiment.sweep.trace import cells, trace_parts
from deqrun.gradients import OneStep
from deqrun.models import DEQ, ConvCell, MLPCell
from deqrun.records.rows import SweepCell
from deqrun.records.trajectory import Trajectory, TrajectoryKey, joined
from deqrun.solvers import Anderson, Budget, Picard, Solver

ITERATIONS, TOLERANCES = [0, 1, 2, 3, 5, 8, 13], [1e-1, 1e-2, 1e-3]
SOLVERS = {"picard": Picard(), "damped": Picard(damping=0.5), "anderson": Anderson(memory=3)}


@pytest.fixture(scope="module")
def split() -> Split:
    test = Digits().load("test")
    return Split(test.inputs[:60], test.targets[:60])


def model(steep: bool) -> DEQ:
    """An untrained cell; a steep one does not converge on many rows, so that 'best' and 'last' differ."""
    torch.manual_seed(3)
    cell = (
        MLPCell(input_shape=(1, 8, 8), num_classes=10, width=32)
        if steep
        else ConvCell(input_shape=(1, 8, 8), num_classes=10, channels=8, inner_channels=8, groups=4)
    )
    if steep:
        with torch.no_grad():
            for parameter in cell.parameters():
                parameter.mul_(4)
    return DEQ(cell, Picard(), Budget(), OneStep()).eval()


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("steep", [False, True])
@pytest.mark.parametrize("name", SOLVERS)
def test_cells_equal_separate_solves(name: str, steep: bool, keep: str, split: Split) -> None:
    deq, dataset, solver = model(steep), Digits(), SOLVERS[name]
    largest = Budget(max(ITERATIONS), min(TOLERANCES), keep=keep)
    parts = trace_parts(deq, dataset, split, solver, largest, 25, loss=True)
    trajectory = joined([part for part, _ in parts])
    derived = cells(trajectory, ITERATIONS, TOLERANCES, key=TrajectoryKey(name, "zeros", "test"), keep=keep)
    assert [(cell.tol, cell.max_iter) for cell in derived] == list(product(TOLERANCES, ITERATIONS))
    for cell in derived:
        assert_equals_solve(cell, deq, dataset, split, solver, keep)


def assert_equals_solve(cell: SweepCell, deq: DEQ, dataset: Digits, split: Split, solver: Solver, keep: str) -> None:
    deq.solver, deq.budget = solver, Budget(cell.max_iter, cell.tol, keep=keep)
    alone = evaluate(deq, dataset, split, 25, torch.device("cpu"))
    assert cell.accuracy == alone.accuracy
    assert cell.nfe_mean == pytest.approx(float(alone.nfe.double().mean()), rel=1e-12)
    assert cell.nfe_p95 == pytest.approx(float(np.quantile(alone.nfe.numpy(), 0.95)), rel=1e-12)
    assert cell.residual_median == pytest.approx(float(np.median(alone.residual.numpy())), rel=1e-3)
    # The loss and its interval by SciPy; batches of 25 may round otherwise than the sweep's.
    losses = alone.loss.double().numpy()
    interval = stats.t.interval(0.95, len(losses) - 1, losses.mean(), stats.sem(losses))
    assert (cell.loss, cell.loss_low, cell.loss_high) == pytest.approx((losses.mean(), *interval), rel=1e-5)


def test_the_steep_model_tells_best_from_last(split: Split) -> None:
    """Otherwise the test above would not distinguish them."""
    deq, accuracies = model(steep=True), set()
    for keep in ("best", "last"):
        deq.budget = Budget(13, 1e-3, keep=keep)
        accuracies.add(float(evaluate(deq, Digits(), split, 60, torch.device("cpu")).residual.sum()))
    assert len(accuracies) == 2


def test_prorated_seconds_and_fractions_by_hand() -> None:
    """Two samples: one stops at iterate 1, the other diverges at 2. Iterates took 1, 2 and 4 seconds."""
    nan, inf = math.nan, math.inf
    trajectory = Trajectory(
        residual=np.array([[1.0, 1.0], [0.01, 0.5], [nan, inf]], dtype=np.float32),
        nfe=np.array([[1, 1], [2, 2], [2, 3]], dtype=np.int32),
        correct=np.array([[False, False], [True, True], [True, False]]),
        seconds=np.array([1.0, 3.0, 7.0]),
        status=np.array([0, 3], dtype=np.uint8),
    )
    loose, one, two = cells(trajectory, [2, 1, 2], [0.1], key=TrajectoryKey("s", "zeros", "test"), keep="last")
    assert (loose.nfe_mean, loose.seconds, loose.converged, loose.diverged) == (2.5, 7.0, 0.5, 0.5)
    assert (one.nfe_mean, one.seconds, one.converged, one.diverged) == (2.0, 3.0, 0.5, 0.0)
    assert (two.accuracy, one.accuracy) == (0.5, 1.0)


def test_losses_in_double_are_those_of_a_loop(split: Split) -> None:
    """Mean cross-entropy after k plain iterations, by log-softmax and hand, to 1e-12; its exp is the perplexity."""
    deq, dataset, budget = model(steep=False).double(), Digits(), Budget(13, 0.0, keep="last")
    parts = trace_parts(deq, dataset, split, Picard(), budget, 7, precision="float64", loss=True)
    found = cells(
        joined([part for part, _ in parts]), ITERATIONS, [0.0], key=TrajectoryKey("p", "zeros", "test"), keep="last"
    )
    with torch.no_grad():
        f = deq.bind(dataset.encode(split.inputs).double())  # type: ignore[arg-type]
        z, at = deq.start(f), {}
        for k in range(14):
            log_p = deq.cell.readout(z).log_softmax(1)
            at[k] = -log_p[torch.arange(len(split)), split.targets].mean().item()
            z = f(z)
    for cell in found:
        assert cell.loss == pytest.approx(at[cell.max_iter], rel=1e-12)
        assert math.exp(cell.loss) == pytest.approx(math.exp(at[cell.max_iter]), rel=1e-12)
