"""Run folders as the command line meets them: finding them, guarding them, and going on with one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from deqrun.errors import UserError, listing, one_line
from deqrun.records.claims import holds_only_traces
from deqrun.records.files import read_json_if_any
from deqrun.records.yaml_text import read_yaml
from deqrun.settings import read_settings, sections_of, settings_from
from deqrun.settings.load import sweep_solvers
from deqrun.settings.sources import choices

if TYPE_CHECKING:
    from deqrun.settings import Settings

OUTPUTS = Path("outputs")
TRAINED = "trained"
"""The option of `solver` and `dataset` that stands for a run's own, in deqrun sweep."""

LAUNCH_KEYS = ("launch", "launch.devices", "launch.timeout_minutes")
"""Keys of the ranks of a run."""

FREE_ON_RESUME = ("run", "resume", "tracker.mode", "device", "threads", *LAUNCH_KEYS, "report", "allow_foreign_targets")
"""Keys that may differ when a run goes on: where and how it computes, is tracked and shown. No number may."""

DRAWS_THE_SPLIT = {"split_seed": None, "validation_share": None, "test_share": None, "split_by": "solution"}
"""Parameters of data sets that say which samples train: with others a run would be asked about its training data.

Each has the value of runs that were recorded before the parameter existed.
"""


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run: each writes its config.yaml first."""
    return (folder / "config.yaml").is_file()


def find_runs(root: Path = OUTPUTS) -> list[Path]:
    """The training runs below a folder, newest last; down to train/<date>/<study>/runs/<run>, sweeps left out."""
    # W&B and multiruns keep config.yaml files, too, deeper down: only the outermost is a run's.
    patterns = ("*/" * depth + "config.yaml" for depth in range(6))
    found = {path.parent for pattern in patterns for path in root.glob(pattern)}
    outermost = (folder for folder in found if found.isdisjoint(folder.parents))  # W&B writes config.yaml too
    return sorted(folder for folder in outermost if folder.relative_to(root).parts[:1] != ("sweep",))


def require_run(folder: Path, where: str) -> Path:
    """The folder, if it holds a run. Raises UserError with the nearest run folder."""
    if is_run(folder):
        return folder
    runs = (find_runs(folder) if folder.is_dir() else []) or find_runs()
    # The nearest by name, of the runs beside it first; else the newest.
    beside = sorted(path for path in folder.parent.glob("*") if is_run(path)) if folder.parent.is_dir() else []
    matches = (difflib.get_close_matches(str(folder), map(str, of), n=1, cutoff=0.5) for of in (beside, runs))
    near = next((match[0] for match in matches if match), runs[-1] if runs else None)
    if holds_only_traces(folder):
        raise UserError(f"{where}{folder} was stopped before it began; give its command again, without resume=true.")
    hint = f"the nearest is {near}" if near else "there is none under outputs yet: deqrun train makes one"
    state = "does not exist" if not folder.exists() else "is not a run folder, which holds a config.yaml"
    raise UserError(f"{where}{folder} {state}; {hint}.")


def require_free(folder: Path) -> None:
    """A run goes into a folder that holds none. Raises UserError."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run={folder} is a file; give a folder that does not exist yet.")
    if is_run(folder):
        raise UserError(
            f"run={folder} already holds a run, and nothing is overwritten; "
            "add resume=true to go on with it, or give a folder that does not exist yet."
        )
    require_empty(folder, "run=")


def require_empty(folder: Path, where: str) -> None:
    """Require an empty folder; traces of a run that was stopped before it began are allowed. Raises UserError."""
    try:
        held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(one_line(f"{where}{folder} can't be read: {error.strerror}")) from error
    if held and not holds_only_traces(folder):
        raise UserError(
            f"{where}{folder} holds {listing(held[:3])}{' and more' if len(held) > 3 else ''}, which is no run of "
            "deqrun's, and nothing is overwritten; give a folder that is empty or does not exist yet."
        )


