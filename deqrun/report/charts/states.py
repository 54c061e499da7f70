"""Trajectories of states on their principal components."""

import altair as alt
import numpy as np

from deqrun.records.kept_states import KeptStates
from deqrun.report.charts.style import HEIGHT, RUN_COLOURS, WIDTH, Figure, data

MOST = 120
"""Iterates of a sample that are drawn."""


def state_trajectories(kept: KeptStates | None) -> Figure | None:
    """The path of each kept sample on the first two principal components of all of them, right and wrong told apart."""
    if kept is None:
        return None
    projection = kept.projection(2)
    rows = []
    for sample, (points, last) in enumerate(zip(projection.points, kept.last, strict=True)):
        for k in np.unique(np.geomspace(1, last + 1, MOST).round().astype(int)) - 1:
            if np.isfinite(points[k]).all():
                right = bool(kept.correct[sample, last])
                rows.append(
                    {
                        "sample": int(kept.places[sample]),
                        "iterate": int(k),
                        "x": float(points[k, 0]),
                        "y": float(points[k, 1]),
                        "ends": "right" if right else "wrong",
                        "now": "right" if kept.correct[sample, k] else "wrong",
                        "place": "start" if k == 0 else "end" if k == last else "",
                    }
                )
    if not rows:
        return None
    shares = projection.explained
    scale = alt.Scale(domain=["right", "wrong"], range=list(RUN_COLOURS[:2]))
    colour = alt.Color("ends:N", scale=scale, legend=alt.Legend(title="at its end", columns=2))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("x:Q", title=f"first component ({100 * shares[0]:.0f} % of the variance)", axis=alt.Axis(tickCount=6)),
        y=alt.Y("y:Q", title=f"second component ({100 * shares[1]:.0f} %)", axis=alt.Axis(tickCount=6)),
        color=colour,
    )
    tooltip = [
        alt.Tooltip("sample:Q", title="place in the split", format="d"),
        alt.Tooltip("iterate:Q", title="iterate", format="d"),
        alt.Tooltip("now:N", title="its answer"),
    ]
    path = base.mark_line(strokeWidth=1.5, opacity=0.6).encode(
        detail=alt.Detail("sample:N"), order=alt.Order("iterate:Q")
    )
    dots = base.mark_point(filled=True, size=12, opacity=0.6).encode(tooltip=tooltip)
    start = base.transform_filter("datum.place == 'start'").mark_point(size=70, shape="circle", filled=False)
    end = (
        base.transform_filter("datum.place == 'end'")
        .mark_point(size=80, filled=True)
        .encode(
            shape=alt.Shape(
                "ends:N", scale=alt.Scale(domain=["right", "wrong"], range=["square", "cross"]), legend=None
            ),
            tooltip=tooltip,
        )
    )
    caption = (
        f"{len(kept.states)} samples of the test split, evenly spaced, by the training solver. Ring: the start; square "
        "or cross: the end, right or wrong. One set of components for all states together."
    )
    chart = alt.layer(path, dots, start, end).properties(width=WIDTH, height=HEIGHT)
    return Figure("state_trajectories", "Paths of states, first two principal components", caption, chart)
