"""deqrun train and deqrun sweep as Hydra apps: checked first, then run, one job or many."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial, update_wrapper
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeGuard

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from deqrun.cli.begun_sweeps import begun_sweep, go_on_with_sweep
from deqrun.cli.completion import complete
from deqrun.cli.grid import begun_grid, laid_out, run_grid
from deqrun.cli.launchers import batches, threads_of_jobs
from deqrun.cli.own_model import as_typed, brings_model, in_typed_words, with_model
from deqrun.cli.preflight import Plan, check_builds, check_jobs, check_shown, settings_of, sources_of
from deqrun.cli.request import read_request
from deqrun.cli.run_folders import begun_job, is_complete, is_run, trained_options
from deqrun.cli.studies import require_free_for_study, study_of
from deqrun.errors import Interrupted, RankLost, Unwritable, UserError, one_line, refusal
from deqrun.records.claims import claimed
from deqrun.records.yaml_text import read_yaml
from deqrun.settings.place import torchrun_place
from deqrun.settings.sources import HYDRA_VERSION_BASE, current_sources, having, packaged_configs, quoted, without_hydra
from deqrun.studies.study import Study, is_study

if TYPE_CHECKING:
    from deqrun.settings import Settings

INSTALLS = [f"{what}={shell}" for what in ("install", "uninstall") for shell in ("bash", "zsh", "fish")]
"""Words that print a line for a shell to evaluate."""


class _Ended(BaseException):
    """A job's own end, carried past Hydra, which would print a trace and go on with the next job."""

    def __init__(self, reason: UserError | Interrupted | Unwritable | RankLost) -> None:
        self.reason = reason


def run_app(command: str, argv: Sequence[str]) -> int:
    """Run `deqrun train` or `deqrun sweep` with these arguments; the exit code.

    Raises UserError before anything is written where something that was typed is wrong.
    """
    # A model from elsewhere is asked by a run that trains nothing.
    if command == "sweep" and brings_model(argv):
        with in_typed_words():
            return run_app("train", with_model(argv))
    request = read_request(command, argv)
    if command == "sweep" and request.runs and (begun := begun_sweep(request)) is not None:
        return go_on_with_sweep(request, begun)
    if request.flags.shell_completion:
        return complete_or_install(request.overrides, request.config_name)
    # Everything else composes a configuration: jobs to run, or something to show.
    with sources_of(request) as sources:
        plan = Plan(request, sources)
        if request.runs:
            return _run_jobs(plan)
        if not request.flags.hydra_help:
            check_shown(plan)
        if request.flags.cfg == "job" and not plan.multirun:
            return _show(plan)
        return _in_hydra(plan, [])


def _run_jobs(plan: Plan) -> int:
    """Check every job, claim the folder that they write into, and run them. Torch is imported once it is claimed."""
    # Names, ranges and folders first: they need no torch, and most mistakes end here.
    every_job = check_jobs(plan)
    _require_own_process(plan)
    if plan.grid:
        return _run_grid(plan, every_job)
    # A run that is complete needs no torch to say so.
    done = _already_complete(plan)
    if done is not None:
        return _tell_complete(done)
    folder = plan.folder(plan.jobs[0].cfg)
    if folder is None:
        check_builds(every_job, plan.request.command)
        return _in_hydra(plan, plan.naming())

    # Claim the folder before torch is imported, so that a second process is told at once.
    with claimed(folder, fresh=not plan.names_folder, of_a_run=not plan.multirun) as own:
        check_builds(every_job, plan.request.command)
        place = f"hydra.{'sweep' if plan.multirun else 'run'}.dir={quoted(str(own))}"
        if not plan.multirun:
            return _in_hydra(plan, [place], every_job[0])
        # A sweeper that searches: its module reads records, with NumPy.
        from deqrun.cli.search import begin_search, searched

        assert plan.unswept is not None
        begin_search(own, plan.shape)
        threads = threads_of_jobs(plan.unswept, plan.overrides)
        search = [*plan.naming(), *threads, place]
        return searched(own, lambda: _in_hydra(plan, search))


def _require_own_process(plan: Plan) -> None:
    """Refuse a launcher that runs jobs elsewhere where torchrun has started the ranks of this process."""
    launcher = "" if plan.unswept is None else str(OmegaConf.select(plan.unswept, "hydra.launcher._target_"))
    if plan.multirun and torchrun_place() is not None and not launcher.endswith(".BasicLauncher"):
        raise UserError(
            "torchrun's ranks work on one job at a time, and this launcher starts jobs in other processes; allowed is "
            "hydra/launcher=basic, or launch.devices without torchrun."
        )


