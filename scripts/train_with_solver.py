"""Training with one solver and with another: test accuracy, evaluations and processor time, seed by seed.

    python scripts/train_with_solver.py [--solvers anderson secant secant,memory=20] [--seeds …] [--tasks …]

Each task is trained with each solver from each seed, solvers in turn, one thread, without a sweep. Prefix sums and
mazes are made small (see TASKS). The solver solves forwards, and in the demo the adjoint, too.
The script prints, in Markdown: test accuracy, its mean with the 95 % interval of a claim about the recipe
(docs/studies.md); evaluations of the forward solve in the last epoch; and the processor seconds of the whole command,
start-up included, over those of the first solver, the geometric mean over seeds and its extremes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from deqrun.inference import shares_of_seeds

TASKS: dict[str, list[str]] = {
    "demo": ["study=demo", "train.epochs=20", "train.unrolled_warmup_steps=0"],
    "prefix_sums": ["study=prefix_sums", "train.epochs=8", "model.width=32"],
    "mazes": ["study=mazes", "train.epochs=4", "model.width=32"],
}
"""Task -> the command's overrides."""


def train(task: str, solver: str, seed: int, folder: Path) -> tuple[float, float, float, int]:
    """(test accuracy, mean evaluations in the last epoch, processor seconds, test samples)."""
    name, *parameters = solver.split(",")
    chosen = [f"solver={name}", *(f"solver.{parameter}" for parameter in parameters)]
    if task == "demo":  # the others solve forwards alone
        chosen += [f"solver@gradient.solver={name}", *(f"gradient.solver.{parameter}" for parameter in parameters)]
    command = [sys.executable, "-m", "deqrun", "train", *TASKS[task], *chosen]
    command += [f"seed={seed}", "threads=1", "sweep=none", "tracker=none", f"run={folder}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary = json.loads((folder / "summary.json").read_text())
    epochs = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    return float(summary["test_accuracy"]), float(epochs[-1]["nfe"]), seconds, int(summary["n_test"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", nargs="+", default=["anderson", "secant"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    arguments = parser.parse_args()
    print("| task | solver | test accuracy, each seed | mean [95 % over seeds] | evaluations | time over the first |")
    print("|---|---|---|---|---:|---:|")
    with tempfile.TemporaryDirectory() as place:
        for task in arguments.tasks:
            found = {
                (solver, seed): train(task, solver, seed, Path(place) / f"{task}-{solver}-{seed}")
                for seed in arguments.seeds
                for solver in arguments.solvers
            }
            for solver in arguments.solvers:
                runs = [found[solver, seed] for seed in arguments.seeds]
                ratios = np.array([found[solver, s][2] / found[arguments.solvers[0], s][2] for s in arguments.seeds])
                accuracy = np.array([run[0] for run in runs])
                claim = shares_of_seeds(accuracy, runs[0][3])
                print(
                    f"| {task} | {solver} | {', '.join(f'{100 * a:.1f}' for a in accuracy)} %"
                    f" | {100 * accuracy.mean():.1f} [{100 * claim.low:.1f}, {100 * claim.high:.1f}] %"
                    f" | {np.mean([run[1] for run in runs]):.1f} | {np.exp(np.log(ratios).mean()):.2f}"
                    f" ({ratios.min():.2f} to {ratios.max():.2f}) |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
