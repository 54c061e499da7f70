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
    differing = [key for key, found in values.items() if len(found) > 1]
    return sorted(key for key in differing if not any(f"{key}.".startswith(f"{name}.") for name in apart_from))


def _leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, entry in value.items() for leaf in _leaves(f"{name}.{key}", entry)]
    return [(name, value)]
