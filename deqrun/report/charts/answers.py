"""The charts of answers: curves with bands, clouds of points, and values with their intervals."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from deqrun.inference import Estimate
from deqrun.report.charts.axes import EDGE, ROOM, LogAxis
from deqrun.report.charts.keys import SHORT_LABEL
from deqrun.report.charts.style import BAND, HEIGHT, INK, MUTED, WIDTH, AnyChart, Figure, data, run_colours

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [10, 4], [1, 3], [6, 2, 2, 2], [12, 3])
FEW_PLACES = 12
"""Up to so many whole numbers on a log axis each has its tick."""
FEW_BANDS = 4
"""Of more series the bands are paler: they lie on top of one another."""
ROW = 24
"""Height of a row of values with their intervals."""


@dataclass(frozen=True)
class Axis:
    """An axis: its title, and how it is divided.

    log      equal distances for equal factors; values must be above 0
    percent  fractions are written as percentages
    domain   (low, high), or None: wide enough for the values
    """

    title: str
    log: bool = False
    percent: bool = False
    domain: tuple[float, float] | None = None

    def encoding(self, field: str, values: Sequence[float], kind: type[Any]) -> Any:
        """alt.X or alt.Y of the field."""
        known = [value for value in values if math.isfinite(value) and (value > 0 or not self.log)]
        whole = sorted({value for value in known if value == round(value)})
        if self.log and kind is alt.X and len(whole) == len(set(known)) <= FEW_PLACES and self.domain is None:
            ends = [whole[0] / ROOM, whole[-1] * ROOM]
            ticks = alt.Axis(values=whole, format=",d", grid=False)
            return alt.X(
                f"{field}:Q", title=self.title, scale=alt.Scale(type="log", domain=ends, nice=False), axis=ticks
            )
        if self.log:
            axis = LogAxis.around(known) if self.domain is None else LogAxis(*self.domain)
            return kind(f"{field}:Q", title=self.title, scale=axis.scale, axis=axis.axis())
        scale = (
            alt.Scale(zero=False, padding=EDGE)
            if self.domain is None
            else alt.Scale(domain=list(self.domain), nice=False, padding=EDGE)
        )
        return kind(f"{field}:Q", title=self.title, scale=scale, axis=alt.Axis(format=self.written, tickCount=6))

    @property
    def written(self) -> str:
        """How a value is written, in d3's format."""
        return ".3~p" if self.percent else ".3~g"


@dataclass(frozen=True)
class Point:
    """One point of a series, y with its 95 % interval where it has one; `note` is shown with it."""

    series: str
    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""

    @classmethod
    def of(cls, series: str, x: float, y: Estimate, note: str = "") -> "Point":
        """The point of an estimate, with its interval."""
        return cls(series, x, y.mean, y.low, y.high, note)


@dataclass(frozen=True)
class Rule:
    """A dashed line across the chart at a value of one axis, with its name."""

    text: str
    x: float | None = None
    y: float | None = None


