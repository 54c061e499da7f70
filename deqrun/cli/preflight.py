"""Check a command before anything is written: names, ranges, components, data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from deqrun.cli.grid import Shape
from deqrun.cli.launchers import searches
from deqrun.cli.overrides import JOBS_CHECKED, MOST_JOBS, composed_job, dotted_keys, job_count, job_overrides, parse
from deqrun.cli.request import Request
from deqrun.cli.run_folders import (
    FREE_ON_RESUME,
    OUTPUTS,
    is_complete,
    is_run,
    load_sweep_settings,
    require_empty,
    require_free,
    require_run,
    resumed,
    trained_options,
)
from deqrun.cli.studies import require_free_for_study, study_of
from deqrun.errors import UserError, unknown
from deqrun.settings import load_settings, read_settings
from deqrun.settings.sources import NOT_COMPOSED, ConfigSources, open_sources, quoted
from deqrun.settings.trust import admit
from deqrun.studies.study import Study

if TYPE_CHECKING:
    from deqrun.settings import Settings


@dataclass(frozen=True)
class Job:
    """The overrides of one job, and their composed config."""

    overrides: list[Override]
    cfg: DictConfig


@contextmanager
def sources_of(request: Request) -> Iterator[ConfigSources]:
    """The config sources of a command; for deqrun sweep, the trained run's own options among them."""
    # The folder of --config-dir joins the import path, where the user allows its code to run.
    if request.config_dir is not None and request.runs and not request.flags.shell_completion:
        admit(request.config_dir, allowed="allow_foreign_targets=true" in request.overrides)
    with open_sources(request.config_dir) as sources:
        # A search path that is typed holds options, too.
        typed = tuple(text for text in request.overrides if text.startswith("hydra.searchpath="))
        sources = replace(sources, search=(*sources.search, *typed))
        if request.command != "sweep" or request.asks_run:
            yield sources
            return
        # deqrun sweep composes upon a trained run: its solver and data set are options while the config is made.
        overrides = parse(request.overrides, sources)
        foreign = any(o.key_or_group == "allow_foreign_targets" and o.value() is True for o in overrides)
        with trained_options(_run_of(overrides), allow_foreign_targets=foreign):
            yield sources


def _run_of(overrides: Sequence[Override]) -> Path | None:
    given = [override for override in overrides if override.key_or_group == "run"]
    if not given or given[-1].value() is None:
        return None
    return require_run(Path(str(given[-1].value())), "run=")


