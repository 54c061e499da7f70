"""Training curves as small multiples: loss, accuracy, residuals, evaluations, convergence, uneven gradients."""

from typing import Any

import altair as alt

from deqrun.records.run import RunRecord
from deqrun.report.charts.axes import LogAxis
from deqrun.report.charts.data import PANELS, TrainingPoint, training_points
from deqrun.report.charts.keys import interval_tooltip
from deqrun.report.charts.style import INK, MUTED, AnyChart, Figure, data

PANEL_WIDTH, PANEL_HEIGHT = 300, 190
FEW_EPOCHS = 40
"""Up to so many epochs each has its point: a single epoch would else draw nothing."""

_WORDS = {
    "loss": ("Loss", "mean over the samples", "loss"),
    "accuracy": ("Accuracy in training", "share of samples that are right", "accuracy"),
    "residual": ("Residual at the end of a solve", "median over the epoch's solves", "residual"),
    "evaluations": (
        "Evaluations in a solve",
        "mean over the epoch's solves; adjoint: products with the Jacobian",
        "evaluations",
    ),
    "converged": ("Solves that converged", "share of the epoch's solves that reached their tolerance", "share"),
    "gradient": ("Largest share of the gradient", "largest share of one sample in its batch's gradient norms", "share"),
}

_SHARES = ("accuracy", "converged", "gradient")
_STRONG = ("validation", "forward", "largest")
"""Series in ink and with a whole line: those that decide; grey and dashes are for those that accompany them."""


def training_figures(record: RunRecord) -> list[Figure]:
    """One small figure a quantity, in the order of PANELS, and accuracy by budget; without numbers, none of it."""
    points = training_points(record)
    figures = []
    for panel, (title, caption, unit) in _WORDS.items():
        of_panel = [point for point in points if point.panel == panel]
        if of_panel:
            chart = _panel(record, of_panel, unit)
            figures.append(Figure(f"training_{panel}", title, caption, chart))
    return [*figures, *_budgets(record)]


def training_overview(record: RunRecord) -> Figure | None:
    """The small figures on one sheet, for a PNG."""
    panels = training_figures(record)
    if not panels:
        return None
    drawn = [
        figure.chart.properties(title=alt.TitleParams(figure.title, subtitle=figure.caption, fontSize=13, offset=8))
        for figure in panels
    ]
    sheet = alt.concat(*drawn, columns=2, spacing=36).resolve_scale(strokeDash="independent", color="independent")
    best = record.summary.best_epoch
    chosen = "" if best is None else f" Dotted rule: epoch {best}, whose checkpoint validation chose."
    axes = "By epoch, budgets by step." if record.evaluations else "By epoch."
    return Figure("training", "Training", axes + chosen, sheet)


def _budgets(record: RunRecord) -> list[Figure]:
    """Validation accuracy against the steps of training, a line for each budget of `train.eval_iterations`."""
    if not record.evaluations:
        return []
    budgets = sorted({row.max_iter for row in record.evaluations})
    steps = [row.step for row in record.evaluations]
    domain = [min(steps), max(steps)] if min(steps) < max(steps) else [steps[0] - 1, steps[0] + 1]
    axis = alt.Axis(format="~s", grid=False, tickMinStep=1)
    x = alt.X("step:Q", title="step", axis=axis, scale=alt.Scale(domain=domain, nice=False))
    y = alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(zero=False), axis=alt.Axis(format=".3~p", tickCount=5))
    # From light to dark with the budget; of one budget the dark end.
    shades = alt.Scale(scheme="viridis", reverse=True) if len(budgets) > 1 else alt.Scale(range=[INK])
    colour = alt.Color("max_iter:O", title="solver steps", sort=budgets, scale=shades, legend=_legend())
    base = alt.Chart(data(record.evaluations)).encode(x=x, y=y, color=colour)
    tip = [
        alt.Tooltip("step:Q", title="step", format=","),
        alt.Tooltip("max_iter:Q", title="solver steps"),
        *interval_tooltip("accuracy"),
        alt.Tooltip("loss:Q", title="loss", format=".4~g"),
        alt.Tooltip("residual:Q", title="median residual", format=".1e"),
        alt.Tooltip("n:Q", title="samples", format=","),
    ]
    dots = base.mark_point(filled=True, size=22 if len(set(steps)) <= FEW_EPOCHS else 60)
    dots = dots.encode(opacity=alt.OpacityValue(1 if len(set(steps)) <= FEW_EPOCHS else 0), tooltip=tip)
    chart = alt.layer(base.mark_line(strokeWidth=1.8), dots).properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)
    caption = "validation, a line for each number of solver steps"
    return [Figure("training_budgets", "Accuracy by budget, while training", caption, chart)]


