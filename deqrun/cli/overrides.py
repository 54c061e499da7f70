"""Overrides as typed (`model=mdeq`, `train.epochs=3`): read, spread into jobs, checked for their names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from deqrun.errors import UserError, listing, nearest, one_line, unknown
from deqrun.records.former_names import FORMER
from deqrun.settings.sources import NOT_COMPOSED, ConfigSources

FIXED_BY_TRAINING = ("model", "gradient", "optimizer", "budget", "train", "seed", "study", "baseline")
"""Groups and keys of deqrun train that a sweep of the trained run takes as they were."""

JOBS_CHECKED = 128
"""Jobs of a multirun that are checked one by one before the first starts, at about 0.1 s each."""


def parse(texts: Sequence[str], sources: ConfigSources) -> list[Override]:
    """The overrides as Hydra reads them. Raises UserError where one can't be read."""
    parser = OverridesParser.create(config_loader=sources.loader)
    parsed = []
    for text in texts:
        try:
            parsed += parser.parse_overrides([text])
        except (HydraException, ValueError, RecursionError) as error:  # a number too long, brackets too deep
            raise UserError(_unreadable(text, sources)) from error
    return parsed


def _unreadable(text: str, sources: ConfigSources) -> str:
    groups = sources.groups
    # The likeliest slip first: an option without its group, a flag, a bare word.
    holders = [group for group, options in groups.items() if text in options]
    if holders:
        return f"{text} is not of the form key=value; did you mean {holders[0]}={text}?"
    if text.startswith("--"):
        return f"{text} is not a flag; options are given as key=value, as in train.epochs=10."
    if "=" not in text:
        near = nearest(text, groups)
        hint = f"; did you mean {near}=…?" if near else ", as in model=mdeq or train.epochs=10."
        return f"{text} is not of the form key=value{hint}"
    if not text.isascii():
        key, _, value = text.partition("=")
        return f"{text} can't be read: letters beyond a to z go in quotes, as in \"{key}='{value}'\"."
    return f"{text} can't be read: put a value with spaces or signs in quotes, as in \"name='a b'\"."


MOST_JOBS = 1000
"""Jobs of a grid that goes on where it was cut: each is composed before the first starts, at about 0.1 s."""