def require_within(folder: Path) -> None:
    """No link in a run folder leads out of it, where a run that goes on would write. Raises UserError."""
    # Every link is followed to its end, links to themselves included.
    home = Path(os.path.realpath(folder))
    for parent, folders, files in os.walk(folder):
        if Path(parent).name == "wandb":  # it links to its own logs elsewhere, and begins another when it goes on
            folders.clear()
            continue
        for path in (Path(parent, name) for name in (*folders, *files)):
            target = Path(os.path.realpath(path))  # which takes a link to itself, too
            if path.is_symlink() and not target.is_relative_to(home):
                raise UserError(
                    f"{path} is a link to {target}, outside of the run's folder, where a run that goes on "
                    "would write; put a copy in its place."
                )


def is_complete(folder: Path) -> bool:
    """Whether a run's status.json says that it came to its end."""
    status = read_json_if_any(folder / "status.json")
    return isinstance(status, dict) and status.get("status") == "completed"


def swept_run(folder: Path) -> Path | None:
    """The run that a sweep's folder asks; None where the folder is no sweep's.

    A sweep's config.yaml names the run that it asks, and it trains nothing.
    """
    if not is_run(folder) or (folder / "checkpoints").exists() or (folder / "train.jsonl").exists():
        return None
    try:
        named = read_yaml(folder / "config.yaml").get("run")
    except (OSError, ValueError):
        return None
    if not isinstance(named, str) or Path(named).resolve() == folder.resolve():
        return None
    return Path(named) if is_run(Path(named)) or Path(named).name != folder.resolve().name else None


def require_no_sweep(folder: Path) -> None:
    """Training goes on in a run's folder, not in a sweep's. Raises UserError with the command that goes on there."""
    if (run := swept_run(folder)) is None:
        return
    if is_complete(folder):
        raise UserError(f"run={folder} holds a sweep of {run}, which is complete, and no training; give run={run}.")
    raise UserError(f"run={folder} holds a sweep of {run}, and no training; go on with: deqrun sweep run={folder}")


def resumed(given: Settings, overrides: Sequence[Override]) -> Settings:
    """The settings of a run that goes on: its own, and of the given ones only the keys that may differ.

    Raises UserError where run= is missing or no run, or where a typed override differs from the run's own.
    """
    if given.run is None:
        raise UserError("resume=true needs run=DIR, the folder of the run to go on with.")
    folder = require_run(given.run, "run=")
    if given.resume:
        require_within(folder)
    require_no_sweep(folder)
    # What was typed must be what the run has, but for the keys that change no number.
    saved = read_settings(folder / "config.yaml", allow_foreign_targets=given.allow_foreign_targets)
    for override in overrides:
        if override.key_or_group not in FREE_ON_RESUME and not override.is_hydra_override():
            _require_same(override, given, saved)
    # Of those keys, the ones that were typed count, and not their defaults.
    typed = {override.key_or_group for override in overrides}
    free: dict[str, Any] = {key: getattr(given, key) for key in ("device", "threads", "report") if key in typed}
    if typed & set(LAUNCH_KEYS):
        free["launch"] = given.launch
    if "tracker.mode" in typed:
        free["tracker"] = saved.tracker.model_copy(update={"mode": given.tracker.mode})
    return saved.model_copy(update={"run": folder, "resume": True} | free)


def begun_job(given: Settings, folder: Path) -> Settings:
    """The settings of a multirun's job whose folder holds a run already: it goes on there. Raises UserError.

    Refused is a run of other settings, by their fingerprint.
    """
    saved = read_settings(folder / "config.yaml", allow_foreign_targets=given.allow_foreign_targets)
    if saved.fingerprint() != given.fingerprint():
        raise UserError(
            f"{folder} already holds another run, and nothing is overwritten; give another hydra.sweep.dir."
        )
    require_within(folder)
    return given.model_copy(update={"run": folder, "resume": True})


