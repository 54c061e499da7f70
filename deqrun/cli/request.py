"""A Hydra command as it was typed: its flags, and its overrides."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra._internal.utils import get_args_parser

from deqrun.cli.launchers import preset
from deqrun.errors import UserError, nearest, one_line
from deqrun.settings.sources import quoted

FOLDERS = ("run", "hydra.run.dir", "hydra.sweep.dir")
"""Keys whose value is a folder that is written into."""


@dataclass(frozen=True)
class Request:
    """One call of a Hydra command.

    command     train, sweep or describe
    flags       the arguments as Hydra's own parser reads them
    arguments   the arguments that are no overrides, as typed
    """

    command: str
    flags: argparse.Namespace
    arguments: tuple[str, ...]

    @property
    def overrides(self) -> list[str]:
        """The overrides; `run=` names one folder, so that its commas and signs are no grammar."""
        return [_literal(preset(text)) for typed in self.flags.overrides for text in _several_trackers(typed)]

    @property
    def config_name(self) -> str:
        """The primary config: the command's, unless --config-name says otherwise."""
        return self.flags.config_name or ("sweep" if self.command == "sweep" and not self.asks_run else "train")

    @property
    def asks_run(self) -> bool:
        """Whether a study's question is put to a trained run: `deqrun sweep study=NAME run=DIR`."""
        return self.command == "sweep" and any(text.startswith("study=") for text in self.flags.overrides)

    @property
    def config_dir(self) -> Path | None:
        return Path(self.flags.config_dir) if self.flags.config_dir else None

    @property
    def runs(self) -> bool:
        """Whether jobs are to run, rather than something to be shown."""
        return not (self.flags.cfg or self.flags.info or self.flags.hydra_help)

    def for_hydra(self, added: Sequence[str] = ()) -> list[str]:
        """Overrides first, then flags: Hydra's parser takes overrides on one side of a flag only."""
        return [*self.overrides, *added, *self.arguments]


def _several_trackers(text: str) -> list[str]:
    """`tracker=[a,b]` as `tracker=a tracker.name=[a,b]`: Hydra takes one option of a group that has a default."""
    listed = re.fullmatch(r"tracker=\[\s*(\w+)\s*(,[\w\s,]*)?\]", text)
    return [text] if listed is None else [f"tracker={listed[1]}", f"tracker.name={text.partition('=')[2]}"]


def _literal(text: str) -> str:
    key, _, word = text.partition("=")
    # An empty folder would be the current one.
    if key in FOLDERS and not word.strip(" '\""):
        raise UserError(
            f"{key}= names no folder, as where a shell's variable is empty; give {key}=DIR, or leave {key}= out."
        )
    if key != "run" and not word.isascii() and re.fullmatch(r"[\w.+/-]+", word):
        return f"{key}={quoted(word)}"  # the grammar takes no letters beyond ASCII without quotes
    # Only run= takes its value as it stands; other values are Hydra's grammar.
    value = text.removeprefix("run=")
    if value == text or value == "null":
        return text
    if "${" in value:
        raise UserError(f"{text} has ${{ in it, by which configs refer to each other; give a folder without it.")
    return text if value[0] in "'\"" else f"run={quoted(_expanded(value))}"


def _expanded(folder: str) -> str:
    """The folder with ~ as the home folder: shells expand it at the beginning of a word only."""
    found = os.path.expanduser(folder)
    if folder.startswith("~") and found == folder:
        raise UserError(f"run={folder} names no user's home folder; give run=./{folder} for a folder of that name.")
    return found


def read_request(command: str, argv: Sequence[str]) -> Request:
    """The flags and overrides of a Hydra command. Raises UserError on unknown flags and flags at odds."""
    parser = get_args_parser()

    def refuse(message: str) -> None:
        raise UserError(_flag_error(message, command, parser))

    parser.error = refuse  # type: ignore[method-assign, assignment]
    flags = parser.parse_intermixed_args(list(argv))
    _require_harmony(command, flags)
    # Flags are handed to Hydra as they were typed.
    arguments = list(argv)
    for text in flags.overrides:
        arguments.remove(text)
    return Request(command, flags, tuple(arguments))


def _require_harmony(command: str, flags: argparse.Namespace) -> None:
    for name, instead in (
        ("experimental_rerun", "it would run what a pickle says; run=DIR resume=true goes on with a run"),
        ("config_path", "the packaged configs are always there; --config-dir DIR adds more"),
    ):
        if getattr(flags, name) is not None:
            raise UserError(f"deqrun {command} has no --{name.replace('_', '-')}: {instead}.")
    # Each of these does something else with the configuration.
    modes = [flag for flag in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(flags, flag)]
    if len(modes) > 1:
        names = " and ".join(f"--{mode.replace('_', '-')}" for mode in modes)
        raise UserError(f"{names} don't go together; give one of them.")
    if flags.resolve and not flags.cfg:
        raise UserError("--resolve goes with --cfg, as in --cfg job --resolve.")
    if flags.package is not None and not flags.cfg:
        raise UserError("--package goes with --cfg, as in --cfg job --package solver.")
    if flags.config_dir is not None and not (flags.config_dir.strip() and Path(flags.config_dir).is_dir()):
        raise UserError(f"--config-dir {flags.config_dir} is not a folder; give one that holds groups, as model/.")
    if flags.config_dir is not None and any(text.startswith("hydra.searchpath=") for text in flags.overrides):
        raise UserError("--config-dir and hydra.searchpath= both add config folders; give one of them.")


def _flag_error(message: str, command: str, parser: argparse.ArgumentParser) -> str:
    known = [option for action in parser._actions for option in action.option_strings]
    given = message.rpartition("arguments: ")[2].split()[0] if "unrecognized arguments" in message else ""
    if not given:
        return one_line(f"deqrun {command}: {message}")
    if (near := nearest(given, known)) is not None:
        return f"{given} is not a flag of deqrun {command}; the nearest is {near}."
    return f"{given} is not a flag of deqrun {command}; options are given as key=value, as in train.epochs=10."
