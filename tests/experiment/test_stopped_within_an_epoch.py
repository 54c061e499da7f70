"""Runs that end within an epoch, by a signal or a kill at a given step, and go on to the numbers of a whole run."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from deqrun.cli import main
from deqrun.errors import Interrupted
from deqrun.experiment.checkpoint import load_checkpoint
from deqrun.experiment.launch import run_train
from deqrun.experiment.training import evaluations
from deqrun.experiment.training import train as training
from deqrun.records.reading import read_run
from deqrun.settings import Settings
from tests.usual import usual

SettingsOf = Callable[..., Settings]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked, so that none imports torch again")

# Eleven steps an epoch; every stream of random numbers is drawn from.
DRAWN = [
    "train.epochs=3",
    "train.batch_size=100",
    "train.log_every=2",
    "train.start=mixture",
    "train.random_budget=[2,6]",
    "train.path_noise=0.05",
    "train.progressive_weight=0.3",
    "train.ema=0.9",
    "train.eval_every=5",
    "train.eval_iterations=[1,3]",
    "sweep=none",
    "report=false",
]
CALLS = {"KILL": (5, 1, 20), "TERM": (5, 1, 20), "USR1": (16,), "HUP": (11,), "INT": (1,)}
"""Of each signal, the step at which it comes: counted anew from where the run goes on."""


def exit_code(do: Callable[[], object]) -> int:
    """Do something in a child of this process; its exit code, or less than 0 where a signal ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            do()
            code = 0
        except Interrupted:
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def struck(settings: Settings, folder: Path, name: str, call: int, sent: signal.Signals) -> int:
    """Run training in a child that sends itself a signal at the n-th call of a function of the loop."""

    def run() -> None:
        module = evaluations if hasattr(evaluations, name) else training
        wrapped, left = getattr(module, name), call

        def strike(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), sent)
            return wrapped(*arguments, **named)

        setattr(module, name, strike)
        run_train(settings, folder, "deqrun train")

    return exit_code(run)


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(folder: Path, other: Path) -> None:
    """Rows, weights, optimizer and remembered states are equal to the last bit."""
    for name in ("train.jsonl", "steps.jsonl", "evaluations.jsonl"):
        assert lines(folder, name) == lines(other, name)
    for name in ("last.pt", "best.pt"):
        one, two = (load_checkpoint(run / "checkpoints" / name, torch.device("cpu")) for run in (folder, other))
        assert_equal(vars(one) | {"seconds": 0, "epochs": 0}, vars(two) | {"seconds": 0, "epochs": 0}, name)


