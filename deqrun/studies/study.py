"""A study that is about to be made: its question, and its runs with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deqrun.errors import UserError, one_line
from deqrun.records.yaml_text import read_yaml, write_yaml
from deqrun.settings import settings_from

if TYPE_CHECKING:
    from deqrun.settings import Settings

FILE = "study.yaml"

PLAIN = ("name", "question", "size", "ask", "device", "threads")
"""Fields that study.yaml has as they are."""


@dataclass(frozen=True)
class Variant:
    """One run of a study.

    label     name of its folder, below runs/
    kind      the variant that it is a run of, whatever its seed
    settings  of the run
    command   the command line that trains it by itself
    """

    label: str
    kind: str
    settings: Settings
    command: str


@dataclass(frozen=True)
class Study:
    """The runs and the question of `deqrun train study=NAME`.

    name      of the study
    question  name of the module that answers
    size      small or full
    ask       parameters of the question
    variants  the runs to train; empty where an existing run is asked
    asked     the existing run, or None
    device, threads   for the runs and the answer's own computations
    jobs     runs at a time; None: as many as cores allow
    allow_foreign_targets   as said on this very command line; never stored
    """

    name: str
    question: str
    size: str
    ask: dict[str, Any]
    variants: tuple[Variant, ...]
    device: str
    threads: int | None
    asked: Path | None = None
    jobs: int | None = None
    allow_foreign_targets: bool = False

    @property
    def in_ranks(self) -> bool:
        """Whether its runs start ranks."""
        return any(variant.settings.launch.several for variant in self.variants)

    def to_yaml(self) -> str:
        """The text of study.yaml; `from_yaml` gives back an equal study."""
        variants = {
            variant.label: {"kind": variant.kind, "command": variant.command, "settings": variant.settings.sections()}
            for variant in self.variants
        }
        asked = None if self.asked is None else str(self.asked)
        plain = {key: getattr(self, key) for key in PLAIN}
        return write_yaml(plain | {"jobs": self.jobs, "asked": asked, "variants": variants})

    @classmethod
    def from_yaml(cls, path: Path, *, allow_foreign_targets: bool = False) -> Study:
        """The study that a folder's study.yaml holds. Nothing in it is executed. Raises UserError."""
        try:
            content = read_yaml(path)
            variants = tuple(
                _variant(label, entry, allow_foreign_targets) for label, entry in content["variants"].items()
            )
            asked = content["asked"]
            return cls(
                **{key: content[key] for key in PLAIN},
                variants=variants,
                asked=None if asked is None else Path(asked),
                jobs=content.get("jobs"),
                allow_foreign_targets=allow_foreign_targets,
            )
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(one_line(f"{path} can't be read as a study: {error}")) from error

    def differences(self, other: Study) -> list[str]:
        """The differences of two studies, in words; empty where their numbers are meant to be the same."""
        found = [
            f"{key}={getattr(other, key)} (was {getattr(self, key)})"
            for key in ("question", "size", "ask")
            if getattr(self, key) != getattr(other, key)
        ]
        mine, others = ({v.label: v.settings.fingerprint() for v in study.variants} for study in (self, other))
        return found + [
            f"the settings of its run {label}"
            for label in sorted(mine.keys() | others.keys())
            if mine.get(label) != others.get(label)
        ]

    def going_on(self, changes: Mapping[str, Any], tracker_mode: str | None) -> Study:
        """The same study, but on another `device`, with other `threads`, `jobs`, ranks (`launch`) or tracker mode."""
        own = {key: value for key, value in changes.items() if key != "jobs"}

        def changed(settings: Settings) -> Settings:
            tracker = settings.tracker
            if tracker_mode is not None:
                tracker = tracker.model_copy(update={"mode": tracker_mode})
            return settings.model_copy(update={**own, "tracker": tracker})

        variants = tuple(replace(variant, settings=changed(variant.settings)) for variant in self.variants)
        return replace(self, variants=variants, **{key: value for key, value in changes.items() if key != "launch"})


def _variant(label: str, entry: Mapping[str, Any], allow_foreign_targets: bool) -> Variant:
    settings = settings_from(entry["settings"] | {"allow_foreign_targets": allow_foreign_targets})
    return Variant(label, entry["kind"], settings, entry["command"])


def is_study(folder: Path) -> bool:
    """Whether a folder holds a study: each writes its study.yaml first."""
    return (folder / FILE).is_file()
