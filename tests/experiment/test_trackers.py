"""What W&B was told, read back from its own offline log; and that a tracker that fails stops nothing."""

from __future__ import annotations

import json
import os
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import ClassVar

import numpy as np
import pytest
from wandb.util import get_core_path

from deqrun.errors import Interrupted, UserError
from deqrun.experiment import launch
from deqrun.experiment.launch import run_train
from deqrun.experiment.trackers import NoTracker, Patience, SafeTracker, TrackedRun, make_tracker
from deqrun.experiment.trackers.rows import accuracy_rows, residual_rows
from deqrun.experiment.training import train as training
from deqrun.records.reading import read_run
from deqrun.records.rows import Epoch, SweepCell
from deqrun.records.run import RunRecord
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.settings import Settings
from tests.experiment.test_resume import Stop
from tests.usual import usual

SettingsOf = Callable[..., Settings]


@pytest.fixture(scope="module")
def offline(settings_of: SettingsOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run tracked offline, in a home folder that has no key."""
    folder = tmp_path_factory.mktemp("offline") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder.parent / "home"))
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        run_train(
            settings_of("tracker=wandb", "report=true", "tracker.group=g", "tracker.tags=[a,b]", "name=tracked"),
            folder,
            "cmd",
        )
    return folder


@pytest.fixture(scope="module")
def records(offline: Path) -> list[dict]:
    """Every record of the offline log."""
    return logged(offline)


def logged(folder: Path) -> list[dict]:
    """Every record of the one offline log in the folder, printed by the program behind `wandb leet inspect`."""
    (log,) = folder.resolve().glob("wandb/offline-run-*/run-*.wandb")
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", "--run-file", str(log)]
    command.append(str(log.parents[1]))
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env={**os.environ})
    return [json.loads(line) for line in printed.stdout.splitlines()]


def history(records: list[dict], axis: str) -> list[dict]:
    items = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [item for item in items if axis in item]


def test_epochs_are_logged_against_their_own_axis(offline: Path, records: list[dict]) -> None:
    epochs = read_run(offline).epochs
    logged = history(records, "epoch")
    assert [row["epoch"] for row in logged] == [row.epoch for row in epochs]
    assert [row["train/val_accuracy"] for row in logged] == [row.val_accuracy for row in epochs]
    axes = {m["metric"].get("glob_name"): m["metric"].get("step_metric") for m in records if m["type"] == "metric"}
    assert axes["train/*"] == "epoch"
    assert axes["residual/*"] == "residual/iter"
    assert axes["accuracy/*"] == "budget/iters"


def test_curves_equal_the_sweep(offline: Path, records: list[dict]) -> None:
    record = read_run(offline)
    for row in history(records, "budget/iters"):
        (cell,) = record.cells("test", "anderson", "zeros", row["budget/iters"], 1e-3)
        assert row["accuracy/anderson/zeros/test/tol=0.001"] == pytest.approx(cell.accuracy)
    curve = [row["residual/picard/zeros/test/q50"] for row in history(records, "residual/iter")]
    residual = record.trajectories[TrajectoryKey("picard", "zeros", "test")].residual
    assert curve[0] == pytest.approx(float(np.median(residual[0])))
    assert curve == sorted(curve, reverse=True)


def test_summary_group_and_tags(offline: Path, records: list[dict]) -> None:
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert (run["run_group"], run["tags"], run["display_name"]) == ("g", ["a", "b"], "tracked")
    told: dict[str, float] = {}
    for record in records:
        told |= record.get("summary", {}).get("update", {})
    assert told["test_accuracy"] == pytest.approx(read_run(offline).summary.test_accuracy or -1)


def test_nothing_is_left_outside_of_the_run_folder(offline: Path) -> None:
    assert sorted(path.name for path in offline.parent.iterdir()) in (["run"], ["home", "run"])
    staged = list((offline.parent / "home").rglob("*artifacts*"))
    assert staged == []


def exit_codes(folder: Path) -> list[int]:
    return [record["exit"].get("exit_code", 0) for record in logged(folder) if record["type"] == "exit"]


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


TRACKED = ("tracker=wandb", "train.epochs=1")


@pytest.mark.usefixtures("no_key")
def test_a_job_whose_loss_is_lost_leaves_the_next_one_its_own_run(settings_of: SettingsOf, tmp_path: Path) -> None:
    """Both in this process: the first record is closed as failed, the second has its own epochs and summary."""
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(UserError, match="not finite"):
        run_train(settings_of(*TRACKED, "optimizer.lr=1e25", "name=first"), first, "cmd")
    run_train(settings_of(*TRACKED, "name=second"), second, "cmd")
    assert (exit_codes(first), exit_codes(second)) == ([1], [0])
    runs = {folder.name: [r["run"] for r in logged(folder) if r["type"] == "run"] for folder in (first, second)}
    assert {name: run["display_name"] for name, (run,) in runs.items()} == {"first": "first", "second": "second"}
    assert history(logged(first), "epoch") == []
    assert [row["epoch"] for row in history(logged(second), "epoch")] == [1]


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize(
    "end", usual([KeyboardInterrupt, MemoryError], nightly=[MemoryError], name=lambda end: end.__name__)
)
def test_whatever_ends_a_sweep_closes_its_record_as_failed(
    end: type[BaseException], settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked, again = tmp_path / "run", tmp_path / "asked", tmp_path / "again"
    run_train(settings_of("train.epochs=1"), run, "cmd")

    def stop(*arguments: object) -> None:
        raise end

    with monkeypatch.context() as patch:
        patch.setattr(launch, "sweep", stop)
        with pytest.raises((Interrupted, end)):
            launch.run_sweep(settings_of(*TRACKED), run, asked, "cmd")
    launch.run_sweep(settings_of(*TRACKED), run, again, "cmd")
    assert (exit_codes(asked), exit_codes(again)) == ([1], [0])


class Broken:
    """A tracker whose every call fails."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def fail(*arguments: object) -> None:
            raise ConnectionError("no route to host")

        return fail


def test_a_failing_tracker_warns_once_and_is_off() -> None:
    tracker = SafeTracker(Broken)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="is off for the rest of the run, which goes on: ConnectionError: no route"):
        tracker.log_epoch(Epoch(1))
    tracker.log_epoch(Epoch(2))
    tracker.finish(None)


