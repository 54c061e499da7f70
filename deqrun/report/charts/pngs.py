"""Figures as PNG, drawn without a browser or a network: here, or in a process beside this one."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import altair as alt
import vl_convert

from deqrun.report.charts.style import SCALE, Figure, specification, titled

DRAWS = Path(__file__).with_name("draw_pngs.py")


class Renderer:
    """A process that draws PNGs while this one reads records and writes a page; entered as early as can be.

    A thread would gain nothing: the renderer holds Python's lock while it draws. Where the process can't be started, or
    dies, the pictures are drawn here.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Renderer":
        command = [sys.executable, "-I", str(DRAWS), vega_lite_version(), str(SCALE)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError:
            self._process = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    @contextmanager
    def drawing(self, figures: Sequence[Figure]) -> Iterator[Future[list[bytes]]]:
        """Within: the figures are drawn in the background; the future holds their PNGs, in order."""
        specs = [_spec(figure) for figure in figures]
        with ThreadPoolExecutor(1) as waiting:
            yield waiting.submit(self._pictures, specs)

    def _pictures(self, specs: Sequence[str]) -> list[bytes]:
        drawn = list(_parts(self._sent(f"[{','.join(specs)}]".encode())))
        return drawn if len(drawn) == len(specs) else [_png(spec) for spec in specs]

    def _sent(self, specs: bytes) -> bytes:
        process, self._process = self._process, None
        return b"" if process is None else process.communicate(specs)[0]


def png(figure: Figure) -> bytes:
    """One figure as PNG."""
    return _png(_spec(figure))


def _spec(figure: Figure) -> str:
    return json.dumps(specification(titled(figure)), allow_nan=False)


def _png(spec: str) -> bytes:
    return vl_convert.vegalite_to_png(spec, vl_version=vega_lite_version(), scale=SCALE, allowed_base_urls=[])


def _parts(stream: bytes) -> Iterator[bytes]:
    """The pictures of a stream in which each follows its length; a last one that is cut off is left out."""
    while len(stream) >= 8 + (length := int.from_bytes(stream[:8], "big")) > 8:
        yield stream[8 : 8 + length]
        stream = stream[8 + length :]


def vega_lite_version() -> str:
    """The Vega-Lite version that altair writes, as 'major.minor'."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
