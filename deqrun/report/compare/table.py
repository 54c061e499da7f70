"""The comparison in a terminal, at most 80 columns wide, and the same as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from deqrun.inference import LEAST_SEEDS
from deqrun.report import numbers
from deqrun.report.compare.keys import Key, short_texts
from deqrun.report.compare.recipes import Comparison, Folded, Recipe, label_of
from deqrun.report.compare.runs import METRICS, ComparedRun, Metric

__all__ = ["comparison_markdown", "comparison_text", "metric_text", "sentences"]

WIDTH = 80

GIVEN_UP = ("train_seconds", "parameters", "residual", "evaluations", "val_accuracy")
"""Columns that give way, in this order, where the table would be wider than the terminal."""

OF_MODELS = "†"
"""Marks an interval over samples, of these models alone."""

LISTED = 8
"""Folders that the terminal names one by one."""


def metric_text(metric: Metric, value: Folded | None) -> str:
    """A metric as the table has it: '97.2 [95.1, 98.4]' in percent, '6.1 ± 0.2', '1.2e-4', '49.5k', '43s'."""
    if value is None:
        return numbers.UNKNOWN
    if metric.unit == "share":
        if value.low is None or value.high is None:
            return f"{100 * value.mean:.1f}"
        mark = OF_MODELS if value.over == "samples" else ""
        return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]{mark}"
    if metric.unit == "evaluations":
        half = "" if value.low is None or value.high is None else f" ± {(value.high - value.low) / 2:.1f}"
        return f"{value.mean:.1f}{half}"
    written = {"residual": numbers.residual, "count": numbers.short_count, "seconds": numbers.short_duration}
    return written[metric.unit](value.mean)


def comparison_text(comparison: Comparison, recipes: Sequence[Recipe], *, every: bool = False) -> RenderableType:
    """The table of recipes in this order, what its marks mean, and what is not in it.

    every  whether all folders that are not in the table are named, rather than the first few
    """
    parts: list[RenderableType] = []
    if recipes:
        table, gone = _fitting(comparison.keys, recipes)
        parts += [table, Text(" ".join(sentences(recipes, gone)), style="dim")]
    parts += [Text(line) for line in _not_in_the_table(comparison, every)]
    return Group(*parts)


def _fitting(keys: Sequence[Key], recipes: Sequence[Recipe]) -> tuple[Table, list[str]]:
    """The table with as many columns as fit, and the headings of those that don't."""
    console = Console(width=WIDTH)
    for given_up in range(len(GIVEN_UP) + 1):
        gone = GIVEN_UP[:given_up]
        shown = [metric for metric in METRICS if metric.name not in gone]
        table = _table(keys, recipes, shown)
        if Measurement.get(console, console.options.update(width=1000), table).maximum <= WIDTH:
            break
    return table, [metric.heading.removesuffix(" %") for metric in METRICS if metric.name in gone]