def test_a_tracker_that_fails_closes_its_record_once() -> None:
    class Failing(NoTracker):
        ended: ClassVar[list[object]] = []

        def log_epoch(self, epoch: Epoch) -> None:
            raise ConnectionError

        def finish(self, summary: object) -> None:
            self.ended.append(summary)

    tracker = SafeTracker(Failing)
    with pytest.warns(UserWarning, match="is off"):
        tracker.log_epoch(Epoch(1))
    tracker.finish(None)
    assert Failing.ended == [None]


def test_a_tracker_that_cannot_start_is_off() -> None:
    def refuse() -> NoTracker:
        raise ValueError("no key")

    with pytest.warns(UserWarning, match="ValueError: no key"):
        tracker = SafeTracker(refuse)
    tracker.log_epoch(Epoch(1))


@pytest.mark.parametrize("override", ["tracker=none", "tracker.mode=disabled"])
def test_disabled_tracks_nothing(settings_of: SettingsOf, override: str, tmp_path: Path) -> None:
    settings = settings_of("tracker=wandb", override)
    assert isinstance(make_tracker(settings.tracker, TrackedRun(tmp_path, "n", {})), NoTracker)
    assert list(tmp_path.iterdir()) == []


def test_curve_rows_by_hand() -> None:
    residual = np.array([[1.0, 3.0, 2.0], [0.5, np.nan, 0.1]], dtype=np.float32)
    trajectory = Trajectory(residual, np.ones((2, 3), dtype=np.int32), residual > 0, np.zeros(2))
    rows = residual_rows({TrajectoryKey("s", "zeros", "test"): trajectory})
    assert [row["residual/iter"] for row in rows] == [0, 1]
    assert [row["residual/s/zeros/test/q50"] for row in rows] == [2.0, 0.5]  # the stopped row keeps its 3
    assert [row["residual/s/zeros/test/q90"] for row in rows] == [3.0, 3.0]
    assert [row["residual/s/zeros/test/q10"] for row in rows] == [1.0, pytest.approx(0.1)]
    cells = [SweepCell("s", "zeros", "test", 4, tol, 10, accuracy) for tol, accuracy in ((1e-1, 0.3), (1e-3, 0.7))]
    assert accuracy_rows(cells) == [
        {"budget/iters": 4, "accuracy/s/zeros/test/tol=0.1": 0.3, "accuracy/s/zeros/test/tol=0.001": 0.7}
    ]