@dataclass(frozen=True)
class Plan:
    """The jobs of a command: one, or several of a multirun."""

    request: Request
    sources: ConfigSources

    @cached_property
    def overrides(self) -> list[Override]:
        """The overrides as typed. Raises UserError where one can't be read."""
        return parse(self.request.overrides, self.sources)

    @cached_property
    def unswept(self) -> DictConfig | None:
        """The config before its sweeps are spread out; None where it doesn't compose, of which each job tells."""
        try:
            return self.sources.compose(self.request.config_name, self.request.overrides, multirun=True)
        except NOT_COMPOSED:
            return None

    @property
    def multirun(self) -> bool:
        """Whether several jobs are to run: by the -m flag, or because the config says so."""
        # A study or a config of one's own may ask for a multirun, without -m.
        asked = self.unswept is not None and self.unswept.hydra.mode == RunMode.MULTIRUN
        return self.request.flags.multirun or asked

    @cached_property
    def jobs(self) -> list[Job]:
        """Every job; each group, option and key that was typed exists. Imports no torch. Raises UserError."""
        if not self.multirun:
            return [self._job(self.request.overrides, self.unswept)]
        # All jobs in one folder would write over one another.
        if self.request.command == "train" and any(override.key_or_group == "run" for override in self.overrides):
            raise UserError("run= is for one run, and -m makes a folder for each job; leave one of them out.")
        # resume= is of the grid as a whole; the sweeper's own values come first, as Hydra has them.
        of_jobs = [override for override in self.overrides if override.key_or_group != "resume"]
        every = job_overrides(
            [*self._sweeper_params(), *of_jobs], None if self.grid else JOBS_CHECKED, intervals=self.searches
        )
        return [self._job(texts) for texts in every]

    @property
    def grid(self) -> bool:
        """Whether the jobs are known before they start: Hydra's own sweeper, and no rule of the user's for folders."""
        # Sweepers that choose as they go, and folders by the user's rule, are Hydra's to run.
        own_rules = ("hydra.sweeper._target_", "hydra.sweep.subdir")
        typed = [override for override in self.overrides if override.key_or_group.startswith(own_rules)]
        if not self.multirun or typed or job_count([*self._sweeper_params(), *self.overrides]) > MOST_JOBS:
            return False
        return not self.searches

    @property
    def searches(self) -> bool:
        """Whether a sweeper such as Optuna's chooses the values."""
        return self.unswept is not None and searches(self.unswept)

    @property
    def shape(self) -> Shape:
        """The overrides that all jobs share, and the keys that differ: by these a grid is found again."""
        # Keys that change no number do not tell grids apart; a sweep's run does.
        free = set(FREE_ON_RESUME) - ({"run"} if self.request.command == "sweep" else set())
        own = [override for override in self.overrides if not override.is_hydra_override()]
        swept = [override for override in [*own, *self._sweeper_params()] if override.is_sweep_override()]
        shared = {str(o.input_line) for o in own if o.key_or_group not in free and not o.is_sweep_override()}
        differing = {override.key_or_group for override in swept}
        return Shape(self.request.command, tuple(sorted(shared)), tuple(sorted(differing)))

    @property
    def resume(self) -> bool | None:
        """The value of resume= of a multirun; None where it was not typed."""
        given = [override.value() for override in self.overrides if override.key_or_group == "resume"]
        return bool(given[-1]) if given else None

    def _job(self, texts: Sequence[str], composed: DictConfig | None = None) -> Job:
        return Job(*composed_job(self.request.config_name, texts, self.sources, composed))

    def _sweeper_params(self) -> list[Override]:
        """Values to sweep over that the config itself names, as a study may."""
        params = self.unswept.hydra.sweeper.get("params") if self.unswept is not None else None
        return parse([f"{key}={value}" for key, value in (params or {}).items()], self.sources)

    def naming(self) -> list[str]:
        """The override that names the folders of a multirun's jobs after the values that differ."""
        if not self.multirun:
            return []
        # Hydra names a folder by all overrides but these.
        overrides = [override for override in self.overrides if not override.is_hydra_override()]
        swept = {override.key_or_group for override in overrides if override.is_sweep_override()}
        fixed = sorted({override.key_or_group for override in overrides} - swept)
        return [f"hydra.job.config.override_dirname.exclude_keys=[{','.join(map(quoted, fixed))}]"]

    @property
    def names_folder(self) -> bool:
        """Whether the command line names the folder that is written into."""
        keys = {"hydra.sweep.dir"} if self.multirun else {"hydra.run.dir"}
        if self.request.command == "train" and not self.multirun:
            keys.add("run")
        given = [override.value() for override in self.overrides if override.key_or_group in keys]
        return bool(given) and given[-1] is not None

    def folder(self, cfg: DictConfig) -> Path | None:
        """The folder that is written into, by the config of a job; None where it doesn't resolve: Hydra tells why."""
        # A study that asks a trained run writes where sweeps do.
        if self.request.asks_run and not self.names_folder:
            end = "multirun" if self.multirun else str(cfg.name)
            return OUTPUTS / "sweep" / f"{datetime.now():%Y-%m-%d/%H-%M-%S}-{end}"
        node = self.unswept if self.multirun and self.unswept is not None else cfg
        try:
            return Path(str(OmegaConf.select(node, f"hydra.{'sweep' if self.multirun else 'run'}.dir")))
        except OmegaConfBaseException:
            return None


def settings_of(command: str, cfg: DictConfig, overrides: Sequence[Override]) -> Settings:
    """The settings of one job of a command: composed, read back from a run, or both."""
    if command == "sweep":
        return load_sweep_settings(cfg)
    # A run that goes on takes its own settings; only free keys may be typed anew.
    settings = load_settings(cfg)
    if command in ("describe", "check") and settings.run is not None:
        return resumed(settings, overrides)  # a run is described as it was configured
    return resumed(settings, overrides) if settings.resume else settings


def _require_finite(settings: Settings) -> None:
    for where, component in settings.components():
        for key, value in component.parameters.items():
            if isinstance(value, float) and not isfinite(value):
                raise UserError(f"{where}.{key}={value} is not allowed; it must be a finite number.")


def check_jobs(plan: Plan) -> list[Settings | Study]:
    """Every job as a run or a study, composed and checked for range. Imports no torch. Raises UserError."""
    return [_checked(plan, job) for job in plan.jobs]


