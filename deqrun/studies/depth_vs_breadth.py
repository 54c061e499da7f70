"""Where does breadth pay, and does the residual pick the right start?

A run's own sweep with `sweep.breadth` has the rows: the answers of B normal starts after k iterations each, put
together by their mean, by vote, or by the lowest residual (`deqrun.analysis.breadth`). Cells of equal B·k cost the
same, so that breadth is compared with depth at equal compute, over the same samples; aggregation and breadth are
chosen on validation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.report.page_parts import Column
from deqrun.report.sweep_rows import BreadthRow
from deqrun.settings import UserError
from deqrun.studies.answering.context import Context
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, points

WAYS = {"residual": "the lowest residual gets", "vote": "the vote", "mean": "the mean"}
"""Of putting starts together, in words."""


@dataclass(frozen=True)
class Grid:
    """The cells of one run on both splits."""

    label: str
    rows: Sequence[BreadthRow]

    def of(self, split: str, aggregation: str | None = None) -> list[BreadthRow]:
        return [row for row in self.rows if row.split == split and aggregation in (None, row.aggregation)]

    @property
    def costs(self) -> list[int]:
        """The products B·k at which both a single start and several have a cell."""
        test = self.of("test")
        single = {row.max_iter for row in test if row.breadth == 1}
        return sorted({row.breadth * row.max_iter for row in test if row.breadth > 1} & single)

    def at(self, cost: int) -> BreadthRow:
        """On test: several starts of together so many iterations, which and how put together chosen on validation."""
        several = [r for r in self.of("validation") if r.breadth > 1 and r.breadth * r.max_iter == cost]
        best = max(several, key=lambda row: row.accuracy)
        same = (best.breadth, best.max_iter, best.aggregation)
        return next(row for row in self.of("test") if (row.breadth, row.max_iter, row.aggregation) == same)

    @property
    def undecided(self) -> float:
        """Share of samples that some starts answer rightly and others don't, in the widest and deepest cell."""
        row = next(iter(self.widest.values()))
        return row.some_right - row.all_right

    @property
    def widest(self) -> dict[str, BreadthRow]:
        """By aggregation, the cell of the most starts and the most iterations."""
        test = self.of("test")
        breadth, depth = max(row.breadth for row in test), max(row.max_iter for row in test)
        return {row.aggregation: row for row in test if (row.breadth, row.max_iter) == (breadth, depth)}


def answer(context: Context) -> Answer:
    """Read every run's sweep. Raises UserError where it has no breadth in it."""
    found = []
    for run in context.runs:
        solver = run.record.main_solver
        rows = [row for split in ("validation", "test") for row in run.record.breadth_rows(split, solver or "")]
        if not rows:
            raise UserError(f"The sweep of {run.label} has no breadth in it; train it with sweep.breadth=[1,2,4,8].")
        if all(math.isnan(row.gain) for row in rows):
            raise UserError(
                f"The sweep of {run.label} has no cells of equal compute: its iterations must hold products of its "
                f"sweep.breadth with its iterations (a sweep by an older deqrun lacks their differences, too)."
            )
        found.append(Grid(run.label.replace("_", " "), rows))
    return answer_of(found)


