"""status.json says that a run goes on; its claim says whether it still does."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from deqrun.records.claims import CLAIM, claimed, current_owner
from deqrun.records.run import RunStatus
from deqrun.records.states import RunState, is_owned, state_of


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
def test_how_a_run_ended_is_its_state(tmp_path: Path, status: str) -> None:
    assert state_of(tmp_path, RunStatus(status)) == status


def test_a_running_run_is_claimed_and_a_killed_one_is_not(tmp_path: Path) -> None:
    with claimed(tmp_path / "run") as folder:
        assert state_of(folder, RunStatus("running")) is RunState.RUNNING
        assert state_of(folder, RunStatus("starting")) is RunState.RUNNING
        (folder / "config.yaml").write_text("")
    assert state_of(folder, RunStatus("running")) is RunState.KILLED


def test_the_claim_of_a_dead_process_is_none(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    owner = replace(current_owner(), pid=int(gone.stdout), started=1)
    (tmp_path / CLAIM).write_text(json.dumps(asdict(owner)))
    assert not is_owned(tmp_path)
    assert state_of(tmp_path, RunStatus("running")) is RunState.KILLED
    assert state_of(tmp_path, RunStatus("starting")) is RunState.EMPTY


@pytest.mark.parametrize("content", ["", "[1]", '{"pid": "x"}', "{" * 5000, '{"a": 1}'])
def test_a_claim_that_cannot_be_read_is_taken_for_one(tmp_path: Path, content: str) -> None:
    (tmp_path / CLAIM).write_text(content)
    assert is_owned(tmp_path)


def test_what_a_stranger_wrote_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    assert state_of(tmp_path, RunStatus("<script>")) is RunState.UNKNOWN
    assert os.listdir(tmp_path) == ["config.yaml"]
