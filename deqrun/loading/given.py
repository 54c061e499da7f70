"""Sweep a model that Python code has at hand: its budgets, solvers and tolerances, without training it."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from deqrun.errors import UserError, one_line
from deqrun.loading.run import LoadedRun, load_run
from deqrun.settings.load import load_settings
from deqrun.settings.sources import AS_GIVEN, NOT_COMPOSED, open_sources

if TYPE_CHECKING:
    from torch import nn

__all__ = ["sweep_model"]


def sweep_model(
    model: nn.Module, *overrides: str, folder: Path | str | None = None, config_dir: Path | str | None = None
) -> LoadedRun:
    """Ask `model`, whose weights stay as they are, at every budget, tolerance and solver of a sweep; the run.

        run = deqrun.sweep_model(model, "dataset=digits", "sweep=quick", "solver=picard")
        run.pandas("sweep")

    model       an nn.Module with the methods f(z, x), start(x) and readout(z), and perhaps inject(x), as
                `deqrun.models.AdaptedCell` has them; a copy of it is asked
    overrides   as on the command line of deqrun sweep: dataset, solver, budget, sweep, tracker (by default none)
    folder      of the run; None: below outputs/, named by the time and the model's class
    config_dir  a folder with config groups of your own, as `--config-dir`; its code may run

    `run.model()` needs the model again, so it works in this process alone.
    Raises UserError, one sentence, where the model or an override is not allowed.
    """
    name = re.sub(r"\W", "_", type(model).__name__)
    now = datetime.now()
    place = Path(folder) if folder is not None else Path("outputs/train") / f"{now:%Y-%m-%d/%H-%M-%S-%f}-{name}"
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"folder={place} is not empty, and nothing is overwritten; give a folder that does not exist.")

    # Named by its weights, too, so that no other model of the class passes for it.
    from deqrun.experiment.build import check_components
    from deqrun.experiment.launch import run_train
    from deqrun.experiment.own_parts import require_cell
    from deqrun.experiment.sweep.parts import fingerprint_of
    from deqrun.models.adapted import give

    try:
        give(given := f"{name}-{fingerprint_of('', model)[:8]}", model)
    except ValueError as error:
        raise UserError(one_line(error)) from error

    # Settings as the command line composes them.
    own = [*AS_GIVEN, "~model.model", f"model.given={given}"]
    if config_dir is not None:
        from deqrun.settings.trust import use_folder

        use_folder(Path(config_dir))
        own.append("allow_foreign_targets=true")
    with open_sources(None if config_dir is None else Path(config_dir)) as sources:
        try:
            cfg = sources.compose("train", [*own, "tracker=none", f"name={name}", *overrides])
        except NOT_COMPOSED as error:
            raise UserError(one_line(str(error).split("\n")[0])) from error
        settings = load_settings(cfg)

    # Checked as a command is before anything is written.
    check_components(settings, set())
    require_cell(settings, set())
    run_train(settings, place, "deqrun.sweep_model")
    return load_run(place, allow_foreign_targets=settings.allow_foreign_targets)
