"""The offline logs of a multirun, read back: one W&B run a job, with a failed and a resumed job among them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from deqrun.cli import main
from deqrun.experiment.training import train as training
from deqrun.records.reading import read_run
from tests.experiment.test_resume import Stop
from tests.experiment.test_trackers import history, logged

SMALL = [
    "model=mlp",
    "model.width=16",
    "threads=1",
    "device=cpu",
    "train.epochs=2",
    "train.batch_size=128",
    "train.log_every=4",
    "sweep.iterations=[1,4]",
    "sweep.tolerances=[1e-1,1e-3]",
    "sweep.solvers=[secant]",
    "sweep.halting=[residual]",
    "sweep.breadth=[1,2]",
    "sweep.spectrum=4",
]
UNDRAWN = ["tracker.figures=false", "report=false"]
GRID = ["train", "-m", *SMALL, "optimizer.lr=1e-2,1e25,3e-3"]

Records = list[dict]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid whose second job fails and whose third is interrupted after its first epoch, then resumed."""
    home = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("HOME", str(home / "home"))
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        with pytest.MonkeyPatch.context() as stopping:
            # Told of lines: two epochs of the first job, then the first of the third.
            stopping.setattr(training, "_epoch_line", Stop(training._epoch_line, 3, KeyboardInterrupt()))
            assert main(GRID) == 130
        assert main(GRID) == 3
        (mark,) = Path("outputs").glob("*/*/*/grid.json")
        (run,) = mark.parent.glob("000-*")
        assert (
            main(["sweep", f"run={run}", "sweep.iterations=[1,2]", "sweep.solvers=[picard]", "threads=1", *UNDRAWN])
            == 0
        )
    return home / mark.parent


@pytest.fixture(scope="module")
def logs(grid: Path) -> dict[str, Records]:
    return {folder.name[:3]: logged(folder) for folder in sorted(grid.glob("0*"))}


def about(records: Records) -> dict:
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    return run


def summary(records: Records) -> dict:
    told: dict = {}
    for record in records:
        told |= record.get("summary", {}).get("update", {})
    return told


def test_each_job_is_one_run_with_its_group_job_type_tags_and_name(grid: Path, logs: dict[str, Records]) -> None:
    runs = {number: about(records) for number, records in logs.items()}
    assert len({run["run_id"] for run in runs.values()}) == 3
    assert {run["run_group"] for run in runs.values()} == {f"{grid.parent.name}/{grid.name}"}
    assert {run["job_type"] for run in runs.values()} == {"train"}
    assert [run["tags"] for run in runs.values()] == [
        ["optimizer.lr=0.01"],
        ["optimizer.lr=1e+25"],
        ["optimizer.lr=0.003"],
    ]
    assert runs["000"]["display_name"] == "mlp-digits optimizer.lr=0.01"


def test_the_failed_job_is_marked_and_has_no_rows_of_others(logs: dict[str, Records]) -> None:
    ends = {n: [r["exit"].get("exit_code", 0) for r in log if r["type"] == "exit"] for n, log in logs.items()}
    assert ends == {"000": [0], "001": [1], "002": [0]}
    assert [record for record in logs["001"] if record["type"] == "history"] == []


def test_the_resumed_job_has_all_its_rows_once_in_order(grid: Path, logs: dict[str, Records]) -> None:
    (folder,) = grid.glob("002-*")
    record = read_run(folder)
    rows = [r["history"]["item"] for r in logs["002"] if r["type"] == "history"]
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    assert [row["train/loss"] for row in rows if "epoch" in row] == [epoch.loss for epoch in record.epochs]
    steps = [row for row in rows if "step" in row]
    assert [row["step"] for row in steps] == [4, 8, 12, 16]  # of 18, every 4th
    assert [row["steps/loss"] for row in steps] == [step.loss for step in record.steps]
    assert about(logs["002"])["run_id"] == (folder / "wandb" / "run-id.txt").read_text().strip()


