"""Hydra's launchers and Optuna's sweeper, with a job that fails: the others end with equal numbers, and W&B knows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus

from deqrun.cli import main
from deqrun.cli.launchers import batches, share, threads_of_jobs
from deqrun.experiment import launch
from deqrun.experiment.training.train import TrainingStopped
from deqrun.records.reading import read_run
from deqrun.settings.sources import open_sources
from deqrun.studies.side_by_side import cores
from tests.experiment.test_grid import SMALL, numbers
from tests.experiment.test_resume import Stop
from tests.experiment.test_trackers import history, logged
from tests.prepared import Deqrun

TRACKED = [text for text in SMALL if text != "tracker=none"]
GRID = ["train", "-m", *TRACKED, "tracker.figures=false", "optimizer.lr=1e-2,1e30,1e-3"]


def needs(package: str) -> pytest.MarkDecorator:
    there = find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{package}") is not None
    return pytest.mark.skipif(not there, reason=f"{package.replace('_', '-')} is not installed")


NIGHTLY = pytest.mark.nightly
LAUNCHERS = [
    pytest.param("parallel", ["hydra.launcher.n_jobs=2"], id="joblib", marks=[needs("hydra_joblib_launcher"), NIGHTLY]),
    pytest.param("processes", [], id="submitit", marks=[needs("hydra_submitit_launcher"), NIGHTLY]),
    pytest.param(
        "ray_local",
        ["hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.object_store_memory=100000000"],
        id="ray",
        marks=[needs("hydra_ray_launcher"), NIGHTLY],
    ),
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def completed(folder: Path) -> dict[str, list[object]]:
    """Losses and accuracies of the jobs that did not fail, by the folder's name."""
    failed = [path for path in folder.glob("001-*") if read_run(path).status.status == "failed"]
    assert len(failed) == 1
    aside = failed[0].rename(folder / "failed")
    try:
        return numbers(folder)
    finally:
        aside.rename(failed[0])


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    folder = tmp_path_factory.mktemp("basic") / "grid"
    assert main([*GRID, "tracker.mode=disabled", f"hydra.sweep.dir={folder}"]) == 3
    return completed(folder)


@pytest.mark.parametrize(("launcher", "more"), LAUNCHERS)
def test_a_failing_job_costs_no_other(
    launcher: str, more: list[str], basic: dict[str, list[object]], tmp_path: Path
) -> None:
    """In a process of its own, as a user has it: some launchers leave servers or workers behind."""
    grid = Deqrun(*GRID, f"hydra/launcher={launcher}", *more, "hydra.sweep.dir=grid", folder=tmp_path)
    out, err = grid.communicate(timeout=600)
    assert grid.returncode == 3, err[-3000:]
    table = out[out.rindex("differs in") :]
    assert (table.count("completed"), table.count("failed")) == (2, 1)
    assert "job 1: The loss is not finite" in table
    assert completed(tmp_path / "grid") == basic

    # At W&B each job has one run with its own rows, and the failed one is marked.
    logs = {path.name[:3]: logged(path) for path in (tmp_path / "grid").glob("0*")}
    abouts = {number: next(r["run"] for r in log if r["type"] == "run") for number, log in logs.items()}
    exits = {
        number: [r["exit"].get("exit_code", 0) for r in log if r["type"] == "exit"] for number, log in logs.items()
    }
    assert exits == {"000": [0], "001": [1], "002": [0]}
    assert {run["run_group"] for run in abouts.values()} == {"grid"}
    assert len({run["run_id"] for run in abouts.values()}) == 3
    for path in (tmp_path / "grid").glob("0*"):
        told = [row["train/loss"] for row in history(logs[path.name[:3]], "epoch")]
        assert told == [epoch.loss for epoch in read_run(path).epochs]


