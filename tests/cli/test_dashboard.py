"""deqrun dashboard as a process: it says where it is, refuses a port that is taken, and ends with Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped(workspace: Path, sent: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "deqrun", "dashboard", "--port", "auto"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
    assert address is not None
    with urlopen(address[0]) as answer:
        assert b"0 runs compared" in answer.read()
    process.send_signal(sent)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert "ended" in out
    assert list(workspace.iterdir()) == []


def test_a_port_that_is_taken_is_one_sentence(refused: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port} is in use" in refused("dashboard", "--port", str(port))
