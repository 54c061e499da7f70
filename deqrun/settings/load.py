"""From a composed config, or a run's config.yaml, to settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deqrun.errors import UserError, one_line, unknown
from deqrun.records.former_names import with_present_names
from deqrun.records.yaml_text import read_yaml
from deqrun.settings.leftovers import without_leftovers
from deqrun.settings.sources import STUDY_KEYS, current_sources, typed_overrides
from deqrun.settings.sources import choices as choices_of

if TYPE_CHECKING:  # which need pydantic: a command that only composes does without
    from deqrun.settings.schema import Settings


def read_settings(path: Path, *, allow_foreign_targets: bool = False) -> Settings:
    """The settings that a run folder's config.yaml holds. Nothing in the file is executed.

    Raises UserError where the file is missing, isn't YAML, or doesn't hold valid settings.
    """
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(one_line(f"{path} can't be read as the config of a run: {error}")) from error
    try:
        return settings_from(with_present_names(content) | {"allow_foreign_targets": allow_foreign_targets})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_settings(cfg: DictConfig) -> Settings:
    """The settings of a composed train config.

    Solvers named by `sweep.solvers` are resolved from the config sources; a name that is the run's own solver
    takes the run's own parameters. Raises UserError: the whole dotted key, and the nearest valid thing.
    """
    from deqrun.settings.baseline import with_baseline

    try:
        sections = without_leftovers(sections_of(cfg), cfg)
        sections = with_baseline(sections | {"choices": choices_of(cfg)}, typed_overrides(cfg))
    except ValueError as error:
        raise UserError(str(error)) from error
    own = {sections["choices"].get("solver"): sections.get("solver")}
    sections["sweep_solvers"] = sweep_solvers(cfg, sections.get("sweep"), own)
    return settings_from(sections)


def settings_from(sections: Mapping[str, Any]) -> Settings:
    """Settings from plain sections. Raises UserError, one sentence."""
    from pydantic import ValidationError

    from deqrun.settings.explain import explain
    from deqrun.settings.schema import Settings

    try:
        return Settings.model_validate(sections)
    except ValidationError as error:
        raise UserError(explain(error, Settings)) from error


def sections_of(cfg: DictConfig) -> dict[str, Any]:
    """The config of a run as plain dicts with every interpolation resolved; Hydra's node and a study's left out."""
    try:
        resolved = {str(key): cfg[key] for key in cfg if key not in ("hydra", *STUDY_KEYS)}
        return {
            key: OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
            if OmegaConf.is_config(value)
            else value
            for key, value in resolved.items()
        }
    except OmegaConfBaseException as error:
        raise UserError(one_line(str(error).split("\n")[0])) from error


def sweep_solvers(cfg: DictConfig, sweep: Any, own: Mapping[str | None, Any]) -> dict[str, Any]:
    """The sections of the solvers that `sweep.solvers` names; those in `own` keep their parameters there."""
    names = sweep.get("solvers") if isinstance(sweep, Mapping) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return {}
    with current_sources(cfg) as sources:
        allowed = sorted({*sources.options("solver"), *(name for name in own if name)})
        for name in names:
            if name not in allowed:
                raise UserError("sweep.solvers: " + unknown(name, "a solver", allowed))
        return {name: own[name] if name in own else sources.option("solver", name) for name in names}