def _run_grid(plan: Plan, every_job: Sequence[Settings | Study]) -> int:
    """Run a multirun's jobs: in the folder where a grid of this shape was begun, else in a new one."""
    # The folder: the one that was named, else one where a grid of this shape was begun, else a new one.
    shape, home = plan.shape, plan.folder(plan.jobs[0].cfg)
    begun = None if plan.names_folder or plan.resume is False else begun_grid(shape)
    if plan.resume and begun is None and not (home is not None and plan.names_folder and home.is_dir()):
        raise UserError("resume=true finds no grid of this shape below outputs; leave it out to begin one.")
    folder = begun or home
    assert folder is not None
    with claimed(folder, fresh=begun is None and not plan.names_folder, of_a_run=False) as own:
        if begun is not None:
            print(f"grid    {own}, begun before: it goes on (resume=false begins another)", flush=True)
        check_builds(every_job, plan.request.command)

        # Each job is composed by itself, so Hydra gets only its own overrides, and a study whose config may set them.
        hydra = [str(override.input_line) for override in plan.overrides if override.is_hydra_override()]
        master = [text for text in plan.request.overrides if text.startswith("study=") and "," not in text]
        node = plan.sources.compose(plan.request.config_name, [*master, *hydra], multirun=True)
        shared = threads_of_jobs(node, plan.overrides)
        own_overrides = [[o for o in job.overrides if not o.is_hydra_override()] for job in plan.jobs]
        texts = [[str(override.input_line) for override in job] + shared for job in own_overrides]
        jobs = laid_out(own, shape, list(zip(texts, every_job, strict=True)))
        place = [f"hydra.sweep.dir={quoted(str(own))}"]
        argv = [*master, *hydra, *place, *plan.request.arguments]
        argv += [] if plan.request.flags.multirun else ["--multirun"]

        # Run the jobs that are left; a failed one is told in the table, an interruption ends them all.
        try:
            with without_hydra():
                job = ask_job if plan.request.asks_run else _JOBS[plan.request.command]
                return run_grid(jobs, lambda texts: _launched(texts, plan.request.config_name, argv, job))
        except Interrupted as stop:
            done = sum(job.done for job in jobs)
            raise Interrupted(
                f"Interrupted; {done} of {len(jobs)} jobs are complete, and what is done is kept. Go on with the same "
                "command."
            ) from stop


def _launched(
    texts: Sequence[Sequence[str]], config_name: str, argv: Sequence[str], job: Callable[..., Any]
) -> list[JobReturn]:
    """How each job ended. Hydra composes each one by itself, from its overrides, in place of the product it would make.

    So a key may stand that only some of the options have, and a job that fails ends no other.
    """
    ended: list[JobReturn] = []

    def sweep(sweeper: BasicSweeper, arguments: list[str]) -> list[JobReturn]:
        assert sweeper.launcher is not None
        assert sweeper.config is not None
        for batch in batches(sweeper.config, len(texts)):
            ended.extend(sweeper.launcher.launch([texts[job] for job in batch], initial_job_idx=batch.start))
        return ended

    # In place of the product of all values, which would fail as a whole for one value of one option.
    # Hydra imports its plugins anew: it makes sweepers of the class that it registered, not of the one imported here.
    used: Any = Plugins.instance().class_name_to_class[f"{BasicSweeper.__module__}.{BasicSweeper.__name__}"]
    with having(used, "sweep", sweep):
        _hydra_main(config_name, argv, job)
    return ended


def _tell_complete(folder: Path) -> int:
    """Say that a run or a study is complete; where a run's page is missing it is made anew."""
    # A run whose page was left out on purpose is complete without it.
    page = folder / "report.html"
    told = f"{folder} is complete: nothing is left to train."
    if not page.is_file() and is_run(folder) and read_yaml(folder / "config.yaml").get("report") is False:
        print(f"{told} Its report was left out; deqrun report run={folder} makes it.")
        return 0
    if not page.is_file() and is_run(folder):
        write_missing_report(folder)
    print(f"{told} Its report is {page}.")
    return 0


def write_missing_report(folder: Path) -> Path:
    """Make the page and the figures of a run anew, from its records. Raises UserError where they can't be read."""
    with claimed(folder, of_a_run=False):
        from deqrun.report import write_report

        try:
            return write_report(folder)
        except ValueError as error:
            raise UserError(one_line(error)) from error
        except OSError as error:
            raise Unwritable(refusal(error) or one_line(error)) from error


def _show(plan: Plan) -> int:
    """Print the config of a job as Hydra's --cfg job does, which would compose it once more."""
    cfg, flags = plan.jobs[0].cfg, plan.request.flags
    package = None if flags.package == "_global_" else flags.package
    with having(HydraConfig.instance(), "cfg", None):
        HydraConfig.instance().set_config(cfg)  # to which ${hydra:…} refers
        # Hydra's own node is not part of a job's config; interpolations may refer to it still.
        with open_dict(cfg):
            del cfg["hydra"]
        shown = cfg if package is None else OmegaConf.select(cfg, package)
        if not OmegaConf.is_config(shown):
            print("null" if shown is None else shown)
            return 0
        if package is not None:
            print(f"# @package {package}")
        if flags.resolve:
            OmegaConf.resolve(shown)
        print(OmegaConf.to_yaml(shown), end="")
    return 0


