"""deqrun runs lists what there is, and deletes nothing that was not asked for and confirmed."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deqrun.records.claims import claimed
from tests.cli.conftest import Outcome

Deqrun = Callable[..., Outcome]
MadeRun = Callable[..., Path]


class Terminal(io.StringIO):
    """Standard input of a terminal, with an answer typed."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def states(made_run: MadeRun, workspace: Path) -> dict[str, Path]:
    """A run of each state; the running one is claimed for as long as the test goes."""
    folders = {
        name: made_run("model=mlp", folder=f"outputs/train/{name}", status=status)
        for name, status in (
            ("completed", "completed"),
            ("failed", "failed"),
            ("interrupted", "interrupted"),
            ("killed", "running"),
        )
    }
    folders["empty"] = Path("outputs/train/empty")
    folders["empty"].mkdir()
    (folders["empty"] / "status.json").write_text('{"status": "starting", "reason": "", "epoch": null}')
    foreign = Path("outputs/train/foreign")
    foreign.mkdir()
    (foreign / "config.yaml").write_text("name: somebody else's\n")
    (foreign / "status.json").write_text('{"status": "failed"}')
    folders["foreign"] = foreign
    return folders


def test_every_run_is_listed_with_its_state_accuracy_age_and_size(deqrun: Deqrun, states: dict[str, Path]) -> None:
    (states["completed"] / "summary.json").write_text('{"test_accuracy": 0.972}')
    (states["completed"] / "blob").write_bytes(b"x" * 3_000_000)
    os.utime(states["completed"] / "blob", (1e9, 1e9))
    outcome = deqrun("runs")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= 80
    lines = {
        words[-1]: words for line in outcome.out.splitlines() if (words := line.split()) and "outputs" in words[-1]
    }
    assert lines["outputs/train/completed"][:2] == ["completed", "97.2"]
    assert lines["outputs/train/completed"][-3:-1] == ["3.0", "MB"]
    assert {words[0] for words in lines.values()} == {"completed", "failed", "interrupted", "killed", "empty"}
    assert "6 runs" in outcome.out


def test_states_can_be_picked(deqrun: Deqrun, states: dict[str, Path]) -> None:
    outcome = deqrun("runs", "--state", "killed,interrupted")
    assert "2 runs" in outcome.out
    assert "completed" not in outcome.out


def test_without_a_terminal_nothing_is_deleted(
    deqrun: Deqrun, states: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    outcome = deqrun("runs", "--clean")
    assert outcome.code == 0
    assert "Nothing was deleted: there is no terminal to ask in" in outcome.out
    assert all(folder.is_dir() for folder in states.values())


@pytest.mark.parametrize(
    ("answer", "gone"), [("y\n", True), ("yes\n", True), ("n\n", False), ("\n", False), ("", False)]
)
def test_what_is_confirmed_is_deleted_and_nothing_else(
    deqrun: Deqrun, states: dict[str, Path], monkeypatch: pytest.MonkeyPatch, answer: str, gone: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    outcome = deqrun("runs", "--clean")
    assert outcome.code == 0
    left = {name for name, folder in states.items() if folder.exists()}
    assert left == ({"completed", "foreign"} if gone else set(states))


def test_completed_runs_go_only_when_they_are_named(deqrun: Deqrun, states: dict[str, Path]) -> None:
    assert deqrun("runs", "--clean", "--yes").code == 0
    assert states["completed"].exists()
    assert deqrun("runs", "--clean", "--state", "completed", "--yes").code == 0
    assert not states["completed"].exists()
    assert states["foreign"].exists()


def test_a_run_that_goes_on_is_kept(deqrun: Deqrun, states: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is seen to go on, or goes on between the list and the deletion."""
    with claimed(states["killed"]):
        assert deqrun("runs", "--clean", "--state", "killed", "--yes").out == "Nothing to delete.\n"
    from deqrun.cli import runs as command

    measured = command._may_go

    def going_on(run: command.ListedRun) -> bool:
        (run.folder / "status.json").write_text(json.dumps({"status": "completed"}))
        return measured(run)

    monkeypatch.setattr(command, "_may_go", going_on)
    outcome = deqrun("runs", "--clean", "--state", "failed", "--yes")
    assert outcome.code == 1
    assert "has changed meanwhile, and was kept" in outcome.err
    assert states["failed"].exists()


def test_no_link_is_followed_out_of_a_run(deqrun: Deqrun, states: dict[str, Path], workspace: Path) -> None:
    outside = workspace / "precious"
    outside.mkdir()
    (outside / "data").write_text("kept")
    (states["failed"] / "data").symlink_to(outside)
    (workspace / "outputs" / "train" / "link").symlink_to(states["interrupted"].resolve())
    assert deqrun("runs", "--clean", "--yes").code == 0
    assert (outside / "data").read_text() == "kept"
    assert not states["failed"].exists()


def test_an_empty_folder_can_be_named(deqrun: Deqrun, states: dict[str, Path]) -> None:
    assert "empty" in deqrun("runs", str(states["empty"])).out
    assert deqrun("runs", str(states["empty"]), "--clean", "--yes").code == 0
    assert not states["empty"].exists()
