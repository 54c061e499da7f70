"""Studies on the command line: compose their runs from the overrides, check them, go on with them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from deqrun.cli.overrides import composed_job, parse, text_of
from deqrun.cli.run_folders import FREE_ON_RESUME, LAUNCH_KEYS, is_run, require_empty, require_run, require_within
from deqrun.errors import UserError, listing, one_line
from deqrun.settings import load_settings
from deqrun.settings.sources import ConfigSources, choices
from deqrun.studies.study import FILE, Study, Variant, is_study

if TYPE_CHECKING:
    from deqrun.settings.study import StudySettings

OF_THE_STUDY = ("run", "resume", "question", "size", "seeds", "jobs", "variants", "ask", "seed", "name")
"""Keys that are the study's own, or that it gives each of its runs."""

WHEN_ASKED = ("study", "run", "question", "size", "ask", "name", "device", "threads", "allow_foreign_targets")
"""Keys of `deqrun sweep study=NAME run=DIR`; none is a setting of the training."""


def study_of(
    command: str, cfg: DictConfig, overrides: Sequence[Override], sources: ConfigSources, flags: Sequence[str] = ()
) -> Study | None:
    """The study that a composed train config describes, every run of it composed; None where it is a plain run.

    command  train; or sweep, where the study's question is put to the run in `run=` and nothing is trained
    flags    of the command line, such as --config-dir, which a run's own command needs, too

    Raises UserError where anything about the study or one of its runs is wrong.
    """
    from deqrun.settings.study import load_study_settings

    # The study's own keys; its runs are composed below.
    try:
        settings = load_study_settings(cfg)
    except ValueError as error:
        raise UserError(str(error)) from error
    typed = [override for override in overrides if not override.is_hydra_override()]
    name = choices(cfg).get("study", settings.question or "none")
    if command == "sweep":
        return _asked(name, settings, cfg, typed)
    # A study goes on where its folder says that one has begun, whatever the command says.
    folder = None if cfg.run is None else Path(str(cfg.run))
    begun = cfg.resume is True and folder is not None and is_study(folder)
    if settings.question is None and not begun:
        _require_no_study_keys(settings, cfg, typed)
        return None
    if cfg.resume is True and folder is None:
        raise UserError("resume=true needs run=DIR, the folder of the study to go on with.")
    if cfg.resume is True and folder is not None and not folder.exists():
        raise UserError(f"run={folder} does not exist, so that no study can go on there; leave resume=true out.")
    # Compose every run before the first is made: what is wrong with the last is told at once.
    composed = _composed(name, settings, cfg, typed, sources, flags) if settings.question else None
    if not begun:
        return composed
    assert folder is not None
    return _resumed(folder, composed, cfg, typed)


def _require_no_study_keys(settings: StudySettings, cfg: DictConfig, typed: Sequence[Override]) -> None:
    """Refuse keys that a plain run would not heed. Raises UserError."""
    if settings.size == "full" and "study" not in choices(cfg):
        raise UserError("size=full has no effect without a study; choose one, as in study=is_it_a_contraction.")
    for override in typed:
        key = override.key_or_group.split(".")[0]
        if key not in ("seeds", "jobs", "variants", "ask"):
            continue
        if "study" not in choices(cfg):
            raise UserError(
                f"{override.input_line} has no effect without a study; choose one, as in study=is_it_a_contraction."
            )
        recipe = choices(cfg)["study"]
        raise UserError(
            f"{override.input_line} has no effect with study={recipe}, which is one run without a question; several "
            "runs are a grid, as in -m seed=0,1,2."
        )


