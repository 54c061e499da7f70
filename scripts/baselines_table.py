"""A DEQ and its explicit baselines under the same trainer: accuracy, parameters, evaluations, multiply-adds, time.

    python scripts/baselines_table.py [--layers 8] [--output FOLDER] [overrides of deqrun train …]

Runs `deqrun train` once for the DEQ of `model=conv dataset=digits` (or of the overrides), once for its tied net and
once for each match of its untied net, one after the other, and prints a Markdown table. Evaluations and accuracy are
those on test at the training budget; multiply-adds are per sample, injection and read-out with them, of the DEQ for
its mean evaluations, of the nets for their layers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from deqrun.experiment.build import build_cell, build_dataset
from deqrun.models import describe
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord
from deqrun.report.tables import interval_text, training_cost
from deqrun.settings import read_settings

BASELINES = {
    "DEQ": ["baseline=none"],
    "tied": ["baseline=tied"],
    "untied, parameters": ["baseline=untied", "baseline.match=parameters"],
    "untied, multiply-adds": ["baseline=untied", "baseline.match=multiply_adds"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("outputs/baselines_table"))
    arguments, overrides = parser.parse_known_args()
    print("| net | test accuracy % [95 %] | parameters | evaluations | multiply-adds | training |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, of_baseline in BASELINES.items():
        layers = [] if name == "DEQ" else [f"baseline.layers={arguments.layers}"]
        folder = arguments.output / name.replace(", ", "-")
        print(_row(name, _trained(folder, ["model=conv", *of_baseline, *layers, *overrides])), flush=True)


def _trained(folder: Path, overrides: list[str]) -> RunRecord:
    """The finished run; goes on with one that was stopped, and keeps one that is done."""
    resume = ["resume=true"] if (folder / "config.yaml").is_file() else overrides
    command = [sys.executable, "-m", "deqrun", "train", f"run={folder}", *resume]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return read_run(folder)


def _row(name: str, record: RunRecord) -> str:
    summary = record.summary
    evaluations, _ = training_cost(record)
    accuracy = interval_text(summary.test_accuracy, summary.test_accuracy_low, summary.test_accuracy_high)
    return (
        f"| {name} | {accuracy} | {summary.parameters:,} | {evaluations or 0:.1f} | "
        f"{_multiply_adds(record, evaluations or 0):,.0f} | {summary.train_seconds:.0f} s |"
    )


def _multiply_adds(record: RunRecord, evaluations: float) -> float:
    if record.summary.net_multiply_adds is not None:
        return record.summary.net_multiply_adds
    settings = read_settings(record.folder / "config.yaml")
    return describe(build_cell(settings, build_dataset(settings))).answer_multiply_adds(evaluations)


if __name__ == "__main__":
    main()
