"""Accuracy against cost: the compute–accuracy frontier of a sweep."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.charts.axes import accuracy_axis
from deqrun.report.charts.data import FrontierPoint, frontier_points
from deqrun.report.charts.keys import Keys, interval_tooltip, scope
from deqrun.report.charts.style import HEIGHT, INK, WIDTH, Figure, data, near_best


def accuracy_against_evaluations(record: RunRecord, split: str = "test", close: bool = False) -> Figure | None:
    """Every cell of the sweep as a point; a stepped line joins those that no other cell beats.

    close: the same chart, cut to accuracies near the best; None where nothing would be cut.
    """
    points = frontier_points(record, split)
    axis = accuracy_axis(points, split, close) if points else None
    if axis is None:
        return None
    keys = Keys(points)
    rows = [_row(point) for point in points]
    x = _cost_axis(points)
    y = alt.Y("accuracy:Q", **axis)
    frontier = alt.Chart(data([row for row in rows if row["frontier"]])).mark_line(
        interpolate="step-after", strokeWidth=1.6, color=INK, opacity=0.75, clip=True
    )
    dots = alt.Chart(data(rows)).mark_point(filled=True, size=60, clip=True)
    layers = [
        frontier.encode(x=x, y=y),
        dots.encode(x=x, y=y, opacity=_tolerance_shade(points), tooltip=[*keys.tooltip, *_tooltip()], **keys.point()),
    ]
    chart = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT)
    caption = (
        f"{scope(record, points, split)}. A point is one budget and tolerance; the line joins those that no other "
        "point beats in both cost and accuracy. "
        "It describes this split: choose an operating point on validation."
    )
    title = f"{split.capitalize()} accuracy against evaluations"
    return near_best("accuracy_evaluations", title, caption, chart, close)


def _row(point: FrontierPoint) -> dict[str, Any]:
    return {
        **{name: getattr(point, name) for name in FrontierPoint.__dataclass_fields__},
        "tolerance": numbers.tolerance(point.tol),
        "residual": numbers.residual(point.residual_median),
        "time": numbers.duration(point.seconds),
    }


def _cost_axis(points: Sequence[FrontierPoint]) -> alt.X:
    """Mean evaluations on a scale of equal factors, with ticks at the powers of two."""
    largest = max(point.nfe_mean for point in points)
    ticks = [2**power for power in range(40) if 2**power <= 2 * largest]
    return alt.X(
        "nfe_mean:Q",
        title="mean evaluations of the cell, per sample",
        scale=alt.Scale(type="log", base=2, nice=False, padding=12),
        axis=alt.Axis(values=ticks, format=",d", grid=False),
    )


def _tolerance_shade(points: Sequence[FrontierPoint]) -> alt.Opacity:
    """The smaller the tolerance, the fuller the colour."""
    ordered = [numbers.tolerance(tol) for tol in sorted({point.tol for point in points}, reverse=True)]
    return alt.Opacity(
        "tolerance:O",
        scale=alt.Scale(domain=ordered, range=[0.2, 0.95] if len(ordered) > 1 else [0.95, 0.95]),
        legend=alt.Legend(title="tolerance", orient="bottom", columns=5, symbolOpacity=1),
    )


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("max_iter:Q", title="budget", format=","),
        alt.Tooltip("tolerance:N", title="tolerance"),
        *interval_tooltip("accuracy"),
        alt.Tooltip("nfe_mean:Q", title="mean evaluations", format=".1f"),
        alt.Tooltip("nfe_p95:Q", title="95 % quantile of evaluations", format=".1f"),
        alt.Tooltip("converged:Q", title="converged", format=".1%"),
        alt.Tooltip("residual:N", title="median residual"),
        alt.Tooltip("time:N", title="time"),
        alt.Tooltip("n:Q", title="samples", format=","),
        alt.Tooltip("frontier:N", title="on the frontier"),
    ]
