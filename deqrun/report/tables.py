"""Tables for the terminal, 80 columns wide, and the same as plain text and Markdown."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.charts.data import labels

if TYPE_CHECKING:  # the description is made beside the models, which need torch; this package doesn't
    from deqrun.models import BaselineDescription, CellDescription

WIDTH = 80


def end_of_run_table(record: RunRecord) -> Table:
    """The terminal's table at the end of a run: every solver at a few budgets, on the test split.

    At the training tolerance where the sweep has it, else at its smallest. Without a sweep: the summary's one
    line.
    """
    cells = _shown_cells(record)
    tol = cells[0].tol if cells else record.train_tol
    n = cells[0].n if cells else record.summary.n_test
    title = f"{record.name}: test" + ("" if n is None else f", n = {n:,}")
    title += "" if tol is None else f", tolerance {numbers.tolerance(tol)}"
    table = _table(title, caption="* training budget and solver" if _has_training_row(record, cells) else None)
    table.add_column("solver")
    for heading in ("budget", "accuracy [95 %]", "evaluations", "residual", "converged"):
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for cell in cells:
        if previous is not None and cell.solver != previous:
            table.add_section()
        name = "" if cell.solver == previous else cell.solver
        previous = cell.solver
        mark = "*" if _is_training_row(record, cell) else " "
        accuracy = interval_text(cell.accuracy, cell.accuracy_low, cell.accuracy_high)
        table.add_row(
            name,
            f"{cell.max_iter:,}{mark}",
            accuracy,
            numbers.mean(cell.nfe_mean),
            numbers.residual(cell.residual_median),
            numbers.percent(cell.converged),
        )
    if not cells:
        s = record.summary
        accuracy = interval_text(s.test_accuracy, s.test_accuracy_low, s.test_accuracy_high)
        table.add_row(
            record.choice("solver") or numbers.UNKNOWN, numbers.count(record.train_max_iter), accuracy, *["–"] * 3
        )
    return table


def _shown_cells(record: RunRecord) -> list[SweepCell]:
    """Test cells at one tolerance and at most five budgets: the ends of the grid, and around the training budget."""
    grid = record.cells("test", start=record.main_start)
    tolerances = {cell.tol for cell in grid}
    if not tolerances:
        return []
    budgets = few_budgets(sorted({cell.max_iter for cell in grid}), record.train_max_iter)
    tol = _training_tol(record, tolerances)
    return [cell for cell in grid if cell.tol == tol and cell.max_iter in budgets]


def _training_tol(record: RunRecord, tolerances: set[float]) -> float:
    """The tolerance of training where it is among these, else the smallest of them."""
    near = [tol for tol in tolerances if record.train_tol and math.isclose(tol, record.train_tol, rel_tol=1e-6)]
    return near[0] if near else min(tolerances)


def few_budgets(budgets: Sequence[int], trained: int | None) -> list[int]:
    """At most five budgets of the grid: its ends, and those nearest to ½, 1 and 2 × the training budget."""
    if trained is None or len(budgets) <= 5:
        return list(budgets)[:: max(1, math.ceil(len(budgets) / 5))]
    targets = (trained / 2, trained, 2 * trained)
    nearest = {min(budgets, key=partial(_distance, target)) for target in targets}
    return sorted({budgets[0], budgets[-1], *nearest})


def _distance(target: float, budget: int) -> float:
    return abs(budget - target)


def _is_training_row(record: RunRecord, cell: SweepCell) -> bool:
    return cell.max_iter == record.train_max_iter and cell.solver == record.choice("solver")


def _has_training_row(record: RunRecord, cells: Sequence[SweepCell]) -> bool:
    return any(_is_training_row(record, cell) for cell in cells)


@dataclass(frozen=True)
class ComparisonRow:
    """One run in a comparison. Accuracies are fractions; evaluations and residual are at the training budget."""

    name: str
    model: str | None
    solver: str | None
    parameters: int | None
    best_solver: str | None
    val_accuracy: float | None
    test_accuracy: float | None
    test_accuracy_low: float | None
    test_accuracy_high: float | None
    nfe: float | None
    residual: float | None
    seconds: float | None

    def texts(self) -> list[str]:
        """The row as it is written, in the order of COMPARISON_HEADINGS."""
        return [
            self.name,
            ", ".join(name for name in (self.model, self.solver) if name) or numbers.UNKNOWN,
            numbers.short_count(self.parameters),
            self.best_solver or numbers.UNKNOWN,
            numbers.percent(self.val_accuracy).removesuffix(" %"),
            interval_text(self.test_accuracy, self.test_accuracy_low, self.test_accuracy_high),
            numbers.mean(self.nfe),
            numbers.residual(self.residual),
            numbers.short_duration(self.seconds),
        ]


COMPARISON_HEADINGS = (
    "run",
    "model, solver",
    "params",
    "best solver",
    "val %",
    "test % [95 %]",
    "evals",
    "resid.",
    "time",
)
COMPARISON_NOTE = (
    "Accuracies, mean evaluations and median residual (both on test) are those of the training solver at "
    "the training "
    "budget. Best solver: by validation accuracy at that budget. Time: of training."
)


def comparison_rows(records: Sequence[RunRecord]) -> list[ComparisonRow]:
    """A row a run, in the order given."""
    return [_comparison_row(record, label) for record, label in zip(records, labels(records), strict=True)]


def _comparison_row(record: RunRecord, label: str) -> ComparisonRow:
    summary = record.summary
    nfe, residual = training_cost(record)
    last = record.epochs[-1].val_accuracy if record.epochs else None
    return ComparisonRow(
        name=label,
        model=_model(record),
        solver=record.choice("solver"),
        parameters=summary.parameters,
        best_solver=best_solver(record),
        val_accuracy=last if summary.val_accuracy is None else summary.val_accuracy,
        test_accuracy=summary.test_accuracy,
        test_accuracy_low=summary.test_accuracy_low,
        test_accuracy_high=summary.test_accuracy_high,
        nfe=nfe,
        residual=residual,
        seconds=summary.train_seconds,
    )


def _model(record: RunRecord) -> str | None:
    """'conv', 'conv tied 8'."""
    model, (kind, layers) = record.choice("model"), record.baseline
    return f"{model} {kind} {layers}" if model and kind else model


def best_solver(record: RunRecord) -> str | None:
    """The solver of highest validation accuracy at the training budget and tolerance; of equals the cheapest.

    At the smallest tolerance where the sweep lacks the training's. The training solver where the sweep
    doesn't say.
    """
    if record.train_max_iter is None:
        return record.main_solver
    cells = record.cells("validation", start=record.main_start, max_iter=record.train_max_iter)
    if not cells:
        return record.main_solver
    tol = _training_tol(record, {cell.tol for cell in cells})
    return max((c for c in cells if c.tol == tol), key=lambda c: (c.accuracy, -c.nfe_mean)).solver


def training_cost(record: RunRecord, split: str = "test") -> tuple[float | None, float | None]:
    """Mean evaluations and median residual of the training solver at the training budget and tolerance.

    From the sweep's cell, else from the trajectory where that goes as far; (None, None) where neither does.
    """
    cell = record.training_cell(split)
    if cell is not None:
        return cell.nfe_mean, cell.residual_median
    trajectory = record.trajectory(record.main_solver or "", split)
    budget, tol, smallest = record.train_max_iter, record.train_tol, record.smallest_tol()
    if trajectory is None or budget is None or tol is None or smallest is None or tol < smallest:
        return None, None
    if budget > max(cell.max_iter for cell in record.sweep):
        return None, None
    columns = np.arange(trajectory.n)
    nfe = trajectory.nfe[trajectory.stop(budget, tol), columns]
    residual = trajectory.residual[trajectory.returned(budget, record.keep, tol), columns]
    return float(nfe.mean()), float(np.median(residual))


def comparison_table(records: Sequence[RunRecord]) -> Group:
    """A row a run, of two lines so that it fits: the model under the name, the interval under the accuracy."""
    table = _table(None)
    table.add_column("run", overflow="fold", min_width=12)
    table.add_column("params", justify="right", no_wrap=True)
    table.add_column("best\nsolver", overflow="fold", min_width=8)
    for heading in ("val %", "test %\n[95 %]", *COMPARISON_HEADINGS[6:]):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison_rows(records):
        name, model, parameters, solver, validation, test, *rest = row.texts()
        both = Text(name).append(f"\n{model}", style="dim")
        table.add_row(both, parameters, Text(solver), validation, test.replace(" [", "\n["), *rest)
    return Group(table, Text(COMPARISON_NOTE, style="dim"))


def comparison_markdown(records: Sequence[RunRecord]) -> str:
    """The comparison as a Markdown table with its note."""
    rows = [COMPARISON_HEADINGS, ["---"] * len(COMPARISON_HEADINGS), *(r.texts() for r in comparison_rows(records))]
    lines = ["| " + " | ".join(_cell_markdown(text) for text in row) + " |" for row in rows]
    return "\n".join(lines) + f"\n\n{COMPARISON_NOTE}\n"


def _cell_markdown(text: str) -> str:
    """Text that neither ends a cell nor becomes markup."""
    for character in "\\|<`":
        text = text.replace(character, "\\" + character)
    return text


def description_table(
    description: "CellDescription", dataset: str, baseline: "BaselineDescription | None" = None
) -> Table:
    """A model's size and cost before training; a baseline also beside the DEQ."""
    table = _table(f"{description.name} on {dataset}, input {' × '.join(map(str, description.input_shape))}")
    table.add_column("")
    table.add_column("", justify="right")
    table.show_header = False
    once = "layer" if description.untied_layers else "evaluation"
    shapes = ", ".join("×".join(map(str, shape)) for shape in description.state_shapes)
    for name, value in (
        ("parameters", f"{description.parameters:,}"),
        (f"  of the {'layers' if description.untied_layers else 'map f'}", f"{description.map_parameters:,}"),
        ("  of the injection", f"{description.injection_parameters:,}"),
        ("  of the read-out", f"{description.readout_parameters:,}"),
        ("state, numbers per sample", f"{description.state_size:,}"),
        ("state, shapes", shapes),
        (f"multiply-adds of one {once}, per sample", f"{description.multiply_adds:,}"),
        ("multiply-adds of the injection, per sample", f"{description.injection_multiply_adds:,}"),
        ("multiply-adds of the read-out, per sample", f"{description.readout_multiply_adds:,}"),
        *_beside_the_deq(baseline),
    ):
        table.add_row(name, value)
    return table


