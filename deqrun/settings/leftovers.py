"""Keys that another choice of a group leaves behind in the config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from deqrun.settings.sources import choices, current_sources, typed_overrides

__all__ = ["without_leftovers"]

GROUPS = ("model", "dataset", "solver", "gradient", "optimizer")


def without_leftovers(sections: Mapping[str, Any], cfg: DictConfig) -> dict[str, Any]:
    """The sections of `cfg`, without the parameters that a study meant for the option it chooses itself.

    A study sets `gradient.steps` of the gradient that it names; another gradient may have no such parameter, or mean
    something else by it. So where the command line chooses another option of a group than the study does, the section
    is that option as it stands, with the overrides typed for it.
    """
    typed = [text.lstrip("+") for text in typed_overrides(cfg)]
    chosen = dict(text.split("=", 1) for text in typed if text.split("=", 1)[0] in GROUPS)
    kept = dict(sections)
    if not chosen or not any(text.startswith("study=") for text in typed):
        return kept
    with current_sources(cfg) as sources:
        others = [text for text in typed_overrides(cfg) if text.lstrip("+").split("=", 1)[0] in ("study", "baseline")]
        studys = choices(sources.compose("train", others))
        for group, name in chosen.items():
            if name == studys.get(group) or name not in sources.options(group):
                continue
            own = {key: value for key, value in kept[group].items() if _is_typed(f"{group}.{key}", typed)}
            kept[group] = sources.option(group, name) | own
    return kept


def _is_typed(key: str, typed: list[str]) -> bool:
    return any(text.startswith((f"{key}=", f"{key}.")) or f"@{key}=" in text for text in typed)
