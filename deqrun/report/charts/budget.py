"""Accuracy and loss against the budget of iterations."""

import math
from dataclasses import asdict
from typing import Any

import altair as alt

from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.charts.axes import EDGE, accuracy_axis
from deqrun.report.charts.data import BudgetPoint, budget_points
from deqrun.report.charts.keys import Keys, interval_tooltip, scope
from deqrun.report.charts.style import HEIGHT, MUTED, WIDTH, AnyChart, Figure, data, near_best


def accuracy_against_budget(record: RunRecord, split: str = "test", close: bool = False) -> Figure | None:
    """Accuracy and its 95 % interval against the budget, at the smallest tolerance; a rule at the training budget.

    close: the same chart, cut to accuracies near the best; None where nothing would be cut.
    """
    points = budget_points(record, split)
    axis = accuracy_axis(points, split, close) if points else None
    if axis is None:
        return None
    figure = _against_budget(record, split, points, "accuracy", axis, cell_tooltip())
    return near_best(figure.name, figure.title, figure.caption, figure.chart, close)


def loss_against_budget(record: RunRecord, split: str = "test") -> Figure | None:
    """Mean loss and its 95 % interval against the budget, at the smallest tolerance; None where none was recorded."""
    points = [point for point in budget_points(record, split) if math.isfinite(point.loss)]
    if not points:
        return None
    axis = {"title": f"{split} loss (nats)", "scale": alt.Scale(zero=False, nice=False, padding=EDGE)}
    tooltip = [
        alt.Tooltip("max_iter:Q", title="budget", format=","),
        *interval_tooltip("loss", ".4f"),
        alt.Tooltip("perplexity:Q", title="perplexity", format=".4g"),
        alt.Tooltip("n:Q", title="samples", format=","),
    ]
    return _against_budget(record, split, points, "loss", axis, tooltip, top=True)


def _against_budget(
    record: RunRecord,
    split: str,
    points: list[BudgetPoint],
    name: str,
    axis: dict[str, Any],
    tooltip: list[alt.Tooltip],
    top: bool = False,
) -> Figure:
    """A quantity of the points with its interval, a line for each solver. top: where the rule's label stands."""
    trained = [] if record.train_max_iter is None else [record.train_max_iter]
    budgets = sorted({point.max_iter for point in points})
    extent = (min([*budgets, *trained]), max([*budgets, *trained]))
    keys, rows = Keys(points), data([asdict(point) | {"perplexity": point.perplexity} for point in points])
    y, ends = alt.Y(f"{name}:Q", **axis), (alt.Y(f"{name}_low:Q", **axis), alt.Y2(f"{name}_high:Q"))
    chart = alt.layer(
        *(_training_budget(budget, extent, top) for budget in trained),
        *keys.layers(rows, _budget_axis(budgets, extent), y, ends, 55, tooltip),
    ).properties(width=WIDTH, height=HEIGHT)
    tolerances = ", ".join(numbers.tolerance(tol) for tol in sorted({point.tol for point in points}))
    band = " Band: 95 % interval over the samples." if keys.banded else ""
    caption = f"{scope(record, points, split)}; tolerance {tolerances}, the smallest of the grid.{band}"
    return Figure(f"{name}_budget", f"{split.capitalize()} {name} against the iteration budget", caption, chart)


def _budget_axis(budgets: list[int], extent: tuple[int, int]) -> alt.X:
    """Equal distances for equal factors; a grid that begins at 0 has log(1 + budget)."""
    kind: dict[str, Any] = {"type": "log", "base": 2} if extent[0] > 0 else {"type": "symlog", "constant": 1}
    scale = alt.Scale(**kind, domain=list(extent), nice=False, padding=8)
    axis = alt.Axis(values=budgets, format="d", grid=False)
    return alt.X("max_iter:Q", title="budget (iterations allowed)", scale=scale, axis=axis)


def cell_tooltip() -> list[alt.Tooltip]:
    """The tooltip of a point that is a cell of the sweep."""
    return [
        alt.Tooltip("max_iter:Q", title="budget", format=","),
        *interval_tooltip("accuracy"),
        alt.Tooltip("nfe_mean:Q", title="mean evaluations", format=".1f"),
        alt.Tooltip("converged:Q", title="converged", format=".1%"),
        alt.Tooltip("n:Q", title="samples", format=","),
    ]


def _training_budget(budget: int, extent: tuple[int, int], top: bool) -> AnyChart:
    """A dashed vertical rule at the training budget; its label, below or at the top, is on the side that has room."""
    late = (budget + 1) ** 2 > (extent[0] + 1) * (extent[1] + 1)
    base = alt.Chart(data([{"max_iter": budget, "text": f"training budget {budget:,}"}])).encode(x=alt.X("max_iter:Q"))
    label = base.mark_text(
        align="right" if late else "left",
        dx=-6 if late else 6,
        baseline="top" if top else "bottom",
        fontSize=12,
        color=MUTED,
    ).encode(text=alt.Text("text:N"), y=alt.YValue(6 if top else HEIGHT - 6))
    return alt.layer(base.mark_rule(strokeDash=[4, 4], color=MUTED), label)