def _table(keys: Sequence[Key], recipes: Sequence[Recipe], shown: Sequence[Metric]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    differing = [place for place in range(len(keys)) if len({recipe.texts[place] for recipe in recipes}) > 1]
    columns = [short_texts([recipe.texts[place] for recipe in recipes]) for place in differing]
    for place in differing:
        table.add_column(Text(_heading(keys[place].heading)), overflow="fold", min_width=4)
    if not differing:
        table.add_column("runs", overflow="fold")
        columns = [[recipe.runs[0].title for recipe in recipes]]
    table.add_column("seeds", justify="right", no_wrap=True)
    marked = any(recipe.best for recipe in recipes)
    for metric in shown:
        table.add_column(metric.heading, justify="right", no_wrap=True)
    for row, recipe in enumerate(recipes):
        cells = [Text(column[row]) for column in columns]
        texts = [metric_text(metric, recipe.values[metric.name]) for metric in shown]
        if marked and shown:
            texts[0] += "*" if recipe.best else " "
        table.add_row(*cells, str(len(recipe.runs)), *texts, style="bold" if recipe.best else "")
    return table


def _heading(text: str) -> str:
    """A heading that may break after its dots and underscores."""
    return text if len(text) <= 12 else text.replace(".", ".\n").replace("_", "_\n")


def sentences(recipes: Sequence[Recipe], gone: Sequence[str] = ()) -> list[str]:
    """What the table's numbers and marks mean."""
    seeds = [len(recipe.runs) for recipe in recipes]
    least, most = min(seeds), max(seeds)
    found = ["Accuracies, evaluations and residuals are at the training budget; evaluations and residuals on test."]
    if most >= LEAST_SEEDS:
        found.append("[ ] is the 95 % interval over other seeds of the recipe.")
    if least < LEAST_SEEDS:
        found.append(
            f"{OF_MODELS} of these models alone: 95 % over other samples, since fewer than {LEAST_SEEDS} seeds tell "
            "nothing of the recipe."
        )
    if most > 1:
        found.append("± is half of Student's 95 % interval over seeds; residuals are medians.")
    if any(recipe.best for recipe in recipes):
        found.append(
            "* highest mean validation accuracy on its data. It is no test: where intervals overlap, the order is open."
        )
    if gone:
        found.append(f"No room for {', '.join(gone)}: the page and --export have them.")
    return found


def _not_in_the_table(comparison: Comparison, every: bool) -> list[str]:
    """Runs without an end, repeats and folders that can't be read, a line each."""
    lines: list[str] = []
    runs = [_line_of(run, comparison) for run in comparison.unfinished]
    lines += _listed("Not complete, and not in the table", runs, every)
    repeats = [f"{run.folder}: settings and seed of a newer run in the table." for run in comparison.repeats]
    lines += _listed("Counted once", repeats, every)
    lines += _listed("Left out", [left.reason for left in comparison.left_out], every)
    return lines


def _line_of(run: ComparedRun, comparison: Comparison) -> str:
    name = label_of(comparison.texts_of(run), comparison.keys, run.title)
    seed = "" if run.seed is None else f", seed {run.seed}"
    epoch = "" if run.epoch is None else f" at epoch {run.epoch}"
    reason = f": {run.reason}" if run.reason else "."
    return f"{run.state}{epoch}, {name}{seed}{reason} ({run.folder})"


def _listed(title: str, lines: Sequence[str], every: bool) -> list[str]:
    if not lines:
        return []
    shown = lines if every else lines[:LISTED]
    more = [f"  and {len(lines) - len(shown)} more, which compare.txt names"] if len(shown) < len(lines) else []
    return ["", f"{title}: {len(lines)}", *(f"  {line}" for line in shown), *more]


def comparison_markdown(comparison: Comparison, recipes: Sequence[Recipe]) -> str:
    """The comparison as Markdown: the table, what it means, and what is not in it."""
    parts = [markdown_table(printed(comparison, recipes)), " ".join(sentences(recipes))] if recipes else []
    rest = [line for line in _not_in_the_table(comparison, every=True) if line]
    if rest:
        parts.append("\n".join(f"- {cell_markdown(line.strip())}" for line in rest))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def printed(comparison: Comparison, recipes: Sequence[Recipe]) -> list[list[str]]:
    """Headings, and the rows of all columns as people read them."""
    lines = [[*(key.heading for key in comparison.keys), "seeds", *(metric.heading for metric in METRICS)]]
    for recipe in recipes:
        texts = [metric_text(metric, recipe.values[metric.name]) for metric in METRICS]
        texts[0] += "*" if recipe.best else ""
        lines.append([*recipe.texts, str(len(recipe.runs)), *texts])
    return lines


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table of headings and rows; no text in it ends a cell or becomes markup."""
    table = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "".join("| " + " | ".join(map(cell_markdown, line)) + " |\n" for line in table)


def cell_markdown(text: str) -> str:
    """Text with every character escaped that Markdown or HTML could take for markup."""
    for character in "\\|<>`*_[]&":
        text = text.replace(character, "\\" + character)
    return text


def plural(number: int, noun: str) -> str:
    """1 -> '1 run'; 3 -> '3 runs'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
