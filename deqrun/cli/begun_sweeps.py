"""`deqrun sweep run=FOLDER` with the folder of an interrupted sweep: it goes on, as it began."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.types import Override

from deqrun.cli.overrides import parse
from deqrun.cli.preflight import check_builds, sources_of
from deqrun.cli.request import Request
from deqrun.cli.run_folders import is_complete, require_run, swept_run
from deqrun.errors import UserError
from deqrun.records.claims import claimed
from deqrun.settings import read_settings, settings_from

if TYPE_CHECKING:
    from deqrun.settings import Settings

__all__ = ["begun_sweep", "go_on_with_sweep"]

FREE = ("run", "allow_foreign_targets", "launch.devices", "launch.timeout_minutes")
"""Keys that may be typed when a sweep goes on: none changes a number."""


def begun_sweep(request: Request) -> Path | None:
    """The folder in `run=`, if it is a sweep's. Raises UserError where that sweep is complete."""
    typed = [text for text in request.flags.overrides if text.startswith("run=")]
    folder = Path(typed[-1].removeprefix("run=").strip("'\"")) if typed else None
    if folder is None or (run := swept_run(folder)) is None:
        return None
    if is_complete(folder):
        raise UserError(f"run={folder} is a sweep of {run}, which is complete; to ask that run again, give run={run}.")
    return folder


def go_on_with_sweep(request: Request, folder: Path) -> int:
    """Go on with the sweep in `folder`; nothing else that it asks may be typed. Raises UserError."""
    # A sweep goes on as it began: of the command only the folder counts.
    typed = dict(text.partition("=")[::2] for text in request.overrides)
    for key, value in typed.items():
        if key not in FREE:
            raise UserError(
                f"{key}={value} can't change: run={folder} holds a sweep, which goes on as it began; leave "
                f"{key} out, or ask its run anew."
            )
    with sources_of(request) as sources:
        settings = read_settings(
            folder / "config.yaml", allow_foreign_targets=typed.get("allow_foreign_targets") == "true"
        )
        settings = _with_ranks(settings, parse(request.overrides, sources))
        assert settings.run is not None
        require_run(settings.run, f"run={folder} is a sweep of ")
        flags = ["allow_foreign_targets=true"] if settings.allow_foreign_targets else []
        flags += ["--config-dir", str(request.config_dir)] if request.config_dir else []
        # Claimed before torch is imported, as every folder that is written into.
        with claimed(folder):
            check_builds([settings], "sweep")
            from deqrun.experiment.launch import run_sweep

            run_sweep(settings, settings.run, folder, shlex.join(["deqrun", "sweep", f"run={folder}", *flags]))
    return 0


def _with_ranks(settings: Settings, overrides: Sequence[Override]) -> Settings:
    """The settings with the ranks that were typed. Raises UserError."""
    typed = [override for override in overrides if override.key_or_group.startswith("launch.")]
    given = {override.key_or_group.removeprefix("launch."): override.value() for override in typed}
    if not given:
        return settings
    sections = settings.sections()
    sections |= {"launch": sections["launch"] | given, "allow_foreign_targets": settings.allow_foreign_targets}
    return settings_from(sections)
