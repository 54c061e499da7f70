"""What does it save to stop each sample by itself?

Every halting rule of `deqrun.analysis.halting` over one trajectory for each split. Of each rule, and of the fixed
budget, validation chooses the cheapest threshold that keeps accuracy within one standard error of the best; on test
what the rule saves over the fixed budget is paired over the samples. The oracle, which stops at the first right answer,
is the bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from deqrun.analysis.halting import BOUNDS, RULES
from deqrun.experiment.build import build_solver
from deqrun.experiment.halting import halting_rows
from deqrun.experiment.sweep import trace
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, plain
from deqrun.report.bootstrap import MeanInterval
from deqrun.report.charts.answers import Axis, Point, Rule, Value, curves, values
from deqrun.report.page_parts import Column
from deqrun.report.sweep_rows import HaltingRow
from deqrun.report.trajectory import TrajectoryKey
from deqrun.solvers import Budget
from deqrun.studies.answering.context import Context, StudyRun
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, number, points

REACHABLE = 1e-5
"""Tolerance of the recorded solves: a sample that is there changes no more."""


@dataclass(frozen=True)
class Halted:
    """The test rows of one run: every rule at every threshold."""

    label: str
    rows: Sequence[HaltingRow]

    def chosen(self, rule: str) -> HaltingRow | None:
        """The row of the threshold that validation chose; None where no threshold reached the target."""
        return next((row for row in self.rows if row.rule == rule and row.chosen), None)

    @property
    def oracle(self) -> HaltingRow | None:
        return next((row for row in self.rows if row.rule == "oracle"), None)

    @property
    def best(self) -> HaltingRow | None:
        """Of the rules the one that validation's choice makes cheapest on test."""
        rules = [row for rule in RULES if (row := self.chosen(rule)) is not None]
        return min(rules, key=lambda row: row.nfe_mean, default=None)


def answer(context: Context, *, iterations: int) -> Answer:
    """Halt every run's samples. iterations: of its own solver at most."""
    found = []
    for run in context.runs:
        part = context.once(run.label, partial(_measured, run, iterations))
        rows = [_row(row) for row in part["rows"]]
        found.append(Halted(run.label, rows))
        context.progress(f"{run.label}: {len(RULES)} rules and their bounds")
    return answer_of(found, iterations)


def _row(content: dict[str, Any]) -> HaltingRow:
    """A row as JSON holds it: numbers that are not finite are null."""
    known = {key: value for key, value in content.items() if value is not None or key == "difficulty"}
    return HaltingRow(**{"threshold": math.nan, **known})


def _measured(run: StudyRun, iterations: int) -> dict[str, Any]:
    deq, dataset = run.model()
    budget, batch = Budget(max_iter=iterations, tol=REACHABLE), run.settings.sweep.batch_size
    solver = build_solver(run.settings)
    validation, test = (
        trace(deq, dataset, dataset.load(split), solver, budget, batch, signals=True)
        for split in ("validation", "test")
    )
    key = TrajectoryKey("own", "zeros", "test")
    rows = halting_rows(key, validation, test, [*RULES, *BOUNDS])
    return {"rows": plain([row for row in rows if row.split == "test"])}


