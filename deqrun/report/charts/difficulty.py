"""Accuracy against the budget, one line for each difficulty of the data."""

import altair as alt

from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.charts.axes import EDGE
from deqrun.report.charts.budget import cell_tooltip
from deqrun.report.charts.data import difficulty_cells
from deqrun.report.charts.keys import scope
from deqrun.report.charts.style import HEIGHT, WIDTH, Figure, data


def accuracy_by_difficulty(record: RunRecord, split: str = "test") -> Figure | None:
    """Of a run that was asked at several difficulties, its main solver from the main start."""
    cells = difficulty_cells(record, split)
    if not cells:
        return None
    budgets = sorted({cell.max_iter for cell in cells})
    names = [_name(difficulty) for difficulty in record.difficulties]
    scale = alt.Scale(type="symlog", constant=1, domain=[budgets[0], budgets[-1]], nice=False, padding=8)
    axis = alt.Axis(values=budgets, format="d", grid=False)
    rows = [vars(cell) | {"of": _name(cell.difficulty)} for cell in cells]
    colour = alt.Color(
        "of:O", scale=alt.Scale(domain=names, scheme="viridis"), legend=alt.Legend(title="difficulty", columns=8)
    )
    line = (
        alt.Chart(data(rows))
        .mark_line(strokeWidth=2, point={"size": 40, "filled": True})
        .encode(
            x=alt.X("max_iter:Q", title="budget (iterations allowed)", scale=scale, axis=axis),
            y=alt.Y(
                "accuracy:Q",
                title=f"{split} accuracy",
                scale=alt.Scale(zero=False, padding=EDGE),
                axis=alt.Axis(format=".3~p", tickCount=6),
            ),
            color=colour,
            tooltip=[alt.Tooltip("of:O", title="difficulty"), *cell_tooltip()],
        )
    )
    caption = (
        f"{scope(record, cells, split)}; {record.main_solver}, tolerance {numbers.tolerance(record.smallest_tol())}. "
        "Each difficulty has samples of its own; the weights are the same."
    )
    title = f"{split.capitalize()} accuracy against the iteration budget, by difficulty"
    return Figure("accuracy_difficulty", title, caption, line.properties(width=WIDTH, height=HEIGHT))


def _name(difficulty: int | None) -> str:
    return "as trained" if difficulty is None else f"{difficulty:,}"
