"""Terminal tables of the further axes of a sweep: difficulties, halting rules, and evaluations saved by several draws.

As in the report, choices are made on validation, and their results are measured on test.
"""

import math
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from deqrun.records.halting_rules import HALTING_RULES
from deqrun.records.rows import HaltingRow
from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.tables import interval_text, plain_table, training_tol


def axis_tables(record: RunRecord) -> Iterator[RenderableType]:
    """The tables of a run, and a line for each axis that has none because nothing chose its settings.

    The default sweep has halting rules, for the report; here they are told where the command names them.
    """
    asked = "sweep.halting" in (record.summary.command or "")
    tables = (difficulty_table(record), halting_table(record) if asked else None, savings_table(record))
    yield from (table for table in tables if table is not None)
    split = "sweep.splits=[validation,test] chooses on validation and tells test"
    if asked and tables[1] is None:
        yield Text(f"halting: no threshold was chosen; {split}")
    if record.breadth and tables[2] is None:
        yield Text(f"breadth: no number of draws was chosen; {split}")


def halting_table(record: RunRecord) -> Table | None:
    """The terminal's table of halting rules on test, each at the threshold that validation chose; None without one."""
    rows: list[HaltingRow] = []
    for solver in record.solvers:
        its = record.halting_rows("test", solver)
        if any(row.chosen for row in its):
            rows += [row for row in its if row.chosen or row.rule == "oracle"]
    if not rows:
        return None
    caption = "thresholds: the cheapest within one standard error of the best, on validation\n"
    if any(row.rule == "budget" for row in rows):
        caption += "saved: over the fixed budget chosen there, paired over test samples;\neach interval by itself"
    else:
        caption += "nothing to save from: add budget to sweep.halting"
    table = plain_table(f"{record.name}: test, where each sample stops by a rule", caption=caption)
    table.add_column("solver")
    table.add_column("rule")
    for heading in ("threshold", "accuracy [95 %]", "evals", "saved [95 %]"):
        table.add_column(heading, justify="right", no_wrap=True)
    previous = ""
    for row in rows:
        if previous not in ("", row.solver):
            table.add_section()
        solver = "" if row.solver == previous else row.solver
        previous = row.solver
        rule = HALTING_RULES[row.rule]
        saved = "–" if math.isnan(row.saved) else saved_text(row.saved, row.saved_low, row.saved_high)
        table.add_row(
            solver,
            row.rule,
            "–" if math.isnan(row.threshold) else f"{row.threshold:.0f}" if rule.counts else f"{row.threshold:.2g}",
            interval_text(row.accuracy, row.accuracy_low, row.accuracy_high),
            numbers.mean(row.nfe_mean),
            saved,
        )
    return table


def saved_text(saved: float, low: float, high: float) -> str:
    """'3.4 [2.9, 3.9]' with a true minus, and no negative zero."""
    low, high = (round(end, 1) + 0.0 for end in (low, high))
    return f"{saved:.1f} [{low:.1f}, {high:.1f}]".replace("-", "\N{MINUS SIGN}")


def difficulty_table(record: RunRecord) -> Table | None:
    """The terminal's table of accuracies by difficulty, of the main solver; None where only one was asked.

    At the training tolerance where the sweep has it, else at its smallest; at the ends of the grid and the training
    budget.
    """
    solver = record.main_solver
    grid = {of: record.cells("test", solver, record.main_start, difficulty=of) for of in record.difficulties}
    cells = [cell for of in grid.values() for cell in of]
    if len(grid) < 2 or not cells:
        return None
    tol = training_tol(record, {cell.tol for cell in cells})
    budgets = sorted({cell.max_iter for cell in cells})
    trained = budgets[0] if record.train_max_iter is None else record.train_max_iter
    shown = sorted({budgets[0], min(budgets, key=lambda budget: abs(budget - trained)), budgets[-1]})
    table = plain_table(
        f"{record.name}: test accuracy by difficulty, {solver}, tolerance {numbers.tolerance(tol)}",
        caption="in percent [95 %]; each difficulty has samples of its own",
    )
    table.add_column("difficulty", justify="right")
    table.add_column("n", justify="right")
    for budget in shown:
        table.add_column(f"budget {budget:,}", justify="right", no_wrap=True)
    for of, its in grid.items():
        at = {cell.max_iter: cell for cell in its if cell.tol == tol}
        texts = [
            interval_text(at[k].accuracy, at[k].accuracy_low, at[k].accuracy_high) if k in at else numbers.UNKNOWN
            for k in shown
        ]
        table.add_row("as trained" if of is None else f"{of:,}", f"{its[0].n:,}" if its else numbers.UNKNOWN, *texts)
    return table


def savings_table(record: RunRecord) -> Table | None:
    """The terminal's table of evaluations at equal accuracy; None where nothing was drawn several times."""
    # A cell that serves both goals is told once.
    found = [row for solver in record.solvers for row in record.saving_rows(solver)]
    cells = {(row.solver, row.start, row.aggregation, row.breadth, row.max_iter, row.noise): row for row in found}
    rows = list(cells.values())
    if not rows:
        return None
    caption = "saved: over the cheapest depth alone that reaches this accuracy on validation,\n"
    caption += "paired over test samples; each draw answers with its last iterate"
    table = plain_table(f"{record.name}: the same accuracy for how many evaluations", caption=caption)
    table.add_column("draws")
    for heading in ("steps", "accuracy [95 %]", "evaluations", "saved [95 %]"):
        table.add_column(heading, justify="right", no_wrap=True)
    several, previous = len({row.solver for row in rows}) > 1, None
    for row in rows:
        if previous not in (None, (row.solver, row.start)):
            table.add_section()
        previous = row.solver, row.start
        what = f"{row.breadth}{' views' if row.start == 'symmetries' else ''}"
        what += f" by {row.aggregation}" if row.breadth > 1 else ""
        what += f", noise {row.noise:g}" if row.noise else ""
        alone, saved = (row.breadth, row.noise, row.start) == (1, 0.0, row.deep_start), "–"
        what = "depth alone" if alone else what
        if row.deep_iter and not alone:
            saved = saved_text(row.saved, row.saved_low, row.saved_high)
        table.add_row(
            f"{row.solver}: {what}" if several else what,
            f"{row.max_iter:,}",
            interval_text(row.accuracy, row.accuracy_low, row.accuracy_high),
            numbers.mean(row.nfe_mean),
            saved,
        )
    return table
