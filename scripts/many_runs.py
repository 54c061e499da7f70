"""Well-formed run folders in any number, without training: closed forms with noise, in every file that a run writes.

    python scripts/many_runs.py FOLDER --runs 500

A grid of model × solver × budget.max_iter × optimizer.lr with five seeds each. Every run has its configuration, epochs,
a sweep over two splits, trajectories, halting rules and breadths. --difficulties adds a sweep over difficulties.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deqrun.experiment.sweep.trace import cells as cells_of
from deqrun.inference import wilson
from deqrun.records.rows import BreadthRow, Epoch, HaltingRow, SweepCell
from deqrun.records.run import Summary
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.records.writing import RunFolder
from deqrun.records.yaml_text import write_yaml

SEEDS = 5
ITERATIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SAMPLES = {"validation": 60, "test": 120}
EPOCHS = 20
RATES = {"picard": 0.80, "anderson": 0.55}
REACHED = {"mlp": 0.93, "conv": 0.975}


def grid(runs: int) -> Iterator[tuple[str, str, int, float, int]]:
    """Model, solver, budget, learning rate and seed of so many runs."""
    rates = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    budgets = itertools.count(8, 4)
    every = (
        (model, solver, budget, lr, seed)
        for budget in budgets
        for model, solver, lr, seed in itertools.product(REACHED, RATES, rates, range(SEEDS))
    )
    return itertools.islice(every, runs)


def write_run(
    folder: Path, model: str, solver: str, max_iter: int, lr: float, seed: int, difficulties: tuple[int, ...] = ()
) -> Path:
    """One completed run of these settings."""
    generator = np.random.default_rng([seed, max_iter, len(model), len(solver), round(lr * 1e6)])
    run = RunFolder(folder)
    reached = REACHED[model] - 0.02 * abs(math.log10(lr) + 3) + 0.006 * generator.standard_normal()
    trajectories = {
        TrajectoryKey(name, "zeros", split): _trajectory(RATES[name], n, reached, generator)
        for name in RATES
        for split, n in SAMPLES.items()
    }
    swept = dict(trajectories)
    for difficulty in difficulties:
        key = TrajectoryKey(solver, "zeros", "test", difficulty=difficulty)
        swept[key] = _trajectory(RATES[solver], SAMPLES["test"], reached - 0.002 * difficulty, generator)
    cells = [
        cell for key, known in swept.items() for cell in cells_of(known, ITERATIONS, TOLERANCES, key=key, keep="last")
    ]
    run.write_config(write_yaml(_config(model, solver, max_iter, lr, seed)))
    run.write_rows("epochs", _epochs(reached, lr, generator))
    run.write_rows("sweep", cells)
    run.write_rows("halting", _halting(solver, reached))
    run.write_rows("breadth", _breadth(solver, reached))
    run.write_trajectories(trajectories)
    of_training = (solver, 16, 1e-3, None)
    chosen = {c.split: c for c in cells if (c.solver, c.max_iter, c.tol, c.difficulty) == of_training}
    run.write_summary(_summary(model, solver, max_iter, seed, chosen))
    run.write_status("completed", epoch=EPOCHS)
    return folder


def _trajectory(rate: float, n: int, reached: float, generator: np.random.Generator) -> Trajectory:
    """Residuals that fall by a rate of each sample's own, and answers that settle on the way."""
    k = np.arange(ITERATIONS[-1] + 1)[:, None]
    rates = np.clip(rate + 0.05 * generator.standard_normal(n), 0.2, 0.97)
    residual = np.maximum(rates**k, 3e-7).astype(np.float32)
    last = np.argmax(residual <= TOLERANCES[-1], axis=0)
    last = np.where(last == 0, ITERATIONS[-1], last)
    residual[k > last] = np.nan
    right = generator.random(n) < reached
    correct = np.where(generator.random(n) < 0.6 * 0.6**k, generator.random((len(k), n)) < 0.1, right)
    return Trajectory(
        residual, np.broadcast_to(k + 1, residual.shape).astype(np.int32), correct, 1e-3 * np.arange(1.0, len(k) + 1)
    )


