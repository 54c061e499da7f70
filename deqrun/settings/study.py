"""The part of the composed config that only studies have: the question, its runs, and the effort."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError

from deqrun.errors import one_line, unknown
from deqrun.settings.component import Section
from deqrun.settings.explain import explain
from deqrun.settings.sources import STUDY_KEYS

SIZES = ("small", "full")


class StudySettings(Section):
    """A study's own settings; `question` is None for a plain run.

    question  name of a module of deqrun.studies
    size      small: ends within 15 minutes on two CPU cores; full
    seeds     runs of each variant, with the seeds `seed`, `seed` + 1, …
    jobs      runs at a time, each with `threads` threads (by default one); None: as many as cores allow
    variants  the runs that it trains, label: overrides; None leaves one out
    ask       parameters of the question
    """

    question: str | None
    size: Literal["small", "full"]
    seeds: Annotated[int, Field(strict=True, ge=1)]
    jobs: Annotated[int, Field(strict=True, ge=1)] | None
    variants: dict[str, list[str] | None]
    ask: dict[str, Any]

    @property
    def trained(self) -> dict[str, list[str]]:
        """The variants that are not left out."""
        return {label: overrides for label, overrides in self.variants.items() if overrides is not None}


def load_study_settings(cfg: DictConfig) -> StudySettings:
    """The study part of a composed train config. Raises UserError's kind, ValueError, with one sentence."""
    size = cfg.get("size")
    if size not in SIZES:  # told first: other values depend on it
        raise ValueError(unknown(f"size={size}", "a size of a study", SIZES, str(size)))
    try:
        content = {key: _plain(cfg[key]) for key in STUDY_KEYS}
        return StudySettings.model_validate(content)
    except OmegaConfBaseException as error:
        raise ValueError(one_line(str(error).split("\n")[0])) from error
    except ValidationError as error:
        raise ValueError(explain(error, StudySettings)) from error


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
