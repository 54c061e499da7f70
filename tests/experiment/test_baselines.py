"""Explicit baselines under the trainer and the sweep that a DEQ has: against layers gone through one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deqrun.datasets import Digits
from deqrun.errors import Interrupted
from deqrun.experiment import launch
from deqrun.experiment.build import build_cell, build_dataset, build_deq, describe_model
from deqrun.experiment.launch import run_train
from deqrun.experiment.training import train as training
from deqrun.models import UntiedCell
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord
from deqrun.settings import Settings
from tests.experiment.test_resume import Stop, assert_same_run

SettingsOf = Callable[..., Settings]

BASELINES = {
    "tied": ["baseline=tied"],
    "matched parameters": ["baseline=untied"],
    "matched multiply-adds": ["baseline=untied", "baseline.match=multiply_adds"],
    "monotone": ["baseline=untied", "model=monotone", "train.epochs=2"],
}


@pytest.fixture(scope="module")
def runs(settings_of: SettingsOf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Settings, Path]]:
    """A finished run of four layers for each baseline."""
    made = {}
    for name, overrides in BASELINES.items():
        page = f"report={name == 'matched parameters'}"  # one is enough
        settings = settings_of(*overrides, "baseline.layers=4", "sweep.tolerances=[0]", page)
        folder = tmp_path_factory.mktemp("baseline") / "run"
        run_train(settings, folder, "deqrun train")
        made[name] = settings, folder
    return made


def direct_accuracies(settings: Settings, folder: Path, split: str) -> list[float]:
    """Accuracy of the read-out after 0 … 4 layers, with the checkpoint that validation chose."""
    deq = build_deq(settings, build_dataset(settings))
    deq.load_state_dict(torch.load(folder / "checkpoints" / "best.pt", weights_only=True)["model"])
    cell, data = deq.cell.eval(), Digits().load(split)
    layers: list[Callable[[Tensor, tuple[Tensor, ...]], Tensor]] = (
        list(cell.layers) if isinstance(cell, UntiedCell) else [cell] * 4
    )
    with torch.no_grad():
        injection = cell.inject(Digits().encode(data.inputs))
        z = torch.zeros(len(data), *cell.state_shape)
        answers = [cell.readout(z)]
        for layer in layers:
            z = layer(z, injection)
            answers.append(cell.readout(z))
    return [float((answer.argmax(1) == data.targets).double().mean()) for answer in answers]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_sweep_at_a_depth_is_the_net_cut_there(
    name: str, split: str, runs: dict[str, tuple[Settings, Path]]
) -> None:
    settings, folder = runs[name]
    record, expected = read_run(folder), direct_accuracies(settings, folder, split)
    cells = {cell.max_iter: cell for cell in record.cells(split)}
    assert sorted(cells) == [1, 2, 4, 8]
    for depth in (1, 2, 4):
        assert cells[depth].accuracy == pytest.approx(expected[depth], abs=1.5 / cells[depth].n)
    chosen = record.summary.val_accuracy if split == "validation" else record.summary.test_accuracy
    assert chosen == cells[4].accuracy
    if "tied" not in name:  # four evaluations behind the fifth iterate: there is no fifth layer
        assert [cells[depth].nfe_mean for depth in (1, 2, 4, 8)] == [2, 3, 4, 4]
        assert [cells[depth].converged for depth in (1, 2, 4, 8)] == [0, 0, 1, 1]
        assert cells[8].accuracy == cells[4].accuracy
        assert cells[4].residual_median == 0


@pytest.mark.parametrize("name", BASELINES)
def test_it_learns(name: str, runs: dict[str, tuple[Settings, Path]]) -> None:
    """Digits by chance: 10 %."""
    assert (read_run(runs[name][1]).summary.test_accuracy or 0) > 0.3


def test_the_summary_has_both_sizes(runs: dict[str, tuple[Settings, Path]]) -> None:
    """The cell is an mlp of width 24 on 64 pixels: 24² + 64 · 24 + 24 + 240 + 10 parameters; matched widths by hand."""
    own = 24**2 + 75 * 24 + 10
    width = max(w for w in range(25) if 4 * w**2 + 75 * w + 10 <= own)
    expected = {
        "tied": (own, 4 * 24**2 + 74 * 24),
        "matched parameters": (4 * width**2 + 75 * width + 10, 4 * width**2 + 74 * width),
        "matched multiply-adds": (own + 3 * 24**2, 4 * 24**2 + 74 * 24),
    }
    for name, (parameters, multiply_adds) in expected.items():
        record: RunRecord = read_run(runs[name][1])
        summary = record.summary
        assert (summary.parameters, summary.deq_parameters) == (parameters, own)
        assert summary.net_multiply_adds == multiply_adds
        assert record.baseline == (BASELINES[name][0].removeprefix("baseline="), 4)
        assert record.choice("solver") == "picard"
        assert record.choice("gradient") == "unrolled"


def test_the_page_says_what_an_untied_net_is(runs: dict[str, tuple[Settings, Path]]) -> None:
    page = (runs["matched parameters"][1] / "report.html").read_text(encoding="utf-8")
    assert "An explicit baseline: 4 layers with weights of their own. Training solved for nothing." in page
    assert "mlp on digits, 4 untied layers, solver picard, gradient unrolled, seed 0" in page


def test_a_deq_has_no_baseline(settings_of: SettingsOf) -> None:
    settings = settings_of()
    dataset = build_dataset(settings)
    _, baseline = describe_model(settings, dataset, build_cell(settings, dataset))
    assert baseline is None


@pytest.mark.parametrize("call", [7, 11])
def test_a_stopped_baseline_goes_on_to_the_same_numbers(
    call: int,
    settings_of: SettingsOf,
    runs: dict[str, tuple[Settings, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, whole = runs["matched parameters"]
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training, "forward", Stop(training.forward, call, KeyboardInterrupt()))
        with pytest.raises(Interrupted, match="resume=true"):
            run_train(settings, folder, "deqrun train")
    monkeypatch.setattr(launch, "write_report", lambda folder, _: folder / "report.html")
    run_train(settings, folder, "deqrun train resume=true")
    assert_same_run(folder, whole)
