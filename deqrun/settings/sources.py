"""Finding and composing configs, and the resolvers that the YAML files may use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

if TYPE_CHECKING:
    from hydra._internal.config_repository import IConfigRepository

HYDRA_VERSION_BASE = "1.3"
NOT_COMPOSED = (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError)
"""Errors of composing where an option, of a user's folder too, is not there, torn, or names itself."""
STUDY_KEYS = ("question", "size", "seeds", "jobs", "variants", "ask")
"""Keys of train.yaml that a run itself doesn't know."""
AS_GIVEN = ("model=adapted", "train.epochs=null", "train.jacobian_weight=0")
"""Overrides of a run of deqrun train whose model comes from elsewhere, with its weights."""
SUBFOLDER_LENGTH = 120
"""Characters of a job's folder name: half of the file systems' limit, so that suffixes still fit."""


_composed_options: WeakKeyDictionary[ConfigLoader, dict[tuple[tuple[str, ...], str, str], Any]] = WeakKeyDictionary()


def packaged_configs() -> Path:
    """The folder of the configs: inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed, checkout = package / "configs", package.parent / "configs"
    return installed if (installed / "train.yaml").is_file() else checkout


@dataclass(frozen=True)
class ConfigSources:
    """Composes configs from the packaged folder and the folders that the user added.

    loader  Hydra's loader
    search  `hydra.searchpath=…` overrides that name further folders; empty where the loader knows them
    """

    loader: ConfigLoader
    search: tuple[str, ...] = ()

    def compose(self, config_name: str, overrides: Sequence[str], multirun: bool = False) -> DictConfig:
        """The composed config, Hydra's own node included. Raises one of NOT_COMPOSED."""
        return self.loader.load_configuration(
            config_name=config_name,
            overrides=[*self.search, *overrides],
            run_mode=RunMode.MULTIRUN if multirun else RunMode.RUN,
            from_shell=False,
            validate_sweep_overrides=not multirun,
        )

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Every config group and its options, Hydra's own left out."""
        names = sorted({*self._files.get_group_options("", ObjectType.GROUP)} - {"hydra"})
        return {name: options for name in names if (options := self.options(name))}

    def options(self, group: str) -> list[str]:
        """The options of one group; none where there is no such group."""
        return list(self._files.get_group_options(group, ObjectType.CONFIG))

    @cached_property
    def _files(self) -> IConfigRepository:
        """What finds and reads single files."""
        # The public way to list a group copies all sources for each of them; without further folders none is needed.
        files: IConfigRepository = self.loader.repository  # type: ignore[attr-defined]
        if self.search:
            _, files = self.loader._parse_overrides_and_create_caching_repo(None, list(self.search))  # type: ignore[attr-defined]
        return files

    def option(self, group: str, name: str) -> dict[str, Any]:
        """The resolved content of one option of a group, its own defaults list followed."""
        # Jobs of a grid ask for the same solvers: each is composed once by a loader.
        composed, asked = _composed_options.setdefault(self.loader, {}), (self.search, group, name)
        if asked not in composed:
            composed[asked] = self._option_alone(group, name) or self._option_composed(group, name)
        return {str(key): value for key, value in deepcopy(composed[asked]).items()}

    def _option_alone(self, group: str, name: str) -> Any:
        """The content of an option's file, if it names no other and interpolates nothing, as most do; else None."""
        # Hydra composes its own node beside an option, which takes ten times as long as to read the file.
        found = self._files.load_config(f"{group}/{name}")
        if found is None or found.defaults_list:
            return None
        content = OmegaConf.to_container(found.config, resolve=False)
        return None if "${" in str(content) else content

    def _option_composed(self, group: str, name: str) -> Any:
        overrides = [*self.search, f"+{group}@content={quoted(name)}"]
        cfg = self.loader.load_configuration(config_name=None, overrides=overrides, run_mode=RunMode.RUN)
        return OmegaConf.to_container(cfg.content, resolve=True)


