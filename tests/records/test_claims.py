"""A folder belongs to one process: whoever claims it first has it, and a dead process's claim is taken over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from deqrun.errors import UserError
from deqrun.records.claims import CLAIM, STATUS, Owner, claimed, current_owner, holds_only_traces

ROOT = Path(__file__).parents[1]
CLAIMING = """
import sys, time
from pathlib import Path
from deqrun.records.claims import claimed
from deqrun.errors import UserError
folder, seconds, fresh = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "fresh"
try:
    with claimed(folder, fresh=fresh) as own:
        print("has", own, flush=True)
        (own / "mine").open("x").close()
        until = time.monotonic() + seconds
        while time.monotonic() < until and not folder.with_suffix(".stop").exists():
            time.sleep(0.01)
except UserError as error:
    print("refused", error, flush=True)
"""


def claiming(folder: Path, seconds: float, how: str = "exact") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CLAIMING, str(folder), str(seconds), how]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stdout=subprocess.PIPE)


def said(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip()


def said_by_four(folder: Path) -> list[str]:
    """What four processes say that are started at once; the one that has the folder holds it until all have spoken."""
    four = [claiming(folder, 120) for _ in range(4)]
    deadline = time.monotonic() + 60
    while sum(process.poll() is None for process in four) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    folder.with_suffix(".stop").touch()
    return [said(process) for process in four]


def leave_claim(folder: Path, owner: Owner) -> None:
    folder.mkdir(exist_ok=True)
    (folder / CLAIM).write_text(json.dumps(asdict(owner)))


@pytest.fixture(scope="module")
def dead() -> Owner:
    """A process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return replace(current_owner(), pid=process.pid)


def test_of_processes_that_claim_one_folder_one_has_it(tmp_path: Path) -> None:
    lines = said_by_four(tmp_path / "one")
    having = [line for line in lines if line.startswith("has")]
    assert len(having) == 1
    refused = [line for line in lines if line.startswith("refused")]
    assert len(refused) == 3
    assert all(f"{tmp_path / 'one'} is in use by another deqrun, process " in line for line in refused)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["mine", STATUS]


def test_of_processes_that_claim_a_default_name_each_has_its_own(tmp_path: Path) -> None:
    lines = [said(process) for process in [claiming(tmp_path / "day" / "name", 0.1, "fresh") for _ in range(4)]]
    assert sorted(lines) == sorted(f"has {tmp_path / 'day' / name}" for name in ("name", "name-2", "name-3", "name-4"))


def test_the_second_is_told_who_is_first(tmp_path: Path) -> None:
    first = claiming(tmp_path / "one", 20)
    assert first.stdout is not None
    first.stdout.readline()
    with pytest.raises(UserError) as refused, claimed(tmp_path / "one"):
        pass
    owner = Owner(**json.loads((tmp_path / "one" / CLAIM).read_text()))
    assert str(refused.value) == (
        f"{tmp_path / 'one'} is in use by another deqrun, process {first.pid} on {owner.host} since {owner.since}, "
        "and one process at a time writes into a folder; wait until it has ended, or give another folder."
    )
    first.kill()
    first.communicate()
    with claimed(tmp_path / "one"):  # which kill left claimed
        assert json.loads((tmp_path / "one" / CLAIM).read_text())["pid"] == os.getpid()


def test_of_processes_that_take_over_a_dead_ones_claim_one_has_it(tmp_path: Path, dead: Owner) -> None:
    for turn in range(3):
        folder = tmp_path / str(turn)
        leave_claim(folder, dead)
        lines = said_by_four(folder)
        assert sorted(line.split()[0] for line in lines) == ["has", "refused", "refused", "refused"]


def test_a_process_id_that_was_given_anew_is_another_process(tmp_path: Path) -> None:
    own = current_owner()
    if own.started is None:
        pytest.skip("the system does not say when a process began")
    leave_claim(tmp_path, replace(own, started=own.started - 1))
    with claimed(tmp_path):
        assert json.loads((tmp_path / CLAIM).read_text())["started"] == own.started


def test_a_machine_that_was_started_anew_runs_none_of_its_processes(tmp_path: Path) -> None:
    leave_claim(tmp_path, replace(current_owner(), boot="an earlier one"))
    with claimed(tmp_path):
        pass


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"space": "pid:[1]"}])
def test_a_process_that_cannot_be_seen_is_assumed_to_run(tmp_path: Path, dead: Owner, change: dict[str, str]) -> None:
    leave_claim(tmp_path, replace(dead, **change))
    with pytest.raises(UserError, match=f"if that process is gone, delete {tmp_path / CLAIM}"), claimed(tmp_path):
        pass


def fail_within(folder: Path, end: BaseException, writes: bool) -> None:
    with claimed(folder):
        assert json.loads((folder / STATUS).read_text())["status"] == "starting"
        if writes:
            (folder / "kept").write_text("")
        raise end


def test_a_claim_is_released_whatever_the_end_and_what_was_made_is_removed(tmp_path: Path) -> None:
    for end in (ValueError(), KeyboardInterrupt()):
        with pytest.raises(type(end)):
            fail_within(tmp_path / "a" / "b", end, writes=False)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError):
        fail_within(tmp_path / "a", ValueError(), writes=True)
    assert (tmp_path / "a" / "kept").is_file()
    assert not (tmp_path / "a" / CLAIM).exists()


def test_a_claim_within_a_claim_changes_nothing(tmp_path: Path) -> None:
    with claimed(tmp_path / "a"):
        with claimed(tmp_path / "a"):
            pass
        assert (tmp_path / "a" / CLAIM).is_file()
    assert not (tmp_path / "a" / CLAIM).exists()


def test_the_owner_removes_what_a_killed_process_was_writing(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    parts = [tmp_path / ".train.jsonl.0a1b2c3d.part", tmp_path / "checkpoints" / ".last.pt.0a1b2c3d.part"]
    for part in parts:
        part.write_text("")
    with claimed(tmp_path):
        assert [part for part in parts if part.exists()] == []


def test_a_run_that_was_killed_before_it_began_leaves_a_folder_that_counts_as_empty(tmp_path: Path) -> None:
    process = claiming(tmp_path / "one", 20)
    deadline = time.monotonic() + 20
    while not (tmp_path / "one" / "mine").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert not holds_only_traces(tmp_path / "one")
    (tmp_path / "one" / "mine").unlink()
    assert holds_only_traces(tmp_path / "one")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"), claimed(tmp_path / "a"):
        pass
    tmp_path.chmod(0o700)


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    for folder, fresh in ((tmp_path / "taken", False), (tmp_path / "taken" / "a", False), (tmp_path / "taken/a", True)):
        with pytest.raises(UserError, match="can't be made or written"), claimed(folder, fresh=fresh):
            pass
