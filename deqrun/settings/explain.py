"""Pydantic's findings as one sentence: the dotted key, the value given, those allowed, and the nearest."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deqrun.errors import nearest, one_line, unknown

_BOUNDS = {
    "greater_than": ("gt", "more than {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "at most {}"),
}

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "letters, digits and _ . , = + -, beginning with a letter, a digit or _",
    "tuple_type": "a list, as in [1,2]",
    "dict_type": "a group of keys",
    "model_type": "a group of keys",
    "path_type": "a path",
}


DERIVED = ("choices", "sweep_solvers")
"""Fields of Settings that are worked out and not typed."""


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """The first finding as a sentence; an unknown key comes before a missing one, being often its cause."""
    findings = error.errors(include_url=False)
    findings.sort(key=lambda finding: finding["type"] != "extra_forbidden")
    return _sentence(findings[0], model)


def _sentence(finding: ErrorDetails, model: type[BaseModel]) -> str:
    path = [str(part) for part in finding["loc"]]
    key, kind, given = _dotted(path), finding["type"], finding["input"]
    context = finding.get("ctx", {})
    if kind == "extra_forbidden":
        siblings = [_dotted([*path[:-1], name]) for name in _fields(model, path[:-1]) if name not in DERIVED]
        return unknown(key, "a key", siblings)
    if kind == "missing":
        return f"{key} is missing; it must be given."
    if kind == "value_error":
        return one_line(f"{key} {context['error']}".strip())
    if kind in _BOUNDS:
        name, phrase = _BOUNDS[kind]
        return f"{key}={_shown(given)} is out of range; it must be {phrase.format(f'{context[name]:g}')}."
    if kind == "literal_error":
        expected = context["expected"].replace("'", "")
        near = nearest(str(given), expected.replace(" or ", ", ").split(", "))
        hint = f"; the nearest is {near}" if near else ""
        return f"{key}={_shown(given)} is not allowed; it must be {expected}{hint}."
    if kind == "string_too_long":
        return f"{key} has {len(given)} characters; it must have at most {context['max_length']}."
    return f"{key}={_shown(given)} is not allowed; it must be {_TYPES.get(kind, finding['msg'])}."


def _dotted(path: list[str]) -> str:
    """`sweep.iterations[2]` for ('sweep', 'iterations', 2)."""
    text = ""
    for part in path:
        text += f"[{part}]" if part.isdigit() else f".{part}" if text else part
    return text


def _shown(value: Any) -> str:
    """A value as it is typed on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}..."


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the model that lies at `path` inside of `model`."""
    current: Any = model
    for part in path:
        current = _model_in(current.model_fields[part].annotation)
    return list(current.model_fields)


def _model_in(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType, dict):
        options = get_args(annotation)
        return next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return annotation
