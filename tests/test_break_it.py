"""The script that tries to break deqrun: it knows a bad end from a good one, and says which it found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))  # last: it finds its own parts there

from scripts.break_it import SECTIONS, SIZE, Ended, Section  # noqa: E402


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        (Ended(2, "", "deqrun: no.\n"), ""),
        (Ended(0, "", ""), "exit code 0 in place of 2: "),
        (Ended(2, "", "Traceback (most recent call last):\nValueError: x\n"), "a traceback: ValueError: x"),
    ],
)
def test_an_end_is_judged(end: Ended, fault: str) -> None:
    assert end.fault([2]) == fault


def test_a_section_whose_time_is_up_says_so() -> None:
    section = Section("pairs", seconds=0.0)
    assert section.time_is_up
    assert section.note == "ended early, after 0 s"


@pytest.mark.nightly
@pytest.mark.parametrize(("section", "tried"), [("damaged=1", 9), ("cells=1", 8), ("datasets=1", 4), ("changes=1", 6)])
def test_the_first_tries_of_a_section_come_out_right(section: str, tried: int) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/break_it.py", section], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"│ {tried} " in done.stdout


@pytest.mark.nightly
def test_the_first_bad_commands_come_out_right() -> None:
    assert SIZE.keys() == SECTIONS.keys()
    done = subprocess.run(
        [sys.executable, "scripts/break_it.py", "commands=4"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "commands" in done.stdout
    assert "│ 5 " in done.stdout  # the four, and that nothing is left behind
