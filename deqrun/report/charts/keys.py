"""Which mark belongs to which solver and start: the encodings that all sweep charts share."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from deqrun.records.run import RunRecord
from deqrun.report.charts.style import BAND, solver_colours, solver_shapes

SHORT_LABEL = 18
"""Legends whose longest label has more characters stand in one column, to fit a narrow page."""
FEW_LINES = 4
"""Charts of more lines leave out the bands, which would hide one another; the tooltips keep their numbers."""


class Keys:
    """Encodings by solver and start, from the points that a chart draws."""

    def __init__(self, points: Sequence[Any]) -> None:
        self.solvers = sorted({point.solver for point in points})
        self.starts = sorted({point.start for point in points}, key=lambda start: (start != "zeros", start))
        self.detail = [alt.Detail("solver:N"), alt.Detail("start:N")]
        self.banded = len({(point.solver, point.start) for point in points}) <= FEW_LINES
        self.pick = alt.selection_point(name="picked", fields=["solver"], bind="legend")

    @property
    def colour(self) -> alt.Color:
        """Colour by solver."""
        scale = alt.Scale(domain=self.solvers, range=solver_colours(self.solvers))
        return alt.Color("solver:N", scale=scale, legend=_solver_legend())

    def point(self) -> dict[str, Any]:
        """Colour, shape and grouping of a point."""
        scale = alt.Scale(domain=self.solvers, range=solver_shapes(self.solvers))
        shape = alt.Shape("solver:N", scale=scale, legend=_solver_legend())
        return {"color": self.colour, "detail": self.detail, "shape": shape}

    def line(self) -> dict[str, Any]:
        """Colour, dash and grouping of a line. Dash tells starts apart."""
        encodings: dict[str, Any] = {"color": self.colour, "detail": self.detail}
        if len(self.starts) > 1:
            dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]
            scale = alt.Scale(domain=self.starts, range=[dashes[i % 4] for i in range(len(self.starts))])
            encodings["strokeDash"] = alt.StrokeDash("start:N", scale=scale, legend=_dash_legend("start"))
        return encodings

    def picked(self, opacity: float = 1.0, otherwise: float = 0.12) -> Any:
        """Full opacity for the series picked in the legend, or for everything while nothing is picked."""
        return alt.OpacityValue(**alt.condition(self.pick, alt.value(opacity), alt.value(min(opacity, otherwise))))

    def layers(
        self, rows: alt.Data, x: alt.X, y: alt.Y, ends: tuple[alt.Y, alt.Y2], size: int, tooltip: list[alt.Tooltip]
    ) -> list[alt.Chart]:
        """Band between the ends, line, and points of one size, of every solver and start."""
        base, (low, high) = alt.Chart(rows), ends
        band = base.mark_area(clip=True).encode(
            x=x, y=low, y2=high, color=self.colour, detail=self.detail, opacity=self.picked(BAND, 0.01)
        )
        line = base.mark_line(strokeWidth=2, clip=True).encode(x=x, y=y, opacity=self.picked(), **self.line())
        dots = base.mark_point(filled=True, size=size, clip=True).encode(
            x=x, y=y, opacity=self.picked(), tooltip=[*self.tooltip, *tooltip], **self.point()
        )
        return [*([band] if self.banded else []), line, dots.add_params(self.pick)]

    @property
    def tooltip(self) -> list[alt.Tooltip]:
        """Whose point it is."""
        named = [alt.Tooltip("solver:N", title="solver")]
        return [*named, alt.Tooltip("start:N", title="start")] if len(self.starts) > 1 else named


def _solver_legend() -> alt.Legend:
    # Drawn at full opacity: the legend would else be as pale as the band, the first mark with this colour.
    return alt.Legend(title=None, columns=3, symbolOpacity=1)


def _dash_legend(title: str | None) -> alt.Legend:
    return alt.Legend(title=title, columns=3, symbolType="stroke", symbolSize=300, symbolStrokeColor="#444444")


def interval_tooltip(name: str, written: str = ".1%") -> list[alt.Tooltip]:
    """Tooltips of a field and of the ends of its interval, `name`_low and `name`_high."""
    fields = {name: name, f"{name}_low": "interval from", f"{name}_high": "interval to"}
    return [alt.Tooltip(f"{field}:Q", title=title, format=written) for field, title in fields.items()]


def scope(record: RunRecord, points: Sequence[Any], split: str) -> str:
    """'digits, test split, n = 360': the data set, the split and the number of samples behind a chart."""
    dataset = record.choice("dataset")
    sizes = sorted({point.n for point in points})
    n = f"n = {sizes[0]:,}" if len(sizes) == 1 else f"n = {sizes[0]:,} to {sizes[-1]:,}"
    return ", ".join([*([dataset] if dataset else []), f"{split} split", n])
