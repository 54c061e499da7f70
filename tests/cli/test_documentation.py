"""docs/cli.md names every key that there is, and every sentence and folder name it shows is a real one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel

from deqrun.settings import Settings
from deqrun.settings.explain import DERIVED
from deqrun.settings.sources import open_sources
from deqrun.settings.study import STUDY_KEYS
from tests.cli.conftest import Launches, Outcome

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")


def typed_keys() -> set[str]:
    """The keys that settings have beside components, whose parameters are their classes' own."""
    keys = set()
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys |= {f"{name}.{key}" for key in kind.model_fields if kind.__name__ != "ComponentSettings"}
        elif name not in DERIVED:
            keys.add(name)
    return keys | set(STUDY_KEYS)


def test_every_key_and_group_is_documented() -> None:
    documented = set(re.findall(r"^\| `([\w.]+)` \|", TEXT, re.MULTILINE))
    with open_sources() as sources:
        assert documented == typed_keys() | set(sources.groups)


def test_the_sentence_shown_is_the_one_printed(refused: Callable[..., str]) -> None:
    shown = re.search(r"\$ deqrun (train .*)\n((?:    .*\n)+)", TEXT)
    assert shown is not None
    assert " ".join(shown[2].split()) == refused(*shown[1].split()).strip()


def test_the_folder_shown_is_the_one_made(deqrun: Callable[..., Outcome], launches: Launches) -> None:
    command = re.search(r"^    deqrun (train -m .*)$", TEXT, re.MULTILINE)
    shown = re.search(r"`(000-[^`]*)`", TEXT)
    assert command is not None
    assert shown is not None
    assert deqrun(*command[1].split()).code == 0
    assert len(launches.calls) == 6
    assert launches.calls[0][1][1].name == shown[1]
