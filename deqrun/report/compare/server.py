"""The compare page on loopback, fresh while runs go on: read-only, and nothing from a run folder is served as it is.

Three things are answered: the page, its data, and the report of a run, made from its records when it is asked for.
Paths are compared, never joined: no path leads into a folder.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from deqrun.errors import one_line
from deqrun.records.folders import FoundFolders, LeftOut
from deqrun.records.reading import read_run
from deqrun.records.states import is_owned
from deqrun.report.compare.page import compare_html, page_data, policy, run_id
from deqrun.report.compare.recipes import compared
from deqrun.report.compare.runs import ComparedRun, read_one, signature, sorted_out

__all__ = ["LOOPBACK", "Board", "Server"]

LOOPBACK = "127.0.0.1"

FRESH = 1.0
"""Seconds for which the folders are not looked at again."""

KEPT_REPORTS = 8
"""Reports that are kept in memory."""

SLOWEST = 30
"""Seconds after which a client that says nothing is dropped."""

Signature = tuple[object, ...]


class Board:
    """The runs as they are now: folders are looked at again when somebody asks, and read again where they changed."""

    def __init__(self, find: Callable[[], FoundFolders]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[Signature, ComparedRun | LeftOut]] = {}
        self._reports: dict[str, tuple[Signature, bytes]] = {}
        self._looked = -FRESH
        self._seen: object = None
        self._comparison = compared([])
        self._data, self._tag = b"", ""

    def data(self) -> tuple[bytes, str]:
        """The page's data as JSON, and its tag: the same as long as no run changes."""
        with self._lock:
            self._refresh()
            return self._data, self._tag

    def page(self) -> bytes:
        """The page with the data of now."""
        with self._lock:
            self._refresh()
            return compare_html(self._comparison, None).encode()

    def report(self, name: str) -> bytes | None:
        """The report of the run with this id, from its records; None where there is no such run."""
        with self._lock:
            self._refresh()
            folder = next((run.folder for run in self._comparison.runs if run_id(run.folder) == name), None)
            if folder is None:
                return None
            now = signature(folder)
            kept = self._reports.get(name)
            if kept is None or kept[0] != now:
                from deqrun.report.page import report_html

                self._reports.pop(name, None)
                self._reports[name] = kept = (now, report_html(read_run(folder)).encode())
                while len(self._reports) > KEPT_REPORTS:
                    self._reports.pop(next(iter(self._reports)))
            return kept[1]

    def _refresh(self) -> None:
        """Look at the folders, read those that changed, and fold anew where any did."""
        if time.monotonic() - self._looked < FRESH:
            return
        found = self._find()
        known: dict[Path, tuple[Signature, ComparedRun | LeftOut]] = {}
        for folder in found.runs:
            now = (*signature(folder), (folder / ".claim").is_file() and is_owned(folder))
            kept = self._read.get(folder)
            known[folder] = kept if kept is not None and kept[0] == now else (now, read_one(folder))
        self._read, self._looked = known, time.monotonic()
        seen = ([(folder, now) for folder, (now, _) in known.items()], found.left_out)
        if seen != self._seen:
            self._seen = seen
            runs, damaged = sorted_out([each for _, each in known.values()])
            self._comparison = compared(runs, [*found.left_out, *damaged])
            self._data = json.dumps(page_data(self._comparison, None), allow_nan=False, separators=(",", ":")).encode()
            self._tag = f'"{sha256(self._data).hexdigest()[:16]}"'


class Server(ThreadingHTTPServer):
    """Serves a board on loopback; `url` is its address. Raises OSError where the port can't be had."""

    daemon_threads = True

    def __init__(self, board: Board, port: int) -> None:
        self.board = board
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "deqrun", ""
    timeout = SLOWEST

    def do_GET(self) -> None:
        """Answer the page, its data, or a report."""
        if not self._is_addressed():
            self._refuse(HTTPStatus.FORBIDDEN, "this dashboard answers to its own address alone")
            return
        path = urlsplit(self.path).path
        report = re.fullmatch(r"/run/([0-9a-f]{8})/report\.html", path)
        try:
            if path == "/":
                self._answer(self.server.board.page(), "text/html; charset=utf-8", policy(live=True))
            elif path == "/data.json":
                self._answer_data()
            elif report and (page := self.server.board.report(report[1])) is not None:
                self._answer(page, "text/html; charset=utf-8")
            else:
                self._refuse(HTTPStatus.NOT_FOUND, "there is no such page here")
        except ValueError as error:  # a run that was damaged meanwhile
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    do_HEAD = do_GET  # noqa: N815

    def _not_allowed(self) -> None:
        self.close_connection = True  # whatever the request carries is not read
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "this dashboard is read, never written", {"Allow": "GET, HEAD"})

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _not_allowed  # noqa: N815

    def _is_addressed(self) -> bool:
        """Whether the request names this server: a foreign name that leads here (DNS rebinding) is refused."""
        names = {f"{host}:{self.server.server_port}" for host in (LOOPBACK, "localhost")}
        return self.headers.get_all("Host", []) in [[name] for name in names]

    def _answer_data(self) -> None:
        data, tag = self.server.board.data()
        if self.headers.get("If-None-Match") == tag:
            self._start(HTTPStatus.NOT_MODIFIED, {"ETag": tag})
            return
        self._answer(data, "application/json", more={"ETag": tag})

    def _refuse(self, status: HTTPStatus, why: str, more: dict[str, str] | None = None) -> None:
        self._answer(f"{one_line(why)}\n".encode(), "text/plain; charset=utf-8", status=status, more=more)

    def _answer(
        self,
        body: bytes,
        kind: str,
        policy: str | None = None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        more: dict[str, str] | None = None,
    ) -> None:
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **(more or {})}
        self._start(status, headers | ({"Content-Security-Policy": policy} if policy else {}))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        safe = {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }
        for name, value in (headers | safe).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing: the terminal says where the page is."""
