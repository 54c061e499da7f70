"""The `deqrun` command: which command it is, and how errors are presented.

Exit codes: 0 done; 2 something that was typed is wrong (one sentence on stderr, nothing written); 130 interrupted; 1
the system refused to write, or a rank of the run died (one sentence), or anything unexpected, with its traceback. Help,
completion and `--cfg` import no torch.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from pathlib import Path

from deqrun import __version__
from deqrun.cli.help import COMMANDS, page, welcome
from deqrun.cli.streams import open_closed_streams, outlived_streams
from deqrun.errors import Interrupted, RankLost, Unwritable, UserError, one_line, unknown

OWN_MODULE = ("check", "compare", "dashboard", "new", "runs")
"""Commands whose module in `deqrun.cli` bears their name; its function is run_NAME."""

WRITING = ("train", "sweep", "compare", "report")
"""Commands that write into folders, which a reader that goes away does not end."""

UNEXPECTED = 1
USAGE_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run deqrun with these arguments, by default the process's own; the exit code."""
    # Threads that wait for one another sleep: beside other busy processes, spinning takes several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A shell may close standard streams; Python would then write into whatever is opened next.
    open_closed_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    # A run goes on where its reader goes away, as with `| head`; help does not.
    runs = bool(arguments) and arguments[0] in WRITING and not {"-h", "--help"} & set(arguments)
    with outlived_streams() if runs else nullcontext():
        code = _ended(arguments)
    return code


def _ended(arguments: list[str]) -> int:
    """Run deqrun; how it ended, as a sentence where it was not at its end, and as an exit code."""
    try:
        _require_text(arguments)
        code = _dispatch(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        return _told(one_line(error), USAGE_ERROR)
    except Interrupted as interrupted:
        return _told(one_line(interrupted), INTERRUPTED)
    except (Unwritable, RankLost) as refused:
        return _told(one_line(refused), UNEXPECTED)
    except KeyboardInterrupt:
        return _told("interrupted.", INTERRUPTED)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        return _without_output(BROKEN_PIPE)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _told(
                f"{error.filename} is too long a name for a file or a folder; give a shorter one.", USAGE_ERROR
            )
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        return _told("the output can't be written: the disk is full.", _without_output(UNEXPECTED))


def _told(sentence: str, code: int) -> int:
    with suppress(OSError):
        print(f"deqrun: {sentence}", file=sys.stderr, flush=True)
    return code


def _without_output(code: int) -> int:
    """Drop all output that is still to come: Python would try to print it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _require_text(arguments: Sequence[str]) -> None:
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise UserError(f"{shown} is not text in UTF-8; give names and folders that are.") from None
        if argument != argument.replace("\n", "").replace("\r", ""):
            raise UserError(f"{argument!r} has a line break in it; give every value on one line.")


def _dispatch(argv: list[str]) -> int:
    # Help, version and completion first: they need no configuration.
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _help_or_welcome(argv[1:])
    if "--version" in argv:
        print(f"deqrun {__version__}")
        return 0
    if argv[0] in ("-sc", "--shell-completion"):
        from deqrun.cli.hydra_bridge import complete_or_install

        return complete_or_install(argv[1:])
    command, *arguments = argv
    if command not in COMMANDS:
        raise UserError(_no_command(command))
    if "-h" in arguments or "--help" in arguments:
        return _help_or_welcome([command])
    # Each command imports its own module: help is there at once, and a list of runs needs no Hydra.
    if command in OWN_MODULE:
        run: Callable[[Sequence[str]], int] = getattr(import_module(f"deqrun.cli.{command}"), f"run_{command}")
        return run(arguments)
    if command == "describe":
        return _describe(arguments)
    if command == "report":
        return _report(arguments)
    from deqrun.settings.place import torchrun_place

    # Of torchrun's ranks the first is this command; the others follow its runs.
    ranks: AbstractContextManager[None] = nullcontext()
    place = torchrun_place()
    if place is not None:
        from deqrun.experiment.rank_launch import follow, leading

        if place.rank > 0:
            return follow(place)
        ranks = leading()
    from deqrun.cli.hydra_bridge import run_app

    with ranks:
        return run_app(command, arguments)


def _help_or_welcome(commands: Sequence[str]) -> int:
    if not commands:
        print(welcome(), end="")
        return 0
    if commands[0] not in COMMANDS:
        raise UserError(_no_command(commands[0]))
    from deqrun.settings.sources import open_sources

    with open_sources() as sources:
        print(page(commands[0], sources), end="")
    return 0


def _no_command(given: str) -> str:
    if "=" in given or given.startswith("-"):
        return f"{given} needs a command before it, one of {', '.join(COMMANDS)}, as in deqrun train {given}."
    return unknown(given, "a command of deqrun", COMMANDS)


def _report(arguments: Sequence[str]) -> int:
    """Make the report of one run anew."""
    from deqrun.cli.hydra_bridge import write_missing_report
    from deqrun.cli.run_folders import require_run
    from deqrun.studies.study import is_study

    # One folder, with or without run=.
    given = [argument.removeprefix("run=") for argument in arguments]
    if len(given) != 1 or not given[0].strip() or (given[0] == arguments[0] and given[0].startswith("-")):
        shown = " ".join(arguments) or "nothing"
        raise UserError(f"deqrun report takes one run=DIR, the folder of a run, and was given {shown}.")
    if given[0] == arguments[0] and "=" in given[0]:
        raise UserError(unknown(given[0], "a key of deqrun report", ["run"], given[0].partition("=")[0]))
    folder = Path(os.path.expanduser(given[0]))
    if is_study(folder):
        raise UserError(
            f"{folder} holds a study, whose report is made with its answer: deqrun train run={folder} resume=true; "
            "deqrun report takes one of the runs in its runs/."
        )
    page = write_missing_report(require_run(folder, "run="))
    print(f"report  {page}")
    return 0


def _describe(arguments: Sequence[str]) -> int:
    from deqrun.cli.preflight import Plan, check_builds, check_jobs, sources_of
    from deqrun.cli.request import read_request
    from deqrun.settings import Settings

    request = read_request("describe", arguments)
    if not request.runs or request.flags.shell_completion:
        raise UserError("deqrun describe takes overrides and --config-dir; other flags are deqrun train's.")
    with sources_of(request) as sources:
        every_job = check_jobs(Plan(request, sources))
        check_builds(every_job, "describe")
    from deqrun.experiment.launch import run_describe

    for settings in every_job:
        assert isinstance(settings, Settings)  # a study's own settings are described, not its runs
        run_describe(settings)
    return 0
