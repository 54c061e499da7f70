"""A study killed in the middle of a run goes on to the numbers of one that wasn't."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deqrun.records.reading import read_run
from tests.studies.conftest import answered

ROOT = Path(__file__).parents[2]
STUDY = (
    "study=does_anderson_prevent_divergence",
    "model.width=16",
    "sweep=none",
    "seeds=2",
    "train.epochs=40",
    "train.batch_size=512",
    "ask.samples=8",
    "ask.scales=[1,3]",
    "ask.steps=30",
    "threads=1",
    "jobs=1",
)


def deqrun(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "deqrun", "train", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.nightly
def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    whole = deqrun(*STUDY, "run=whole", folder=tmp_path)
    _, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    killed = deqrun(*STUDY, "run=here", folder=tmp_path)
    last, deadline = tmp_path / "here" / "runs" / "model-1" / "checkpoints" / "last.pt", time.monotonic() + 240
    while not last.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    first = tmp_path / "here" / "runs" / "model-0"
    assert read_run(first).status.status == "completed"
    trained = (first / "checkpoints" / "last.pt").stat().st_mtime_ns
    again = deqrun("run=here", "resume=true", folder=tmp_path)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert (first / "checkpoints" / "last.pt").stat().st_mtime_ns == trained
    one, two = answered(tmp_path / "whole"), answered(tmp_path / "here")
    assert one["numbers"] == two["numbers"]
    assert (one["verdict"], one["key"], one["seeds"]) == (two["verdict"], two["key"], two["seeds"])
