"""What the models reach on the tasks: the tables of docs/tasks.md, one command each.

    python scripts/task_figures.py TASK [--seeds 0 1 2] [--output outputs/tasks] [--jobs 1]

TASK is prefix_sums, overthinking, mazes, sudoku, reasoners, copy_memory, monotone or digits. For each seed it runs
`deqrun train study=…`, and `deqrun sweep` where another size is asked about; runs that are there already are kept, and
interrupted ones go on. Means over seeds have the 95 % interval of `deqrun.inference.shares_of_seeds`;
a single run's share of right answers has Wilson's. Every run uses one CPU thread; --jobs runs so many at a time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deqrun.datasets.copy_memory import CopyMemory
from deqrun.inference import shares_of_seeds
from deqrun.records.reading import read_run
from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord

FRESH = ("tracker=none", "threads=1")


@dataclass(frozen=True)
class Runs:
    """Where the runs of a task lie, and how many go at a time."""

    output: Path
    seeds: Sequence[int]
    jobs: int

    def train(self, label: str, *overrides: str) -> list[RunRecord]:
        """One finished run per seed, with these overrides."""
        return self._each(lambda seed: self._trained(label, seed, overrides))

    def sweep(self, label: str, ask: str, *overrides: str) -> list[RunRecord]:
        """The runs of `label` asked again, with these overrides; `ask` names the question."""
        return self._each(lambda seed: self._swept(label, ask, seed, overrides))

    def _each(self, run: Callable[[int], RunRecord]) -> list[RunRecord]:
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(run, self.seeds))

    def _trained(self, label: str, seed: int, overrides: Sequence[str]) -> RunRecord:
        folder = self.output / f"{label}-seed-{seed}"
        begun = (folder / "config.yaml").is_file()
        if not begun or read_run(folder).status.status != "completed":
            given = ["resume=true"] if begun else [*overrides, f"seed={seed}"]
            _deqrun("train", f"run={folder}", *FRESH, *given)
        return read_run(folder)

    def _swept(self, label: str, ask: str, seed: int, overrides: Sequence[str]) -> RunRecord:
        folder = self.output / f"{label}-seed-{seed}-{ask}"
        if not (folder / "summary.json").is_file():
            source = self.output / f"{label}-seed-{seed}"
            _deqrun("sweep", f"run={source}", f"hydra.run.dir={folder}", *FRESH, *overrides)
        return read_run(folder)


def _deqrun(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "deqrun", *words], check=True, stdout=subprocess.DEVNULL)


def over_seeds(shares: Sequence[float], n: int) -> str:
    """Mean [low, high] in percent of shares of n samples in [0, 1], one share of each seed."""
    found = shares_of_seeds(shares, n)
    return f"{100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table, its first column to the left."""
    print("| " + " | ".join(header) + " |\n|---" + "|---:" * (len(header) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def cell_at(record: RunRecord, max_iter: int, tol: float | None = None, solver: str = "picard") -> SweepCell:
    """The test cell of this solver and budget at a tolerance (default: the smallest)."""
    tol = record.smallest_tol() if tol is None else tol
    (cell,) = record.cells("test", solver, record.main_start, max_iter, tol)
    return cell


def accuracies(group: Sequence[RunRecord], max_iter: int) -> str:
    """Accuracy of one group of runs at a budget, over its seeds."""
    cells = [cell_at(record, max_iter) for record in group]
    return over_seeds([cell.accuracy for cell in cells], cells[0].n)


def by_budget(records: dict[str, list[RunRecord]], budgets: Sequence[int]) -> None:
    """Accuracy over seeds, a row per budget and a column per group of runs; evaluations of the last budget below."""
    rows = [
        [
            str(k),
            *(
                over_seeds([cell_at(record, k).accuracy for record in group], cell_at(group[0], k).n)
                for group in records.values()
            ),
        ]
        for k in budgets
    ]
    means = [statistics.mean(cell_at(record, budgets[-1]).nfe_mean for record in group) for group in records.values()]
    rows.append([f"mean evaluations at {budgets[-1]}", *(f"{mean:.1f}" for mean in means)])
    table(["iterations", *records], rows)


def training_times(records: Sequence[RunRecord]) -> None:
    seconds = [record.summary.train_seconds or 0 for record in records]
    print("training, seconds per seed: " + ", ".join(f"{value:.0f}" for value in seconds) + "\n")


def prefix_sums(runs: Runs) -> None:
    """Trained on 16 bits, asked about 16, 64, 128 and 512."""
    trained = runs.train("prefix_sums", "study=prefix_sums")
    budgets = [8, 16, 32, 64, 128, 256, 512]
    lengths = {
        f"{bits} bits": runs.sweep("prefix_sums", f"{bits}", f"dataset.length={bits}", *_ask(budgets, 500))
        for bits in (64, 128, 512)
    }
    lengths = {"16 bits": runs.sweep("prefix_sums", "16", *_ask(budgets, 500)), **lengths}
    by_budget(lengths, budgets)
    longest = [cell_at(record, 512) for record in lengths["512 bits"]]
    right = [f"{round(cell.accuracy * cell.n)} of {cell.n}" for cell in longest]
    print("512 bits, 512 iterations, strings right per seed: " + ", ".join(right))
    training_times(trained)


def _ask(budgets: Sequence[int], samples: int, tolerance: float = 1e-5) -> list[str]:
    return [
        f"sweep.iterations={list(budgets)}".replace(" ", ""),
        f"sweep.tolerances=[{tolerance}]",
        "sweep.solvers=[picard]",
        "sweep.splits=[test]",
        f"dataset.n_test={samples}",
    ]


def overthinking(runs: Runs) -> None:
    """With and without recall, on their own 16 bits at up to 256 iterations."""
    budgets = [2, 4, 8, 16, 32, 64, 128, 256]
    recipes = {
        "settles": ("prefix_sums", ["study=prefix_sums"]),
        "recall": ("deep_thinking", ["study=deep_thinking"]),
        "recall, progressive": ("progressive", ["study=deep_thinking", "train.progressive_weight=1"]),
        "no recall": ("no_recall", ["study=deep_thinking", "model.recall=false"]),
    }
    groups = {}
    for name, (label, overrides) in recipes.items():
        runs.train(label, *overrides)
        groups[name] = runs.sweep(label, "256", *_ask(budgets, 500, tolerance=0.0))
    by_budget(groups, budgets)


def mazes(runs: Runs) -> None:
    """Trained on 9x9, asked about 9x9 and 13x13."""
    trained = runs.train("mazes", "study=mazes")
    budgets = [4, 8, 16, 32, 64, 128, 256]
    sizes = {"9x9": runs.sweep("mazes", "9", *_ask(budgets, 500))}
    sizes["13x13"] = runs.sweep("mazes", "13", "dataset.size=13", *_ask(budgets, 500))
    by_budget(sizes, budgets)
    training_times(trained)


def sudoku(runs: Runs) -> None:
    """4x4 puzzles with half of their cells empty, and with more."""
    trained = runs.train("sudoku", "study=sudoku")
    budgets = [1, 2, 4, 8, 16, 32, 64]
    holes = {f"{n} empty": runs.sweep("sudoku", str(n), f"dataset.holes={n}", *_ask(budgets, 1000)) for n in (6, 8, 10)}
    by_budget(holes, budgets)
    training_times(trained)


REASONERS = {
    "TRM, 4x4, 10 empty": ("trm_4x4", ["study=trm_sudoku", "dataset.box_columns=2", "dataset.holes=10"]),
    "the same, split by puzzle": (
        "trm_4x4_by_puzzle",
        ["study=trm_sudoku", "dataset.box_columns=2", "dataset.holes=10", "dataset.split_by=puzzle"],
    ),
    "TRM, 6x6, 18 empty": ("trm_6x6", ["study=trm_sudoku"]),
    "EqR, 9x9, 36 empty": ("eqr_9x9", ["study=eqr_sudoku"]),
}
"""Small reasoners by the size of their Sudokus; all segments are trained, without early exits."""
EMPTY = 52
"""Empty cells of the 9x9 Sudokus on which depth and breadth are asked."""


def reasoners(runs: Runs) -> None:
    """Small reasoners, each trained on Sudokus of its own size; the last one's draws put together on harder ones."""
    budgets, common = [1, 2, 4, 8, 16, 32, 64], ["train.halt_exploration=null", "sweep.halting=null"]
    asked = f"sweep.iterations={budgets}".replace(" ", "")
    trained = {size: runs.train(label, *recipe, *common, asked) for size, (label, recipe) in REASONERS.items()}
    by_budget(trained, budgets)
    depth_and_breadth(runs, "eqr_9x9")
    noise_and_breadth(runs, "eqr_9x9")
    for size, records in trained.items():
        print(size)
        training_times(records)


def depth_and_breadth(runs: Runs, label: str) -> None:
    """Accuracy on harder 9x9 Sudokus: the draw that the halting head trusts most, at every depth and breadth."""
    depths, breadths = [4, 8, 16, 32, 64], [1, 2, 4, 8]
    axes = [f"sweep.iterations={depths}".replace(" ", ""), f"sweep.breadth={breadths}".replace(" ", "")]
    more = ["sweep.solvers=[picard]", "sweep.splits=[test]", "sweep.halting=null", "sweep.spectrum=0", "report=false"]
    found = runs.sweep(label, f"{EMPTY}", f"dataset.holes={EMPTY}", "dataset.n_test=300", *axes, *more)
    print(f"{EMPTY} empty, iterations by draws\n")
    rows = []
    for depth in depths:
        row = [str(depth)]
        for breadth in breadths:
            key = ("head", breadth, depth)
            cells = [c for r in found for c in r.breadth if (c.aggregation, c.breadth, c.max_iter) == key]
            row.append(over_seeds([cell.accuracy for cell in cells], cells[0].n))
        rows.append(row)
    table(["iterations", *(f"{breadth} draws" if breadth > 1 else "1 draw" for breadth in breadths)], rows)


def noise_and_breadth(runs: Runs, label: str) -> None:
    """Draws, with noise and without, over one draw of as many iterations in all; validation chooses the cell."""
    axes = ["sweep.iterations=[16,32,64,128]", "sweep.breadth=[1,2,4]", "sweep.noise=[0.05,0.2]"]
    more = ["sweep.solvers=[picard]", "sweep.halting=null", "sweep.spectrum=0", "report=false"]
    sizes = [f"dataset.holes={EMPTY}", "dataset.n_validation=300", "dataset.n_test=300"]
    print(f"{EMPTY} empty, draws over one draw of as many iterations in all\n")
    rows = []
    for seed, record in zip(runs.seeds, runs.sweep(label, f"{EMPTY}-noise", *sizes, *axes, *more), strict=True):
        for noisy in (False, True):
            cells = [c for c in record.breadth if (c.noise > 0) == noisy and c.breadth > 1 and not math.isnan(c.gain)]
            tried = [c for c in cells if c.split == "validation"]
            best = max(tried, key=lambda c: c.gain)
            key = (best.aggregation, best.breadth, best.max_iter, best.noise)
            on_test = [c for c in cells if c.split == "test"]
            (cell,) = (c for c in on_test if (c.aggregation, c.breadth, c.max_iter, c.noise) == key)
            chosen = f"{cell.breadth} draws of {cell.max_iter}, noise {cell.noise:g}, by {cell.aggregation}"
            gain, low, high = (100 * value for value in (cell.gain, cell.gain_low, cell.gain_high))
            told = f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]"
            rows.append([str(seed), chosen, str(len(tried)), f"{100 * cell.accuracy:.1f}", told])
    table(["seed", "chosen on validation", "cells tried", "test accuracy, %", "gain, points"], rows)


def copy_memory(runs: Runs) -> None:
    """The transformer on T = 50, its loss beside that of the best model without memory."""
    trained = runs.train("copy_memory", "study=copy_memory")
    baseline = CopyMemory().memoryless_loss
    rows = [
        [
            f"seed {seed}",
            f"{best_loss(record):.4f}",
            f"{best_loss(record) / baseline:.4f}",
            f"{100 * (record.summary.test_accuracy or 0):.1f}",
        ]
        for seed, record in zip(runs.seeds, trained, strict=True)
    ]
    table(["", "validation loss, nats", "over the memoryless", "whole sequences right on test, %"], rows)
    by_seed = {f"seed {seed}": [record] for seed, record in zip(runs.seeds, trained, strict=True)}
    by_budget(by_seed, [1, 2, 3, 4, 6, 8, 16, 64])
    training_times(trained)


def best_loss(record: RunRecord) -> float:
    """Validation loss of the epoch whose checkpoint was kept."""
    (row,) = [epoch for epoch in record.epochs if epoch.epoch == record.summary.best_epoch]
    return row.val_loss or 0.0


def monotone(runs: Runs) -> None:
    """Test digits whose equilibrium is found to 1e-4 within 300 steps, per solver."""
    splitting = "peaceman_rachford"
    solvers = [splitting, "forward_backward", "picard", "anderson"]
    groups = {}
    for model in ("monotone", "monotone_conv"):
        groups[model] = runs.train(
            f"{model}-300",
            f"model={model}",
            f"solver={splitting}",
            f"solver@gradient.solver={splitting}",
            "train.epochs=15",
            "train.jacobian_weight=0",
            "sweep.iterations=[10,30,100,300]",
            "sweep.tolerances=[1e-2,1e-4]",
            f"sweep.solvers=[{','.join(solvers)}]",
            "sweep.splits=[test]",
        )
    rows = []
    for model, records in groups.items():
        for solver in solvers:
            found = [cell_at(record, 300, 1e-4, solver) for record in records]
            rows.append(
                [
                    f"{model}, {solver}",
                    over_seeds([cell.converged for cell in found], found[0].n),
                    f"{statistics.mean(cell.nfe_mean for cell in found):.1f}",
                    over_seeds([cell.accuracy for cell in found], found[0].n),
                ]
            )
    table(["", "converged, %", "mean evaluations", "accuracy, %"], rows)


def digits(runs: Runs) -> None:
    """DEQs on the digits beside their explicit baselines: accuracy, parameters, evaluations, time."""
    models = {
        "mlp": ["model=mlp", "optimizer.lr=3e-3", "train.epochs=20"],
        "conv": ["model=conv", "train.epochs=12"],
        "mdeq": ["study=demo", "train.epochs=12"],
        "monotone": ["model=monotone", "train.epochs=15", "train.jacobian_weight=0"],
    }
    splitting = ["solver=peaceman_rachford", "solver@gradient.solver=peaceman_rachford"]
    baselines = {
        "DEQ": [],
        "tied, 8 layers": ["baseline=tied", "baseline.layers=8"],
        "untied, 8 layers, as many parameters": ["baseline=untied", "baseline.layers=8", "baseline.match=parameters"],
        "untied, 8 layers, as many multiply-adds": [
            "baseline=untied",
            "baseline.layers=8",
            "baseline.match=multiply_adds",
        ],
    }
    rows = []
    for model, recipe in models.items():
        for baseline, added in baselines.items():
            own = splitting if model == "monotone" and not added else []
            label = f"digits-{model}-{baseline.replace(',', '').replace(' ', '-')}"
            records = runs.train(label, *recipe, *own, *added, "sweep=none")
            summaries = [record.summary for record in records]
            rows.append(
                [
                    f"{model}, {baseline}",
                    over_seeds([summary.test_accuracy or 0 for summary in summaries], summaries[0].n_test or 1),
                    f"{summaries[0].parameters:,}",
                    f"{statistics.mean(record.epochs[-1].nfe or 0 for record in records):.1f}",
                    f"{statistics.mean(summary.train_seconds or 0 for summary in summaries):.0f}",
                ]
            )
    table(["", "test accuracy, %", "parameters", "evaluations in training", "training, s"], rows)


TASKS: dict[str, Callable[[Runs], None]] = {
    "prefix_sums": prefix_sums,
    "overthinking": overthinking,
    "mazes": mazes,
    "sudoku": sudoku,
    "reasoners": reasoners,
    "copy_memory": copy_memory,
    "monotone": monotone,
    "digits": digits,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("outputs/tasks"))
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    TASKS[arguments.task](Runs(arguments.output, arguments.seeds, arguments.jobs))


if __name__ == "__main__":
    main()