def _in_hydra(plan: Plan, added: Sequence[str], checked: Settings | Study | None = None) -> int:
    """Run the jobs. A plain run's job gets `checked`; a multirun's jobs may run in other processes, and check again."""
    request = plan.request
    # Hydra would compose the whole config for the word alone that says whether there is one run or many.
    mode = None if plan.unswept is None else plan.unswept.hydra.mode
    with without_hydra(), having(Hydra, "get_mode", lambda *_, **__: mode):
        # A study that is put to a trained run trains nothing.
        job: Callable[..., Any] = ask_job if request.asks_run else _JOBS[request.command]
        if checked is not None:
            job = update_wrapper(partial(job, checked=checked), job)
        return _hydra_main(request.config_name, request.for_hydra(added), job)


def _already_complete(plan: Plan) -> Path | None:
    """The folder of a run or a study that was to go on but has come to its end."""
    if plan.request.command != "train" or all(override.key_or_group != "resume" for override in plan.overrides):
        return None
    # resume=true on a complete run.
    configs = [job.cfg for job in plan.jobs]
    resumed = [Path(str(cfg.run)) for cfg in configs if cfg.resume is True and cfg.run is not None]
    return resumed[0] if resumed and is_complete(resumed[0]) else None


def complete_or_install(arguments: Sequence[str], config_name: str = "train") -> int:
    """`-sc query=bash` completes the line in COMP_LINE; `-sc install=bash` prints a line for a shell to evaluate."""
    # Without a query Hydra prints what a shell evaluates; with one, ours completes and asks Hydra for the rest.
    query = next((argument for argument in arguments if argument.startswith("query=")), None)
    if query is None:
        if len(arguments) != 1 or arguments[0] not in INSTALLS:
            raise UserError(
                f"-sc was given {' '.join(arguments) or 'nothing'}; allowed is one of {', '.join(INSTALLS)}."
            )
        return _hydra_main(config_name, ["-sc", *arguments], train_job)

    def hydra_completion(config_name: str, line: str, hydra_arguments: list[str]) -> int:
        before = os.environ.get("COMP_LINE", "")
        os.environ["COMP_LINE"] = line
        try:
            with trained_options(None) if config_name == "sweep" else ExitStack():
                return _hydra_main(config_name, hydra_arguments, train_job)
        finally:
            os.environ["COMP_LINE"] = before

    return complete(query, hydra_completion)


def _hydra_main(config_name: str, argv: Sequence[str], job: Callable[[DictConfig], Any]) -> int:
    """Hand over to Hydra. A job's exception comes out as it was raised, its trace cut to the job's own."""
    # Hydra prints and exits by itself; here its ends become exceptions and exit codes again.
    configs = str(packaged_configs())
    main = hydra.main(version_base=HYDRA_VERSION_BASE, config_path=configs, config_name=config_name)
    # A job's own end passes Hydra by; Hydra's own errors become one sentence.
    with _as_called(argv):
        try:
            main(job)()
        except _Ended as end:
            raise end.reason from end.reason.__cause__
        except UserError:
            raise
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0
        except HydraException as error:
            raise UserError(one_line(error)) from error
        except Exception as error:
            trace = _of_the_job(error.__traceback__, job.__name__)
            if trace is None and isinstance(error, OSError):
                raise UserError(one_line(f"the output folder can't be made: {error}")) from error
            raise error.with_traceback(trace or error.__traceback__) from error.__cause__
    return 0


def _of_the_job(trace: TracebackType | None, name: str) -> TracebackType | None:
    """The trace from the job's own frame on; None where no job had begun."""
    while trace is not None and trace.tb_frame.f_code.co_name != name:
        trace = trace.tb_next
    return trace


@contextmanager
def _as_called(argv: Sequence[str]) -> Iterator[None]:
    """Hydra reads sys.argv, prints errors itself unless told not to, and leaves its last config and handlers."""
    # All that Hydra changes in the process, put back afterwards: tests and notebooks call this many times.
    root = logging.getLogger()
    level_before, handlers_before = root.level, root.handlers[:]
    argv_before, config_before = sys.argv, HydraConfig.instance().cfg
    full_error_before = os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["deqrun", *argv], "1"
    try:
        yield
    finally:
        sys.argv, HydraConfig.instance().cfg = argv_before, config_before
        root.setLevel(level_before)
        root.handlers[:] = handlers_before
        if full_error_before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error_before


