"""Residual against the evaluations spent."""

import math
from typing import Any

import altair as alt

from deqrun.records.residual_curve import residual_points
from deqrun.records.rows import CurveRow
from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.charts.axes import EDGE, LogAxis
from deqrun.report.charts.keys import Keys, scope
from deqrun.report.charts.style import HEIGHT, MUTED, WIDTH, AnyChart, Figure, data


def residual_against_evaluations(record: RunRecord, split: str = "test") -> Figure | None:
    """Median residual and its 10–90 % band over the samples; a rule at the training tolerance."""
    points = residual_points(record, split)
    tolerances = [record.train_tol] if record.train_tol else []
    drawable = [v for p in points for v in (p.low, p.median, p.high) if math.isfinite(v) and v > 0]
    if not drawable:
        return None
    axis = LogAxis.around([*drawable, *tolerances])
    keys = Keys(points)
    chart = alt.layer(
        *(_training_tolerance(tol) for tol in tolerances), *_residual_layers(keys, points, axis, _title(record))
    ).properties(width=WIDTH, height=HEIGHT)
    caption = (
        f"{scope(record, points, split)}. Line: "
        f"median{'; band: 10 % to 90 % of the samples' if keys.banded else ''}. "
        "A sample that stopped keeps its last residual."
    )
    title = f"Residual against evaluations, {split} split"
    return Figure("residual_evaluations", title, caption, chart)


def _residual_layers(keys: Keys, points: list[CurveRow], log: LogAxis, title: str) -> list[alt.Chart]:
    """Band, line and points of every solver."""
    x = alt.X(
        "nfe:Q",
        title="evaluations of the cell, per sample",
        scale=alt.Scale(nice=False, padding=EDGE),
        axis=alt.Axis(format="d", grid=False, tickMinStep=1),
    )
    axis: dict[str, Any] = {"title": title, "scale": log.scale, "axis": log.axis()}
    y, ends = alt.Y("line:Q", **axis), (alt.Y("band_low:Q", **axis), alt.Y2("band_high:Q"))
    return keys.layers(data([_row(point, log) for point in points]), x, y, ends, 22, _tooltip())


def _row(point: CurveRow, log: LogAxis) -> dict[str, Any]:
    """A point as drawn: zero stands at the axis's floor; inf ends the line, and the band at the ceiling."""
    finite = math.isfinite(point.median)
    in_band = math.isfinite(point.low)
    return {
        "solver": point.solver,
        "start": point.start,
        "nfe": point.nfe,
        "running": point.running,
        "n": point.n,
        "line": log.clip(point.median) if finite else None,
        "band_low": log.clip(point.low) if in_band else None,
        "band_high": log.clip(point.high) if in_band else None,
        "median": numbers.residual(point.median),
        "low": numbers.residual(point.low),
        "high": numbers.residual(point.high),
    }


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("nfe:Q", title="evaluations", format=","),
        alt.Tooltip("median:N", title="median residual"),
        alt.Tooltip("low:N", title="10 % quantile"),
        alt.Tooltip("high:N", title="90 % quantile"),
        alt.Tooltip("running:Q", title="samples still iterating", format=","),
        alt.Tooltip("n:Q", title="samples", format=","),
    ]


def _training_tolerance(tol: float) -> AnyChart:
    """A dashed horizontal rule at the training tolerance, its label at the right where curves have come down."""
    base = alt.Chart(data([{"tol": tol, "text": f"training tolerance {numbers.tolerance(tol)}"}])).encode(
        y=alt.Y("tol:Q")
    )
    label = base.mark_text(align="right", dx=-4, dy=-4, baseline="bottom", fontSize=12, color=MUTED)
    return alt.layer(
        base.mark_rule(strokeDash=[4, 4], color=MUTED), label.encode(text=alt.Text("text:N"), x=alt.XValue("width"))
    )


def _title(record: RunRecord) -> str:
    norm = record.setting("budget", "norm") or "relative"
    return "relative residual, largest entry" if norm == "max" else f"{norm} residual"
