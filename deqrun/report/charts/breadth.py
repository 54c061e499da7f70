"""Depth against breadth: iterations of a start, and how many starts are put together."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from deqrun.records.rows import BreadthRow
from deqrun.records.run import RunRecord
from deqrun.report.charts.keys import interval_tooltip, scope
from deqrun.report.charts.style import BAND, HEIGHT, INK, MUTED, RUN_COLOURS, WIDTH, Figure, data

AGGREGATIONS = {
    "mean": "the mean of their read-outs",
    "vote": "a vote",
    "residual": "the start of lowest residual",
    "top": "a vote of the half of lowest residual",
    "confident": "the most confident start",
    "head": "the start that the halting head trusts most",
}
ROW = 34
"""Height of one breadth in the heat map."""
MANY = 14
"""Of more iterations than this the cells are too narrow for their numbers."""


def breadth_figures(record: RunRecord, split: str = "test") -> list[Figure]:
    """A heat map for each aggregation, and the spread over the starts, of the run's main solver."""
    if record.main_solver is None:
        return []
    rows = record.breadth_rows(split, record.main_solver)
    if not rows:
        return []
    starts = "normal starts" if rows[0].start == "normal" else "one start"
    about = f"{scope(record, rows, split)}; {record.main_solver}, {starts}"
    present = [name for name in AGGREGATIONS if any(row.aggregation == name for row in rows)]
    figures = [*(_heat_map(rows, name, split, about) for name in present), _spread(rows, split, about)]
    return [*figures, *_by_noise(record, split, about)]


