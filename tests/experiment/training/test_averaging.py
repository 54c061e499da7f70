"""The average of the weights: its closed form, and a run that is validated, tested and loaded with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deqrun import load_run
from deqrun.cli import main
from deqrun.experiment.build import build_dataset
from deqrun.experiment.checkpoint import load_checkpoint
from deqrun.experiment.evaluate import evaluate
from deqrun.experiment.launch import run_train
from deqrun.experiment.training.averaging import WeightAverage
from deqrun.records.reading import read_run
from deqrun.report.page_parts import subtitle
from deqrun.report.tables import end_of_run_table, plain_text
from deqrun.settings import Settings

SettingsOf = Callable[..., Settings]
DECAY = 0.8


def closed_form(weights: list[Tensor], decay: float) -> Tensor:
    """Σ d^(t−i) w_i / Σ d^(t−i), in double precision."""
    powers = torch.tensor([decay ** (len(weights) - i) for i in range(1, len(weights) + 1)], dtype=torch.float64)
    return torch.einsum("i,i...->...", powers / powers.sum(), torch.stack(weights).double())


@pytest.mark.parametrize("decay", [0.5, 0.99, 0.99999])
def test_the_average_is_its_closed_form_at_every_step(decay: float) -> None:
    model = nn.BatchNorm1d(4).double()  # parameters, floating-point buffers, and a count
    average, seen, draw = WeightAverage(decay, model), [], torch.Generator().manual_seed(1)
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.copy_(torch.randn(4, generator=draw, dtype=torch.float64))
            model.running_mean.add_(1.0)
            model.num_batches_tracked.add_(2)
        average.update(step)
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        with average.applied():
            for name in ("weight", "running_mean"):
                expected = closed_form([state[name] for state in seen], decay)
                assert torch.allclose(model.state_dict()[name], expected, rtol=1e-9), (step, name)
            assert int(model.num_batches_tracked) == 2 * step
        assert all(torch.equal(tensor, seen[-1][name]) for name, tensor in model.state_dict().items())


def test_the_first_average_is_the_first_weights() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(0.999, model)
    nn.init.constant_(model.weight, 7.0)
    average.update(1)
    assert torch.equal(average.state_dict()["weight"], torch.full((2, 2), 7.0))


@pytest.fixture(scope="module")
def run(settings_of: SettingsOf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Tensor]]]:
    """A run of three epochs of five steps with an average, and its weights after each step."""
    folder, seen = tmp_path_factory.mktemp("averaged") / "run", []

    class Watched(WeightAverage):
        def update(self, step: int) -> None:
            super().update(step)
            seen.append({name: tensor.clone() for name, tensor in self.model.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deqrun.experiment.training.train.WeightAverage", Watched)
        run_train(settings_of(f"train.ema={DECAY}", "sweep.solvers=[secant]"), folder, "deqrun train")
    assert len(seen) == 15
    return folder, seen


def test_training_goes_its_way_with_its_own_weights(
    run: tuple[Path, list[dict[str, Tensor]]], settings_of: SettingsOf, tmp_path: Path
) -> None:
    """Losses, last weights and optimizer are equal to those of a run without an average."""
    folder, seen = run
    run_train(settings_of("sweep=none", "report=false"), tmp_path, "deqrun train")
    assert [row.loss for row in read_run(folder).epochs] == [row.loss for row in read_run(tmp_path).epochs]
    one, two = (load_checkpoint(at / "checkpoints/last.pt", torch.device("cpu")) for at in (folder, tmp_path))
    for name, tensor in one.model.items():
        assert torch.equal(tensor, two.model[name])
        assert torch.equal(tensor, seen[-1][name])
    assert (len(one.ema), len(two.ema)) == (len(one.model), 0)


def test_validation_the_best_checkpoint_and_the_loaded_model_have_the_average(
    run: tuple[Path, list[dict[str, Tensor]]], settings_of: SettingsOf
) -> None:
    folder, seen = run
    record = read_run(folder)
    best = record.epochs[(record.summary.best_epoch or 0) - 1]
    model = load_run(folder).model()
    kept = load_checkpoint(folder / "checkpoints/best.pt", torch.device("cpu"))
    assert kept.ema == {}
    for name, tensor in model.deq.state_dict().items():
        expected = closed_form([state[name] for state in seen[: best.step]], DECAY)
        assert torch.allclose(tensor.double(), expected, rtol=1e-4, atol=1e-6), name
        assert torch.equal(kept.model[name], tensor)
    dataset = build_dataset(settings_of())
    for split, accuracy in (("validation", best.val_accuracy), ("test", record.summary.test_accuracy)):
        assert evaluate(model.deq, dataset, dataset.load(split), 256, torch.device("cpu")).accuracy == accuracy
    (cell,) = record.cells("test", "secant", "zeros", 24, 1e-3)
    assert cell.accuracy == record.summary.test_accuracy


def test_the_average_is_told(run: tuple[Path, list[dict[str, Tensor]]]) -> None:
    folder, _ = run
    record = read_run(folder)
    assert json.loads((folder / "summary.json").read_text())["ema"] == DECAY
    assert "weights averaged (EMA 0.8)" in subtitle(record)
    assert "EMA 0.8" in plain_text(end_of_run_table(record))


def test_last_weights_stand_in_for_the_best_as_the_average(
    run: tuple[Path, list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    """Where best.pt is gone and the last epoch was the best, its averages are tested, not the last weights."""
    folder, _ = run
    if read_run(folder).summary.best_epoch != 3:
        pytest.skip("another epoch than the last was the best")
    best = load_checkpoint(folder / "checkpoints/best.pt", torch.device("cpu")).model
    (folder / "checkpoints/best.pt").rename(tmp_path / "best.pt")
    try:
        loaded = load_run(folder).model().deq.state_dict()
    finally:
        (tmp_path / "best.pt").rename(folder / "checkpoints/best.pt")
    assert all(torch.equal(loaded[name], best[name]) for name in best)


def test_a_checkpoint_without_its_average_is_refused(
    settings_of: SettingsOf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_train(settings_of("train.ema=0.9", "train.epochs=1", "sweep=none", "report=false"), Path("run"), "deqrun train")
    path = Path("run/checkpoints/last.pt")
    content = torch.load(path, weights_only=True)
    torch.save(content | {"ema": {}}, path)
    Path("run/status.json").write_text('{"status": "interrupted"}')
    capsys.readouterr()
    assert main(["train", "run=run", "resume=true"]) == 2
    assert "holds no average of the weights, which train.ema=0.9 goes on with" in capsys.readouterr().err
