"""Accuracy against mean evaluations where each sample stops by a rule of its own."""

from collections.abc import Sequence

import altair as alt

from deqrun.records.halting_rules import HALTING_RULES, RULES
from deqrun.records.rows import HaltingRow
from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.charts.axes import accuracy_axis
from deqrun.report.charts.keys import interval_tooltip, scope
from deqrun.report.charts.style import HEIGHT, INK, MUTED, RUN_COLOURS, WIDTH, AnyChart, Figure, data, near_best

RULE_COLOURS = (*RUN_COLOURS, "#8C510A")
"""One for each rule, whichever of them a chart shows."""


def accuracy_by_halting(record: RunRecord, split: str = "test", close: bool = False) -> Figure | None:
    """A line a rule through its thresholds, with the chosen one marked, and the bounds: fixed budget and oracle.

    Of the run's main solver. close: cut to accuracies near the best.
    """
    solver = record.main_solver
    if solver is None:
        return None
    rows = record.halting_rows(split, solver)
    ruled = [row for row in rows if row.rule != "oracle"]
    axis = accuracy_axis(rows, split, close) if ruled else None
    if axis is None:
        return None
    present = [rule for rule in HALTING_RULES if any(row.rule == rule for row in rows)]
    y = alt.Y("accuracy:Q", **axis)
    chart = alt.layer(*_layers(rows, present, _cost_axis(rows), y)).properties(width=WIDTH, height=HEIGHT)
    caption = (
        f"{scope(record, rows, split)}; {solver}. A line runs through a rule's thresholds, taken from validation; "
        "diamond: the one that validation chose. Dashed: the same number of iterations for every sample. "
        + ("Oracle: stops at the first right answer." if "oracle" in present else "")
    )
    title = f"{split.capitalize()} accuracy where every sample stops by itself"
    return near_best("halting", title, caption.strip(), chart, close)


def _layers(rows: list[HaltingRow], present: list[str], x: alt.X, y: alt.Y) -> list[AnyChart]:
    lines = [rule for rule in present if rule != "oracle"]
    # The colours are those of runs: no chart shows both.
    colours = dict(zip(RULES, RULE_COLOURS, strict=True)) | {"budget": INK}
    legend = alt.Legend(title=None, columns=7, symbolOpacity=1, symbolType="stroke", symbolSize=250)
    scale = alt.Scale(domain=lines, range=[colours[rule] for rule in lines])
    colour = alt.Color("rule:N", scale=scale, legend=legend)
    dashes = alt.Scale(domain=lines, range=[[1, 0] if rule in RULES else [4, 3] for rule in lines])
    base = alt.Chart(data([_row(row) for row in rows if row.rule in lines]))
    line = base.mark_line(strokeWidth=1.8, clip=True).encode(
        x=x, y=y, color=colour, strokeDash=alt.StrokeDash("rule:N", scale=dashes, legend=None)
    )
    hover = base.mark_point(size=60, opacity=0, filled=True, clip=True).encode(x=x, y=y, tooltip=_tooltip())
    chosen = alt.Chart(data([_row(row) for row in rows if row.chosen]))
    marks = chosen.mark_point(shape="diamond", size=150, filled=True, opacity=1, stroke="white", clip=True).encode(
        x=x, y=y, color=colour, tooltip=_tooltip()
    )
    oracle = alt.Chart(data([_row(row) for row in rows if row.rule == "oracle"]))
    # Not clipped: it lies at the upper edge, above all that is drawn by thresholds.
    star = oracle.mark_point(shape="cross", size=130, filled=True, opacity=1, color=INK)
    label = oracle.mark_text(align="left", dx=10, fontSize=12, color=MUTED).encode(text=alt.Text("rule:N"), x=x, y=y)
    return [line, hover, marks, star.encode(x=x, y=y, tooltip=_tooltip()), label]


def _row(row: HaltingRow) -> dict[str, object]:
    named = {name: getattr(row, name) for name in HaltingRow.__dataclass_fields__}
    threshold = f"{row.threshold:.3g}{HALTING_RULES[row.rule].unit}" if row.rule != "oracle" else numbers.UNKNOWN
    return named | {"threshold": threshold}


def _cost_axis(rows: Sequence[HaltingRow]) -> alt.X:
    """Mean evaluations: equal distances for equal factors, and a place for none at all."""
    largest = max(row.nfe_mean for row in rows)
    ticks = [0, *(2**power for power in range(40) if 2**power <= 1.1 * largest)]
    return alt.X(
        "nfe_mean:Q",
        title="mean evaluations of the cell, per sample",
        scale=alt.Scale(type="symlog", constant=1, domain=[0, 1.05 * largest], nice=False, padding=8),
        axis=alt.Axis(values=ticks, format=",d", grid=False),
    )


def _tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("rule:N", title="rule"),
        alt.Tooltip("threshold:N", title="threshold"),
        alt.Tooltip("chosen:N", title="chosen on validation"),
        *interval_tooltip("accuracy"),
        alt.Tooltip("nfe_mean:Q", title="mean evaluations", format=".1f"),
        alt.Tooltip("nfe_p95:Q", title="95 % quantile of evaluations", format=".1f"),
        alt.Tooltip("fired:Q", title="stopped by the rule", format=".1%"),
        alt.Tooltip("n:Q", title="samples", format=","),
    ]
