"""Prints how long the checks of `deqrun check` take on deqrun's own cells and data sets that need no download."""

from __future__ import annotations

import time

from deqrun.experiment.own_parts import cell_findings, data_findings
from deqrun.settings import Settings, load_settings
from deqrun.settings.sources import open_sources

CELLS = (
    ("conv", "digits"),
    ("mdeq", "digits"),
    ("mdeq_large", "digits"),
    ("mlp", "digits"),
    ("monotone", "digits"),
    ("monotone_conv", "digits"),
    ("recall", "digits"),
    ("recall", "prefix_sums"),
    ("recall", "mazes"),
    ("transformer", "digits"),
    ("transformer", "copy_memory"),
    ("transformer", "sudoku"),
)
DATA_SETS = ("digits", "prefix_sums", "mazes", "sudoku", "copy_memory")


def settings_of(*overrides: str) -> Settings:
    """The settings that these overrides compose to."""
    with open_sources() as sources:
        return load_settings(sources.compose("train", overrides))


def main() -> None:
    """Print seconds and outcome, one part a line."""
    for model, dataset in CELLS:
        settings, began = settings_of(f"model={model}", f"dataset={dataset}"), time.perf_counter()
        failed = [finding.check for finding in cell_findings(settings) if finding.fault]
        print(f"model={model:<14} dataset={dataset:<12} {time.perf_counter() - began:5.2f} s  {failed or 'ok'}")
    for dataset in DATA_SETS:
        settings, began = settings_of(f"dataset={dataset}"), time.perf_counter()
        failed = [finding.check for finding in data_findings(settings) if finding.fault]
        print(f"{'':<20} dataset={dataset:<12} {time.perf_counter() - began:5.2f} s  {failed or 'ok'}")


if __name__ == "__main__":
    main()
