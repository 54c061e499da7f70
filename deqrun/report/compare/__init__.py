"""Comparing runs: read, folded over seeds, and shown as a table, a file, or a page. Imports no torch."""

from deqrun.report.compare.export import export
from deqrun.report.compare.page import compare_html, page_data
from deqrun.report.compare.recipes import Comparison, Folded, Recipe, compared, ordered
from deqrun.report.compare.runs import METRICS, ComparedRun, read_runs
from deqrun.report.compare.table import comparison_text

__all__ = [
    "METRICS",
    "ComparedRun",
    "Comparison",
    "Folded",
    "Recipe",
    "compare_html",
    "compared",
    "comparison_text",
    "export",
    "ordered",
    "page_data",
    "read_runs",
]
