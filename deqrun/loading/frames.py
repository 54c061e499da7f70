"""Rows of a run as data frames, with pandas or polars, whichever is installed."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from deqrun.errors import UserError, unknown
from deqrun.records.rows import ROW_KINDS
from deqrun.records.run import RunRecord

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = ["KINDS", "pandas_frame", "polars_frame"]

KINDS = tuple(ROW_KINDS)
"""Kinds of rows that a run has: epochs, steps, evaluations, sweep, halting, breadth, savings."""


def columns(kind: str, record: RunRecord) -> dict[str, list[Any]]:
    """The values of each field of a kind of rows; of no rows the fields alone. Raises UserError for an unknown kind."""
    if kind not in KINDS:
        raise UserError(unknown(kind, "a kind of rows", KINDS))
    values = [asdict(row) for row in getattr(record, kind)]
    return {field.name: [row[field.name] for row in values] for field in fields(ROW_KINDS[kind].row)}


def pandas_frame(kind: str, record: RunRecord) -> pd.DataFrame:
    """The rows as a pandas frame. Raises UserError, which names the extra, where pandas is not installed."""
    found = columns(kind, record)
    try:
        import pandas as pd
    except ImportError:
        raise UserError(_missing("pandas")) from None
    return pd.DataFrame(found)


def polars_frame(kind: str, record: RunRecord) -> pl.DataFrame:
    """The rows as a polars frame. Raises UserError, which names the extra, where polars is not installed."""
    found = columns(kind, record)
    try:
        import polars as pl
    except ImportError:
        raise UserError(_missing("polars")) from None
    return pl.DataFrame(found, strict=False)


def _missing(package: str) -> str:
    return f"{package} is not installed; pip install 'deqrun[frames]' brings it."