def assert_equal(one: Any, two: Any, where: str) -> None:
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_equal(one[key], two[key], f"{where} {key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    else:
        assert one == two, where


@pytest.fixture(scope="module")
def whole(settings_of: SettingsOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert exit_code(lambda: run_train(settings_of(*DRAWN), folder, "deqrun train")) == 0
    assert [row["step"] for row in lines(folder, "steps.jsonl")] == list(range(2, 34, 2))
    assert [row["step"] for row in lines(folder, "evaluations.jsonl")[::2]] == [5, 10, 15, 20, 25, 30, 33]
    return folder


@pytest.mark.parametrize("name", usual(CALLS, nightly=("HUP", "INT", "USR1")))
def test_a_run_that_ends_within_an_epoch_goes_on_to_the_same_numbers(
    name: str, settings_of: SettingsOf, whole: Path, tmp_path: Path
) -> None:
    """Struck in the first epoch, at once after going on, and in the last; killed, with a checkpoint every step.

    A kill costs the step under way; another signal lets it finish.
    """
    killed = name == "KILL"
    settings = settings_of(*DRAWN, *(["train.checkpoint_minutes=1e-9"] if killed else []))
    step = 0
    for call in CALLS[name]:
        assert struck(settings, tmp_path / "run", "forward", call, getattr(signal, f"SIG{name}")) == (
            -9 if killed else 130
        )
        step += call - killed
        reached = load_checkpoint(tmp_path / "run/checkpoints/last.pt", torch.device("cpu"))
        assert (reached.step, reached.epoch) == (step, (step - 1) // 11)
        if not killed:
            assert read_run(tmp_path / "run").status.status == "interrupted"
    assert exit_code(lambda: run_train(settings, tmp_path / "run", "deqrun train")) == 0
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("start", ["previous", pytest.param("normal", marks=pytest.mark.nightly)])
def test_remembered_starts_are_part_of_a_checkpoint_within_an_epoch(
    start: str, settings_of: SettingsOf, tmp_path: Path
) -> None:
    overrides = [
        *DRAWN,
        f"train.start={start}",
        "train.random_budget_per=sample",
        "train.epochs=2",
        "train.accumulate=2",
    ]
    settings = settings_of(*overrides)
    run_train(settings, tmp_path / "whole", "deqrun train")
    # Each step has two parts: the signal comes in the first of step 15.
    assert struck(settings, tmp_path / "run", "forward", 29, signal.SIGTERM) == 130
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt", torch.device("cpu")).step == 15
    run_train(settings, tmp_path / "run", "deqrun train")
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_checkpoint_of_before_there_were_segments_goes_on(
    settings_of: SettingsOf, whole: Path, tmp_path: Path
) -> None:
    """It has no streams of minima and power iterations, and counts no optimizer steps: one was made for each batch."""
    assert struck(settings_of(*DRAWN), tmp_path / "run", "forward", 16, signal.SIGTERM) == 130
    path = tmp_path / "run/checkpoints/last.pt"
    content = torch.load(path, weights_only=True)
    for name in ("halts", "spectral"):
        del content["within"]["draws"]["states"][name]
    content["stepping"] = {}
    torch.save(content, path)
    run_train(settings_of(*DRAWN), tmp_path / "run", "deqrun train")
    assert_same(tmp_path / "run", whole)


def test_the_segments_of_a_batch_end_together(settings_of: SettingsOf, tmp_path: Path) -> None:
    """A signal in the second of three segments lets the third finish; the count of optimizer steps goes on."""
    settings = settings_of(*DRAWN, "train.segments=3", "train.epochs=2")
    run_train(settings, tmp_path / "whole", "deqrun train")
    assert struck(settings, tmp_path / "run", "forward", 3 * 13 - 1, signal.SIGTERM) == 130
    reached = load_checkpoint(tmp_path / "run/checkpoints/last.pt", torch.device("cpu"))
    assert (reached.step, reached.stepping["taken"]) == (13, 39)
    run_train(settings, tmp_path / "run", "deqrun train")
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("name", [pytest.param("KILL", marks=pytest.mark.nightly), "TERM"])
@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("evaluate", 2),
        ("save_checkpoint", 3),
        pytest.param("_epoch_line", 1, marks=pytest.mark.nightly),
        pytest.param("evaluate_budgets", 2, marks=pytest.mark.nightly),
    ],
)
def test_what_lies_between_steps_is_as_safe_as_a_step(
    where: str, call: int, name: str, settings_of: SettingsOf, whole: Path, tmp_path: Path
) -> None:
    """In validation, between two checkpoints, when all is written, and in an evaluation within an epoch."""
    sent = getattr(signal, f"SIG{name}")
    code = struck(settings_of(*DRAWN), tmp_path / "run", where, call, sent)
    assert code == (-9 if name == "KILL" else 130)
    run_train(settings_of(*DRAWN), tmp_path / "run", "deqrun train")
    assert_same(tmp_path / "run", whole)


def test_a_second_ctrl_c_ends_a_step_at_once(settings_of: SettingsOf, whole: Path, tmp_path: Path) -> None:
    """The step under way is lost, and the checkpoint before it counts."""

    def run() -> None:
        def impatient(*arguments: Any, **named: Any) -> Any:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the step went on")

        training.forward = impatient  # type: ignore[assignment]
        run_train(settings_of(*DRAWN), tmp_path / "run", "deqrun train")

    assert struck(settings_of(*DRAWN), tmp_path / "run", "forward", 3, signal.SIGTERM) == 130
    assert exit_code(run) == 130
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt", torch.device("cpu")).step == 3
    run_train(settings_of(*DRAWN), tmp_path / "run", "deqrun train")
    assert_same(tmp_path / "run", whole)


def test_signals_come_to_the_workers_of_the_data_too(settings_of: SettingsOf, whole: Path, tmp_path: Path) -> None:
    """A batch system signals every process of a job: the run ends by itself, with its step done."""

    def run() -> None:
        os.setpgid(0, 0)
        wrapped, left = training.forward, 7

        def strike(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.killpg(0, signal.SIGTERM)
            return wrapped(*arguments, **named)

        training.forward = strike  # type: ignore[assignment]
        run_train(settings_of(*DRAWN, "train.workers=1"), tmp_path / "run", "deqrun train")

    assert exit_code(run) == 130
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt", torch.device("cpu")).step == 7
    run_train(settings_of(*DRAWN, "train.workers=1"), tmp_path / "run", "deqrun train")
    assert_same(tmp_path / "run", whole)


def test_weights_within_the_first_epoch_are_no_checkpoint_to_sweep(
    settings_of: SettingsOf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert struck(settings_of(*DRAWN), tmp_path / "run", "forward", 5, signal.SIGTERM) == 130
    capsys.readouterr()
    assert main(["sweep", "run=run", "tracker=none"]) == 2
    assert "has no checkpoint to sweep yet" in capsys.readouterr().err


def test_best_weights_that_are_gone_are_not_replaced_by_weights_within_an_epoch(
    settings_of: SettingsOf, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert struck(settings_of(*DRAWN), tmp_path / "run", "forward", 15, signal.SIGTERM) == 130
    (tmp_path / "run/checkpoints/best.pt").unlink()
    capsys.readouterr()
    for command in (["sweep", "run=run", "tracker=none"], ["train", "run=run", "resume=true"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "the weights of epoch 1, which validation chose, are in no other file" in error
        assert "last.pt has those of step 15" in error


def test_checkpoints_at_the_ends_of_epochs_alone(settings_of: SettingsOf, whole: Path, tmp_path: Path) -> None:
    """With checkpoint_minutes=null a kill costs the epoch, as 10 minutes do in an epoch of seconds."""
    settings = settings_of(*DRAWN, "train.checkpoint_minutes=null")
    assert struck(settings, tmp_path, "forward", 15, signal.SIGKILL) == -9
    kept = load_checkpoint(tmp_path / "checkpoints/last.pt", torch.device("cpu"))
    assert (kept.epoch, kept.step, kept.within) == (1, 11, {})
    run_train(settings, tmp_path, "deqrun train")
    assert_same(tmp_path, whole)


def test_rows_reach_the_disk_within_an_epoch(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a wait between two writes, the row of step 2 is there when step 3 begins, and no checkpoint is yet."""
    monkeypatch.setattr(training, "ROWS_EVERY", 0.0)
    assert struck(settings_of(*DRAWN), tmp_path, "forward", 3, signal.SIGKILL) == -9
    assert [row["step"] for row in lines(tmp_path, "steps.jsonl")] == [2]
    assert not (tmp_path / "checkpoints/last.pt").exists()


def test_the_last_epochs_are_kept_as_they_were(settings_of: SettingsOf, whole: Path, tmp_path: Path) -> None:
    """With keep_last=2 of three epochs the last two; the third's checkpoint is last.pt's, and no number changes."""
    settings = settings_of(*DRAWN, "train.keep_last=2")
    assert struck(settings, tmp_path, "forward", 30, signal.SIGTERM) == 130
    kept = lambda: sorted(path.name for path in (tmp_path / "checkpoints").iterdir())  # noqa: E731
    assert kept() == ["best.pt", "epoch-1.pt", "epoch-2.pt", "last.pt"]
    run_train(settings, tmp_path, "deqrun train")
    assert kept() == ["best.pt", "epoch-2.pt", "epoch-3.pt", "last.pt"]
    two, three, last = (
        load_checkpoint(tmp_path / "checkpoints" / f"{name}.pt", torch.device("cpu"))
        for name in ("epoch-2", "epoch-3", "last")
    )
    assert (two.epoch, two.step, two.within) == (2, 22, {})
    assert_equal(vars(three), vars(last), "epoch-3.pt")
    assert_same(tmp_path, whole)


class TestSteps:
    """`train.steps`: 25 steps of 11 an epoch."""

    def test_training_ends_within_an_epoch(self, settings_of: SettingsOf, tmp_path: Path) -> None:
        settings = settings_of(*DRAWN, "train.steps=25", "train.schedule=cosine", "optimizer.lr=0.01")
        run_train(settings, tmp_path, "deqrun train")
        rows = lines(tmp_path, "train.jsonl")
        assert [(row["epoch"], row["step"]) for row in rows] == [(1, 11), (2, 22), (3, 25)]
        assert rows[-1]["learning_rate"] == pytest.approx(0, abs=1e-12)  # the schedule spans the steps
        record = read_run(tmp_path)
        assert record.status.status == "completed"
        assert record.status.epoch == 3

    def test_steps_that_fill_epochs_are_those_epochs(
        self, settings_of: SettingsOf, whole: Path, tmp_path: Path
    ) -> None:
        run_train(settings_of(*DRAWN, "train.epochs=7", "train.steps=33"), tmp_path, "deqrun train")
        assert_same(tmp_path, whole)

    def test_fewer_steps_than_an_epoch_has(self, settings_of: SettingsOf, tmp_path: Path) -> None:
        settings = settings_of(*DRAWN, "train.steps=4")
        assert struck(settings, tmp_path / "run", "forward", 3, signal.SIGUSR1) == 130
        run_train(settings, tmp_path / "run", "deqrun train")
        run_train(settings, tmp_path / "whole", "deqrun train")
        assert [row["step"] for row in lines(tmp_path / "run", "train.jsonl")] == [4]
        assert_same(tmp_path / "run", tmp_path / "whole")
