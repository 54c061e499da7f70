"""The `deqrun` command: which command it is, and how errors are presented.

Exit codes: 0 done; 2 something that was typed is wrong (one sentence on stderr, nothing written); 130
interrupted; 1 anything unexpected, with its traceback. Help, completion and `--cfg` import no torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from deqrun import __version__
from deqrun.command_line.check import run_check
from deqrun.command_line.help import COMMANDS, page, welcome
from deqrun.command_line.hydra_app import complete_or_install, run_app
from deqrun.command_line.new import run_new
from deqrun.command_line.preflight import Plan, check_jobs, sources_of
from deqrun.command_line.request import read_request
from deqrun.command_line.run_folders import OUTPUTS, find_runs, is_run, require_run
from deqrun.config_sources import open_sources
from deqrun.sentences import one_line, unknown
from deqrun.settings import Interrupted, Settings, UserError

USAGE_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run deqrun with these arguments (default: those of the process); the exit code."""
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"deqrun: {one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    except Interrupted as interrupted:
        print(f"deqrun: {one_line(interrupted)}", file=sys.stderr)
        return INTERRUPTED
    except KeyboardInterrupt:
        print("deqrun: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _help_or_welcome(argv[1:])
    if "--version" in argv:
        print(f"deqrun {__version__}")
        return 0
    if argv[0] in ("-sc", "--shell-completion"):
        return complete_or_install(argv[1:])
    command, *arguments = argv
    if command not in COMMANDS:
        raise UserError(_no_command(command))
    if "-h" in arguments or "--help" in arguments:
        return _help_or_welcome([command])
    if command == "compare":
        return _compare(arguments)
    if command == "describe":
        return _describe(arguments)
    if command == "new":
        return run_new(arguments)
    if command == "check":
        return run_check(arguments)
    return run_app(command, arguments)


def _help_or_welcome(commands: Sequence[str]) -> int:
    if not commands:
        print(welcome(), end="")
        return 0
    if commands[0] not in COMMANDS:
        raise UserError(_no_command(commands[0]))
    with open_sources() as sources:
        print(page(commands[0], sources), end="")
    return 0


def _no_command(given: str) -> str:
    if "=" in given or given.startswith("-"):
        return f"{given} needs a command before it, one of {', '.join(COMMANDS)}, as in deqrun train {given}."
    return unknown(given, "a command of deqrun", COMMANDS)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(one_line(f"deqrun compare: {message}; deqrun compare --help shows examples"))


def _compare(arguments: Sequence[str]) -> int:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--output", type=Path)
    given = parser.parse_intermixed_args(arguments)
    folders = [run for folder in given.folders for run in _runs_in(folder)]
    folders = list({folder.resolve(): folder for folder in folders}.values())
    if len(folders) < 2:
        raise UserError(f"deqrun compare needs at least two runs and was given {len(folders)}; name two or more.")
    output = given.output or OUTPUTS / "compare" / datetime.now().strftime("%Y-%m-%d/%H-%M-%S")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output} exists, and nothing is overwritten; give a folder that does not exist.")
    from deqrun.experiment.launch import run_compare

    run_compare(folders, output)
    return 0


def _runs_in(folder: Path) -> list[Path]:
    """The folder, if it is a run; else the runs that it holds, as the folder of a multirun does."""
    if is_run(folder) or not folder.is_dir():
        return [require_run(folder, "")]
    return find_runs(folder) or [require_run(folder, "")]


def _describe(arguments: Sequence[str]) -> int:
    request = read_request("describe", arguments)
    if not request.runs or request.flags.shell_completion:
        raise UserError("deqrun describe takes overrides and --config-dir; other flags are deqrun train's.")
    with sources_of(request) as sources:
        every_job = check_jobs(Plan(request, sources))
    from deqrun.experiment.launch import run_describe

    for settings in every_job:
        assert isinstance(settings, Settings)  # a study's own settings are described, not its runs
        run_describe(settings)
    return 0
