"""What a run says of itself: at once, where solves did not settle, and where a default does not reach the adjoint."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from deqrun.datasets import Digits
from deqrun.experiment import launch
from deqrun.experiment.launch import run_describe, run_train
from deqrun.experiment.sweep.grid import swept_grid
from deqrun.experiment.training import train as training
from deqrun.inference import DIFFERENCE, mean_interval
from deqrun.loading import sweep_model
from deqrun.records.reading import read_run
from deqrun.report.findings import gain_over_one
from deqrun.report.tables import training_cost
from deqrun.settings import Settings
from tests.records.test_code import git

SettingsOf = Callable[..., Settings]


@pytest.mark.parametrize(("tol", "warned"), [("1e-9", True), ("1e-1", False), ("0", False)])
def test_solves_that_end_far_above_the_tolerance_are_told(
    settings_of: SettingsOf, tmp_path: Path, capsys: pytest.CaptureFixture[str], tol: str, warned: bool
) -> None:
    overrides = ("train.epochs=1", "sweep=none", f"budget.tol={tol}", "budget.max_iter=2")
    run_train(settings_of(*overrides), tmp_path / "run", "cmd")
    (epoch,) = read_run(tmp_path / "run").epochs
    assert epoch.residual is not None
    assert (epoch.residual > 10 * float(tol) > 0) is warned
    err = capsys.readouterr().err
    assert ("warning: the solves of training did not settle: in the last epoch" in err) is warned
    assert (f"median residual was {epoch.residual:.0e}" in err) is warned


def test_a_budget_that_does_not_reach_the_adjoint_is_told(
    settings_of: SettingsOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, told in (("fast", True), ("default", False)):
        settings = settings_of("train.epochs=1", "sweep=none", f"budget={name}", "gradient.budget.max_iter=24")
        run_train(settings, tmp_path / name, "cmd")
        out = capsys.readouterr().out
        assert out.startswith("train   1,078 samples, 1 epoch, on cpu\n")
        line = "adjoint up to 24 steps to 0.001 (gradient.budget), while the solves have 8 to 0.01 (budget)\n"
        assert (line in out) is told


def test_the_training_budget_is_part_of_every_grid(settings_of: SettingsOf, tmp_path: Path) -> None:
    overrides = ("train.epochs=1", "budget.max_iter=6", "budget.tol=1e-2")
    settings = settings_of(*overrides, "sweep.iterations=[1,9]", "sweep.tolerances=[1e-1,1e-3]")
    assert swept_grid(settings) == ([1, 6, 9], [1e-1, 1e-2, 1e-3])
    small = settings_of(*overrides, "sweep.iterations=[1]", "sweep.tolerances=[1e-1]")
    run_train(small, tmp_path / "run", "cmd")
    nfe, residual = training_cost(read_run(tmp_path / "run"))
    assert nfe is not None
    assert residual is not None
    assert 1 < nfe <= 7


def test_a_training_tolerance_of_zero_does_not_enter_a_grid(settings_of: SettingsOf) -> None:
    settings = settings_of("budget.tol=0", "sweep.tolerances=[1e-1,1e-3]")
    assert swept_grid(settings)[1] == [1e-1, 1e-3]


def test_describe_tells_which_parameters_decay(settings_of: SettingsOf, capsys: pytest.CaptureFixture[str]) -> None:
    """The MLP of width 24 on digits: 64·24 + 24·24 + 24·10 numbers in matrices, and 24 + 10 in biases at least."""
    run_describe(settings_of("optimizer.weight_decay=0.125"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    (decays,) = [line for line in lines if line[:1] == ["0.125"]]
    (others,) = [line for line in lines if line[:1] == ["0"]]
    assert int(decays[2].replace(",", "")) == 64 * 24 + 24 * 24 + 24 * 10
    assert "encoder.weight," in decays
    assert "encoder.bias," in others


def test_the_summary_says_with_which_code_and_on_what_a_run_was_made(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's commit as the run began, though another is made while it goes on."""
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "before")
    before = git(tmp_path, "rev-parse", "HEAD")
    evaluate = training.evaluate

    def commit(*arguments: Any, **named: Any) -> Any:
        git(tmp_path, "commit", "-q", "--allow-empty", "-m", "meanwhile")
        return evaluate(*arguments, **named)

    monkeypatch.setattr(training, "evaluate", commit)
    run_train(settings_of("train.epochs=1", "sweep=none", "report=true"), tmp_path / "run", "deqrun train")
    summary = read_run(tmp_path / "run").summary
    assert (summary.git_commit, summary.git_dirty) == (before, False)
    assert summary.device
    assert summary.versions["torch"] == torch.__version__
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert f"commit {before[:12]}" in page
    assert summary.device in html.unescape(page)


class Late(nn.Module):
    """Says 0 of every digit, from iterate `first` on, and nothing before."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.weight = first, nn.Parameter(torch.zeros(1))

    def start(self, x: Tensor) -> Tensor:
        return x.new_ones(len(x), 1)

    def f(self, z: Tensor, x: Tensor) -> Tensor:
        return z + 1

    def readout(self, z: Tensor) -> Tensor:
        logits = one_hot(torch.zeros(len(z), dtype=torch.long), 10).float()
        return torch.where(z > self.first, logits, -logits)


@pytest.mark.parametrize(("first", "warned"), [(0, True), (1, True), (2, False), (7, False)])
def test_an_answer_that_stands_after_one_iteration_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: int, warned: bool
) -> None:
    """The accuracy of the training budget less that of one iteration is exactly 0, or the share of zeros."""
    asked = ("dataset=digits", "sweep=quick", "solver=picard", "budget.keep=last", "report=false")
    run = sweep_model(Late(first), *asked, folder=tmp_path / "run")
    gain = gain_over_one(run.record)
    assert gain is not None
    targets = Digits().load("test").targets
    others = float((targets == 1).double().mean())  # of −logits the first class that is not 0 is taken
    assert gain.mean == pytest.approx(0.0 if warned else float((targets == 0).double().mean()) - others, abs=1e-12)
    told = "warning: from one iteration to 24 test accuracy changes by +0.0 points [" in capsys.readouterr().err
    assert told is (abs(gain.mean) < 0.005)
    assert told or not warned


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        (0, 0, "these 10,000 samples show no gain from further iterations."),
        (20, 10, "these 10,000 samples show no gain from further iterations."),
        (10, 40, "these 10,000 samples show no gain from further iterations."),
        (45, 5, "less than half a point."),
        (60, 5, None),
    ],
)
def test_a_small_gain_that_is_shown_is_not_called_none(
    right: int, wrong: int, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10,000 samples so many become right by further iterations, and so many wrong."""
    change = np.zeros(10_000)
    change[:right], change[-wrong or len(change) :] = 1, -1
    gain = mean_interval(change, DIFFERENCE)
    monkeypatch.setattr(launch, "gain_over_one", lambda record: gain)
    warning = launch._idle(SimpleNamespace(train_max_iter=24))  # type: ignore[arg-type]
    assert (warning is None) if told is None else (warning or "").endswith(told)
