"""Settings in which the runs that a study compares differ besides the one that it asks about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deqrun.studies.context import StudyRun

COMPARED = ("train", "optimizer", "dataset", "budget")
"""Sections that bear on accuracy, whatever a study varies."""


def confounders(runs: Sequence[StudyRun], apart_from: Sequence[str]) -> list[str]:
    """Names of settings that differ among the variants' runs, such as 'train.jacobian_weight'; empty: none does.

    apart_from  sections or keys that the study varies on purpose, such as 'baseline' or 'train.start'
    """
    values: dict[str, set[str]] = {}
    for run in runs:
        sections = run.settings.sections()
        for section in COMPARED:
            for key, value in _leaves(section, sections.get(section)):
                values.setdefault(key, set()).add(repr(value))
    counts = {key: len(found) for key, found in values.items()}
    return sorted(
        key for key, count in counts.items() if count > 1 and not any(_within(key, name) for name in apart_from)
    )


def _leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, entry in value.items() for leaf in _leaves(f"{name}.{key}", entry)]
    return [(name, value)]


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")