@contextmanager
def having(owner: object, name: str, value: object) -> Iterator[None]:
    """Within: an attribute of Hydra's has another value, which is put back afterwards."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def without_hydra() -> AbstractContextManager[None]:
    """Within: Hydra is not initialised, and can be anew; whatever it was before is put back."""
    return having(GlobalHydra.instance(), "hydra", None)


@contextmanager
def open_sources(config_dir: Path | None = None) -> Iterator[ConfigSources]:
    """Config sources outside of a running Hydra app; whatever Hydra was initialised before is put back."""
    search = () if config_dir is None else (f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]",)
    with (
        without_hydra(),
        initialize_config_dir(str(packaged_configs()), job_name="deqrun", version_base=HYDRA_VERSION_BASE),
    ):
        yield ConfigSources(GlobalHydra.instance().config_loader(), search)


@contextmanager
def current_sources(cfg: DictConfig) -> Iterator[ConfigSources]:
    """The sources that `cfg` was composed from: the running app's, or the packaged ones."""
    if not GlobalHydra.instance().is_initialized():
        with open_sources() as sources:
            yield sources
        return
    overrides = OmegaConf.select(_hydra_node(cfg), "overrides.hydra") or []
    search = tuple(line for line in overrides if line.startswith("hydra.searchpath="))
    yield ConfigSources(GlobalHydra.instance().config_loader(), search)


def quoted(value: str) -> str:
    """A string as a literal of Hydra's override grammar."""
    return "'" + re.sub(r"(\\+)('|$)", r"\1\1\2", value).replace("'", r"\'") + "'"


def choices(cfg: DictConfig) -> dict[str, str]:
    """Which option of each group the config was composed from.

    Taken from Hydra's node; without one (a config composed by hand), a section's class in lower case.
    """
    node = OmegaConf.select(_hydra_node(cfg), "runtime.choices")
    if node is not None:
        known = {str(group): option for group, option in node.items() if not str(group).startswith("hydra/")}
        return {group: str(option) for group, option in sorted(known.items()) if option is not None}
    sections = {str(key): cfg[key] for key in cfg if not OmegaConf.is_interpolation(cfg, str(key))}
    targets = {key: section.get("_target_") for key, section in sections.items() if OmegaConf.is_dict(section)}
    return {key: str(target).rpartition(".")[2].lower() for key, target in targets.items() if target}


def typed_overrides(cfg: DictConfig) -> list[str]:
    """The overrides that a config was composed with, as they were typed; none where Hydra's node is missing."""
    return [str(text) for text in OmegaConf.select(_hydra_node(cfg), "overrides.task") or []]


def _hydra_node(cfg: DictConfig) -> DictConfig:
    if "hydra" in cfg:
        return cfg.hydra
    if HydraConfig.initialized():
        node = HydraConfig.get()
        assert isinstance(node, DictConfig)
        return node
    return OmegaConf.create()


def _choice(group: str, *, _root_: DictConfig) -> str:
    return choices(_root_).get(group, "none")


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _legible(overrides: str) -> str:
    """Overrides as the end of a folder's name: no separators, no quotes, and not too long."""
    text = re.sub(r"[^\w.,=+-]+", "_", re.sub(r"[\[\]{}'\"]", "", overrides)).strip("_")
    return f"-{text[:SUBFOLDER_LENGTH]}" if text else ""


def _sized(small: Any, full: Any, *, _root_: DictConfig) -> Any:
    return full if _root_.get("size") == "full" else small


def register_resolvers() -> None:
    """Register the resolvers that the YAML files may use.

    `${choice:model}`: the option taken; `${first:a,b}`: the first not null; `${legible:…}`: in a path;
    `${sized:8,100}`: 8 with size=small, 100 with size=full.
    """
    OmegaConf.register_new_resolver("choice", _choice, replace=True)
    OmegaConf.register_new_resolver("first", _first, replace=True)
    OmegaConf.register_new_resolver("legible", _legible, replace=True)
    OmegaConf.register_new_resolver("sized", _sized, replace=True)


register_resolvers()