def require_free_for_study(folder: Path, resume: bool) -> None:
    """A study goes into a folder of its own; one that has begun goes on only if asked. Raises UserError."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"run={folder} is a file; give a folder that does not exist yet.")
    if is_run(folder):
        raise UserError(
            f"run={folder} holds a run, and a study needs a folder of its own; give one that does not exist."
        )
    if is_study(folder) and not resume:
        raise UserError(
            f"run={folder} already holds a study, and nothing is overwritten; add resume=true to go on with it, "
            "or give a folder that does not exist yet."
        )
    # What is there must be a study that may go on, or nothing.
    if is_study(folder):
        require_within(folder)
    else:
        require_empty(folder, "run=")


def _asked(name: str, settings: StudySettings, cfg: DictConfig, typed: Sequence[Override]) -> Study:
    if settings.question is None:
        raise UserError(f"study={name} asks nothing of a trained run: it is a recipe for deqrun train.")
    for override in typed:
        if override.key_or_group.split(".")[0] not in WHEN_ASKED:
            raise UserError(
                f"{override.input_line} can't change: the run was trained before; "
                f"deqrun sweep study={name} takes {listing(WHEN_ASKED)}."
            )
    if cfg.run is None:
        raise UserError(f"deqrun sweep study={name} needs run=DIR, the folder of a trained run.")
    # One run, asked as it was trained: the study has no variants.
    run = require_run(Path(str(cfg.run)), "run=")
    return _study(name, settings, cfg, (), asked=run.resolve())


def _study(name: str, settings: StudySettings, cfg: DictConfig, variants: Iterable[Variant], **more: Any) -> Study:
    assert settings.question is not None
    return Study(
        name,
        settings.question,
        settings.size,
        settings.ask,
        tuple(variants),
        str(cfg.device),
        cfg.threads,
        allow_foreign_targets=cfg.allow_foreign_targets is True,
        **more,
    )


def _composed(
    name: str,
    settings: StudySettings,
    cfg: DictConfig,
    typed: Sequence[Override],
    sources: ConfigSources,
    flags: Sequence[str],
) -> Study:
    if not settings.trained:
        raise UserError(f"study={name} has no variants, and so nothing to ask {settings.question} of; give it some.")
    # A typed override goes to every run, but where a variant sets that key itself.
    parsed = {label: parse(texts, sources) for label, texts in settings.trained.items()}
    _require_effect(name, typed, parsed)
    variants = [
        variant
        for kind, own in parsed.items()
        for variant in _variants(name, settings, cfg, kind, typed, own, sources, flags)
    ]
    return _study(name, settings, cfg, variants, jobs=settings.jobs)


def _require_effect(name: str, typed: Sequence[Override], parsed: Mapping[str, Sequence[Override]]) -> None:
    """Refuse an override that every variant sets itself: it would change nothing."""
    # Keys that all variants set.
    keys = [{override.get_key_element().lstrip("+~") for override in own} for own in parsed.values()]
    everywhere = set.intersection(*keys)
    for override in typed:
        if override.get_key_element().lstrip("+~") in everywhere:
            raise UserError(
                f"{override.input_line} has no effect: every variant of study={name} sets it; "
                "change its variants, or leave it out."
            )


def _variants(
    name: str,
    settings: StudySettings,
    cfg: DictConfig,
    kind: str,
    typed: Sequence[Override],
    own: Sequence[Override],
    sources: ConfigSources,
    flags: Sequence[str],
) -> Iterator[Variant]:
    """The runs of one variant, one for each seed."""
    # A variant's own overrides come last, and win.
    taken = {override.get_key_element().lstrip("+~") for override in own}
    kept = [
        text_of(override)
        for override in typed
        if override.get_key_element().lstrip("+~") not in taken
        and override.key_or_group.split(".")[0] not in OF_THE_STUDY
    ]
    size = [text_of(override) for override in typed if override.key_or_group == "size"]
    for offset in range(settings.seeds):
        seed = int(cfg.seed) + offset
        label = f"{kind}-{seed}" if settings.seeds > 1 else kind
        texts = [*kept, *size, *(text_of(override) for override in own), f"seed={seed}", f"name={label}"]
        try:
            run = load_settings(composed_job("train", texts, sources)[1])
        except UserError as error:
            raise UserError(f"study={name}, run {label}: {error}") from error
        # The command that makes this very run by itself.
        command = shlex.join(["deqrun", "train", *texts, "question=null", *flags])
        yield Variant(label, kind, run, command)


def _resumed(folder: Path, composed: Study | None, cfg: DictConfig, typed: Sequence[Override]) -> Study:
    """The study as it began; only where and how it computes and is tracked may be typed anew."""
    # What began counts: of the command only where and how it computes may be new.
    saved = Study.from_yaml(folder / FILE, allow_foreign_targets=cfg.allow_foreign_targets is True)
    bound = [override for override in typed if override.key_or_group not in (*FREE_ON_RESUME, "jobs")]
    if bound and composed is None:
        raise UserError(
            f"{bound[0].input_line} can't be compared with the study in {folder}, which goes on as it began; "
            "leave it out, or give the whole command that began it."
        )
    if bound and composed is not None and (differences := saved.differences(composed)):
        raise UserError(
            one_line(
                f"run={folder} holds a study that began otherwise, and goes on as it began; what differs: "
                f"{listing(differences)}"
            )
        )
    # Device, threads, jobs and ranks may be others each time.
    keys = {override.key_or_group for override in typed}
    changes: dict[str, Any] = {key: cfg[key] for key in ("device", "threads", "jobs") if key in keys}
    if keys & set(LAUNCH_KEYS):
        changes["launch"] = load_settings(cfg).launch
    return saved.going_on(changes, cfg.tracker.mode if "tracker.mode" in keys else None)
