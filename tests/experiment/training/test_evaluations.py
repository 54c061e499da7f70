"""Evaluations at several budgets from one trajectory, beside a separate evaluation with each budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deqrun.datasets import Dataset
from deqrun.errors import UserError
from deqrun.experiment.build import build_dataset
from deqrun.experiment.evaluate import evaluate
from deqrun.experiment.launch import run_train
from deqrun.experiment.trackers import Tracker, tracker
from deqrun.experiment.training import train as training
from deqrun.experiment.training.evaluations import evaluate_budgets
from deqrun.loading import load_run
from deqrun.models import DEQ
from deqrun.records.reading import read_run
from deqrun.records.rows import BudgetEvaluation, Epoch, Step
from deqrun.report.charts import specification, training_figures
from deqrun.settings import Settings
from deqrun.solvers import Anderson, Broyden, Budget, Picard, Solver

SettingsOf = Callable[..., Settings]
BUDGETS = (0, 1, 2, 5, 12)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(settings_of: SettingsOf, tmp_path_factory: pytest.TempPathFactory) -> tuple[DEQ, Dataset, Path]:
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = settings_of("train.eval_iterations=[24,1,4,4]", "train.start=mixture", "report=true")
    run_train(settings, folder, "deqrun train")
    return load_run(folder).model().deq, build_dataset(settings), folder


@pytest.mark.pairs
@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("solver", [Picard(), Anderson(), Broyden()], ids=lambda solver: type(solver).__name__)
@pytest.mark.parametrize("changes", [{}, {"patience": 2}, {"min_iter": 3}, {"tol": 0.0}], ids=str)
def test_each_budget_has_the_answer_of_a_separate_evaluation(
    trained: tuple[DEQ, Dataset, Path], keep: str, solver: Solver, changes: dict[str, float]
) -> None:
    deq, dataset, _ = trained
    asked = DEQ(deq.cell, solver, replace(Budget(24, 1e-2, keep=keep), **changes), deq.gradient)  # type: ignore[arg-type]
    validation = dataset.load("validation")
    before = torch.get_rng_state()
    rows = evaluate_budgets(asked.train(), dataset, validation, 100, BUDGETS)
    assert asked.training
    assert torch.equal(torch.get_rng_state(), before)  # of which dropout draws
    for row, max_iter in zip(rows, BUDGETS, strict=True):
        asked.budget = asked.budget.with_(max_iter=max_iter)
        alone = evaluate(asked, dataset, validation, 100, CPU)
        assert (row.max_iter, row.n, row.accuracy) == (max_iter, len(validation), alone.accuracy)
        assert row.loss == pytest.approx(alone.mean_loss, rel=1e-5)
        assert row.nfe == pytest.approx(float(alone.nfe.double().mean()))
        assert row.residual == pytest.approx(float(alone.residual.double().quantile(0.5)), rel=1e-4)
        assert row.accuracy_low <= row.accuracy <= row.accuracy_high


def test_the_training_budget_has_the_validation_of_the_epoch(trained: tuple[DEQ, Dataset, Path]) -> None:
    record = read_run(trained[2])
    assert [(row.step, row.epoch, row.max_iter) for row in record.evaluations] == [
        (step, epoch, max_iter) for step, epoch in ((5, 1), (10, 2), (15, 3)) for max_iter in (1, 4, 24)
    ]
    at_budget = [row for row in record.evaluations if row.max_iter == 24]
    for row, epoch in zip(at_budget, record.epochs, strict=True):
        assert row.accuracy == epoch.val_accuracy
        assert row.loss == pytest.approx(epoch.val_loss, rel=1e-5)


def test_looking_changes_no_number_of_training(
    trained: tuple[DEQ, Dataset, Path], settings_of: SettingsOf, tmp_path: Path
) -> None:
    """Losses are equal with evaluations at the end of epochs, with none, and with many."""
    overrides = ("train.start=mixture", "sweep=none", "report=false")
    run_train(settings_of(*overrides), tmp_path / "without", "deqrun train")
    run_train(
        settings_of(*overrides, "train.eval_every=2", "train.eval_iterations=[3]"), tmp_path / "often", "deqrun train"
    )
    losses = [
        [row.loss for row in read_run(at).epochs] for at in (trained[2], tmp_path / "without", tmp_path / "often")
    ]
    assert losses[0] == losses[1] == losses[2]
    assert [row.step for row in read_run(tmp_path / "often").evaluations] == [2, 4, 6, 8, 10, 12, 14, 15]


def test_the_report_shows_a_line_for_each_budget(trained: tuple[DEQ, Dataset, Path]) -> None:
    record = read_run(trained[2])
    figures = {figure.name: figure for figure in training_figures(record)}
    values = [row for rows in specification(figures["training_budgets"].chart)["datasets"].values() for row in rows]
    assert {(row["step"], row["max_iter"], row["accuracy"]) for row in values} == {
        (row.step, row.max_iter, row.accuracy) for row in record.evaluations
    }
    assert "training_budgets" in (trained[2] / "report.html").read_text(encoding="utf-8")
    assert "training_budgets" not in {figure.name for figure in training_figures(replace(record, evaluations=()))}
    assert len(load_run(trained[2]).pandas("evaluations")) == 9


def test_trackers_are_told_in_order_and_again_after_a_resume(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(tracker.NoTracker):
        def __init__(self) -> None:
            self.told: list[tuple[str, int]] = []

        def log_step(self, step: Step) -> None:
            self.told.append(("step", step.step))

        def log_evaluation(self, rows: object) -> None:
            assert isinstance(rows, list)
            assert all(isinstance(row, BudgetEvaluation) for row in rows)
            self.told.append(("evaluation", rows[0].step))

        def log_epoch(self, epoch: Epoch) -> None:
            self.told.append(("epoch", epoch.epoch))

    def run(settings: Settings) -> list[tuple[str, int]]:
        from deqrun.experiment.build import build_deq, build_optimizer
        from deqrun.records.writing import RunFolder

        told: Tracker = Told()
        dataset = build_dataset(settings)
        torch.manual_seed(settings.seed)
        deq = build_deq(settings, dataset)
        optimizer = build_optimizer(settings, deq)
        training.train(deq, dataset, optimizer, settings.train, settings.seed, RunFolder(tmp_path), told)
        return told.told  # type: ignore[attr-defined,no-any-return]

    settings = settings_of("train.epochs=2", "train.log_every=2", "train.eval_every=4", "train.eval_iterations=[1,2]")
    first = run(settings)
    assert first == [
        *(("step", 2), ("step", 4), ("evaluation", 4), ("epoch", 1), ("step", 6), ("step", 8), ("evaluation", 8)),
        *(("step", 10), ("evaluation", 10), ("epoch", 2)),
    ]
    assert run(settings) == first


def test_a_rhythm_without_budgets_is_refused(settings_of: SettingsOf) -> None:
    with pytest.raises(UserError, match="has eval_every=5, but no budgets to evaluate at; give train"):
        settings_of("train.eval_every=5")
