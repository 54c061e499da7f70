"""Shell completion: the commands, their flags and the run folders are offered here; Hydra does the rest."""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Callable, Iterable, Sequence

from deqrun.cli.help import COMMANDS
from deqrun.cli.new_templates import TEMPLATES
from deqrun.cli.run_folders import find_runs
from deqrun.errors import UserError

FLAGS = ("--multirun", "--cfg", "--package", "--resolve", "--info", "--config-dir", "--shell-completion", "--help")

WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-dir", "-cd", "--config-name", "-cn")

HydraCompletion = Callable[[str, str, list[str]], int]


def complete(query: str, hydra: HydraCompletion) -> int:
    """Print the continuations of the last word of COMP_LINE, for `query=bash`, `query=zsh` or `query=fish`.

    hydra  called as hydra(config_name, line, arguments) for whatever Hydra knows how to complete
    """
    words = _words(os.environ.get("COMP_LINE", ""))
    command, last = words[1] if len(words) > 1 else "", words[-1] if words else ""
    separator = "\n" if query == "query=fish" else " "
    if len(words) <= 2:
        return _offer(COMMANDS, command, separator)
    if command == "new" and len(words) == 3:
        return _offer(TEMPLATES, last, separator)
    if command not in COMMANDS or command in ("compare", "dashboard", "runs", "new"):
        return 0  # the shell offers file names
    if last.startswith("-"):
        return _offer(["--help"] if command == "report" else FLAGS, last, separator)
    if last.startswith("run="):
        return _offer([f"run={folder}" for folder in find_runs()], last, separator)
    if command == "report":
        return _offer(["run="], last, separator)
    line = " ".join(["deqrun", *_for_hydra(words[2:])])
    try:
        return hydra("sweep" if command == "sweep" else "train", line, ["-sc", query, *_config_dir(words)])
    except UserError:
        return 0  # the line is not complete yet, and no place for messages


def _for_hydra(words: Sequence[str]) -> list[str]:
    """The words that bear on the next one: overrides, and whether several values may be given."""
    kept = []
    for before, word in itertools.pairwise(["", *words]):
        if before not in WITH_VALUE and (not word.startswith("-") or word in ("-m", "--multirun")):
            kept.append(word)
    return kept


def _words(line: str) -> list[str]:
    """The words of a command line; the last is empty where a new one begins."""
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote
        words = line.split()
    return [*words, ""] if line.endswith(" ") else words


def _offer(words: Iterable[str], begun: str, separator: str) -> int:
    """Print the words that go on as the one that is begun."""
    if offered := [word for word in words if word.startswith(begun)]:
        print(separator.join(offered))
    return 0


def _config_dir(words: Sequence[str]) -> list[str]:
    """The --config-dir of the line being typed, whose options are to be offered too."""
    for flag, value in itertools.pairwise(words):
        if flag in ("--config-dir", "-cd") and os.path.isdir(value):
            return ["--config-dir", value]
    return []
