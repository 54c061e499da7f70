"""Chromium driven by its DevTools protocol: clicks, keys and questions in a page, as a person would put them.

Needs a Chromium or Chrome in PATH, and the package websockets.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-port=0",
    # Whatever is asked for, no name is found but this machine's own.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Page:
    """One tab. `complaints` are its console errors and uncaught exceptions; `requests` all URLs that it asked for."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """One call of the protocol, and its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        kind, said = message.get("method"), message.get("params", {})
        if kind == "Runtime.exceptionThrown":
            self.complaints.append(str(said["exceptionDetails"].get("exception", said["exceptionDetails"])))
        elif kind == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.complaints.append(json.dumps([arg.get("value", arg.get("description")) for arg in said["args"]]))
        elif kind == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])

    def open(self, url: str) -> None:
        """Go to a page, and wait until its script has built the table."""
        self.call("Page.navigate", url=url)
        self.wait("document.querySelectorAll('#table .tabulator-row').length > 0")

    def ask(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.ask(f"Boolean({script})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{script} did not become true in {seconds} s; {self.complaints}")
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """A click of the mouse in the middle of an element."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.ask(f"{element}.scrollIntoView({{block: 'center'}})")
        box = f"(r => [r.x + r.width / 2, r.y + r.height / 2])({element}.getBoundingClientRect())"
        place = self.ask(box)
        self.click_at(*place)

    def click_at(self, x: float, y: float) -> None:
        """A click of the mouse at a point of the window."""
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def move(self, x: float, y: float) -> None:
        """The mouse, to a point of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def type(self, selector: str, text: str) -> None:
        """Click into a field, empty it with the keyboard, and type."""
        self.click(selector)
        self.ask(f"document.querySelector({json.dumps(selector)}).select()")
        self.press("Backspace")
        if text:
            self.call("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a list with the arrow keys."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.ask(f"{element}.focus()")
        values = self.ask(f"[...{element}.options].map(option => option.value)")
        at, wanted = self.ask(f"{element}.selectedIndex"), values.index(value)
        for _ in range(abs(wanted - at)):
            self.press("ArrowDown" if wanted > at else "ArrowUp")
        self.wait(f"{element}.value === {json.dumps(value)}")

    def press(self, key: str) -> None:
        """A key, as ArrowDown or Enter."""
        code = {"ArrowDown": 40, "ArrowUp": 38, "Enter": 13, "Escape": 27, "Backspace": 8}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size, and whether it asks for dark colours."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """A screenshot as PNG: the whole page, or the window."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browser(width: int = 1200, height: int = 900) -> Iterator[Page]:
    """Within: a tab of a fresh Chromium, which can reach nothing but files and this machine."""
    from websockets.sync.client import connect

    if CHROMIUM is None:
        raise RuntimeError("there is no browser: none of chromium, chromium-browser and google-chrome is in PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = _port(Path(profile) / "DevToolsActivePort")
            tabs = json.loads(urlopen(f"http://127.0.0.1:{port}/json/list").read())
            address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            with connect(address, max_size=2**28, compression=None) as socket:
                page = Page(socket)
                page.size(width, height)
                yield page
        finally:
            process.terminate()
            process.wait(timeout=20)


def _port(path: Path) -> int:
    """The port that the browser chose, as soon as it has said so."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if path.is_file() and (lines := path.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.05)
    raise TimeoutError("the browser did not start in 30 s")