def curves(
    name: str,
    title: str,
    caption: str,
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    *,
    rules: Sequence[Rule] = (),
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """A line with its points for each series, and a band where there are intervals; a bar, where it is one point."""
    look = _Look(points, x, y, colours)
    chart = alt.Chart(data(points))
    opacity = BAND if len(look.series) <= FEW_BANDS else BAND / 2.5
    band = chart.mark_area(opacity=opacity, clip=True).encode(
        x=look.x, y=look.y_of("low"), y2=alt.Y2("high:Q"), color=look.colour(), detail=alt.Detail("series:N")
    )
    line = chart.mark_line(strokeWidth=2, clip=True).encode(
        x=look.x, y=look.y, color=look.colour(), strokeDash=look.dash(), order=alt.Order("x:Q")
    )
    dots = chart.mark_point(filled=True, size=50, clip=True).encode(
        x=look.x, y=look.y, color=look.colour(), shape=look.shape(), tooltip=look.tooltip
    )
    layers: list[AnyChart] = [line, dots]
    if any(math.isfinite(point.low) for point in points):
        layers.insert(0, band)
    counts = Counter(point.series for point in points)
    if alone := [point for point in points if counts[point.series] == 1 and math.isfinite(point.low)]:
        bar = alt.Chart(data(alone)).mark_rule(strokeWidth=2, clip=True)
        layers.append(bar.encode(x=look.x, y=look.y_of("low"), y2=alt.Y2("high:Q"), color=look.colour()))
    return _figure(name, title, caption, [*_rules(rules, look), *layers])


def cloud(
    name: str,
    title: str,
    caption: str,
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    *,
    rules: Sequence[Rule] = (),
    colours: Mapping[str, str] | None = None,
    diagonal: bool = False,
) -> Figure:
    """One mark for each point, its series told by colour and shape; `diagonal` draws y = x."""
    look = _Look(points, x, y, colours, filled=False)
    dots = (
        alt.Chart(data(points))
        .mark_point(size=36, opacity=0.65, clip=True, strokeWidth=1.4)
        .encode(x=look.x, y=look.y, color=look.colour(), shape=look.shape(), tooltip=look.tooltip)
    )
    layers: list[AnyChart] = [*_rules(rules, look)]
    if diagonal:
        ends = [min(look.xs + look.ys), max(look.xs + look.ys)]
        line = alt.Chart(data([{"x": end, "y": end} for end in ends])).mark_line(
            color=MUTED, strokeDash=[4, 4], clip=True
        )
        layers.append(line.encode(x=look.x, y=look.y))
    return _figure(name, title, caption, [*layers, dots])


@dataclass(frozen=True)
class Value:
    """One value with its 95 % interval, in the row of its label."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    series: str = ""
    note: str = ""

    @classmethod
    def of(cls, label: str, value: Estimate, series: str = "", note: str = "") -> "Value":
        """The value of an estimate, with its interval."""
        return cls(label, value.mean, value.low, value.high, series, note)


def values(
    name: str,
    title: str,
    caption: str,
    rows: Sequence[Value],
    axis: Axis,
    *,
    rules: Sequence[Rule] = (),
    colours: Mapping[str, str] | None = None,
) -> Figure:
    """A row for each label, a mark for each of its values, and a line over its interval; series side by side."""
    labels = list(dict.fromkeys(row.label for row in rows))
    series = list(dict.fromkeys(row.series for row in rows))
    look = _Look([Point(row.series, row.value, 0.0) for row in rows], axis, axis, colours)
    ends = [end for row in rows for end in (row.value, row.low, row.high)]
    x = axis.encoding("value", ends, alt.X)
    wide = alt.Axis(labelLimit=260, ticks=False, domain=False, grid=len(series) > 1)
    y = alt.Y("label:N", title=None, sort=labels, axis=wide)
    chart = alt.Chart(data(rows))
    offset: Any = alt.YOffset("series:N", sort=series) if len(series) > 1 else alt.Undefined
    colour = look.colour() if len(series) > 1 else alt.ColorValue(INK)
    shape: Any = look.shape() if len(series) > 1 else alt.Undefined
    line = chart.mark_rule(strokeWidth=2, clip=True).encode(
        x=axis.encoding("low", ends, alt.X), x2=alt.X2("high:Q"), y=y, yOffset=offset, color=colour
    )
    tooltip = [alt.Tooltip("label:N", title=" "), _tooltip(axis, "value"), *look.series_tooltip]
    dots = chart.mark_point(filled=True, size=70, clip=True).encode(
        x=x, y=y, yOffset=offset, color=colour, shape=shape, tooltip=tooltip
    )
    height = ROW * len(labels) * max(1, len(series))
    drawn = [_vertical(rule, x) for rule in rules]
    return Figure(name, title, caption, alt.layer(*drawn, line, dots).properties(width=WIDTH, height=height))


class _Look:
    """The encodings of a chart's series."""

    def __init__(
        self, points: Sequence[Point], x: Axis, y: Axis, colours: Mapping[str, str] | None, filled: bool = True
    ) -> None:
        self.filled = filled
        self.series = list(dict.fromkeys(point.series for point in points))
        given = run_colours(len(self.series))
        self.colours = [(colours or {}).get(name, colour) for name, colour in zip(self.series, given, strict=True)]
        self.xs = [point.x for point in points if math.isfinite(point.x)]
        self.ys = [end for point in points for end in (point.y, point.low, point.high) if math.isfinite(end)]
        self._x, self._y = x, y
        self.x = x.encoding("x", self.xs, alt.X)
        self.y = self.y_of("y")

    def y_of(self, field: str) -> Any:
        return self._y.encoding(field, self.ys, alt.Y)

    def _legend(self) -> Any:
        columns = 2 if self.series and max(map(len, self.series)) > SHORT_LABEL else 4
        if len(self.series) == 1:
            return None
        # Without their outlines, which would take on the dashes of the lines.
        outline: Any = 0 if self.filled else alt.Undefined
        return alt.Legend(title=None, columns=columns, symbolOpacity=1, symbolStrokeWidth=outline)

    def _by_series(self, kind: type[Any], looks: Sequence[Any]) -> Any:
        """The encoding that gives each series its look, the first again where there are more series than looks."""
        scale = alt.Scale(domain=self.series, range=[looks[i % len(looks)] for i in range(len(self.series))])
        return kind("series:N", scale=scale, sort=self.series, legend=self._legend())

    def colour(self) -> Any:
        return self._by_series(alt.Color, self.colours)

    def shape(self) -> Any:
        return self._by_series(alt.Shape, SHAPES)

    def dash(self) -> Any:
        return self._by_series(alt.StrokeDash, DASHES)

    @property
    def series_tooltip(self) -> list[alt.Tooltip]:
        note = [alt.Tooltip("note:N", title="of")]
        return [alt.Tooltip("series:N", title="series"), *note] if len(self.series) > 1 else note

    @property
    def tooltip(self) -> list[alt.Tooltip]:
        return [*self.series_tooltip, _tooltip(self._x, "x"), _tooltip(self._y, "y")]


def _tooltip(axis: Axis, field: str) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", title=axis.title, format=".1%" if axis.percent else ".3~g")


def _rules(rules: Sequence[Rule], look: _Look) -> list[AnyChart]:
    return [_vertical(rule, look.x) if rule.x is not None else _horizontal(rule, look.y) for rule in rules]


def _vertical(rule: Rule, x: Any) -> AnyChart:
    encoding = x.copy()
    encoding.shorthand = "at:Q"
    base = alt.Chart(data([{"at": rule.x, "text": rule.text}])).encode(x=encoding)
    text = base.mark_text(align="left", dx=5, baseline="top", fontSize=12, color=MUTED).encode(
        text=alt.Text("text:N"), y=alt.YValue(4)
    )
    return alt.layer(base.mark_rule(strokeDash=[4, 4], color=MUTED), text)


def _horizontal(rule: Rule, y: Any) -> AnyChart:
    encoding = y.copy()
    encoding.shorthand = "at:Q"
    base = alt.Chart(data([{"at": rule.y, "text": rule.text}])).encode(y=encoding)
    text = base.mark_text(align="right", dy=-5, baseline="bottom", fontSize=12, color=MUTED).encode(
        text=alt.Text("text:N"), x=alt.XValue(WIDTH - 4)
    )
    return alt.layer(base.mark_rule(strokeDash=[4, 4], color=MUTED), text)


def _figure(name: str, title: str, caption: str, layers: Sequence[AnyChart]) -> Figure:
    return Figure(name, title, caption, alt.layer(*layers).properties(width=WIDTH, height=HEIGHT))
