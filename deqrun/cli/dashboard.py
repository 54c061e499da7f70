"""`deqrun dashboard`: the compare page on this machine's loopback, fresh while runs go on."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from deqrun.cli.compare import Parser, found_or_refused
from deqrun.cli.run_folders import OUTPUTS
from deqrun.errors import UserError, one_line
from deqrun.records.folders import find_folders
from deqrun.records.signals import ending_as_interrupted

__all__ = ["run_dashboard"]

PORT = 8517
"""The port where none is given; if it is taken, any free one."""


def run_dashboard(arguments: Sequence[str]) -> int:
    """Serve until Ctrl-C, which is the usual end: exit code 0."""
    parser = Parser("dashboard")
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--port")
    given = parser.read(arguments)
    # The port and the folders first: a server that starts says nothing of them.
    port = None if given.port is None else _port(given.port)
    if given.folders:
        found_or_refused("dashboard", given.folders)
    from deqrun.report.compare.server import Board, Server

    board = Board(lambda: find_folders(given.folders or [OUTPUTS]))
    server = _served(Server, board, port)
    try:
        with ending_as_interrupted():
            print(f"dashboard  {server.url}")
            print("Ctrl-C ends it. Nothing is written, and no other machine sees it.", flush=True)
            server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print("dashboard  ended", flush=True)
    finally:
        server.server_close()
    return 0


def _port(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isascii() or not text.isdigit() or int(text[:6]) > 65535:
        raise UserError(f"--port {text} is not a port; allowed: 1 to 65535, and 0 or auto for any free one.")
    return int(text)


def _served(kind: type, board: object, port: int | None):  # type: ignore[no-untyped-def]
    """The server, on the port that is asked for. Raises UserError where it can't be had."""
    try:
        return kind(board, PORT if port is None else port)
    except OSError as error:
        # The usual port is taken, as by another dashboard: any free one will do.
        if port is None:
            return kind(board, 0)
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"can't be had ({error.strerror})"
        raise UserError(one_line(f"--port {port} {reason}; give another, or auto for any free one")) from error