def _by_noise(record: RunRecord, split: str, about: str) -> list[Figure]:
    """Accuracy at the largest depth against the level of the noise, by the number of draws; none without noise."""
    solver = record.main_solver or ""
    rows = record.breadth_rows(split, solver, noise=None)
    levels, depth = sorted({row.noise for row in rows}), max(row.max_iter for row in rows)
    if len(levels) < 2:
        return []
    # One way to put draws together: the best on validation, with the most draws.
    chosen = record.breadth_rows("validation", solver, noise=None) or rows
    most = max(row.breadth for row in chosen)
    way = max((row for row in chosen if row.breadth == most), key=lambda row: row.accuracy).aggregation
    of = [row for row in rows if row.max_iter == depth and row.aggregation == way]
    x = alt.X("noise:Q", title="noise of each step, over the state's root mean square")
    x = x.scale(alt.Scale(type="symlog", constant=levels[1], nice=False)).axis(alt.Axis(values=levels, grid=False))
    y = alt.Y("accuracy:Q", title=f"{split} accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format=".3~p"))
    breadths = sorted({row.breadth for row in of})
    shades = alt.Scale(domain=breadths, range=[RUN_COLOURS[place % len(RUN_COLOURS)] for place in range(len(breadths))])
    colour = alt.Color("breadth:O", scale=shades, legend=alt.Legend(title="draws"))
    base = alt.Chart(data(of))
    low = alt.Y("accuracy_low:Q", title=f"{split} accuracy", scale=alt.Scale(zero=False))
    band = base.mark_area(opacity=BAND).encode(x=x, y=low, y2=alt.Y2("accuracy_high:Q"), color=colour)
    line = base.mark_line(strokeWidth=1.8, point={"size": 30, "filled": True})
    line = line.encode(x=x, y=y, color=colour, tooltip=[*_tooltip(), alt.Tooltip("noise:Q", title="noise")])
    caption = f"{about}; {depth:,} iterations each, by {AGGREGATIONS[way]}. Bands: 95 % intervals over samples."
    chart = alt.layer(band, line).properties(width=WIDTH, height=HEIGHT)
    return [Figure("breadth_noise", "Accuracy by the noise of each step", caption, chart)]


def _heat_map(rows: list[BreadthRow], aggregation: str, split: str, about: str) -> Figure:
    """Accuracy of every breadth and number of iterations; lines join cells of equal cost."""
    of = [row for row in rows if row.aggregation == aggregation]
    depths, breadths = sorted({row.max_iter for row in of}), sorted({row.breadth for row in of})
    # One scale for all aggregations, so that their maps can be compared.
    least, most = min(row.accuracy for row in rows), max(row.accuracy for row in rows)
    x = alt.X("max_iter:O", title="iterations of each start", axis=alt.Axis(labelAngle=0), sort=depths)
    y = alt.Y("breadth:O", title="starts", sort=breadths[::-1])
    scale = alt.Scale(scheme="viridis", domain=[least, most if most > least else least + 0.01])
    colour = alt.Color("accuracy:Q", scale=scale, legend=alt.Legend(title=f"{split} accuracy", format=".0%"))
    base = alt.Chart(data(of))
    layers: list[Any] = [base.mark_rect().encode(x=x, y=y, color=colour, tooltip=_tooltip())]
    lines = _equal_compute(of)
    if lines:
        drawn = alt.Chart(data(lines)).mark_line(strokeWidth=1, strokeDash=[3, 3], color=MUTED, opacity=0.7)
        layers.append(drawn.encode(x=x, y=y, detail=alt.Detail("compute:N")))
    if len(depths) <= MANY:
        bright = f"datum.accuracy > {least + 0.6 * (most - least)}"
        text = base.mark_text(fontSize=12).encode(
            x=x,
            y=y,
            text=alt.Text("accuracy:Q", format=".1%"),
            color=alt.condition(bright, alt.value(INK), alt.value("white")),
        )
        layers.append(text)
    chart = alt.layer(*layers).properties(width=WIDTH, height=ROW * max(len(breadths), 2))
    joined = " Dashed lines join what costs the same: starts × iterations." if lines else ""
    title = f"{split.capitalize()} accuracy by depth and breadth: {AGGREGATIONS[aggregation]}"
    return Figure(f"breadth_{aggregation}", title, f"{about}.{joined}", chart)


def _equal_compute(rows: Sequence[BreadthRow]) -> list[dict[str, int]]:
    """Cells whose starts × iterations occur more than once."""
    cells = [{"compute": row.breadth * row.max_iter, "breadth": row.breadth, "max_iter": row.max_iter} for row in rows]
    often = [cell["compute"] for cell in cells]
    return [cell for cell in cells if cell["compute"] and often.count(cell["compute"]) > 1]


def _spread(rows: list[BreadthRow], split: str, about: str) -> Figure:
    """Accuracies of the single starts and of their joint answer, and the shares that some or all get right."""
    breadth = max(row.breadth for row in rows)
    of = [row for row in rows if row.breadth == breadth]
    one = [row for row in of if row.aggregation == of[0].aggregation]
    budgets = sorted({row.max_iter for row in of})
    scale = alt.Scale(type="symlog", constant=1, domain=[budgets[0], budgets[-1]], nice=False, padding=8)
    x = alt.X(
        "max_iter:Q",
        title="iterations of each start",
        scale=scale,
        axis=alt.Axis(values=budgets, format="d", grid=False),
    )
    accuracies: dict[str, Any] = {
        "title": f"{split} accuracy",
        "scale": alt.Scale(zero=False),
        "axis": alt.Axis(format=".3~p", tickCount=6),
    }
    band = alt.Chart(data(one)).mark_area(color=MUTED, opacity=BAND)
    band = band.encode(x=x, y=alt.Y("starts_least:Q", **accuracies), y2=alt.Y2("starts_most:Q"))
    curves = [{"what": row.aggregation, "max_iter": row.max_iter, "value": row.accuracy} for row in of]
    for name, field in (("one start", "starts_mean"), ("some start", "some_right"), ("every start", "all_right")):
        curves += [{"what": name, "max_iter": row.max_iter, "value": getattr(row, field)} for row in one]
    ways = [name for name in AGGREGATIONS if any(row.aggregation == name for row in of)]
    names = [*ways, "one start", "some start", "every start"]
    legend = alt.Legend(title=None, columns=4, symbolType="stroke", symbolSize=250)
    colours = alt.Scale(domain=names, range=[*RUN_COLOURS[: len(ways)], INK, MUTED, MUTED])
    colour = alt.Color("what:N", scale=colours, legend=legend)
    dash = alt.StrokeDash(
        "what:N", scale=alt.Scale(domain=names, range=[[1, 0]] * (len(ways) + 1) + [[6, 3], [2, 2]]), legend=None
    )
    tip = [
        alt.Tooltip("what:N", title="of"),
        alt.Tooltip("max_iter:Q", title="iterations"),
        alt.Tooltip("value:Q", title="accuracy", format=".1%"),
    ]
    line = alt.Chart(data(curves)).mark_line(strokeWidth=1.8, point={"size": 25, "filled": True})
    y = alt.Y("value:Q", **accuracies)
    chart = alt.layer(band, line.encode(x=x, y=y, color=colour, strokeDash=dash, tooltip=tip))
    caption = (
        f"{about}. Band: the least and the most accurate of {breadth} starts, black their mean; "
        f"colours: all {breadth} put together. Dashed: samples that some start gets right; dotted: every start."
    )
    title = "Single starts, and what they come to together"
    return Figure("breadth_spread", title, caption, chart.properties(width=WIDTH, height=HEIGHT))


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("breadth:Q", title="starts"),
        alt.Tooltip("max_iter:Q", title="iterations"),
        *interval_tooltip("accuracy"),
        alt.Tooltip("nfe_mean:Q", title="mean evaluations, all starts", format=".1f"),
        alt.Tooltip("n:Q", title="samples", format=","),
    ]