def _panel(record: RunRecord, points: list[TrainingPoint], unit: str) -> AnyChart:
    """One quantity against epochs: a line for each of its series."""
    series = [name for _, name in PANELS[points[0].panel] if any(point.series == name for point in points)]
    colours = [INK if name in _STRONG else "#8c8c8c" for name in series]
    colour = alt.Color("series:N", scale=alt.Scale(domain=series, range=colours), legend=_legend())
    dashes = [[1, 0] if name in _STRONG else [4, 3] for name in series]
    dash = alt.StrokeDash("series:N", scale=alt.Scale(domain=series, range=dashes), legend=_legend())
    x = _epoch_axis(points)
    base = alt.Chart(data(points)).encode(x=x, y=_value_axis(points, unit))
    layers: list[alt.Chart] = [base.mark_line(strokeWidth=1.8).encode(color=colour, strokeDash=dash)]
    many = max(point.epoch for point in points) > FEW_EPOCHS
    dots = base.mark_point(filled=True, size=60 if many else 22, opacity=0 if many else 1)
    layers.append(dots.encode(color=colour, detail=alt.Detail("series:N"), tooltip=_tooltip(points)))
    best = record.summary.best_epoch
    if best is not None:
        rule = alt.Chart(data([{"epoch": best}])).mark_rule(strokeDash=[2, 3], color=MUTED)
        layers.insert(0, rule.encode(x=x))
    return alt.layer(*layers).properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)


def _legend() -> alt.Legend:
    return alt.Legend(title=None, columns=3, symbolType="stroke", symbolSize=250)


def _epoch_axis(points: list[TrainingPoint]) -> alt.X:
    first, last = min(point.epoch for point in points), max(point.epoch for point in points)
    alone = first == last  # it stands in the middle
    ticks: dict[str, Any] = {"values": [first]} if alone else {"tickMinStep": 1}
    domain = [first - 1, first + 1] if alone else [first, last]
    axis = alt.Axis(format="d", grid=False, **ticks)
    return alt.X("epoch:Q", title="epoch", axis=axis, scale=alt.Scale(domain=domain, nice=False))


def _value_axis(points: list[TrainingPoint], unit: str) -> alt.Y:
    if points[0].panel == "residual":
        log = LogAxis.around([point.value for point in points])
        return alt.Y("value:Q", title=unit, scale=log.scale, axis=log.axis(most=7))
    if points[0].panel in _SHARES:
        axis = alt.Axis(format=".3~p", tickCount=5)
        return alt.Y("value:Q", title=unit, scale=alt.Scale(zero=False), axis=axis)
    return alt.Y("value:Q", title=unit, axis=alt.Axis(tickCount=5))


def _tooltip(points: list[TrainingPoint]) -> list[alt.Tooltip]:
    panel = points[0].panel
    written = ".1%" if panel in _SHARES else ".1e" if panel == "residual" else ".4~g"
    return [
        alt.Tooltip("epoch:Q", title="epoch"),
        alt.Tooltip("series:N", title="of"),
        alt.Tooltip("value:Q", title=panel, format=written),
    ]