def _beside_the_deq(baseline: "BaselineDescription | None") -> list[tuple[str, str]]:
    if baseline is None:
        return []
    narrowed = [("layers narrowed to", ", ".join(f"{name}={value}" for name, value in baseline.narrowed.items()))]
    return [
        (f"{baseline.kind} layers", f"{baseline.layers:,}"),
        *(narrowed if baseline.narrowed else []),
        ("parameters of the DEQ beside it", f"{baseline.deq_parameters:,}"),
        ("multiply-adds of the net, per sample", f"{baseline.multiply_adds:,}"),
        (f"multiply-adds of {baseline.layers:,} evaluations of the DEQ", f"{baseline.deq_multiply_adds:,}"),
    ]


def interval_text(value: float | None, low: float | None, high: float | None) -> str:
    """'98.1 [96.1, 99.0]', in percent."""
    if value is None or not math.isfinite(value):
        return numbers.UNKNOWN
    if low is None or high is None or not math.isfinite(low + high):
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def plain_text(table: RenderableType, width: int = WIDTH) -> str:
    """The table as text without colour, no wider than `width`."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


def grid_table(jobs: Sequence[tuple[int, str, str, float | None]]) -> Table:
    """The jobs of a multirun: number, the values that differ, state, and test accuracy."""
    table = _table(None)
    table.add_column("job", justify="right")
    table.add_column("differs in", overflow="fold")
    table.add_column("state")
    table.add_column("accuracy", justify="right", no_wrap=True)
    for number, differs, state, accuracy in jobs:
        table.add_row(str(number), differs or numbers.UNKNOWN, state, numbers.percent(accuracy))
    return table


def _table(title: str | None, caption: str | None = None) -> Table:
    return Table(
        title=title,
        caption=caption,
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        header_style="bold",
    )
