"""Help, completion and --cfg answer at once: they import nothing slow. Each is asked in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from deqrun.cli import main
code = main(sys.argv[1:])
slow = {"torch", "torchvision", "wandb", "sklearn", "altair", "numpy", "scipy", "pydantic"}
print("\\nimported:", *sorted(slow & set(sys.modules)))
sys.exit(code)
"""


def imported(*arguments: str, line: str = "") -> tuple[int, str]:
    """The exit code, and which of the slow packages a call imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "COMP_LINE": line},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.rpartition("imported:")[2].strip()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--version"],
        ["train", "--help"],
        ["sweep", "--help"],
        ["train", "--cfg", "job"],
        ["train", "--info", "defaults"],
        ["train", "-sc", "install=bash"],
        ["-sc", "query=bash"],
    ],
)
def test_nothing_slow_is_imported(arguments: list[str]) -> None:
    assert imported(*arguments, line="deqrun train model=") == (0, "")


@pytest.mark.parametrize("arguments", ["", "'--version'", "'--help'"])
def test_the_first_page_needs_no_hydra(arguments: str) -> None:
    program = f"import sys; from deqrun.cli import main; code = main([{arguments}]); sys.exit('hydra' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0


def test_a_misspelling_is_told_without_it_too() -> None:
    assert imported("train", "modle=mdeq") == (2, "")


def test_python_m_deqrun_is_deqrun(workspace: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deqrun", "train", "modle=mdeq"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert list(workspace.iterdir()) == []


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f'"{sys.executable}" -m deqrun train --help | head -c 0; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stderr == ""