def train_job(cfg: DictConfig, checked: Settings | Study | None = None) -> float | None:
    """One training run, or one study; called by Hydra, in whatever process its launcher chose.

    Returns the run's objective, for a sweeper that searches; None of a study.
    """
    with _ends():
        if _made_study("train", cfg, checked):
            return None
        # A job that was launched in another process composes and checks by itself; its folder is claimed there.
        settings, folder = _settings_and_folder("train", cfg, checked)
        with claimed(folder):
            # A grid's job goes on in its folder without being told to.
            if HydraConfig.get().mode == RunMode.MULTIRUN and is_run(folder):
                settings = begun_job(settings, folder)
            if is_run(folder) and not settings.resume:
                raise UserError(f"{folder} already holds a run, and nothing is overwritten; start again in a moment.")
            print(f"run     {folder}", flush=True)
            from deqrun.experiment.launch import run_train

            return run_train(settings, folder, _command("train"))


def sweep_job(cfg: DictConfig, checked: Settings | Study | None = None) -> float | None:
    """One sweep of a trained run; called by Hydra. Returns the objective, as `train_job`."""
    with _ends():
        settings, folder = _settings_and_folder("sweep", cfg, checked)
        assert settings.run is not None
        with claimed(folder):
            print(f"sweep   {folder}", flush=True)
            from deqrun.experiment.launch import run_sweep

            return run_sweep(settings, settings.run, folder, _command("sweep"))


def ask_job(cfg: DictConfig, checked: Settings | Study | None = None) -> None:
    """A study's question, put to a trained run; called by Hydra."""
    with _ends():
        _made_study("sweep", cfg, checked)


def _is_run(checked: Settings | Study | None) -> TypeGuard[Settings]:
    """Whether a plain run was checked: by exclusion, since to ask for its class would import pydantic."""
    return checked is not None and not isinstance(checked, Study)


def _made_study(command: str, cfg: DictConfig, checked: Settings | Study | None) -> bool:
    """Make the study that the config describes; False where it describes a plain run."""
    if _is_run(checked):
        return False
    # The overrides of this job, as Hydra hands them on, make the study's runs.
    node = HydraConfig.get()
    overrides = OverridesParser.create().parse_overrides(list(node.overrides.task))
    with current_sources(cfg) as sources:
        study = study_of(command, cfg, overrides, sources, _added_folders())
    if study is None:
        return False
    folder = Path(node.runtime.output_dir)
    with claimed(folder):
        again = HydraConfig.get().mode == RunMode.MULTIRUN and is_study(folder)
        require_free_for_study(folder, cfg.resume is True or again)
        print(f"study   {folder}", flush=True)
        from deqrun.studies.make import make_study

        make_study(study, folder, _command(command, () if command == "sweep" else ("run=", "resume=")))
    return True


_JOBS = {"train": train_job, "sweep": sweep_job}


@contextmanager
def _ends() -> Iterator[None]:
    """A user's error ends the program; in a multirun only an interruption ends the later jobs too."""
    try:
        yield
    except (Interrupted, Unwritable) as end:
        raise _Ended(end) from end
    except UserError as error:
        # Hydra made the folder before the mistake was known.
        with suppress(OSError):
            folder = Path(HydraConfig.get().runtime.output_dir)
            for made in (folder, *folder.parents[: len(folder.parts) - len(Path.cwd().parts) - 1]):
                made.rmdir()  # which succeeds only where nothing was written into it
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise _Ended(error) from error
    except RankLost as lost:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        raise _Ended(lost) from lost
    except Exception:
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # which goes on, so that the trace would be lost
            traceback.print_exc()
        raise


def _settings_and_folder(command: str, cfg: DictConfig, checked: Settings | Study | None) -> tuple[Settings, Path]:
    node = HydraConfig.get()
    if _is_run(checked):
        return checked, Path(node.runtime.output_dir)
    overrides = OverridesParser.create().parse_overrides(list(node.overrides.task))
    return settings_of(command, cfg, overrides), Path(node.runtime.output_dir)


def _command(command: str, but: tuple[str, ...] = ()) -> str:
    """The command line that repeats this job; `but` for overrides that begin so."""
    words = [word for word in HydraConfig.get().overrides.task if not but or not word.startswith(but)]
    # A path that was quoted for Hydra needs no quotes where it is plain.
    words = [re.sub(r"^([\w.@/+]+)='([\w./:@+-]+)'$", r"\1=\2", word) for word in words]
    if own := as_typed(words):
        command, words = "sweep", own
    return shlex.join(["deqrun", command, *words, *_added_folders()])


def _added_folders() -> list[str]:
    """The --config-dir flags of this command line."""
    sources = HydraConfig.get().runtime.config_sources
    added = [source.path for source in sources if source.provider == "command-line"]
    return [word for path in added for word in ("--config-dir", path)]
