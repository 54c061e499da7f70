"""Runs that are started at once: into one folder one goes, into default names all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deqrun.cli import main
from deqrun.records.reading import read_run
from tests.experiment.conftest import SMALL
from tests.experiment.test_process import deqrun, finish
from tests.usual import usual

QUICK = [*SMALL, "train.epochs=1", "sweep=none"]


def test_of_two_runs_into_one_folder_one_runs_and_one_is_told(tmp_path: Path) -> None:
    pair = [deqrun("train", *QUICK, f"seed={seed}", "run=same", folder=tmp_path) for seed in (0, 1)]
    ends = [finish(process) for process in pair]
    assert sorted(code for code, _, _ in ends) == [0, 2]
    first, second = sorted(range(2), key=lambda seed: ends[seed][0])
    assert ends[second][2].startswith(f"deqrun: same is in use by another deqrun, process {pair[first].pid} on ")
    assert ends[second][2].count("\n") == 1
    run = read_run(tmp_path / "same")
    assert (run.summary.seed, run.config["seed"], run.status.status) == (first, first, "completed")
    assert len(run.epochs) == 1
    assert main(["train", *QUICK, f"seed={first}", f"run={tmp_path / 'alone'}"]) == 0
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "best.pt", weights_only=True) for name in ("same", "alone")
    )
    assert all(torch.equal(value, two["model"][key]) for key, value in one["model"].items())
    again = [deqrun("train", "run=same", "resume=true", folder=tmp_path) for _ in range(2)]
    assert [finish(process)[0] for process in again] == [0, 0]  # it is complete, and each says so


@pytest.mark.parametrize("count", usual([2, 3], nightly=[3]))
def test_runs_of_one_second_into_default_names_all_run(count: int, tmp_path: Path) -> None:
    started = [deqrun("train", *QUICK, f"seed={seed}", "name=a", folder=tmp_path) for seed in range(count)]
    assert [finish(process)[0] for process in started] == [0] * count
    folders = list((tmp_path / "outputs" / "train").glob("*/*"))
    assert sorted(read_run(folder).summary.seed or 0 for folder in folders) == list(range(count))
    assert [path for folder in folders for path in folder.glob(".*")] == []
