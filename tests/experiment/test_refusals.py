"""What a system refuses, a reader that goes away, and a terminal that closes: a sentence, or a run that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deqrun.records.reading import read_run
from deqrun.records.signals import ending_as_interrupted
from tests.experiment.conftest import SMALL
from tests.experiment.test_process import ROOT, deqrun, finish
from tests.prepared import Deqrun

QUICK = [*SMALL, "train.epochs=1", "sweep=none"]


def limited(size: int, folder: Path) -> tuple[int, str, str]:
    """How a run ends that may write no file larger than this, as where a disk is full."""
    cache = {"XDG_CACHE_HOME": str(folder / "cache")}
    return finish(Deqrun("train", *QUICK, "run=it", folder=folder, environment=cache, file_size=size))


def test_a_file_that_cannot_be_written_is_one_sentence_and_the_run_goes_on_later(tmp_path: Path) -> None:
    code, _, err = limited(20_000, tmp_path)  # less than a checkpoint
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("deqrun: the file would be larger than allowed (File too large). What is done is kept; ")
    assert "go on with: deqrun train run=" in err
    record = read_run(tmp_path / "it")
    assert (record.status.status, record.status.reason) == (
        "failed",
        "the file would be larger than allowed (File too large).",
    )
    assert [path.name for path in (tmp_path / "it").rglob(".*")] == []
    again, _, err = finish(deqrun("train", "run=it", "resume=true", folder=tmp_path))
    assert (again, read_run(tmp_path / "it").status.status) == (0, "completed"), err


def test_where_nothing_can_be_written_nothing_is_made(tmp_path: Path) -> None:
    code, _, err = limited(0, tmp_path)
    assert (code, err) == (2, "deqrun: it can't be made or written: File too large.\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (">&- 2>&-", 0),
        pytest.param("2>/dev/full | head -1; exit ${PIPESTATUS[0]}", 0, marks=pytest.mark.nightly),
        pytest.param("| head -1; exit ${PIPESTATUS[0]}", 0, marks=pytest.mark.nightly),
        pytest.param("2>/dev/full", 0, marks=pytest.mark.nightly),
        pytest.param("2>&-", 0, marks=pytest.mark.nightly),
        pytest.param(">/dev/full", 0, marks=pytest.mark.nightly),
    ],
)
def test_nobody_who_reads_is_no_reason_to_end(tmp_path: Path, ending: str, code: int) -> None:
    # With both streams closed, files that a page is drawn into come to their numbers.
    page = ending == ">&- 2>&-"
    line = f"{sys.executable} -m deqrun train {' '.join(QUICK)} report={page} run=it {ending}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stderr) == (code, "")
    assert read_run(tmp_path / "it").status.status == "completed"
    assert (tmp_path / "it" / "report.html").is_file() == page


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no terminals that hang up")
def test_a_terminal_that_closes_interrupts_a_run(tmp_path: Path) -> None:
    process = deqrun("train", *QUICK, "train.epochs=200", "run=it", folder=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "it" / "train.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    code, _, err = finish(process)
    assert (code, err.count("\n")) == (130, 1)
    assert "resume=true" in err
    assert read_run(tmp_path / "it").status.status == "interrupted"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no terminals that hang up")
def test_a_hangup_that_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_as_interrupted():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_says_where_it_is_and_that_it_starts_within_the_first_second_of_its_claim(tmp_path: Path) -> None:
    """In a process that starts by itself: it has yet to import PyTorch."""
    command = [sys.executable, "-m", "deqrun", "train", *QUICK, "run=it"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    status, deadline = tmp_path / "it" / "status.json", time.monotonic() + 60
    while not status.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert '"starting"' in status.read_text()
    assert not (tmp_path / "it" / "config.yaml").exists()
    assert process.stdout is not None
    told = [process.stdout.readline().rstrip("\n") for _ in range(2)]
    process.kill()
    process.communicate()
    assert told == [f"run     {tmp_path / 'it'}", "train   1,078 samples, 1 epoch, on cpu"]
