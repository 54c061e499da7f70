"""Rows of a run as data frames, with pandas or polars, whichever is installed."""

from __future__ import annotations

from dataclasses import asdict, fields
from importlib import import_module
from typing import Any

from deqrun.errors import UserError, unknown
from deqrun.records.rows import ROW_KINDS
from deqrun.records.run import RunRecord

__all__ = ["KINDS", "frame"]

KINDS = tuple(ROW_KINDS)
"""Kinds of rows that a run has: epochs, steps, evaluations, sweep, halting, breadth, savings."""


def columns(kind: str, record: RunRecord) -> dict[str, list[Any]]:
    """The values of each field of a kind of rows; of no rows the fields alone. Raises UserError for an unknown kind."""
    if kind not in KINDS:
        raise UserError(unknown(kind, "a kind of rows", KINDS))
    values = [asdict(row) for row in getattr(record, kind)]
    return {field.name: [row[field.name] for row in values] for field in fields(ROW_KINDS[kind].row)}


def frame(library: str, kind: str, record: RunRecord, **options: Any) -> Any:
    """The rows as a data frame of pandas or polars. Raises UserError, which names the extra, where it is not installed.

    options  of the library's DataFrame
    """
    found = columns(kind, record)
    try:
        module = import_module(library)
    except ImportError:
        raise UserError(f"{library} is not installed; pip install 'deqrun[frames]' brings it.") from None
    return module.DataFrame(found, **options)