def _checked(plan: Plan, job: Job) -> Settings | Study:
    command, cfg = plan.request.command, job.cfg
    # A study checks its own runs; anything else is one run.
    if command == "train" or plan.request.asks_run:
        study = study_of(command, cfg, job.overrides, plan.sources)
        if study is not None:
            if study.asked is None and cfg.run is not None:
                require_free_for_study(Path(str(cfg.run)), cfg.resume is True)
            return study
    settings = settings_of(command, cfg, job.overrides)
    _require_finite(settings)
    # The folder last: what is typed wrongly is told before what is in the way.
    if command == "train" and settings.run is not None and not settings.resume:
        require_free(settings.run)
    elif command in ("train", "sweep") and not settings.resume and plan.names_folder and not plan.multirun:
        folder = plan.folder(cfg)
        if folder is not None and not is_run(folder):  # one that holds a run or a sweep is looked at later
            require_empty(folder, "hydra.run.dir=")
    return settings


def check_builds(every_job: Sequence[Settings | Study], command: str) -> None:
    """Every component accepts its parameters, and the user's own pass their checks; each distinct one is built once.

    This imports torch.
    """
    # Imported here: names and ranges have been told without torch.
    from deqrun.experiment.build import check_components
    from deqrun.experiment.machine_limits import require_memory, require_threads
    from deqrun.experiment.own_parts import require_cell, require_data
    from deqrun.experiment.rank_launch import require_ranks
    from deqrun.experiment.trackers import require_trackers

    seen: set[str] = set()
    for job in every_job:
        if isinstance(job, Study):
            _check_question(job)
            if job.in_ranks and (job.jobs or 1) > 1:
                raise UserError(
                    f"jobs={job.jobs} asks for several runs of the study at a time, and launch.devices gives each run "
                    "the whole machine; leave one of them out (nearest: jobs=1)."
                )
        for settings in [variant.settings for variant in job.variants] if isinstance(job, Study) else [job]:
            # First what costs nothing: threads and files; then memory, of which building could run out.
            if command in ("train", "sweep"):
                require_threads(job.threads or settings.threads)
                require_ranks(settings)
                require_trackers(settings.tracker)
                require_data(settings, seen)
                require_memory(settings, seen)
            check_components(settings, seen)
            # Cells of one's own are tried on a few samples, once built.
            if command == "train":
                require_cell(settings, seen)
        if not isinstance(job, Study):
            _check_data(job, command, seen)


def _check_data(settings: Settings, command: str, seen: set[str]) -> None:
    """A run that is asked, or goes on, has the data that it was trained on. This imports torch."""
    from deqrun.experiment.data.asked import require_own_data, require_same_data
    from deqrun.experiment.trained import require_sound

    text = f"recorded {settings.run} {settings.dataset} {settings.data_changed}"
    # Jobs of a grid ask the same run: its data are compared once.
    if settings.run is None or text in seen:
        return
    seen.add(text)
    if command == "sweep":
        require_same_data(settings)  # first: with other classes the weights don't fit either
        require_sound(settings, settings.run, resumes=False)
    elif command == "train" and settings.resume and not is_complete(settings.run):
        require_own_data(settings, settings.run, asked=False)
        require_sound(settings, settings.run, resumes=True)


def _check_question(study: Study) -> None:
    from deqrun.studies.question import load_question

    question = load_question(study.question, study.ask)
    if study.asked is not None and not question.of_any_run:
        raise UserError(
            f"study={study.name} compares runs that it trains itself, and can't ask a single one; "
            f"give deqrun train study={study.name}."
        )
    # The asked run must be whole, and its data unchanged.
    if study.asked is not None:
        from deqrun.experiment.data.asked import require_own_data
        from deqrun.experiment.trained import require_sound

        settings = read_settings(study.asked / "config.yaml", allow_foreign_targets=study.allow_foreign_targets)
        require_sound(settings, study.asked, resumes=False)
        require_own_data(settings, study.asked, asked=True)


def check_shown(plan: Plan) -> None:
    """Check that the thing to be shown exists. Imports no torch. Raises UserError."""
    job, flags = plan.jobs[0], plan.request.flags
    if flags.cfg != "job" or flags.package is None:
        return
    keys = ["_global_", *dotted_keys(job.cfg)]
    if flags.package not in keys:
        sections = [key for key in keys if "." not in key]
        raise UserError(unknown(f"--package {flags.package}", "a key", sections, flags.package))
