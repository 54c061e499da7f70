"""What the models reach on the tasks: the tables of docs/tasks.md, one command each.

    python scripts/task_figures.py TASK [--seeds 0 1 2] [--output outputs/tasks] [--jobs 1]

TASK is prefix_sums, overthinking, mazes, sudoku, copy_memory, monotone or digits. For each seed it runs
`deqrun train study=…`, and `deqrun sweep` where another size is asked about; runs that are there already are kept, and
interrupted ones go on. Means over seeds have Student's 95 % interval (mean ± t · s/√n) cut to what a share can be;
a single run's share of right answers has Wilson's. Every run uses one CPU thread; --jobs runs so many at a time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t as student

from deqrun.report import read_run
from deqrun.report.records import RunRecord, SweepCell

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


def over_seeds(values: Sequence[float]) -> str:
    """Mean [low, high] in percent of shares in [0, 1], one per seed."""
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{100 * mean:.1f}"
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * mean:.1f} [{100 * max(0.0, mean - half):.1f}, {100 * min(1.0, mean + half):.1f}]"


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


def by_budget(records: dict[str, list[RunRecord]], budgets: Sequence[int]) -> None:
    """Accuracy over seeds, a row per budget and a column per group of runs; evaluations of the last budget below."""
    rows = [
        [str(k), *(over_seeds([cell_at(record, k).accuracy for record in group]) for group in records.values())]
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
        f"sweep.tolerances=[{tolerance}]", "sweep.solvers=[picard]", "sweep.splits=[test]", f"dataset.n_test={samples}",
    ]  # fmt: skip


def overthinking(runs: Runs) -> None:
    """With and without recall, by the same training, on their own 16 bits at up to 256 iterations."""
    budgets = [4, 8, 16, 32, 64, 128, 256]
    groups = {}
    for name, overrides in {
        "settles (recall, norm)": ["study=prefix_sums"],
        "recall": ["study=prefix_sums", *DEEP_THINKING],
        "no recall": ["study=prefix_sums", *DEEP_THINKING, "model.recall=false"],
    }.items():
        label = "prefix_sums" if name.startswith("settles") else f"overthinking-{name.replace(' ', '-')}"
        runs.train(label, *overrides)
        groups[name] = runs.sweep(label, "256", *_ask(budgets, 500, tolerance=0.0))
    by_budget(groups, budgets)


DEEP_THINKING = (
    "model.norm=none", "model.start=projection", "gradient=unrolled", "budget.max_iter=16", "train.start=zeros",
    "train.random_budget=null",
)  # fmt: skip
"""As the first deep-thinking networks are trained (arXiv 2106.04537): back-propagation through 16 iterations."""


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


TASKS: dict[str, Callable[[Runs], None]] = {
    "prefix_sums": prefix_sums, "overthinking": overthinking, "mazes": mazes, "sudoku": sudoku,
}  # fmt: skip


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
