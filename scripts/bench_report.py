"""The benchmark's table and picture."""

from __future__ import annotations

from typing import NamedTuple

import altair as alt
import vl_convert


class Row(NamedTuple):
    """One ratio; `milliseconds` of the numerator where it is a time, for orientation."""

    figure: str
    case: str
    ratio: float
    milliseconds: float | None


def table(rows: list[Row]) -> str:
    """A Markdown table."""
    lines = ["| figure | case | ratio | ms |", "|---|---|---:|---:|"]
    for row in rows:
        shown = "" if row.milliseconds is None else f"{row.milliseconds:.2f}"
        lines.append(f"| {row.figure} | {row.case} | {row.ratio:.3g} | {shown} |")
    return "\n".join(lines)


def chart(rows: list[Row]) -> bytes:
    """PNG: per-step cost over the bare cell, per size and solver."""
    values = [
        {"size": size.strip(), "solver": solver.strip(), "ratio": row.ratio}
        for row in rows
        if row.figure.startswith("per step")
        for size, solver in [row.case.split(",", 1)]
    ]
    title = "Cost of a solver step, in evaluations of the bare cell"
    axis = alt.X("ratio:Q", title="time of a step over one evaluation of the cell")
    base = alt.Chart().encode(x=axis, y=alt.Y("solver:N", title=None, sort=None))
    bars = base.mark_bar().encode(color=alt.Color("solver:N", legend=None))
    numbers = base.mark_text(align="left", dx=3).encode(text=alt.Text("ratio:Q", format=".2f"))
    size = alt.Row("size:N", title=None, sort=["small", "middle", "large"])
    picture = alt.layer(bars, numbers, data=alt.Data(values=values)).properties(width=520)
    picture = picture.facet(row=size).resolve_scale(y="independent").properties(title=title)
    png: bytes = vl_convert.vegalite_to_png(picture.to_dict(), scale=2)
    return png
