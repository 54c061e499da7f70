"""How every chart looks: colours by name, one configuration, and its two forms, Vega-Lite for a page and PNG."""

import math
import textwrap
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

INK = "#222222"
MUTED = "#767676"
FONT = "Inter, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
WIDTH, HEIGHT = 640, 320
BAND = 0.14
"""Opacity of a band around a line."""
SCALE = 2
"""Pixels of a PNG for each unit of the chart."""

# The colours of Okabe and Ito (2008), told apart with every common colour vision deficiency; black is kept
# for rules.
SOLVER_COLOURS = {
    "picard": "#0072B2",
    "anderson": "#D55E00",
    "broyden": "#009E73",
    "secant": "#332288",
    "newton": "#CC79A7",
    "damped": "#8C6D31",
    "forward_backward": "#E69F00",
    "peaceman_rachford": "#56B4E9",
}
SOLVER_SHAPES = {
    "picard": "circle",
    "anderson": "square",
    "broyden": "triangle-up",
    "secant": "triangle-right",
    "newton": "diamond",
    "damped": "triangle-left",
    "forward_backward": "triangle-down",
    "peaceman_rachford": "cross",
}
OTHER_COLOURS = ("#7A5195", "#117733", "#5B5B5B", "#B3446C", "#2B6CB0", "#4F7942")
OTHER_SHAPES = ("stroke", "wedge", "arrow")
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B", "#7A5195")

_AXIS = {
    "labelFontSize": 12,
    "titleFontSize": 12.5,
    "titleFontWeight": 500,
    "labelColor": "#444444",
    "titleColor": INK,
    "gridColor": "#ececec",
    "domainColor": "#999999",
    "tickColor": "#999999",
    "titlePadding": 10,
    "labelOverlap": "greedy",
    "labelFlush": False,
}
CONFIG: dict[str, Any] = {
    "background": "white",
    "padding": 8,
    "font": FONT,
    "view": {"stroke": None},
    "axis": _AXIS,
    "title": {
        "anchor": "start",
        "fontSize": 16,
        "fontWeight": 600,
        "color": INK,
        "offset": 14,
        "frame": "group",
        "subtitleFontSize": 12,
        "subtitleColor": "#555555",
        "subtitlePadding": 5,
    },
    "legend": {
        "orient": "top",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "titleOrient": "left",
        "labelLimit": 300,
        "symbolSize": 90,
        "symbolStrokeWidth": 2,
        "columnPadding": 14,
        "titlePadding": 10,
        "labelColor": INK,
        "titleColor": "#555555",
        "symbolBaseFillColor": INK,
        "symbolBaseStrokeColor": INK,
    },
}

NEAR = 0.05
"""A close view goes this far below the best accuracy: one point can be seen there."""

AnyChart = alt.Chart | alt.LayerChart | alt.ConcatChart | alt.FacetChart


@dataclass(frozen=True)
class Figure:
    """One chart with the words around it; `name` is its file name and its place on the page."""

    name: str
    title: str
    caption: str
    chart: AnyChart


def near_best(name: str, title: str, caption: str, chart: AnyChart, close: bool) -> Figure:
    """The figure, or its close view, cut to accuracies near the best, with a name of its own."""
    if close:
        cut = f"What lies more than {100 * NEAR:.0f} points below the best is cut off."
        return Figure(f"{name}_close", f"{title}, near the best", f"{caption} {cut}", chart)
    return Figure(name, title, caption, chart)


def solver_colours(names: Sequence[str]) -> list[str]:
    """A colour a solver, the same in every chart of every run; names outside the list get one by checksum."""
    return _assigned(names, SOLVER_COLOURS, OTHER_COLOURS)


def solver_shapes(names: Sequence[str]) -> list[str]:
    """A point shape a solver, so that colour is never the only sign."""
    return _assigned(names, SOLVER_SHAPES, OTHER_SHAPES)


def run_colours(number: int) -> list[str]:
    """Colours of `number` runs in their order; more than eight repeat."""
    return [RUN_COLOURS[index % len(RUN_COLOURS)] for index in range(number)]


def _assigned(names: Sequence[str], known: dict[str, str], others: Sequence[str]) -> list[str]:
    taken: dict[str, int] = {}
    for name in sorted(name for name in names if name not in known):
        place = zlib.crc32(name.encode()) % len(others)
        while place in taken.values() and len(taken) < len(others):
            place = (place + 1) % len(others)
        taken[name] = place
    return [known[name] if name in known else others[taken[name]] for name in names]


class Rows(alt.InlineData):
    """A chart's rows, which nothing changes: where Altair copies a chart, they are not copied."""

    def __deepcopy__(self, memo: object) -> "Rows":
        return self


def data(rows: Sequence[Any]) -> Rows:
    """Rows (dataclasses or mappings) as a chart's data. JSON knows neither NaN nor inf: both become null."""
    values = [asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row) for row in rows]
    return Rows(values=[{key: _plain(value) for key, value in row.items()} for row in values])


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def titled(figure: Figure) -> AnyChart:
    """The chart with its title and caption drawn in, for a PNG."""
    lines = textwrap.wrap(figure.caption, 96)
    return figure.chart.properties(title=alt.TitleParams(figure.title, subtitle=lines))


@contextmanager
def unchecked() -> Iterator[None]:
    """Within: charts are put together without comparing each part with Vega-Lite's schema, a third of the time.

    The tests build the same charts with that check.
    """
    with debug_mode(False):
        yield


def specification(chart: AnyChart, *, container: bool = False) -> dict[str, Any]:
    """The chart's Vega-Lite specification; with `container` it takes the width of the element that holds it."""
    spec: dict[str, Any] = chart.to_dict(validate=False)
    spec["config"] = CONFIG
    if container:
        spec["width"] = "container"
    return spec
