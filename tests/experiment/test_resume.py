"""A run that was stopped, at any instant, goes on to the numbers of one that was not."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deqrun.errors import Interrupted
from deqrun.experiment.launch import resume_command, run_train
from deqrun.experiment.training import train as training
from deqrun.records.reading import read_run
from deqrun.records.rows import Epoch
from deqrun.records.run import RunRecord
from deqrun.settings import Settings

SettingsOf = Callable[..., Settings]


class Stop:
    """Stands in for a person or a machine that stops the run: raises at the n-th call of what it wraps."""

    def __init__(self, wrapped: Callable[..., object], at: int, error: BaseException) -> None:
        self.wrapped, self.left, self.error = wrapped, at, error

    def __call__(self, *arguments: object, **named: object) -> object:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return self.wrapped(*arguments, **named)


def timeless(record: RunRecord) -> list[Epoch]:
    return [Epoch(**{**vars(row), "seconds": None}) for row in record.epochs]


@pytest.fixture(scope="module")
def uninterrupted(settings_of: SettingsOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_train(settings_of(), folder, "deqrun train")
    return folder


# What is called as a run goes along, and at which call it is stopped: within an epoch, in validation, between the two
# checkpoints of an epoch, before the last epoch's rows are written, and in the sweep.
STOPS = [
    ("forward", 7),
    pytest.param("evaluate", 2, marks=pytest.mark.nightly),
    ("save_checkpoint", 3),
    *(
        pytest.param(where, call, marks=pytest.mark.nightly)
        for where, call in [("save_checkpoint", 2), ("_advance", 3)]
    ),
]


@pytest.mark.parametrize(("where", "call"), STOPS)
def test_resumed_equals_uninterrupted(
    where: str, call: int, settings_of: SettingsOf, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training, where, Stop(getattr(training, where), call, KeyboardInterrupt()))
        with pytest.raises(Interrupted, match="resume=true"):
            run_train(settings_of(), folder, "deqrun train")
    assert read_run(folder).status.status == "interrupted"
    run_train(settings_of(), folder, "deqrun train resume=true")
    assert_same_run(folder, uninterrupted)


def test_a_crash_is_resumed_alike(
    settings_of: SettingsOf, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training, "forward", Stop(training.forward, 9, OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            run_train(settings_of(), folder, "deqrun train")
    assert read_run(folder).status.status == "failed"
    run_train(settings_of(), folder, "deqrun train resume=true")
    assert_same_run(folder, uninterrupted)


def assert_same_run(folder: Path, other: Path) -> None:
    one, two = read_run(folder), read_run(other)
    assert timeless(one) == timeless(two)
    assert one.summary.test_accuracy == two.summary.test_accuracy
    assert one.summary.best_epoch == two.summary.best_epoch
    for name in ("last.pt", "best.pt"):
        weights = [torch.load(run / "checkpoints" / name, weights_only=True)["model"] for run in (folder, other)]
        for key, value in weights[0].items():
            assert torch.equal(value, weights[1][key]), key
    for key, trajectory in one.trajectories.items():
        assert (trajectory.correct == two.trajectories[key].correct).all()


def test_a_loss_that_is_not_finite_stops_with_a_sentence(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of("optimizer.lr=1e-2")
    real = training.forward

    def poisoned(*arguments: object, **named: object) -> object:
        made = real(*arguments, **named)  # type: ignore[arg-type]
        return made._replace(objective=made.objective * float("nan"))

    monkeypatch.setattr(training, "forward", poisoned)
    with pytest.raises(
        training.TrainingStopped, match=r"loss is not finite at step 1 \(epoch 1\); the forward solve: "
    ):
        run_train(settings, tmp_path / "run", "deqrun train")
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("command", "again"),
    [
        ("deqrun train model=mlp", ["resume=true"]),
        (
            "deqrun train model=mine allow_foreign_targets=true --config-dir '/my parts'",
            ["resume=true", "allow_foreign_targets=true", "--config-dir", "/my parts"],
        ),
    ],
)
def test_the_command_that_goes_on_finds_the_same_code(command: str, again: list[str]) -> None:
    assert shlex.split(resume_command(Path("/runs/a b"), command)) == ["deqrun", "train", "run=/runs/a b", *again]
