"""The iterates that sweep.states keeps are those of separate solves, and of a loop that anybody would write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deqrun.datasets import Digits
from deqrun.experiment.launch import run_train
from deqrun.experiment.sweep.states import keep_states, size_of_states
from deqrun.gradients import OneStep
from deqrun.models import DEQ, MLPCell
from deqrun.records.kept_states import read_kept_states
from deqrun.settings import Settings
from deqrun.solvers import Anderson, Budget, Picard, Solver, solve

BUDGET = Budget(max_iter=12, tol=1e-3)


def model(solver: Solver) -> DEQ:
    torch.manual_seed(0)
    return DEQ(MLPCell(input_shape=(1, 8, 8), num_classes=10, width=16), solver, BUDGET, OneStep()).eval()


@pytest.mark.parametrize("solver", [Picard(), Anderson(memory=3)], ids=["picard", "anderson"])
def test_each_iterate_is_that_of_a_solve_with_its_budget(solver: Solver) -> None:
    deq, dataset = model(solver), Digits()
    split = dataset.load("test")
    kept = keep_states(deq, dataset, split, 5, BUDGET)
    assert kept.places.tolist() == [0, 90, 179, 268, 358]
    x, y = dataset.encode(split.inputs[kept.places]), split.targets[kept.places]  # type: ignore[index]
    with torch.no_grad():
        f = deq.bind(x)
        whole = solve(f, deq.start(f), solver=solver, budget=BUDGET)
        for k in range(13):
            z = solve(f, deq.start(f), solver=solver, budget=Budget(max_iter=k, tol=1e-3, keep="last")).z
            assert np.allclose(kept.states[:, k], z.numpy(), atol=1e-6)
            assert np.array_equal(kept.correct[:, k], dataset.correct(deq.cell.readout(z), y).numpy())
    assert np.array_equal(kept.last, whole.steps.numpy())
    assert kept.states.nbytes == size_of_states(5, 12, 16)


def test_plain_iteration_by_hand() -> None:
    deq, dataset = model(Picard()), Digits()
    split = dataset.load("test")
    kept = keep_states(deq, dataset, split, 3, Budget(max_iter=6, tol=0.0))
    with torch.no_grad():
        f = deq.bind(dataset.encode(split.inputs[kept.places]))  # type: ignore[index]
        z = torch.zeros(3, 16)
        for k in range(7):
            assert np.allclose(kept.states[:, k], z.numpy(), atol=1e-6)
            z = f(z)


def test_no_more_samples_than_there_are() -> None:
    kept = keep_states(model(Picard()), Digits(), Digits().load("test"), 10_000, Budget(max_iter=1))
    assert kept.states.shape == (359, 2, 16)


@pytest.mark.parametrize("iterations", ["[1,8]", "[]"])
@pytest.mark.parametrize("tol", ["1e-3", "0.0"])
def test_a_run_keeps_what_it_told(
    settings_of: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str], iterations: str, tol: str
) -> None:
    """With a sweep and without one, with a tolerance and without: the size that was told is the array's."""
    grid = (f"sweep.iterations={iterations}", "sweep.tolerances=[]", "sweep.spectrum=0", "sweep.states=3")
    given = (f"budget.tol={tol}", "budget.max_iter=5", "train.epochs=1", "report=false")
    run_train(settings_of(*grid, *given), tmp_path / "run", "cmd")
    kept = read_kept_states(tmp_path / "run")
    assert kept is not None
    assert f"{kept.states.nbytes / 1e6:,.1f} MB in states.npz" in capsys.readouterr().out
    assert kept.states.shape[:2] == (3, 6 if iterations == "[]" else 9)
