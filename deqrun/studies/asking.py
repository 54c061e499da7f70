"""Checks the parameters of a question: their types and ranges, from the signature of its answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from deqrun.errors import UserError, listing, unknown

__all__ = ["check_ask"]

MOST = {"samples": 10_000_000, "iterations": 1_000_000, "steps": 1_000_000, "repeats": 10_000}
"""Beyond these a study would not end, or not fit into any memory."""


def check_ask(name: str, answer: Callable[..., Any], ask: Mapping[str, Any]) -> None:
    """Raise UserError unless `ask` gives every parameter of the question a value of its type and range.

    Whole numbers are at least 1; numbers are finite and at least 0; lists have at least one such entry, none twice.
    """
    hints = {key: hint for key, hint in get_type_hints(answer).items() if key not in ("context", "return")}
    for key, value in ask.items():
        if key not in hints:
            raise UserError(unknown(f"ask.{key}={value}", f"a parameter of {name}", list(hints), key))
        if (fault := _fault(hints[key], value, MOST.get(key))) is not None:
            raise UserError(f"ask.{key}={value} is out of range: {name} needs {fault}.")
    if missing := [f"ask.{key}" for key in hints if key not in ask]:
        raise UserError(f"{name} needs {listing(missing)}, which nothing sets; give a value.")


def _fault(hint: Any, value: Any, most: int | None) -> str | None:
    """The value that is needed instead; None where the given one will do."""
    if hint in (int, float):
        whole = hint is int
        return None if _is_number(value, whole, most) else _needed(whole, most)
    entry = int if hint == Sequence[int] else float
    whole = entry is int
    fits = isinstance(value, (list, tuple)) and len(value) > 0 and all(_is_number(one, whole, most) for one in value)
    if not fits:
        return f"a list, in which each is {_needed(whole, most)}"
    return "a list in which nothing stands twice" if len(set(value)) < len(value) else None


def _is_number(value: Any, whole: bool, most: int | None) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    least = 1 if whole else 0
    return (isinstance(value, int) or not whole) and value >= least and (most is None or value <= most)


def _needed(whole: bool, most: int | None) -> str:
    limit = "" if most is None else f", at most {most:,}"
    return f"a whole number, at least 1{limit}" if whole else "a finite number, at least 0"
