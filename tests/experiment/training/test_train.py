"""The training loop with its options: which samples begin where, and runs that were stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.errors import UserError
from deqrun.experiment.build import build_dataset, build_deq, build_optimizer
from deqrun.experiment.checkpoint import Checkpoint, load_checkpoint
from deqrun.experiment.trackers import TrackedRun, make_tracker
from deqrun.experiment.training import train as training
from deqrun.experiment.training.objective import Batch, Forward, forward
from deqrun.experiment.training.starts import Starts
from deqrun.records.writing import RunFolder
from deqrun.settings import Settings

SettingsOf = Callable[..., Settings]


def train(settings: Settings, folder: Path) -> Checkpoint:
    """Train as `deqrun train` does, without sweep and report."""
    dataset = build_dataset(settings)
    torch.manual_seed(settings.seed)
    deq = build_deq(settings, dataset)
    tracker = make_tracker(settings.tracker, TrackedRun(folder, settings.name, settings.sections()))
    optimizer = build_optimizer(settings, deq)
    return training.train(deq, dataset, optimizer, settings.train, settings.seed, RunFolder(folder), tracker)


def test_previous_solutions_are_those_of_the_same_samples(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second epoch, in another order, each sample begins where its own solve ended in the first."""
    settings = settings_of("train.epochs=2", "train.start=previous", "train.batch_size=200")
    data = build_dataset(settings).load("train")
    seen: list[tuple[Batch, Tensor, Tensor]] = []
    begun: list[Tensor] = []
    begin = Starts.begin

    def watch_begin(self: Starts, *arguments: Any) -> Tensor:
        begun.append(begin(self, *arguments))
        return begun[-1]

    def watch(deq: object, dataset: object, batch: Batch, *others: object) -> Forward:
        made = forward(deq, dataset, batch, *others)  # type: ignore[arg-type]
        seen.append((batch, begun[-1], made.solution.z))
        return made

    monkeypatch.setattr(Starts, "begin", watch_begin)
    monkeypatch.setattr(training, "forward", watch)
    train(settings, tmp_path)
    steps = len(seen) // 2
    places = [torch.cat([batch.places for batch, _, _ in part]) for part in (seen[:steps], seen[steps:])]
    assert not torch.equal(*places)
    for part in places:
        assert torch.equal(part.sort().values, torch.arange(len(data)))
    ends = torch.cat([end for _, _, end in seen[:steps]])[places[0].argsort()]
    for k, (batch, z0, _) in enumerate(seen):
        assert torch.equal(batch.x, data.inputs[batch.places])
        assert torch.equal(z0, ends[batch.places] if k >= steps else torch.zeros_like(z0))


OPTIONS = {
    "previous": [
        "train.start=previous",
        "train.random_budget=[2,8]",
        "train.path_damping=0.95",
        "train.path_noise=0.01",
        "train.progressive_weight=0.5",
        "train.corrections=2",
    ],
    "mixture": [
        "train.start=mixture",
        "train.random_budget=[2,6]",
        "train.path_noise=0.05",
        "train.progressive_weight=0.3",
        "gradient=unrolled",
        "gradient.last=2",
        "train.unrolled_warmup_steps=4",
    ],
    "normal": [
        "train.start=normal",
        "train.start_scale=0.5",
        "train.random_budget=[0,8]",
        "train.random_budget_per=sample",
        "train.corrections=1",
        "gradient=phantom",
        "gradient.advance=true",
    ],
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_stopped_run_goes_on_to_the_same_numbers(
    options: list[str], settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the last of three epochs: rows, weights, and remembered states are equal to the bit."""
    settings = settings_of(*options)
    whole = train(settings, tmp_path / "whole")
    calls = 0

    def stop(*arguments: object) -> Forward:
        nonlocal calls
        calls += 1
        if calls == 13:
            raise KeyboardInterrupt
        return forward(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "stopped")
    assert load_checkpoint(tmp_path / "stopped/checkpoints/last.pt", torch.device("cpu")).epoch == 2
    resumed = train(settings, tmp_path / "stopped")
    untimed = [[{**row, "seconds": None} for row in run.epochs] for run in (whole, resumed)]
    assert untimed[0] == untimed[1]
    for kept in ("model", "starts"):
        one, two = getattr(whole, kept), getattr(resumed, kept)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_best_checkpoint_holds_no_starts(settings_of: SettingsOf, tmp_path: Path) -> None:
    """Every sample's state is in last.pt, from which training goes on, and in no other file."""
    done = train(settings_of("train.start=previous", "train.epochs=1"), tmp_path)
    best, last = (
        load_checkpoint(tmp_path / "checkpoints" / f"{name}.pt", torch.device("cpu")) for name in ("best", "last")
    )
    assert best.starts == {}
    assert torch.equal(last.starts["ends"], done.starts["ends"])
    assert bool(last.starts["known"].all())
    assert replace(last, starts={}).epochs == best.epochs


def test_inputs_that_are_not_finite_are_not_blamed_on_the_learning_rate() -> None:
    made = SimpleNamespace(objective=torch.tensor(float("nan")))
    x = torch.tensor([[1.0], [float("nan")]])
    with pytest.raises(UserError) as stopped:
        training._stop_unless_finite(made, torch.tensor(0.0), x, 7, 2)  # type: ignore[arg-type]
    assert str(stopped.value) == (
        "The inputs of step 7 (epoch 2) are not finite, so that no loss can be; put the data right: "
        "deqrun check dataset=… says which sample it is."
    )
