"""Accuracy of a swept run by the rating that the data set's publisher gives each sample.

    python scripts/accuracy_by_rating.py RUN --iterations 4 16 64 --edges 0 1 10 100

RUN is a run on `dataset=puzzles` with rated files, swept with sweep.keep=samples (the default). Printed are, for each
bucket of ratings, the samples and the share of them that is right at each iteration, with Wilson's 95 % interval over
the samples. Without --edges there are five buckets of about as many samples.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np

from deqrun import load_run
from deqrun.analysis.rating import accuracy_by_rating, rating_edges
from deqrun.errors import UserError
from deqrun.experiment.build import build_dataset
from deqrun.records.trajectory import TrajectoryKey


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--iterations", type=int, nargs="+", default=None)
    parser.add_argument("--edges", type=float, nargs="+", default=None)
    given = parser.parse_args()
    try:
        table(given.run, given.split, given.iterations, given.edges)
    except UserError as error:
        print(f"accuracy_by_rating: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def table(folder: str, split: str, iterations: list[int] | None, edges: list[float] | None) -> None:
    """Print the table of a run's main solver and start."""
    run = load_run(folder)
    record = run.record
    if record.main_solver is None:
        raise UserError(f"{folder} has no sweep; run deqrun sweep run={folder} first.")
    key = TrajectoryKey(record.main_solver, record.main_start, split, record.main_precision, record.main_difficulty)
    if key not in record.trajectories:
        raise UserError(f"{folder} has no trajectory of {split}; sweep it with sweep.keep=samples.")
    ratings = build_dataset(run.settings).load(split).ratings
    if ratings is None:
        raise UserError(f"The data of {folder} are not rated.")
    parts = list(record.trajectories[key].parts())
    correct = np.concatenate([part.correct for part in parts], axis=1)
    # A sample that stopped keeps its answer: its last iterate's.
    last = np.concatenate([part.last() for part in parts])
    places = iterations or [len(correct) - 1]
    bounds = rating_edges(ratings.numpy()) if edges is None else tuple(edges)
    columns = {}
    for k in places:
        if k < 0:
            raise UserError(f"--iterations {k} is below 0; allowed are whole numbers from 0.")
        right = correct[np.minimum(k, last), np.arange(correct.shape[1])]
        columns[k] = accuracy_by_rating(right, ratings.numpy(), bounds)
    print("| rating | n | " + " | ".join(f"{k} iterations" for k in places) + " |")
    print("|---|---:|" + "---:|" * len(places))
    for rows in zip(*columns.values(), strict=True):
        first = rows[0]
        name = "not rated" if math.isnan(first.low) else f"{first.low:g} to {first.high:g}"
        shares = [
            f"{100 * row.accuracy:.1f} [{100 * row.accuracy_low:.1f}, {100 * row.accuracy_high:.1f}]" for row in rows
        ]
        print(f"| {name} | {first.n:,} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    main()
