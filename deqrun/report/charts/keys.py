"""Which mark belongs to which solver, start and run: the encodings that all sweep charts share."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from deqrun.records.run import RunRecord
from deqrun.report.charts.data import labels
from deqrun.report.charts.style import run_colours, solver_colours, solver_dashes, solver_shapes

SHORT_LABEL = 18
"""Legends whose longest label has more characters stand in one column, to fit a narrow page."""
FEW_LINES = 4
"""Charts of more lines leave out the bands, which would hide one another; the tooltips keep their numbers."""


def starts_of(records: Sequence[RunRecord], record: RunRecord) -> list[str]:
    """The starts to draw: all of a single run's; of several runs each one's main start, lest the lines be too many."""
    return record.starts if len(records) == 1 else [record.main_start]


class Keys:
    """Encodings by solver (one run) or by run and solver (several), from the points that a chart draws."""

    def __init__(self, records: Sequence[RunRecord], points: Sequence[Any]) -> None:
        self.overlay = len(records) > 1
        self.solvers = sorted({point.solver for point in points})
        self.starts = sorted({point.start for point in points}, key=lambda start: (start != "zeros", start))
        drawn = {point.run for point in points}
        every = labels(records)
        # A run without points keeps its colour in reserve: the same run has the same colour in every chart.
        self.runs = [label for label in every if label in drawn]
        self._run_colours = [c for label, c in zip(every, run_colours(len(every)), strict=True) if label in drawn]
        self.detail = ["run:N", "solver:N", "start:N"]
        key = "run" if self.overlay else "solver"
        lines = {(point.run, point.solver, point.start) for point in points}
        self.banded = len(lines) <= FEW_LINES
        self.pick = alt.selection_point(name="picked", fields=[key], bind="legend")

    @property
    def colour(self) -> alt.Color:
        """Colour by run in a comparison, else by solver."""
        if self.overlay:
            columns = 1 if max(map(len, self.runs)) > SHORT_LABEL else 3
            legend = alt.Legend(title=None, columns=columns, symbolType="circle", symbolOpacity=1)
            return alt.Color("run:N", scale=alt.Scale(domain=self.runs, range=self._run_colours), legend=legend)
        scale = alt.Scale(domain=self.solvers, range=solver_colours(self.solvers))
        return alt.Color("solver:N", scale=scale, legend=_solver_legend())

    def point(self, shaped: bool = False) -> dict[str, Any]:
        """Colour and grouping of a point; its shape by solver where no line's dash tells it."""
        encodings: dict[str, Any] = {"color": self.colour, "detail": self.detail}
        if shaped or not self.overlay:
            scale = alt.Scale(domain=self.solvers, range=solver_shapes(self.solvers))
            encodings["shape"] = alt.Shape("solver:N", scale=scale, legend=_solver_legend())
        return encodings

    def line(self) -> dict[str, Any]:
        """Colour, dash and grouping of a line. Dash tells solvers in a comparison, and starts in a single run."""
        encodings: dict[str, Any] = {"color": self.colour, "detail": self.detail}
        if self.overlay:
            scale = alt.Scale(domain=self.solvers, range=solver_dashes(self.solvers))
            encodings["strokeDash"] = alt.StrokeDash("solver:N", scale=scale, legend=_dash_legend(None))
        elif len(self.starts) > 1:
            dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]
            scale = alt.Scale(domain=self.starts, range=[dashes[i % 4] for i in range(len(self.starts))])
            encodings["strokeDash"] = alt.StrokeDash("start:N", scale=scale, legend=_dash_legend("start"))
        return encodings

    def picked(self, opacity: float = 1.0, otherwise: float = 0.12) -> Any:
        """Full opacity for the series picked in the legend, or for everything while nothing is picked."""
        return alt.condition(self.pick, alt.value(opacity), alt.value(min(opacity, otherwise)))

    @property
    def tooltip(self) -> list[alt.Tooltip]:
        """Whose point it is."""
        named = [alt.Tooltip("run:N", title="run")] if self.overlay else []
        named.append(alt.Tooltip("solver:N", title="solver"))
        return [*named, alt.Tooltip("start:N", title="start")] if len(self.starts) > 1 else named


def _solver_legend() -> alt.Legend:
    # Drawn at full opacity: the legend would else be as pale as the band, the first mark with this colour.
    return alt.Legend(title=None, columns=3, symbolOpacity=1)


def _dash_legend(title: str | None) -> alt.Legend:
    return alt.Legend(title=title, columns=3, symbolType="stroke", symbolSize=300, symbolStrokeColor="#444444")


def scope(records: Sequence[RunRecord], points: Sequence[Any], split: str) -> str:
    """'digits, test split, n = 360': the data set, the split and the number of samples behind a chart."""
    datasets = sorted({name for record in records if (name := record.choice("dataset"))})
    sizes = sorted({point.n for point in points})
    n = f"n = {sizes[0]:,}" if len(sizes) == 1 else f"n = {sizes[0]:,} to {sizes[-1]:,}"
    return ", ".join([*datasets[:3], f"{split} split", n])
