"""The launchers and sweepers of Hydra: their presets, and how many jobs they run at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from deqrun.errors import UserError
from deqrun.studies.side_by_side import cores


@dataclass(frozen=True)
class Preset:
    """A preset of deqrun for a plugin of Hydra: its option, the plugin's own option, package, and extra of deqrun."""

    option: str
    plugin: str
    package: str
    extra: str


PRESETS = (
    Preset("hydra/launcher=parallel", "hydra/launcher=joblib", "hydra_joblib_launcher", "joblib"),
    Preset("hydra/launcher=processes", "hydra/launcher=submitit_local", "hydra_submitit_launcher", "slurm"),
    Preset("hydra/launcher=slurm", "hydra/launcher=submitit_slurm", "hydra_submitit_launcher", "slurm"),
    Preset("hydra/launcher=ray_local", "hydra/launcher=ray", "hydra_ray_launcher", "ray"),
    Preset("hydra/sweeper=search", "hydra/sweeper=optuna", "hydra_optuna_sweeper", "optuna"),
)


def preset(text: str) -> str:
    """An override as typed, with the preset in place of a plugin's own option. Raises UserError without the plugin.

    Hydra takes no config under the name of a plugin's own option, whose defaults suit no search for an accuracy.
    """
    # Both names are taken; the plugin must be there for either.
    for known in PRESETS:
        if text in (known.option, known.plugin):
            if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{known.package}") is None:
                raise UserError(
                    f"{text} needs {known.package.replace('_', '-')}, which is not installed: pip install "
                    f"'deqrun[{known.extra}]'; without it, {text.partition('=')[0]}=basic is allowed."
                )
            return known.option
    return text


def searches(cfg: DictConfig) -> bool:
    """Whether a sweeper chooses the values one after the other, so that the jobs are not known before they start."""
    return not str(OmegaConf.select(cfg, "hydra.sweeper._target_")).endswith(".BasicSweeper")


@dataclass(frozen=True)
class Share:
    """Jobs that run at a time, and the threads of each; None where nothing says so."""

    jobs: int | None = None
    threads: int | None = None


def share(cfg: DictConfig) -> Share:
    """Jobs at a time and threads of each, by the launcher: on this machine, jobs x threads is at most the cores."""
    # SLURM's nodes have their own cores; other launchers share this machine's.
    launcher = cfg.hydra.launcher
    target = str(launcher.get("_target_"))
    if target.endswith(".SlurmLauncher"):
        return Share(None, launcher.get("cpus_per_task"))
    if target.endswith(".LocalLauncher"):
        threads = max(1, launcher.get("cpus_per_task") or 1)
        return Share(max(1, cores() // threads), threads)
    if target.endswith(".RayLauncher"):
        threads = max(1, int(OmegaConf.select(launcher, "ray.remote.num_cpus") or 1))
        shared = OmegaConf.select(launcher, "ray.init.num_cpus") or cores()
        return Share(max(1, int(shared) // threads), threads)
    # joblib: a negative number means all cores.
    jobs = launcher.get("n_jobs")
    if not isinstance(jobs, int):
        return Share()
    jobs = cores() if jobs < 0 else max(1, jobs)
    return Share(jobs, max(1, cores() // jobs))


def threads_of_jobs(cfg: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """`threads=K` for each job where the launcher says how many; nothing where threads= was typed."""
    found = share(cfg)
    if found.threads is None or any(override.key_or_group == "threads" for override in overrides):
        return []
    # Say beforehand how the machine is divided.
    if found.jobs is not None:
        at_a_time = f"{found.jobs} at a time, threads={found.threads} each, on {cores()} cores"
    else:
        at_a_time = f"threads={found.threads} each"
    print(f"jobs    {at_a_time}", flush=True)
    return [f"threads={found.threads}"]


def batches(cfg: DictConfig, count: int) -> list[range]:
    """Places of the jobs that are launched together: `hydra.sweeper.max_batch_size`, or all.

    Submitit starts each local job at once, so there it is as many as the cores allow.
    """
    most = OmegaConf.select(cfg, "hydra.sweeper.max_batch_size")
    if most is None and str(cfg.hydra.launcher.get("_target_")).endswith(".LocalLauncher"):
        most = share(cfg).jobs
    size = count if not most else int(most)
    return [range(first, min(first + size, count)) for first in range(0, count, max(1, size))]