@NIGHTLY
@needs("hydra_submitit_launcher")
def test_a_job_out_of_time_is_resumed_from_its_checkpoint(tmp_path: Path) -> None:
    """SIGUSR2, which SLURM sends before the time limit: submitit queues the job again, and it goes on where it was."""
    job = [text for text in SMALL if not text.startswith("train.epochs")]
    small = [*job, "train.epochs=60", "seed=0,1", "hydra/launcher=processes", "hydra.sweep.dir=grid"]
    command = [sys.executable, "-m", "deqrun", "train", "-m", *small]
    grid = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    run = tmp_path / "grid" / "000-seed=0"
    deadline = time.monotonic() + 300
    while not (run / "checkpoints" / "last.pt").is_file():
        assert time.monotonic() < deadline
        assert grid.poll() is None
        time.sleep(0.02)
    claimed = json.loads((run / ".claim").read_text())
    os.kill(int(claimed["pid"]), signal.SIGUSR2)
    told, _ = grid.communicate(timeout=400)
    assert grid.returncode == 0, told[-3000:]
    record = read_run(run)
    assert (record.status.status, [row.epoch for row in record.epochs]) == ("completed", list(range(1, 61)))
    log = "".join(path.read_text() for path in tmp_path.glob("grid/.submitit/*/*_log.err"))
    assert "timed-out" in log or "preempted" in log
    assert main(["train", *job, "train.epochs=60", "seed=0", "run=alone"]) == 0
    assert [row.loss for row in read_run(Path("alone")).epochs] == [row.loss for row in record.epochs]


