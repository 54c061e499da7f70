"""The place of a run: the multirun or study that it belongs to, and the values in which it differs there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqrun.records.files import read_json_if_any

MARKS = ("grid.json", "multirun.json")
"""Files of a multirun's folder that name the keys in which its jobs differ."""


@dataclass(frozen=True)
class Place:
    """group: the multirun or study, None of a single run. differs: as in ('seed=0', 'solver=picard')."""

    group: str | None = None
    differs: tuple[str, ...] = ()


def place_of(folder: Path, sections: Mapping[str, Any]) -> Place:
    """The place of the run in `folder`, from the files around it, so that a resumed run keeps its place.

    sections  the run's settings as plain sections: the values of the keys that differ
    """
    folder = folder.resolve()
    parent = folder.parent
    # A run of a study, told by its label.
    if parent.name == "runs" and (parent.parent / "study.yaml").is_file():
        return Place(_titled(parent.parent), (folder.name,))
    # A job of a multirun, told by the values that differ.
    for mark in MARKS:
        if (keys := _differing(parent / mark)) is not None:
            return Place(_titled(parent), tuple(f"{key}={_value(sections, key)}" for key in keys))
    return Place()


def _titled(folder: Path) -> str:
    """The folder's name, with the date where that is the name of the folder above; at most 128 characters."""
    dated = re.fullmatch(r"\d{4}-\d{2}-\d{2}", folder.parent.name)
    return (f"{folder.parent.name}/{folder.name}" if dated else folder.name)[-128:]


def _differing(path: Path) -> list[str] | None:
    """The keys in which the jobs of a multirun differ; None where the file is missing or holds something else."""
    content = read_json_if_any(path)
    try:
        keys = content["shape"]["differing"]
    except (KeyError, TypeError):
        return None
    return [str(key) for key in keys] if isinstance(keys, list) else None


def _value(sections: Mapping[str, Any], key: str) -> str:
    """The option of a group, or the value of a dotted key, as it is typed."""
    choices = sections.get("choices")
    if isinstance(choices, Mapping) and key in choices:
        return str(choices[key])
    # A dotted key is followed through the sections.
    value: Any = sections
    for part in key.split("@")[0].split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value).replace(" ", "")
