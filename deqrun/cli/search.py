"""A multirun whose sweeper chooses the values, as Optuna's does: told at its end as a table and the best trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from deqrun.cli.grid import FAILED, Shape, print_jobs
from deqrun.cli.run_folders import is_run
from deqrun.errors import UserError, one_line
from deqrun.experiment.trackers.place import place_of
from deqrun.records.files import write_whole
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord
from deqrun.records.yaml_text import read_yaml

FILE = "multirun.json"
RESULT = "optimization_results.yaml"
"""The file that Optuna's sweeper writes at its end."""


def begin_search(folder: Path, shape: Shape) -> None:
    """Write the keys that differ between the jobs into the multirun's folder, for the trackers of its jobs."""
    with suppress(ImportError):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
    write_whole(folder / FILE, json.dumps({"shape": shape.written()}, indent=1) + "\n")


def searched(folder: Path, run: Callable[[], int]) -> int:
    """Run the trials, and tell how they ended; the exit code."""
    try:
        run()
    except ValueError as error:
        if "No trials are completed" not in str(error):  # Optuna's own words
            raise
        _tell(folder)
        print("deqrun: no trial was completed, so that none is the best.", file=sys.stderr)
        return FAILED
    return _tell(folder)


def _tell(folder: Path) -> int:
    """Print a row for each trial, the reason of each that failed, and the best trial; the exit code.

    A failed trial is a result of a search: the exit code is 0 where any trial was completed.
    """
    from deqrun.report import numbers

    rows, lines = [], []
    records = _records(folder)
    for number, record in records:
        done = record.status.status == "completed"
        differs = " ".join(place_of(record.folder, record.config).differs)
        accuracy = numbers.percent(record.summary.val_accuracy)
        rows.append((number, differs, "completed" if done else "failed", accuracy))
        lines += [] if done else [f"job {number}: {record.status.reason}"]
    failed = len(lines)
    lines += [] if (best := _best(folder)) is None else [f"best    {best}"]
    # Trials are compared: by test accuracies nobody is to choose.
    print_jobs(rows, "validation", [*lines, f"search  {folder}"])
    return FAILED if records and failed == len(records) else 0


def _records(folder: Path) -> list[tuple[int, RunRecord]]:
    """The trials that have a run folder, by number."""
    found = []
    for path in folder.iterdir():
        number = path.name.partition("-")[0]
        if number.isdigit() and is_run(path):
            try:
                found.append((int(number), read_run(path)))
            except ValueError as error:
                raise UserError(one_line(error)) from error
    return sorted(found, key=lambda pair: pair[0])


def _best(folder: Path) -> str | None:
    """'0.93 with optimizer.lr=0.01', as Optuna's sweeper wrote it; None where it wrote none."""
    if not (folder / RESULT).is_file():
        return None
    try:
        told = read_yaml(folder / RESULT)
        # One objective has a best trial; several have a front of trials, none of which is better in all of them.
        if "best_value" in told:
            chosen = " ".join(f"{key}={value}" for key, value in told["best_params"].items())
            return f"{told['best_value']:.6g} with {chosen}"
        return "; ".join(
            f"{trial['values']} with " + " ".join(f"{key}={value}" for key, value in trial["params"].items())
            for trial in told["solutions"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
