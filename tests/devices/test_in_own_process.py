"""The tests on the pretend device, `pretend_*.py` beside this file, in a process of their own.

Registering a device changes PyTorch for its whole process, and cannot be undone. By hand:

    python -m pytest tests/devices/pretend_solves.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("pretend_*.py"))


@pytest.mark.parametrize(
    "marked", ["not nightly", pytest.param("nightly", marks=pytest.mark.nightly)], ids=["usual", "nightly"]
)
def test_all_that_runs_on_the_pretend_device(marked: str) -> None:
    assert len(FILES) >= 4
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marked, *map(str, FILES)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_this_process_knows_no_such_device() -> None:
    """No test of another room finds it."""
    with pytest.raises(RuntimeError):
        torch.device("pretend")