def job_count(overrides: Sequence[Override]) -> int:
    """How many jobs a multirun has, or more than `MOST_JOBS`."""
    count = 1
    for override in overrides:
        if override.is_discrete_sweep():
            count *= sum(1 for _ in itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
        if count > MOST_JOBS:
            break
    return count


def job_overrides(
    overrides: Sequence[Override], most: int | None = None, *, intervals: bool = False
) -> list[list[str]]:
    """The overrides of each job of a multirun, in the order in which they run.

    most       beyond so many jobs: one job for each value of each key, the others at their first value; None: all jobs
    intervals  whether the sweeper takes interval(low,high), of which both ends are then checked
    """
    # In Hydra's order: the last key varies fastest.
    texts = {override.get_key_element(): _values(override, intervals) for override in overrides}
    columns = list(texts.values())
    product = list(itertools.islice(itertools.product(*columns), None if most is None else most + 1))
    if most is None or len(product) <= most:
        return [list(job) for job in product]
    # Too many to check each: every value once is enough to find a wrong one.
    first = [column[0] for column in columns]
    one_changed = ((*first[:i], value, *first[i + 1 :]) for i, column in enumerate(columns) for value in column[:most])
    return [list(job) for job in dict.fromkeys(one_changed)]


def _values(override: Override, intervals: bool = False) -> list[str]:
    """`key=value` for each value of one override; of an interval, where the sweeper takes any, for both ends."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [text_of(override)]
    # Ranges of the settings are intervals, too: an interval whose ends are allowed is allowed throughout.
    if intervals and override.is_interval_sweep():
        ends = override.value()
        assert isinstance(ends, IntervalSweep)
        return [f"{key}={ends.start}", f"{key}={ends.end}"]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line} has no list of values; give them, as in {key}=1,2,3, or let hydra/sweeper=optuna "
            "choose them."
        )
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), JOBS_CHECKED + 1))
    except HydraException as error:
        raise UserError(one_line(f"{override.input_line}: {error}")) from error
    if not values:
        raise UserError(f"{override.input_line} names no value; give at least one.")
    return [f"{key}={value}" for value in values]


def text_of(override: Override) -> str:
    """The override as it was typed."""
    assert override.input_line is not None
    return override.input_line


def is_group(override: Override, sources: ConfigSources) -> bool:
    """Whether an override chooses an option of a config group."""
    return override.package is not None or override.key_or_group in sources.groups


def check_choices(overrides: Sequence[Override], sources: ConfigSources) -> None:
    """Every `group=option` names an option that there is. Raises UserError."""
    groups = sources.groups
    for override in overrides:
        options = groups.get(override.key_or_group)
        if options is None or override.is_hydra_override():
            continue
        if override.is_sweep_override():
            raise UserError(f"{text_of(override)} names several options; add -m to run one job for each.")
        value = override.value()
        optional = value is None and override.key_or_group == "study"
        if not override.is_delete() and value not in options and not optional:
            raise UserError(unknown(text_of(override), f"an option of {override.key_or_group}", options, str(value)))


def check_additions(config_name: str, overrides: Sequence[Override], sources: ConfigSources) -> None:
    """`+key=value` adds only parameters of a component, whose constructor then decides. Raises UserError."""
    added = [override for override in overrides if override.is_add() or override.is_force_add()]
    if not any(not is_group(override, sources) and not override.is_hydra_override() for override in added):
        return
    # A parameter of a class may be added; its constructor says whether it takes it.
    keys, groups = _known(config_name, overrides, sources)
    for override in added:
        key = override.key_or_group
        known = key in keys or key in groups or override.is_hydra_override()
        if not known and f"{key.rpartition('.')[0]}._target_" not in keys:
            raise UserError(unknown_key(override, config_name, keys, groups))


def composed_job(
    config_name: str, texts: Sequence[str], sources: ConfigSources, known: DictConfig | None = None
) -> tuple[list[Override], DictConfig]:
    """The overrides of one job and their config; every group, option and key in them is there. Raises UserError.

    known  the config, where it was composed before; not taken where an override names several values
    """
    # Options before keys: a wrong option explains the keys that are missing.
    overrides = parse(texts, sources)
    check_choices(overrides, sources)
    swept = any(override.is_sweep_override() for override in overrides)
    try:
        cfg = sources.compose(config_name, texts) if known is None or swept else known
    except NOT_COMPOSED as error:
        raise UserError(diagnose(config_name, overrides, sources, error)) from error
    check_additions(config_name, overrides, sources)
    return overrides, cfg


def diagnose(config_name: str, overrides: Sequence[Override], sources: ConfigSources, error: Exception) -> str:
    """Why a config did not compose: the first override whose key does not exist, or else Hydra's reason."""
    try:
        keys, groups = _known(config_name, overrides, sources)
    except NOT_COMPOSED as choice_error:
        return _hydra_reason(choice_error, overrides)
    # The first override whose key isn't there is the reason, more often than what Hydra says.
    for override in overrides:
        key = override.key_or_group
        if override.is_hydra_override() or override.package is not None:
            continue
        if override.is_sweep_override():
            several = f"{text_of(override)} names several values"
            return f"{several}; add -m to run a job for each, or write {key}=[…] for a list."
        adds = override.is_add() or override.is_force_add()
        if not adds and key not in keys and key not in groups:
            return unknown_key(override, config_name, keys, groups)
    return _hydra_reason(error, overrides)


def _known(config_name: str, overrides: Sequence[Override], sources: ConfigSources) -> tuple[list[str], list[str]]:
    """The dotted keys and the groups of a config, with the options that the overrides choose."""
    # Compose with the options alone: they decide which keys there are.
    groups = list(choices_made(sources.compose(config_name, [])))
    chosen = [text_of(override) for override in overrides if override.package or override.key_or_group in groups]
    base = sources.compose(config_name, chosen)
    return list(dotted_keys(base)), groups


def choices_made(cfg: DictConfig) -> list[str]:
    """The groups that a composed config chooses from, an option taken or not; Hydra's own left out."""
    return sorted(str(group) for group in cfg.hydra.runtime.choices if "/" not in str(group) and "@" not in str(group))


def unknown_key(override: Override, config_name: str, keys: Sequence[str], groups: Sequence[str]) -> str:
    """One sentence on a key that isn't there: its siblings, and the nearest key or group anywhere."""
    key, text = override.key_or_group, text_of(override)
    # A name of before is answered with the present one.
    former, dot, rest = key.partition(".")
    if former in FORMER:
        present = f"{FORMER[former]}{dot}{rest}"
        return f"{text} is called {text.replace(key, present, 1)} now."
    if config_name == "sweep" and key.split(".")[0] in FIXED_BY_TRAINING:
        changeable = sorted({name.split(".")[0] for name in (*groups, *keys)})
        return f"{text} can't change: the run was trained before; deqrun sweep changes {listing(changeable)}."
    # Siblings of the nearest section that exists, and the nearest name anywhere.
    names = list(dict.fromkeys([*groups, *keys]))
    near = nearest(key, names)
    parent, _, _ = key.rpartition(".")
    while parent and parent not in keys:
        parent = parent.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    hint = f"; the nearest is {near}" if near else ""
    return f"{text} is not a key of deqrun {config_name}; allowed: {listing(siblings)}{hint}."


def dotted_keys(cfg: DictConfig) -> Iterator[str]:
    """Every key of a composed config, sections included, Hydra's own left out."""
    content = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(content, dict)
    yield from _dotted_keys({key: value for key, value in content.items() if key != "hydra"}, "")


def _dotted_keys(content: dict[Any, Any], prefix: str) -> Iterator[str]:
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _hydra_reason(error: Exception, overrides: Sequence[Override]) -> str:
    """Hydra's own reason without its search paths and its advice."""
    typed = " ".join(text_of(override) for override in overrides) or "the configuration"
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, given = error.missing_cfg_file.rpartition("/")
        return unknown(f"{group}={given}", f"an option of {group}", error.options, given)
    if isinstance(error, RecursionError):
        return f"{typed} can't be composed: an option names itself in its defaults, or refers to itself."
    reason = str(error).split("\n\n")[0].split("\nConfig search path")[0].split("\nTo append to")[0]
    return one_line(f"{typed} can't be composed: {reason or type(error).__name__}")
