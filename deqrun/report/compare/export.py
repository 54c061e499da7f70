"""The comparison as a file: CSV, Markdown, LaTeX or parquet, by the file's ending, every number in full."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deqrun.errors import UserError, nearest
from deqrun.records.files import write_whole
from deqrun.report.compare.recipes import Comparison, Recipe
from deqrun.report.compare.runs import METRICS
from deqrun.report.compare.table import OF_MODELS, markdown_table, printed

__all__ = ["FORMATS", "export", "require_exportable", "rows_apart", "rows_folded"]

Row = dict[str, Any]

NEEDS = "parquet needs pandas or polars, and pyarrow: pip install 'deqrun[frames]'"


def rows_folded(comparison: Comparison, recipes: Sequence[Recipe]) -> list[Row]:
    """A row a recipe: its keys, the number of seeds, each metric's mean and interval, and whether it is marked."""
    rows = []
    for recipe in recipes:
        row: Row = {key.name: text for key, text in zip(comparison.keys, recipe.texts, strict=True)}
        row |= {"seeds": len(recipe.runs), "best_validation": recipe.best}
        for metric in METRICS:
            value = recipe.values[metric.name]
            row[metric.name] = value.mean if value else None
            if metric.unit != "residual":
                row[f"{metric.name}_low"] = value.low if value else None
                row[f"{metric.name}_high"] = value.high if value else None
            if metric.unit == "share":
                row[f"{metric.name}_over"] = value.over if value and value.low is not None else None
        rows.append(row)
    return rows


def rows_apart(comparison: Comparison, recipes: Sequence[Recipe]) -> list[Row]:
    """A row a run, in the order of its recipes; runs that are not complete follow, with the values they have."""
    runs = [run for recipe in recipes for run in recipe.runs] + [*comparison.repeats, *comparison.unfinished]
    return [
        {
            **dict(zip((key.name for key in comparison.keys), comparison.texts_of(run), strict=True)),
            "seed": run.seed,
            "state": str(run.state),
            **{metric.name: run.values[metric.name] for metric in METRICS},
            "n_test": run.samples.get("test_accuracy"),
            "folder": str(run.folder),
        }
        for run in runs
    ]


def require_exportable(path: Path) -> None:
    """Require an ending that is known, a file that isn't there, and what parquet needs. Raises UserError."""
    if path.suffix.lower() not in FORMATS:
        near = nearest(path.suffix.lower(), FORMATS)
        hint = f"; the nearest is {near}" if near else ""
        ending = path.suffix or "nothing"
        raise UserError(f"--export {path} ends in {ending}, no known format; allowed: {', '.join(FORMATS)}{hint}.")
    if path.exists() or path.is_symlink():
        raise UserError(f"--export {path} exists, and nothing is overwritten; give a file that does not exist.")
    if not path.parent.is_dir():
        raise UserError(f"--export {path}: the folder {path.parent} does not exist; make it first.")
    if path.suffix.lower() == ".parquet":
        _parquet_writer()


def export(path: Path, rows: Sequence[Row], comparison: Comparison, recipes: Sequence[Recipe], *, apart: bool) -> None:
    """Write the rows by the file's ending: as printed in Markdown and LaTeX, in full in CSV and parquet."""
    content = FORMATS[path.suffix.lower()](rows, comparison, recipes, apart)
    write_whole(path, content)


def _csv(rows: Sequence[Row], comparison: Comparison, recipes: Sequence[Recipe], apart: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["seeds"], lineterminator="\n")
    writer.writerow({name: _no_formula(name) for name in writer.fieldnames})
    writer.writerows({name: _no_formula(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _no_formula(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers are left alone."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def printed_rows(
    rows: Sequence[Row], comparison: Comparison, recipes: Sequence[Recipe], apart: bool
) -> list[list[str]]:
    """Headings, and rows of texts as people read them."""
    if not apart:
        return printed(comparison, recipes)
    return [list(rows[0]) if rows else [], *([_plain(value) for value in row.values()] for row in rows)]


def _plain(value: Any) -> str:
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _markdown(rows: Sequence[Row], comparison: Comparison, recipes: Sequence[Recipe], apart: bool) -> str:
    return markdown_table(printed_rows(rows, comparison, recipes, apart))


def _latex(rows: Sequence[Row], comparison: Comparison, recipes: Sequence[Recipe], apart: bool) -> str:
    lines = printed_rows(rows, comparison, recipes, apart)
    words = len(comparison.keys)
    body = [" & ".join(map(_cell_latex, line)) + r" \\" for line in lines]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * words}{'r' * (len(lines[0]) - words)}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    OF_MODELS: r"$^\dagger$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "…": r"\ldots{}",
}


def _cell_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _parquet(rows: Sequence[Row], comparison: Comparison, recipes: Sequence[Recipe], apart: bool) -> bytes:
    return _parquet_writer()(rows)


def _parquet_writer() -> Callable[[Sequence[Row]], bytes]:
    """The writer of what is installed. Raises UserError, which names the extra, where nothing is."""
    try:
        import pandas as pd
        import pyarrow  # noqa: F401

        return lambda rows: bytes(pd.DataFrame(list(rows)).to_parquet(index=False))
    except ImportError:
        pass
    try:
        import polars as pl
    except ImportError:
        raise UserError(f"--export: {NEEDS}.") from None

    def write(rows: Sequence[Row]) -> bytes:
        buffer = io.BytesIO()
        pl.DataFrame(list(rows), infer_schema_length=None).write_parquet(buffer)
        return buffer.getvalue()

    return write


FORMATS: dict[str, Callable[[Sequence[Row], Comparison, Sequence[Recipe], bool], str | bytes]] = {
    ".csv": _csv,
    ".md": _markdown,
    ".tex": _latex,
    ".parquet": _parquet,
}
