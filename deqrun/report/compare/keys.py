"""The settings in which runs differ: their keys, short headings, and values as text that can be shown anywhere."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deqrun.report import numbers

__all__ = ["Key", "differing_keys", "flattened", "printable", "short_texts", "value_text"]

SEED = "seed"

NO_NUMBER = frozenset(
    {
        "name",
        "run",
        "resume",
        "device",
        "threads",
        "data_changed",
        "report",
        "objective",
        "train.workers",
        "train.pin_memory",
    }
)
"""Settings that change no number of a run, as the fingerprint of its settings has them."""

SPEAKING = {"model", "dataset", "solver", "gradient", "optimizer"}
"""Groups whose options say what they are; of others, as budget=deep, the group is named too."""

UNSHOWN = ("tracker", "choices.tracker")

ELIDED = 28
"""Characters of a value in a heading or a table cell; more are left out in the middle."""

_MISSING = "\0"
"""Stands for a setting that a run does not have, which is another thing than null."""


@dataclass(frozen=True)
class Key:
    """A setting that differs.

    name     dotted, as on the command line: solver, budget.max_iter
    heading  the shortest end of the name that no other key here shares
    choice   whether it is a choice whose value needs no name beside it, as conv of model
    """

    name: str
    heading: str
    choice: bool


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'budget': {'tol': 1e-3}} -> {'budget.tol': 0.001}; a list stays one value."""
    entries: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            entries |= flattened(value, f"{prefix}{key}.")
        else:
            entries[f"{prefix}{key}"] = value
    return entries


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that can change a number, by dotted key; a choice goes by the name of its group."""
    shown = {
        key: value
        for key, value in flattened(config).items()
        if key not in NO_NUMBER and not key.startswith(tuple(f"{name}." for name in UNSHOWN)) and key not in UNSHOWN
    }
    return {key.removeprefix("choices."): value for key, value in shown.items() if key != SEED}


def differing_keys(settings: Sequence[Mapping[str, Any]], groups: Iterable[str]) -> list[Key]:
    """The keys that tell these runs apart: choices first, then the others by name.

    settings  of each run, as `settings_of` gives them
    groups    names of config groups

    A key is left out where a shown one says the same: a parameter of a section that its choice determines, a key that
    repeats another's value in every run, and the sweep's solvers where the other keys determine them.
    """
    names = sorted({name for each in settings for name in each})
    columns = {name: [frozen(each.get(name, _MISSING)) for each in settings] for name in names}
    varying = [name for name in names if len(set(columns[name])) > 1]
    choices = set(groups)
    ordered = sorted(varying, key=lambda name: (name not in choices, name.startswith("sweep_solvers."), _rank(name)))
    kept: list[str] = []
    for name in ordered:
        repeated = any(columns[name] == columns[other] and _last(name) == _last(other) for other in kept)
        deciding = [other for other in kept if other in choices and _governs(other, name)]
        determined = any(_determines([columns[other]], columns[name]) for other in deciding)
        derived = name.startswith("sweep_solvers.") and _determines([columns[other] for other in kept], columns[name])
        if not (repeated or determined or derived):
            kept.append(name)
    return [Key(name, heading, name in choices & SPEAKING) for name, heading in zip(kept, _headings(kept), strict=True)]


def frozen(value: Any) -> Hashable:
    """A value that can be compared and hashed; 1, 1.0 and true are three."""
    if isinstance(value, Mapping):
        return tuple((str(key), frozen(entry)) for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(frozen(entry) for entry in value)
    return (type(value).__name__, str(value)) if not isinstance(value, str) else value


_FIRST = ("model", "dataset", "solver", "gradient", "optimizer", "baseline", "budget")


def _rank(name: str) -> tuple[bool, int, str]:
    """A nested component's keys, as gradient.budget.max_iter, come last: they mostly repeat the outer ones."""
    first = name.partition(".")[0]
    return (name.count(".") > 1, _FIRST.index(first) if first in _FIRST else len(_FIRST), name)


def _last(name: str) -> str:
    return name.replace("@", ".").rpartition(".")[2]


def _governs(choice: str, name: str) -> bool:
    """Whether a choice puts a section together: `solver` that of solver.*, `solver@gradient.solver` its own."""
    section = choice.partition("@")[2] or choice
    return name.startswith(f"{section}.")


def _determines(known: Sequence[Sequence[Hashable]], column: Sequence[Hashable]) -> bool:
    """Whether runs that agree in the known columns agree in this one."""
    seen: dict[tuple[Hashable, ...], Hashable] = {}
    agreeing = zip(*known, strict=True) if known else (() for _ in column)
    return all(seen.setdefault(before, value) == value for before, value in zip(agreeing, column, strict=True))


def _headings(names: Sequence[str]) -> list[str]:
    """The shortest dotted end of each name that no other of them ends in."""
    found = []
    for name in names:
        parts = name.split(".")
        ends = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        alone = (end for end in ends if not any(o != name and (o == end or o.endswith(f".{end}")) for o in names))
        found.append(next(alone, name))
    return found


def value_text(value: Any) -> str:
    """A setting as it would be typed: 0.001 -> '1e-3', [1, 2] -> '[1,2]', null -> 'null'; all of it printable."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        power = 0 < abs(value) < 1e-2 or abs(value) >= 1e5
        short = numbers.tolerance(value) if power else f"{value:g}"
        return short if float(short.replace(numbers.UNKNOWN, "nan")) == value else repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(value_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{value_text(str(k))}:{value_text(v)}' for k, v in value.items())}}}"
    return printable(str(value))


def printable(text: str) -> str:
    """Text without line breaks, control characters and marks that turn the reading direction: they are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def short_texts(texts: Sequence[str], most: int = ELIDED) -> list[str]:
    """The texts, long ones without their middle, as much longer as it takes for different ones to stay different."""
    longest = max(map(len, texts), default=0)
    while most < longest:
        short = [_elided(text, most) for text in texts]
        if len(set(short)) == len(set(texts)):
            return short
        most += 8
    return list(texts)


def _elided(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    head = (most - 1) // 2
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"