def answer_of(found: Sequence[Grid]) -> Answer:
    """The answer that these cells give."""
    return Answer(
        sentences=(_pays(found), _picks(found), _spread(found)),
        would_change=(
            "Starts are normal numbers of the scale that the sweep has. One start is any of those that are put "
            "together, with the iterations of all. Differences count where their 95 % interval leaves 0 out, of each "
            "cell by itself. Starts that are below the sweep's tolerance stop, and among them the residual has "
            "nothing to choose by. A model whose starts all lead to one end leaves nothing to choose; one with "
            "several ends does, and the more the harder its task is for it."
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={one.label: list(one.rows) for one in found},
    )


def _pays(found: Sequence[Grid]) -> str:
    chosen = [(one, one.at(cost)) for one in found for cost in one.costs]
    gaining = [cell for cell in chosen if cell[1].gain_low > 0]
    losing = [cell for cell in chosen if cell[1].gain_high < 0]
    depth = ""
    if losing:
        depth = f"depth is better by most for {_told(*min(losing, key=lambda cell: cell[1].gain))}"
    if gaining:
        best = max(gaining, key=lambda cell: cell[1].gain)
        models = enumeration(list(dict.fromkeys(one.label for one, _ in gaining)))
        return f"At equal compute breadth pays on {models}, by most for {_told(*best)}{'; ' if depth else ''}{depth}."
    if losing:
        return f"At equal compute breadth never pays, and {depth}."
    return "At equal compute no cell of several starts is told apart from one start iterated longer."


def _told(one: Grid, row: BreadthRow) -> str:
    gain = MeanInterval(row.gain, row.gain_low, row.gain_high, row.n)
    return (
        f"{row.breadth} starts of {row.max_iter} iterations on {one.label} ({numbers.percent(row.accuracy)}, "
        f"{points(gain)})"
    )


def _picks(found: Sequence[Grid]) -> str:
    parts = []
    for one in [one for one in found if one.undecided > 0] or found:
        ways = one.widest
        row = next(iter(ways.values()))
        told = [f"{WAYS[name]} {numbers.percent(ways[name].accuracy)}" for name in WAYS if name in ways]
        parts.append(
            f"on {one.label} {enumeration(told)} right, where the mean single start has "
            f"{numbers.percent(row.starts_mean)} and some start is right for {numbers.percent(row.some_right)}"
        )
    return f"Of the most starts after the most iterations {'; '.join(parts)}."


def _spread(found: Sequence[Grid]) -> str:
    parts = [f"{numbers.percent(one.undecided)} of the samples on {one.label}" for one in found]
    return f"The start decides the answer, right from some and wrong from others, for {enumeration(parts)}."


def _figures(found: Sequence[Grid]) -> list[Any]:
    figures = []
    for number, one in enumerate(found):
        rows = [row for row in one.of("test") if row.breadth == 1 or row.aggregation == "residual"]
        drawn = {(row.breadth, row.max_iter): row for row in rows}
        points = [
            Point(f"{breadth} start" + ("s" if breadth > 1 else ""), float(breadth * k), r.accuracy, r.accuracy_low,
                  r.accuracy_high, f"{k} iterations each")
            for (breadth, k), r in sorted(drawn.items())
        ]  # fmt: skip
        caption = f"{one.label}: test samples, n = {rows[0].n:,}; the start of lowest residual answers; 95 % intervals."
        axes = Axis("starts times iterations", log=True), Axis("accuracy", percent=True)
        figures.append(curves(f"breadth_{number}", "Accuracy against compute, by breadth", caption, points, *axes))
    return figures


def _table(found: Sequence[Grid]) -> AnswerTable:
    rows = [(one.label, cost, one.at(cost)) for one in found for cost in one.costs]
    return AnswerTable(
        "Depth and breadth at equal compute, on test",
        [
            Column("run", [label for label, *_ in rows], words=True),
            Column("starts times iterations", [f"{cost}" for _, cost, _ in rows]),
            Column("starts", [f"{row.breadth}" for *_, row in rows]),
            Column("by", [row.aggregation for *_, row in rows], words=True),
            Column(
                "right, %",
                [f"{100 * r.accuracy:.1f} [{100 * r.accuracy_low:.1f}, {100 * r.accuracy_high:.1f}]" for *_, r in rows],
            ),
            Column(
                "more than one start, points",
                [
                    f"{numbers.points(r.gain)} [{numbers.points(r.gain_low)}, {numbers.points(r.gain_high)}]"
                    for *_, r in rows
                ],
            ),
        ],
        "Breadth and aggregation chosen on validation. In brackets 95 % intervals, of differences paired over samples.",
    )


QUESTION = Question("Where does breadth pay, and does the residual pick the right start?", answer, of_any_run=True)
