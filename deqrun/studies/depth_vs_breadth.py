"""Where does breadth pay, and does the residual pick the right start?

A run's own sweep with `sweep.breadth` has the rows: the answers of B normal starts after k iterations each, put
together by their mean, by vote, or by the lowest residual (`deqrun.analysis.breadth`). Cells of equal B·k cost the
same, so that breadth is compared with depth at equal compute; aggregation and breadth are chosen on validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.report.page_parts import Column
from deqrun.report.sweep_rows import BreadthRow
from deqrun.settings import UserError
from deqrun.studies.answering.context import Context
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration

TOLD_APART = 1.96


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

    def at(self, cost: int) -> tuple[BreadthRow, BreadthRow]:
        """On test: one start with so many iterations, and several starts that cost the same, chosen on validation."""
        several = [r for r in self.of("validation") if r.breadth > 1 and r.breadth * r.max_iter == cost]
        best = max(several, key=lambda row: row.accuracy)
        test = self.of("test")
        same = (best.breadth, best.max_iter, best.aggregation)
        chosen = next(row for row in test if (row.breadth, row.max_iter, row.aggregation) == same)
        return next(row for row in test if row.breadth == 1 and row.max_iter == cost), chosen

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
        found.append(Grid(run.label, rows))
    return answer_of(found)


def answer_of(found: Sequence[Grid]) -> Answer:
    """The answer that these cells give."""
    return Answer(
        sentences=(_pays(found), _picks(found), _spread(found)),
        would_change=(
            "Starts are normal numbers of the scale that the sweep has. At equal compute, differences count where they "
            "exceed the standard error of two independent shares: the rows are not paired, so that small gains are "
            "missed. "
            "A model whose starts all lead to one end has nothing to choose from; one with several ends has."
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={one.label: list(one.rows) for one in found},
    )


def _apart(low: BreadthRow, high: BreadthRow) -> bool:
    error = sum(row.accuracy * (1 - row.accuracy) / row.n for row in (low, high)) ** 0.5
    return abs(high.accuracy - low.accuracy) > TOLD_APART * error


def _pays(found: Sequence[Grid]) -> str:
    better: list[str] = []
    worse: list[str] = []
    for one in found:
        for cost in one.costs:
            single, several = one.at(cost)
            if _apart(single, several):
                text = (
                    f"{several.breadth} starts of {several.max_iter} on {one.label} "
                    f"({numbers.percent(several.accuracy)} instead of {numbers.percent(single.accuracy)})"
                )
                (better if several.accuracy > single.accuracy else worse).append(text)
    if better:
        also = f"; depth is better than {enumeration(worse)}" if worse else ""
        return f"At equal compute breadth pays in {len(better)} cells, such as {better[-1]}{also}."
    if worse:
        return f"At equal compute breadth never pays, and depth is better than {enumeration(worse)}."
    return "At equal compute no cell of several starts is told apart from one start iterated longer."


def _picks(found: Sequence[Grid]) -> str:
    parts = []
    for one in found:
        widest = one.widest
        row = widest.get("residual")
        if row is not None:
            others = [f"{name} {numbers.percent(r.accuracy)}" for name, r in widest.items() if name != "residual"]
            parts.append(
                f"{numbers.percent(row.accuracy)} on {one.label}, where the mean single start has "
                f"{numbers.percent(row.starts_mean)} and some start is right for {numbers.percent(row.some_right)} "
                f"(other ways of putting together: {enumeration(others)})"
            )
    return (
        f"Of the most starts after the most iterations the lowest residual picks an answer that is right for "
        f"{'; '.join(parts)}."
    )


def _spread(found: Sequence[Grid]) -> str:
    parts = []
    for one in found:
        row = next(iter(one.widest.values()))
        gap = row.some_right - row.all_right
        parts.append(f"{numbers.percent(gap)} of {one.label}'s samples")
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
    rows = [(one.label, cost, *one.at(cost)) for one in found for cost in one.costs]

    def share(row: BreadthRow) -> str:
        return f"{100 * row.accuracy:.1f} [{100 * row.accuracy_low:.1f}, {100 * row.accuracy_high:.1f}]"

    return AnswerTable(
        "Depth and breadth at equal compute, on test",
        [
            Column("run", [label for label, *_ in rows], words=True),
            Column("starts times iterations", [f"{cost}" for _, cost, *_ in rows]),
            Column("one start, %", [share(single) for *_, single, _ in rows]),
            Column("several, %", [share(several) for *_, several in rows]),
            Column("starts", [f"{several.breadth}" for *_, several in rows]),
            Column("by", [several.aggregation for *_, several in rows], words=True),
        ],
        "Several: breadth and aggregation chosen on validation. In brackets Wilson's 95 % intervals.",
    )


QUESTION = Question("Where does breadth pay, and does the residual pick the right start?", answer, of_any_run=True)
