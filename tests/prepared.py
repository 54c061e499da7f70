"""deqrun in a process of its own that need not import anything: forked from one that has imported all of it.

A process that starts by itself takes two to three seconds of the processor for PyTorch and Hydra alone. `Deqrun` is as
far from the test's own process as a started one is: it has its own standard streams, folder, environment, signals,
limits and exit code. Tests of the start itself, of shells and of installed packages start a Python of their own.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, NoReturn

from tests.composing import compose_faster, composes_faster
from tests.pictures import draw_small

ROOT = Path(__file__).parents[1]
LENGTH = 8
"""Bytes that say how long a message is; they carry the files, too."""
_parent: list[socket.socket] = []


class Deqrun:
    """`deqrun ARGUMENTS` in a folder, begun at once.

    file_size  the largest file that it may write, in bytes; None: any
    program  pytest instead of deqrun, as `python -m pytest ARGUMENTS`
    """

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        environment: dict[str, str] | None = None,
        file_size: int | None = None,
        program: Literal["deqrun", "pytest"] = "deqrun",
    ) -> None:
        self.returncode: int | None = None
        asked = {
            "arguments": arguments,
            "program": program,
            "folder": str(folder),
            "environment": {**os.environ, **(environment or {})},
            "file_size": file_size,
        }
        pipes = [os.pipe() for _ in range(3)]
        message, parent = json.dumps(asked).encode(), _prepared()
        socket.send_fds(parent, [len(message).to_bytes(LENGTH, "big")], [write for _, write in pipes])
        parent.sendall(message)
        for _, write in pipes:
            os.close(write)
        *self._told, status = (read for read, _ in pipes)
        self._status: IO[str] = open(status, encoding="ascii")  # noqa: SIM115
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """The exit code, less than 0 after a signal; None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
            self._status.close()
        return self.returncode

    def send_signal(self, sent: signal.Signals) -> None:
        """To the process, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, sent)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """All that it wrote, once it has ended; it is killed where that takes more than `timeout` seconds."""
        deadline, told = time.monotonic() + timeout, {pipe: bytearray() for pipe in self._told}
        left = [*told]
        while left:
            for pipe in select.select(left, [], [], 1)[0]:
                read = os.read(pipe, 65536)
                told[pipe] += read
                if not read:
                    left.remove(pipe)
                    os.close(pipe)
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"deqrun did not end within {timeout} s")
        while self.poll() is None:
            select.select([self._status], [], [], 1)
        out, err = (read.decode() for read in told.values())
        return out, err


def _prepared() -> socket.socket:
    """The socket of the process from which others are forked; it is started at the first call."""
    if not _parent:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        code = f"from tests.prepared import serve; serve({there.fileno()}, usual={composes_faster()})"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL
        )
        there.close()
        _parent.append(here)

        def end() -> None:
            here.close()
            process.wait()

        atexit.register(end)
    return _parent[0]


def serve(number: int, usual: bool) -> None:
    """Import everything, and fork a deqrun for each message, until the socket is closed.

    usual  it composes faster and draws small, as `make test` does
    """
    import gc

    import torch._dynamo  # noqa: F401  (the first optimizer of a process imports it)

    import deqrun.cli.hydra_bridge
    import deqrun.cli.search
    import deqrun.experiment.launch
    import deqrun.experiment.own_parts
    import deqrun.studies.make  # noqa: F401
    from deqrun.datasets import digits

    digits._rows()

    if usual:
        compose_faster()
        draw_small()
    gc.collect()
    gc.freeze()
    asking = socket.socket(fileno=number)
    while True:
        size, files, _, _ = socket.recv_fds(asking, LENGTH, 3)
        if not size:
            break
        message = b""
        while len(message) < int.from_bytes(size, "big"):
            message += asking.recv(int.from_bytes(size, "big") - len(message))
        waiter = os.fork()
        if waiter == 0:
            asking.close()
            _wait_for(json.loads(message), files)
        for file in files:
            os.close(file)
        _reap()
    _reap()


def _reap() -> None:
    """Put waiters away that have ended; the time that they took is then counted as this process's."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _wait_for(asked: dict, files: list[int]) -> NoReturn:
    """Fork the process itself; tell its number at once, and its status when it ends."""
    out, err, told = files
    child = os.fork()
    if child == 0:
        os.close(told)
        _become(asked, out, err)
    os.write(told, f"{child}\n".encode())
    os.write(told, f"{os.waitpid(child, 0)[1]}\n".encode())
    os._exit(0)


def _become(asked: dict, out: int, err: int) -> NoReturn:
    """Be a deqrun that was just started."""
    for source, target in ((out, 1), (err, 2)):
        os.dup2(source, target)
        os.close(source)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    # A suite in a shell's background has SIGINT ignored, and its children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_size"],) * 2)
    sys.argv = [asked["program"], *asked["arguments"]]
    if asked["program"] == "deqrun":
        from deqrun.cli import main
    else:
        import pytest

        main = pytest.main  # type: ignore[assignment]

    # Up through the loop to the interpreter's own end, with all that it does there.
    raise SystemExit(main())