def answer_of(found: Sequence[Halted], iterations: int) -> Answer:
    """The answer that these rows give."""
    return Answer(
        sentences=(_saves(found), _accuracy(found), _bound(found)),
        would_change=(
            f"Thresholds are chosen on as many validation samples as there are, and can be unlucky; a trajectory has "
            f"{iterations} iterations at most. Rules that read the answer out at every iterate pay for that in "
            f"multiply-adds, which evaluations do not show. Samples that all need the same number of steps leave "
            f"nothing "
            f"to save; the more they differ, the more there is."
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={one.label: [row for row in one.rows if row.chosen or row.rule == "oracle"] for one in found},
    )  # fmt: skip


def _interval(row: HaltingRow, what: str) -> MeanInterval:
    mean, low, high = (float(getattr(row, f"{what}{end}")) for end in ("", "_low", "_high"))
    return MeanInterval(mean, low, high, row.n)


def _saves(found: Sequence[Halted]) -> str:
    parts, verdicts = [], []
    for one in found:
        fixed, best = one.chosen("budget"), one.best
        if fixed is None or best is None:
            parts.append(f"nothing can be told of {one.label}")
            continue
        saved = _interval(best, "saved")
        verdicts.append("yes" if saved.low > 0 else "no")
        parts.append(
            f"on {one.label} the rule by {best.rule} saves {number(saved, 'evaluations')} of the fixed budget's "
            f"{numbers.mean(fixed.nfe_mean)}"
        )
    word = "Yes" if set(verdicts) == {"yes"} else "No" if set(verdicts) == {"no"} else "On some tasks"
    return f"{word}: {enumeration(parts)}."


def _accuracy(found: Sequence[Halted]) -> str:
    parts = []
    for one in found:
        best = one.best
        if best is not None:
            parts.append(f"{points(_interval(best, 'gained'))} on {one.label}")
    return f"In accuracy that changes {enumeration(parts)}." if parts else "No rule keeps the accuracy."


def _bound(found: Sequence[Halted]) -> str:
    parts = [
        f"{numbers.mean(one.oracle.nfe_mean)} on {one.label}, where the best rule needs "
        f"{numbers.mean(one.best.nfe_mean)}"
        for one in found
        if one.oracle is not None and one.best is not None
    ]
    return (
        f"Stopping at the first right answer, as no rule can, would take {enumeration(parts)} evaluations in the mean."
    )


def _figures(found: Sequence[Halted]) -> list[Any]:
    figures = []
    saved = []
    for one in found:
        for rule in RULES:
            row = one.chosen(rule)
            if row is not None:
                saved.append(Value(rule, row.saved, row.saved_low, row.saved_high, one.label))
    caption = "Against the cheapest fixed budget of equal accuracy, both chosen on validation; paired 95 % intervals."
    axis = Axis("evaluations saved")
    figures.append(
        values("saved", "What each halting rule saves", caption, saved, axis, rules=[Rule("nothing", x=0.0)])
    )
    for number_, one in enumerate(found):
        drawn = [
            Point(rule, row.nfe_mean, row.accuracy)
            for rule in (*RULES, "budget")
            for row in sorted((r for r in one.rows if r.rule == rule), key=lambda r: r.nfe_mean)
        ]
        title, axes = (
            f"Accuracy against evaluations, {one.label}",
            (Axis("mean evaluations"), Axis("accuracy", percent=True)),
        )
        oracle = [] if one.oracle is None else [Rule("oracle", x=one.oracle.nfe_mean)]
        figures.append(curves(f"frontier_{number_}", title, f"Test samples, n = {one.rows[0].n:,}; every threshold.",
                              drawn, *axes, rules=oracle))  # fmt: skip
    return figures


def _table(found: Sequence[Halted]) -> AnswerTable:
    rows = [(one.label, row) for one in found for rule in (*RULES, *BOUNDS)
            for row in one.rows if row.rule == rule and (row.chosen or rule == "oracle")]  # fmt: skip
    saved = [_interval(row, "saved") for _, row in rows]
    return AnswerTable(
        "The thresholds that validation chose, on test",
        [
            Column("run", [label for label, _ in rows], words=True),
            Column("rule", [row.rule for _, row in rows], words=True),
            Column("threshold", [numbers.tolerance(row.threshold) for _, row in rows]),
            Column("accuracy, %", [f"{100 * r.accuracy:.1f} [{100 * r.accuracy_low:.1f}, {100 * r.accuracy_high:.1f}]"
                                   for _, r in rows]),
            Column("evaluations", [numbers.mean(row.nfe_mean) for _, row in rows]),
            Column("95 %", [numbers.mean(row.nfe_p95) for _, row in rows]),
            Column("saved", [numbers.UNKNOWN if s.mean != s.mean else f"{s.mean:.2f} [{s.low:.2f}, {s.high:.2f}]"
                             for s in saved]),
        ],
        "Evaluations: mean, and 95 % quantile. Saved: over the fixed budget, paired, with its 95 % interval.",
    )  # fmt: skip


QUESTION = Question("What does it save to stop each sample by itself?", answer, of_any_run=True)
