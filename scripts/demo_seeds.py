"""A recipe's test accuracy over seeds: mean with its 95 % interval over runs, and each run's own.

    python scripts/demo_seeds.py [--study demo] [--seeds 0 1 2] [--output FOLDER] [overrides of deqrun train …]

Runs `deqrun train study=STUDY seed=S` for each seed, one after the other, then prints a table. The interval over
seeds is Student's (mean ± t · s/√n), cut to what a share can be: it says how the recipe does; each run's own interval
says how its model does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from deqrun.inference import shares_of_seeds
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--study", default="demo")
    parser.add_argument("--output", type=Path)
    arguments, overrides = parser.parse_known_args()
    output = arguments.output or Path(f"outputs/{arguments.study}_seeds")
    overrides = [f"study={arguments.study}", *overrides]
    records = [trained(seed, output / f"seed-{seed}", overrides) for seed in arguments.seeds]
    for seed, record in zip(arguments.seeds, records, strict=True):
        print(f"seed {seed}: {_line(record)}")
    accuracies = [record.summary.test_accuracy or 0 for record in records]
    found = shares_of_seeds(accuracies, records[0].summary.n_test or 1)
    low, high = 100 * found.low, 100 * found.high
    print(f"test accuracy, seeds {len(accuracies)}: {100 * found.mean:.2f} %, 95 % interval {low:.2f} to {high:.2f} %")


def trained(seed: int, folder: Path, overrides: list[str]) -> RunRecord:
    """The finished run of this seed; goes on with one that was stopped, and keeps one that is done."""
    resume = ["resume=true"] if (folder / "config.yaml").is_file() else [*overrides, f"seed={seed}"]
    subprocess.run([sys.executable, "-m", "deqrun", "train", f"run={folder}", *resume], check=True)
    return read_run(folder)


def _line(record: RunRecord) -> str:
    summary = record.summary
    low, high = summary.test_accuracy_low or 0, summary.test_accuracy_high or 0
    return (
        f"test accuracy {100 * (summary.test_accuracy or 0):.1f} % [{100 * low:.1f}, {100 * high:.1f}] "
        f"(n = {summary.n_test}), training {summary.train_seconds:.0f} s, sweep {summary.sweep_seconds:.1f} s"
    )


if __name__ == "__main__":
    main()