def test_record_type_is_complete(offline: Path) -> None:
    record: RunRecord = read_run(offline)
    assert record.status.status == "completed"
    assert len(record.sweep) == 3 * 2 * 5 * 2  # solvers, splits, budgets with that of training, tolerances


class Hanging(NoTracker):
    """A tracker that never ends a call."""

    def __init__(self) -> None:
        self.forever = Event()

    def log_epoch(self, epoch: Epoch) -> None:
        self.forever.wait()


def test_a_tracker_that_hangs_is_waited_for_no_longer_than_allowed() -> None:
    abandoned: list[bool] = []
    patience = Patience(begin=5, log=0.2, finish=0.2)
    tracker = SafeTracker(Hanging, patience, abandon=lambda: abandoned.append(True))
    began = time.monotonic()
    with pytest.warns(
        UserWarning, match=r"is off for the rest of the run, which goes on: it did not answer within 0.2 s"
    ):
        tracker.log_epoch(Epoch(1))
    tracker.log_epoch(Epoch(2))
    tracker.finish(None)
    assert time.monotonic() - began < 3
    assert abandoned == [True]


def test_a_tracker_that_hangs_while_it_is_made_is_not_waited_for_at_first() -> None:
    def hang() -> NoTracker:
        Event().wait()
        return NoTracker()

    began = time.monotonic()
    tracker = SafeTracker(hang, Patience(begin=0.2), waits=False)
    assert time.monotonic() - began < 0.1
    with pytest.warns(UserWarning, match="did not answer"):
        tracker.log_epoch(Epoch(1))


def test_of_a_run_that_ended_early_no_failure_of_the_tracker_is_told() -> None:
    with warnings.catch_warnings(record=True) as told:
        SafeTracker(Broken).finish(None)  # type: ignore[arg-type]
    assert told == []


def test_without_a_network_the_run_is_recorded_offline(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port, where nobody listens
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.warns(
        UserWarning, match=r"W&B can't be reached \(127.0.0.1: Connection refused\); the run is recorded"
    ):
        run_train(settings_of(*TRACKED, "tracker.mode=online"), tmp_path / "run", "cmd")
    assert exit_codes(tmp_path / "run") == [0]


@pytest.mark.usefixtures("no_key")
def test_a_run_that_goes_on_tells_its_tracker_all_of_its_epochs(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed without a word to W&B after the second of three epochs; the new log has each epoch once, from step 0."""
    run = tmp_path / "run"
    settings = settings_of("tracker=wandb", "train.epochs=3")
    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch_line", Stop(training._epoch_line, 2, KeyboardInterrupt()))
        with pytest.raises(Interrupted):
            run_train(settings, run, "cmd")
    assert exit_codes(run) == [1]
    (run / "wandb").rename(tmp_path / "first")
    run_train(settings, run, "cmd")
    rows = history(logged(run), "epoch")
    assert [(row["epoch"], row["_step"]) for row in rows] == [(1, 0), (2, 1), (3, 2)]
    assert [row["train/loss"] for row in rows] == [epoch.loss for epoch in read_run(run).epochs]


def test_a_run_is_complete_only_with_its_report(
    settings_of: SettingsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(launch, "write_report", Stop(launch.write_report, 1, KeyboardInterrupt()))
        with pytest.raises(Interrupted):
            run_train(settings_of("train.epochs=1", "report=true"), run, "cmd")
    assert read_run(run).status.status == "interrupted"
    before = read_run(run).summary
    run_train(settings_of("train.epochs=1", "report=true"), run, "cmd")
    after = read_run(run)
    assert (after.status.status, after.summary.test_accuracy) == ("completed", before.test_accuracy)
    assert "interrupted" not in (run / "report.html").read_text().lower().partition("<script")[0]
    assert sorted(path.name for path in (run / "figures").iterdir()) == sorted(
        path.name for path in (run / "figures").glob("*.png")
    )