@needs("hydra_submitit_launcher")
def test_the_script_for_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a machine without SLURM can tell: the script that submitit would hand to sbatch, written as it is."""
    from submitit.slurm.slurm import SlurmExecutor, SlurmJob

    monkeypatch.setattr(SlurmExecutor, "affinity", classmethod(lambda executor: 2))
    monkeypatch.setattr(SlurmExecutor, "_make_submission_command", lambda *given: ["echo", "Submitted batch job 12"])
    monkeypatch.setattr(SlurmJob, "results", lambda job: [JobReturn(status=JobStatus.COMPLETED)])
    partition = ["hydra.launcher.partition=gpu", "hydra.launcher.gres='gpu:1'"]
    assert main(["train", "-m", *SMALL, "seed=0,1", "hydra/launcher=slurm", *partition, "hydra.sweep.dir=grid"]) == 0
    (script,) = Path("grid").glob(".submitit/12/12_submission.sh")
    lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    wanted = ["time=240", "cpus-per-task=4", "partition=gpu", "gres=gpu:1", "signal=USR2@120", "job-name=train"]
    assert set(wanted) <= set(lines)
    assert {"array=0-1%2", "open-mode=append"} <= set(lines)
    command = next(line for line in script.read_text().splitlines() if line.startswith("srun"))
    assert "submitit.core._submit" in command


@pytest.mark.parametrize(
    ("typed", "jobs", "threads"),
    [
        (["hydra/launcher=parallel"], cores(), 1),
        (["hydra/launcher=parallel", "hydra.launcher.n_jobs=1"], 1, cores()),
        (["hydra/launcher=processes"], cores(), 1),
        (["hydra/launcher=processes", f"hydra.launcher.cpus_per_task={cores()}"], 1, cores()),
        (["hydra/launcher=ray_local"], cores(), 1),
        (["hydra/launcher=ray_local", "hydra.launcher.ray.remote.num_cpus=2"], max(1, cores() // 2), 2),
        (["hydra/launcher=slurm"], None, 4),
        ([], None, None),
    ],
)
def test_jobs_times_threads_is_at_most_the_cores(typed: list[str], jobs: int | None, threads: int | None) -> None:
    with open_sources() as sources:
        cfg = sources.compose("train", typed, multirun=True)
        assert (share(cfg).jobs, share(cfg).threads) == (jobs, threads)
        assert threads_of_jobs(cfg, []) == ([] if threads is None else [f"threads={threads}"])
        assert threads_of_jobs(cfg, OverridesParser.create().parse_overrides(["threads=3"])) == []


def test_local_jobs_are_launched_in_batches() -> None:
    with open_sources() as sources:
        local = sources.compose("train", ["hydra/launcher=processes"], multirun=True)
        typed = sources.compose("train", ["hydra.sweeper.max_batch_size=2"], multirun=True)
        basic = sources.compose("train", [], multirun=True)
    assert max(len(batch) for batch in batches(local, 3 * cores())) == cores()
    assert batches(typed, 5) == [range(0, 2), range(2, 4), range(4, 5)]
    assert batches(basic, 5) == [range(0, 5)]


SEARCH = [
    "train",
    "-m",
    *SMALL,
    "hydra/sweeper=search",
    "hydra.sweeper.n_trials=6",
    "hydra.sweeper.sampler.seed=1",
    "train.jacobian_weight=interval(0.1,1.0)",
    "hydra.sweep.dir=search",
]


@needs("hydra_optuna_sweeper")
@pytest.mark.filterwarnings("ignore")  # Optuna 2 calls SQLAlchemy by former names
def test_a_search_of_which_one_trial_fails_ends_with_the_best(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "train", Stop(launch.train, 3, TrainingStopped("The loss is not finite.")))
    assert main([*SEARCH, "optimizer.lr=1e-3,1e-2", "objective=loss", "hydra.sweeper.direction=minimize"]) == 0
    printed = capsys.readouterr().out
    states = [read_run(path).status.status for path in sorted(Path("search").glob("[0-5]-*"))]
    assert (states.count("completed"), states.count("failed")) == (5, 1)
    table = printed[printed.rindex("differs in") :]
    assert table.count("The loss is not finite") == 1
    done = [read_run(path) for path in Path("search").glob("*-*") if read_run(path).status.status == "completed"]
    best = min(done, key=lambda record: record.epochs[-1].loss or 0)
    (line,) = [line for line in table.splitlines() if line.startswith("best ")]
    assert line.startswith(f"best    {best.epochs[-1].loss:.6g} with ")
    assert f"optimizer.lr={best.config['optimizer']['lr']:g}" in line.split()


@needs("hydra_optuna_sweeper")
@pytest.mark.filterwarnings("ignore")  # Optuna 2 calls SQLAlchemy by former names
@pytest.mark.parametrize("asked", ["-m", "hydra.mode=MULTIRUN"])
def test_a_search_of_which_every_trial_fails_says_so(asked: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A search is asked for by the flag, or by the config."""
    search = [asked if word == "-m" else word for word in SEARCH]
    assert main([*search, "hydra.sweeper.n_trials=2", "optimizer.lr=1e30,1e31"]) == 3
    printed = capsys.readouterr()
    assert "no trial was completed" in printed.err
    assert "Traceback" not in printed.err


@needs("hydra_optuna_sweeper")
@pytest.mark.filterwarnings("ignore")  # Optuna 2 calls SQLAlchemy by former names
@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["train.jacobian_weight=interval(-1,1)"], "train.jacobian_weight=-1.0 is out of range"),
        (["objective=val_acuracy"], "the nearest is val_accuracy"),
    ],
)
def test_a_search_is_checked_before_it_starts(
    typed: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SEARCH, *typed]) == 2
    assert sentence in capsys.readouterr().err
    assert not Path("search").exists()


def test_an_interval_needs_a_sweeper_that_takes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", *SMALL, "train.jacobian_weight=interval(0.1,1.0)"]) == 2
    assert "let hydra/sweeper=optuna choose them" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["hydra/launcher=joblib", "hydra/launcher=parallel", "hydra/sweeper=optuna"])
def test_a_plugin_that_is_not_installed(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deqrun.cli.launchers.find_spec", lambda name: None)
    assert main(["train", "-m", *SMALL, "seed=0,1", option]) == 2
    told = capsys.readouterr().err
    assert f"{option} needs hydra-" in told
    assert "pip install 'deqrun[" in told