def test_curves_and_their_axes(grid: Path, logs: dict[str, Records]) -> None:
    axes = {m["metric"].get("glob_name"): m["metric"].get("step_metric") for m in logs["000"] if m["type"] == "metric"}
    assert {name: axis for name, axis in axes.items() if name} == {
        "train/*": "epoch",
        "steps/*": "step",
        "evaluation/*": "evaluation/step",
        "residual/*": "residual/iter",
        "accuracy/*": "budget/iters",
        "frontier/*": "frontier/evaluations",
        "halting/*": "halting/evaluations",
        "breadth/*": "breadth/starts",
    }
    (folder,) = grid.glob("000-*")
    record = read_run(folder)
    for row in history(logs["000"], "budget/iters"):
        for tol in (0.1, 0.001):
            (cell,) = record.cells("test", "secant", "zeros", row["budget/iters"], tol)
            assert row[f"accuracy/secant/zeros/test/tol={tol:g}"] == cell.accuracy
    quantiles = [
        [row[f"residual/secant/zeros/test/{q}"] for q in ("q10", "q50", "q90")]
        for row in history(logs["000"], "residual/iter")
    ]
    assert len(quantiles) == 25  # z_0 and the 24 steps of the training budget
    assert all(row == sorted(row) for row in quantiles)
    frontier = [
        row["frontier/secant/zeros/test"]
        for row in history(logs["000"], "frontier/evaluations")
        if "frontier/secant/zeros/test" in row
    ]
    assert frontier == sorted(set(frontier))
    assert frontier[-1] == max(cell.accuracy for cell in record.cells("test", "secant", "zeros"))
    assert len(history(logs["000"], "halting/evaluations")) == len(record.halting)
    assert [row["breadth/starts"] for row in history(logs["000"], "breadth/starts")] == [1, 2]


def test_the_tables_hold_every_row(grid: Path) -> None:
    (folder,) = grid.glob("000-*")
    record = read_run(folder)
    for name, rows in (("cells", record.sweep), ("halting", record.halting), ("breadth", record.breadth)):
        (path,) = folder.glob(f"wandb/offline-run-*/files/media/table/tables/{name}_*.table.json")
        table = json.loads(path.read_text())
        assert len(table["data"]) == len(rows) > 0
        first = dict(zip(table["columns"], table["data"][0], strict=True))
        wanted = {key: None if value != value else value for key, value in asdict(rows[0]).items()}
        assert first == wanted


def test_figures_report_and_checkpoint(grid: Path, logs: dict[str, Records]) -> None:
    (folder,) = grid.glob("000-*")
    artifacts = [record["artifact"] for record in logs["000"] if record["type"] == "artifact"]
    run_id = about(logs["000"])["run_id"]
    files = {
        artifact["type"]: (artifact["name"], [entry["path"] for entry in artifact["manifest"]["contents"]])
        for artifact in artifacts
        if artifact["type"] in ("report", "checkpoint")
    }
    assert files == {
        "report": (f"report-{run_id}", ["report.html"]),
        "checkpoint": (f"checkpoint-{run_id}", ["best.pt"]),
    }
    media = {path.name.rpartition("_")[0].rpartition("_")[0] for path in folder.glob("wandb/*/files/media/images/*/*")}
    assert media == {path.stem for path in (folder / "figures").glob("*.png")}


def test_summary(grid: Path, logs: dict[str, Records]) -> None:
    (folder,) = grid.glob("000-*")
    record, told = read_run(folder), summary(logs["000"])
    for key in ("test_accuracy", "test_accuracy_low", "test_accuracy_high", "spectral_radius"):
        assert told[key] == getattr(record.summary, key) is not None
    trajectory = record.trajectory("secant")
    assert trajectory is not None
    needed = sorted(trajectory.nfe_to(1e-3))  # NaN, of samples that do not arrive, at the end
    assert told["evaluations_to_tolerance"] == needed[(len(needed) - 1) // 2]


def test_a_sweep_is_logged_and_linked_to_its_run(grid: Path, logs: dict[str, Records]) -> None:
    (folder,) = (grid.parents[3] / "outputs" / "sweep").glob("*/*")
    run = about(logged(folder))
    assert run["job_type"] == "sweep"
    assert run["config"]["update"]["trained"] == {
        "folder": f"{grid.relative_to(grid.parents[3])}/000-lr=0.01",
        "name": "mlp-digits",
        "wandb_id": about(logs["000"])["run_id"],
    }


def test_a_tracker_can_be_left_bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    bare = [
        "report=false",
        "tracker.figures=false",
        "tracker.report=false",
        "tracker.checkpoint=false",
        "train.log_every=null",
    ]
    own = ["tracker.group=g", "tracker.job_type=j", "tracker.tags=[]", f"run={tmp_path / 'run'}"]
    kept = [text for text in SMALL if "log_every" not in text]
    assert main(["train", *kept, *bare, *own]) == 0
    records = logged(tmp_path / "run")
    run = about(records)
    assert (run["run_group"], run["job_type"], run.get("tags", [])) == ("g", "j", [])
    assert {r["artifact"]["type"] for r in records if r["type"] == "artifact"} == {"run_table"}
    assert history(records, "step") == []
    assert not (tmp_path / "run" / "steps.jsonl").exists()
