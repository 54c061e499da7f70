"""What a full sweep costs beside one solve, and that what it derives is what separate solves give.

    python scripts/sweep_figures.py

1. Time of a full sweep of one solver (64 budgets × 5 tolerances × the halting rules, all thresholds, both splits) over
   that of a single solve of the same samples to 64 iterations with one read-out: medians of --repeats interleaved runs
   in seconds of CPU, of the demo's MDEQ after a short training (--epochs) on the digits, per solver, with tolerance
   1e-5 for both. The head of this MDEQ costs 4 % of an evaluation in multiply-adds, and some 17 % in time.
2. The largest differences between derived cells and separate solves, each with its own budget and tolerance, over a
   part of the grid: accuracy, evaluations and residual.
3. `seconds` of a cell at the full budget (64 iterations, no tolerance, all signals recorded), which the sweep derives,
   over those of a plain solve of that budget with one read-out: medians of --repeats interleaved pairs by the clock,
   of untrained models on 360 samples of validation.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from bench_timing import interleaved
from main_figures import mdeq, one_evaluation, short_training

from deqrun.datasets import Dataset, Digits
from deqrun.datasets.prefix_sums import PrefixSums
from deqrun.experiment.evaluate import evaluate
from deqrun.experiment.sweep.halting import halting_rows
from deqrun.experiment.sweep.trace import cells, trace
from deqrun.gradients import OneStep
from deqrun.models import DEQ, MLPCell, RecallCell
from deqrun.records.halting_rules import BOUNDS, RULES
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.solvers import Anderson, Broyden, Budget, Picard, Solver

BUDGETS = list(range(1, 65))
TOLERANCES = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]
LARGEST = Budget(max_iter=64, tol=1e-5)
SPLITS = ("validation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the short training before the sweep")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats; medians are printed")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, dataset = short_training(arguments.epochs), Digits()
    solvers: dict[str, Solver] = {"picard": Picard(), "anderson": Anderson(), "broyden": Broyden()}
    for name, solver in solvers.items():
        ratio(model, dataset, name, solver, arguments.repeats)
    for name, solver in solvers.items():
        differences(model, dataset, name, solver)
    for name, solver in solvers.items():
        for label, (untrained, data) in untrained_models().items():
            cell_seconds(untrained, data, label, name, solver, arguments.repeats)


def ratio(model: DEQ, dataset: Digits, name: str, solver: Solver, repeats: int) -> None:
    """Seconds of the sweep, of its solves alone, and of one solve with one read-out."""
    runs = {
        "sweep": lambda: sweep(model, dataset, name, solver),
        "without signals": lambda: [traced(model, dataset, split, solver, signals=False) for split in SPLITS],
        "one solve": lambda: solves(model, dataset, solver),
    }
    seconds = interleaved(runs, repeats, time.process_time)
    rows = sweep(model, dataset, name, solver)
    print(f"{name}: {rows:,} rows; seconds " + ", ".join(f"{label} {value:.3f}" for label, value in seconds.items()))
    print(f"{name}: full sweep over one solve of 64 iterations: {seconds['sweep'] / seconds['one solve']:.2f}\n")


def solves(model: DEQ, dataset: Digits, solver: Solver) -> None:
    """One solve to 64 iterations with one read-out, of both splits."""
    for split in SPLITS:
        one_evaluation(model, dataset, dataset.load(split), solver, LARGEST)


def traced(model: DEQ, dataset: Digits, split: str, solver: Solver, signals: bool) -> Trajectory:
    return trace(model, dataset, dataset.load(split), solver, LARGEST, 360, signals=signals)


def sweep(model: DEQ, dataset: Digits, name: str, solver: Solver) -> int:
    """Everything that a run's sweep of one solver and start does, but for writing it; the number of rows."""
    keys = {split: TrajectoryKey(name, "zeros", split) for split in SPLITS}
    found = {split: traced(model, dataset, split, solver, signals=True) for split in SPLITS}
    rows: list[Sequence[object]] = [
        cells(found[split], BUDGETS, TOLERANCES, key=keys[split], keep="best") for split in SPLITS
    ]
    rows.append(halting_rows(keys["test"], found["validation"], found["test"], RULES + BOUNDS))
    return sum(map(len, rows))


def differences(model: DEQ, dataset: Digits, name: str, solver: Solver) -> None:
    """Largest differences over budgets 1, 4, 16, 64 and all tolerances, on test."""
    split, few = dataset.load("test"), [1, 4, 16, 64]
    trajectory = traced(model, dataset, "test", solver, signals=False)
    worst = [0.0, 0.0, 0.0]
    for cell in cells(trajectory, few, TOLERANCES, key=TrajectoryKey(name, "zeros", "test"), keep="best"):
        model.solver, model.budget = solver, Budget(cell.max_iter, cell.tol)
        alone = evaluate(model, dataset, split, 360, torch.device("cpu"))
        median = float(alone.residual.median())
        found = (
            abs(cell.accuracy - alone.accuracy),
            abs(cell.nfe_mean - float(alone.nfe.double().mean())),
            abs(cell.residual_median / median - 1) if median else 0.0,
        )
        worst = [max(pair) for pair in zip(worst, found, strict=True)]
    print(
        f"{name}: {len(few) * len(TOLERANCES)} cells against separate solves: accuracy differs by at most "
        f"{worst[0]:.4f}, mean evaluations by {worst[1]:.3f}, the median residual by {worst[2]:.1e} of itself"
    )


def untrained_models() -> dict[str, tuple[DEQ, Dataset]]:
    """An MDEQ, a recall cell and an MLP, each with its data."""
    digits, strings = Digits(), PrefixSums(length=32, n_train=1, n_validation=360, n_test=1)
    mlp = MLPCell(input_shape=digits.input_shape, num_classes=digits.num_classes)
    recall = RecallCell(input_shape=strings.input_shape, num_classes=2, output_shape=strings.output_shape)
    return {
        "mdeq": (mdeq(), digits),
        "recall": (DEQ(recall, Picard(), LARGEST, OneStep()), strings),
        "mlp": (DEQ(mlp, Picard(), LARGEST, OneStep()), digits),
    }


@torch.no_grad()
def cell_seconds(model: DEQ, dataset: Dataset, label: str, name: str, solver: Solver, repeats: int) -> None:
    """Seconds that a sweep gives for its last cell over those of the plain solve beside it."""
    model.eval()
    model.solver, model.budget = solver, Budget(LARGEST.max_iter, 0.0)
    split = dataset.load("validation")
    x, key, ratios = dataset.encode(split.inputs[:]), TrajectoryKey(name, "zeros", "validation"), []
    for repeat in range(repeats + 1):
        found = trace(model, dataset, split, solver, model.budget, len(split), signals=True)
        (cell,) = cells(found, [LARGEST.max_iter], [0.0], key=key, keep="best")
        began = time.perf_counter()
        model(x)
        if repeat:
            ratios.append(cell.seconds / (time.perf_counter() - began))
    print(f"{label}, {name}: seconds of a cell over a plain solve with one read-out: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