def _require_same(override: Override, given: Settings, saved: Settings) -> None:
    key = override.key_or_group + (f"@{override.package}" if override.package else "")
    # A group is compared by its option, a key by its value.
    if key in given.choices or key in saved.choices:
        new, old = given.choices.get(key), saved.choices.get(key)
    else:
        new, old = _select(given.sections(), key), _select(saved.sections(), key)
    if new != old:
        raise UserError(
            f"{override.input_line} differs from the run's own {key}={old}, and a run goes on as it began; "
            f"leave {key} out, or start a new run."
        )


def _select(sections: dict[str, Any], key: str) -> Any:
    value: Any = sections
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


@contextmanager
def trained_options(run: Path | None, *, allow_foreign_targets: bool = False) -> Iterator[None]:
    """Within: the options `solver=trained` and `dataset=trained` are a run's own, and `name` is its name.

    sweep.yaml builds on them, so that `solver.memory=3` changes the run's own solver. Without a run: empty.
    Untied layers are swept one after the other, whatever the defaults ask of a fixed point.
    """
    saved = read_settings(run / "config.yaml", allow_foreign_targets=allow_foreign_targets) if run else None
    sections = saved.sections() if saved else {"solver": {}, "dataset": {}, "name": "sweep"}
    # Hydra composes from this store; what is put in is taken out again.
    store = ConfigStore.instance()
    for group in ("solver", "dataset"):
        store.store(group=group, name=TRAINED, node=sections[group])
    untied = saved is not None and saved.baseline.kind == "untied"
    own_sweep = {"sweep": {"tolerances": [0.0], "solvers": ["picard"]}} if untied else {}
    store.store(name=TRAINED, node={"name": sections["name"]} | own_sweep)
    try:
        yield
    finally:
        for group in ("solver", "dataset"):
            del store.repo[group][f"{TRAINED}.yaml"]
        del store.repo[f"{TRAINED}.yaml"]


def load_sweep_settings(cfg: DictConfig) -> Settings:
    """The settings of a composed sweep config: the run's own, and the config's own settings of the sweep.

    Raises UserError where run= is missing or no run, where nothing is to be swept, or a value is not allowed.
    """
    sections = sections_of(cfg)
    if sections["run"] is None:
        runs = find_runs()
        hint = f"; the newest is run={runs[-1]}" if runs else ": deqrun train makes one"
        raise UserError(f"deqrun sweep needs run=DIR, the folder of a trained run{hint}.")
    run = require_run(Path(str(sections["run"])), "run=")
    foreign = sections["allow_foreign_targets"] is True
    saved = read_settings(run / "config.yaml", allow_foreign_targets=foreign)
    # The options that were chosen for this sweep, over those of the run.
    chosen = {group: option for group, option in choices(cfg).items() if option != TRAINED}
    names = saved.choices | chosen
    own = {names.get("solver"): sections["solver"]}
    solvers = sweep_solvers(cfg, sections["sweep"], own)
    # The run's sections, and over them the sweep's own.
    settings = settings_from(
        saved.sections() | sections | {"choices": names, "sweep_solvers": solvers, "resume": False}
    )
    _require_same_split(settings, saved)
    if settings.sweep.empty:
        raise UserError(
            "deqrun sweep has nothing to sweep: iterations, tolerances, solvers, starts and splits "
            "of sweep each need a value, as in sweep=default."
        )
    return settings


def _require_same_split(asked: Settings, saved: Settings) -> None:
    """The run is asked about no sample that it was trained on. Raises UserError."""
    if asked.dataset.target != saved.dataset.target:
        return
    for key, before in DRAWS_THE_SPLIT.items():
        new, own = (settings.dataset.parameters.get(key, before) for settings in (asked, saved))
        if new != own:
            raise UserError(
                f"dataset.{key}={new} would ask the run about samples that it was trained on; allowed is its own "
                f"dataset.{key}={own}."
            )
