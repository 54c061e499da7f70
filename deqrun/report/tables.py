"""Tables for the terminal, 80 columns wide, and the same as plain text and Markdown."""

import io
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table

from deqrun.errors import listing
from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord
from deqrun.report import numbers

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
    title += "" if record.main_difficulty is None else f", difficulty {record.main_difficulty:,}"
    solver = "the sweep's own solver" if record.config.get("run") else "solver"
    marked = any(_is_training_row(record, cell) for cell in cells)
    notes = [f"* training budget and {solver}"] if marked else []
    notes += [] if record.ema is None else [f"weights averaged over the steps of training (EMA {record.ema:g})"]
    table = plain_table(title, caption="; ".join(notes) or None)
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
    tol = training_tol(record, tolerances)
    return [cell for cell in grid if cell.tol == tol and cell.max_iter in budgets]


def training_tol(record: RunRecord, tolerances: set[float]) -> float:
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


def training_cost(record: RunRecord, split: str = "test") -> tuple[float | None, float | None]:
    """Mean evaluations and median residual of the training solver at the training budget and tolerance.

    From the sweep's cell, else from the trajectory where that goes as far; (None, None) where neither does, or where
    the sweep asked other solvers alone.
    """
    if record.main_solver != record.choice("solver"):
        return None, None
    cell = record.training_cell(split)
    if cell is not None:
        return cell.nfe_mean, cell.residual_median
    trajectory = record.trajectory(record.main_solver or "", split)
    budget, tol, smallest = record.train_max_iter, record.train_tol, record.smallest_tol()
    if trajectory is None or budget is None or tol is None or smallest is None or tol < smallest:
        return None, None
    if budget > max(cell.max_iter for cell in record.sweep):
        return None, None
    nfe = trajectory.at("nfe", trajectory.stop(budget, tol))
    residual = trajectory.at("residual", trajectory.returned(budget, record.keep, tol))
    return float(nfe.mean()), float(np.median(residual))


def description_table(
    description: "CellDescription", dataset: str, baseline: "BaselineDescription | None" = None
) -> Table:
    """A model's size and cost before training; a baseline also beside the DEQ."""
    table = plain_table(f"{description.name} on {dataset}, input {' × '.join(map(str, description.input_shape))}")
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


def decay_table(groups: Sequence[tuple[float, Sequence[tuple[str, int]]]]) -> Table:
    """Which parameters weight decay is for: (decay, (name, numbers) of each parameter) of each group.

    Names are shortened: numbers of layers become *, and equal names stand once.
    """
    table = plain_table("weight decay")
    for heading in ("decay", "parameters", "numbers"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("names", overflow="fold")
    for decay, parameters in groups:
        names = dict.fromkeys(_shortened(name) for name, _ in parameters)
        numbers_of = sum(count for _, count in parameters)
        table.add_row(f"{decay:g}", f"{len(parameters):,}", f"{numbers_of:,}", listing(names))
    return table


def _shortened(name: str) -> str:
    parts = ["*" if part.isdecimal() else part for part in name.removeprefix("cell.").split(".")]
    return ".".join(parts)


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


def grid_table(jobs: Sequence[tuple[int, str, str, str]], heading: str, caption: str | None = None) -> Table:
    """The jobs of a multirun: number, the values that differ, state, and the accuracy that the heading names."""
    table = plain_table(None, caption)
    table.add_column("job", justify="right")
    table.add_column("differs in", overflow="fold")
    table.add_column("state")
    table.add_column(heading, justify="right", no_wrap=True)
    for number, differs, state, accuracy in jobs:
        table.add_row(str(number), differs or numbers.UNKNOWN, state, accuracy)
    return table


def plain_table(title: str | None, caption: str | None = None) -> Table:
    """A table without columns yet, in the style of the terminal's tables."""
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