def _epochs(reached: float, lr: float, generator: np.random.Generator) -> list[Epoch]:
    speed = 4 + abs(math.log10(lr) + 3)
    return [
        Epoch(
            epoch=epoch,
            step=20 * epoch,
            loss=0.05 + 2.2 * math.exp(-epoch / speed) * (1 + 0.04 * generator.standard_normal()),
            train_accuracy=min(1.0, reached - 0.7 * math.exp(-epoch / speed) + 0.02),
            val_loss=0.1 + 2.1 * math.exp(-epoch / speed) * (1 + 0.04 * generator.standard_normal()),
            val_accuracy=max(0.0, reached - 0.7 * math.exp(-epoch / speed) * (1 + 0.03 * generator.standard_normal())),
            learning_rate=lr,
            nfe=6 + 0.3 * epoch,
            residual=2e-4 * 1.05**epoch,
            converged=0.97,
            adjoint_nfe=5 + 0.2 * epoch,
            seconds=2.0,
        )
        for epoch in range(1, EPOCHS + 1)
    ]


def _halting(solver: str, reached: float) -> list[HaltingRow]:
    n = SAMPLES["test"]
    costs = {"residual": 6.2, "change": 6.8, "kl": 5.4, "entropy": 4.9, "budget": 9.0}
    return [
        HaltingRow(solver, "zeros", "test", rule, 0.01, n, accuracy, *wilson(accuracy, n), cost, 1.6 * cost, 0.9, True)
        for rule, cost in costs.items()
        for accuracy in [min(1.0, reached - 0.001 * (9 - cost))]
    ]


def _breadth(solver: str, reached: float) -> list[BreadthRow]:
    n = SAMPLES["test"]
    return [
        BreadthRow(solver, "test", aggregation, breadth, k, n, accuracy, *wilson(accuracy, n), float(breadth * (k + 1)))
        for aggregation, gain in (("mean", 0.004), ("vote", 0.002))
        for breadth in (1, 2, 4, 8)
        for k in (8, 32)
        for accuracy in [min(1.0, reached - 0.02 * (k == 8) + gain * math.log2(breadth))]
    ]


def _config(model: str, solver: str, max_iter: int, lr: float, seed: int) -> dict[str, Any]:
    width = {"width": 128} if model == "mlp" else {"channels": 32}
    return {
        "name": f"{model}-digits",
        "seed": seed,
        "choices": {"model": model, "dataset": "digits", "solver": solver, "gradient": "implicit"},
        "model": {"_target_": f"deqrun.models.{model}", **width},
        "dataset": {"_target_": "deqrun.datasets.digits.Digits"},
        "solver": {"_target_": f"deqrun.solvers.{solver.capitalize()}"},
        "budget": {"max_iter": max_iter, "tol": 1e-3, "norm": "relative", "keep": "best", "patience": None},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": lr},
        "train": {"epochs": EPOCHS, "batch_size": 64},
    }


def _summary(model: str, solver: str, max_iter: int, seed: int, chosen: dict[str, SweepCell]) -> Summary:
    test = chosen["test"]
    return Summary(
        name=f"{model}-digits",
        command=f"deqrun train model={model} solver={solver} budget.max_iter={max_iter} seed={seed}",
        seed=seed,
        model=model,
        dataset="digits",
        solver=solver,
        gradient="implicit",
        parameters=25_994 if model == "mlp" else 42_698,
        train_max_iter=max_iter,
        train_tol=1e-3,
        n_test=test.n,
        best_epoch=EPOCHS,
        val_accuracy=chosen["validation"].accuracy,
        test_accuracy=test.accuracy,
        test_accuracy_low=test.accuracy_low,
        test_accuracy_high=test.accuracy_high,
        train_seconds=40.0 + seed,
        status="completed",
    )


def write_runs(folder: Path, runs: int, difficulties: tuple[int, ...] = ()) -> list[Path]:
    """So many runs below a folder, each in a folder of its own."""
    return [write_run(folder / f"{i:03d}", *each, difficulties) for i, each in enumerate(grid(runs))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--difficulties", action="store_true")
    given = parser.parse_args()
    made = write_runs(given.folder, given.runs, (16, 32, 48) if given.difficulties else ())
    print(f"{len(made):,} runs in {given.folder}")


if __name__ == "__main__":
    main()
