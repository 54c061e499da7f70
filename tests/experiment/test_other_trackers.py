"""What TensorBoard, MLflow and Trackio were told, read back by their own readers; a resumed run is told once."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from deqrun.cli import main
from deqrun.errors import Interrupted, UserError
from deqrun.experiment.launch import run_train
from deqrun.experiment.trackers import NoTracker, Several, TrackedRun, make_tracker, require_trackers
from deqrun.experiment.trackers.place import Place, place_of
from deqrun.experiment.training import train as training
from deqrun.records.reading import read_run
from deqrun.records.rows import Epoch
from deqrun.records.run import RunRecord
from deqrun.settings import Settings
from tests.experiment.test_resume import Stop
from tests.experiment.test_trackers import history, logged

SettingsOf = Callable[..., Settings]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


LOOKS = ("report=true", "train.eval_every=3", "train.eval_iterations=[1,4]")


def resumed_run(settings_of: SettingsOf, tracker: str, monkeypatch: pytest.MonkeyPatch) -> RunRecord:
    """A run of two epochs of five steps, interrupted after its first epoch and resumed."""
    settings = settings_of(f"tracker={tracker}", "train.epochs=2", "train.log_every=2", "tracker.group=g", *LOOKS)
    folder = Path("run")
    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch_line", Stop(training._epoch_line, 1, KeyboardInterrupt()))
        with pytest.raises(Interrupted):
            run_train(settings, folder, "cmd")
    run_train(settings, folder, "cmd")
    return read_run(folder)


@needs("tensorboard")
def test_tensorboard(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = resumed_run(settings_of, "tensorboard", monkeypatch)
    events = EventAccumulator("run/tensorboard").Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(row.epoch, pytest.approx(row.loss)) for row in record.epochs]
    assert (
        [event.step for event in events.Scalars("steps/loss")]
        == [step.step for step in record.steps]
        == [2, 4, 6, 8, 10]
    )
    (cell,) = record.cells("test", "picard", "zeros", 4, 1e-3)
    at_budget = {event.step: event.value for event in events.Scalars("accuracy/picard/zeros/test/tol=0.001")}
    assert at_budget[4] == pytest.approx(cell.accuracy)
    assert events.Scalars("summary/test_accuracy")[0].value == pytest.approx(record.summary.test_accuracy)
    assert "figures/accuracy_budget" in events.Tags()["images"]
    about = events.Tensors("about/text_summary")[0].tensor_proto.string_val[0].decode()
    told = json.loads(about.strip("`").removeprefix("json"))
    assert (told["group"], told["job_type"], told["config"]["train"]["epochs"]) == ("g", "train", 2)


@needs("mlflow")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    record = resumed_run(settings_of, "mlflow", monkeypatch)
    client = MlflowClient(tracking_uri=f"sqlite:///{Path('outputs/mlflow.db').resolve()}")
    experiment = client.get_experiment_by_name("deqrun")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "mlp-digits"
    assert (run.data.tags["group"], run.data.tags["job_type"]) == ("g", "train")
    assert run.data.params["train.epochs"] == "2"
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "train/loss")]
    assert losses == [(row.epoch, row.loss) for row in record.epochs]
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "steps/loss")]
    assert steps == [step.step for step in record.steps]
    assert run.data.metrics["summary/test_accuracy"] == record.summary.test_accuracy
    files = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "best.pt", "tables", "figures"} <= files


@needs("trackio")
def test_trackio(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    record = resumed_run(settings_of, "trackio", monkeypatch)
    (name,) = SQLiteStorage.get_runs("deqrun")
    assert name == "mlp-digits run"
    rows = SQLiteStorage.get_logs("deqrun", name)
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [row.loss for row in record.epochs]
    assert [row["steps/step"] for row in rows if "steps/loss" in row] == [step.step for step in record.steps]
    assert [row["summary/test_accuracy"] for row in rows if "summary/test_accuracy" in row] == [
        record.summary.test_accuracy
    ]


@needs("tensorboard")
def test_several_at_once_and_each_closed_as_failed(capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small = ["model=mlp", "model.width=8", "train.epochs=1", "train.batch_size=512", "threads=1", "sweep=none"]
    assert main(["train", *small, "tracker=[wandb,tensorboard]", "run=good"]) == 0
    assert main(["train", *small, "tracker=[wandb,tensorboard]", "optimizer.lr=1e25", "train.epochs=3", "run=bad"]) == 2
    for name, status, code in (("good", "completed", 0), ("bad", "failed", 1)):
        text = EventAccumulator(f"{name}/tensorboard").Reload().Tensors("status/text_summary")[0]
        assert text.tensor_proto.string_val[0].decode() == status
        exits = [record["exit"].get("exit_code", 0) for record in logged(Path(name)) if record["type"] == "exit"]
        assert exits == [code]
    assert len(history(logged(Path("good")), "epoch")) == 1


def test_several_trackers_are_each_told_everything() -> None:
    class Told(NoTracker):
        def __init__(self) -> None:
            self.epochs: list[Epoch] = []

        def log_epoch(self, epoch: Epoch) -> None:
            self.epochs.append(epoch)

    both = Told(), Told()
    Several(both).log_epoch(Epoch(1))
    assert [told.epochs for told in both] == [[Epoch(1)], [Epoch(1)]]


@pytest.mark.parametrize("given", ["tracker=[wandb,tensorbord]", "tracker.name=tensorbord"])
def test_a_tracker_that_there_is_not(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "model=mlp", given]) == 2
    told = capsys.readouterr().err
    assert "tensorbord, which is not a tracker" in told
    assert "the nearest is tensorboard" in told


def test_a_tracker_that_is_not_installed(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deqrun.experiment.trackers.making.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'deqrun\[mlflow\]'"):
        require_trackers(settings_of("tracker=mlflow").tracker)


def test_disabled_trackers_are_none(settings_of: SettingsOf, tmp_path: Path) -> None:
    settings = settings_of("tracker=tensorboard", "tracker.mode=disabled")
    assert isinstance(make_tracker(settings.tracker, TrackedRun(tmp_path, "n", {})), NoTracker)


SECTIONS = {"choices": {"solver": "picard"}, "optimizer": {"lr": 0.01}, "seed": 3, "train": {"pin_memory": True}}


def test_the_place_of_a_run(tmp_path: Path) -> None:
    grid = tmp_path / "2030-01-31" / "12-00-00-multirun"
    job = grid / "000-seed=3"
    job.mkdir(parents=True)
    assert place_of(job, SECTIONS) == Place()
    shape = {"differing": ["solver", "optimizer.lr", "seed", "train.pin_memory", "budget.patience"]}
    (grid / "grid.json").write_text(json.dumps({"shape": shape}))
    assert place_of(job, SECTIONS) == Place(
        "2030-01-31/12-00-00-multirun",
        ("solver=picard", "optimizer.lr=0.01", "seed=3", "train.pin_memory=true", "budget.patience=null"),
    )
    study = tmp_path / "study"
    (study / "runs" / "anderson-seed0").mkdir(parents=True)
    (study / "study.yaml").write_text("name: a\n")
    assert place_of(study / "runs" / "anderson-seed0", SECTIONS) == Place("study", ("anderson-seed0",))


@pytest.mark.parametrize("content", ["", "[]", '{"shape": 3}', '{"shape": {"differing": "seed"}}', "\xff"])
def test_a_file_that_is_no_mark_of_a_multirun(content: str, tmp_path: Path) -> None:
    (tmp_path / "grid.json").write_text(content, encoding="latin-1")
    (tmp_path / "run").mkdir()
    assert place_of(tmp_path / "run", SECTIONS) == Place()
