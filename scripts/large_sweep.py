"""Peak memory of a sweep as its samples grow: two runs of generated strings, and the ratio of their peaks.

    python scripts/large_sweep.py [--samples 2000 20000] [--iterations 256]

Each run is a process of its own: a small recall cell trained for one epoch on 500 strings, then swept on both splits
with two solvers, four budgets, two tolerances and every halting rule. Prints peak resident memory, the size of the
report, the size of the kept trajectories, and seconds. Seed 0, one thread.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = [
    "model=recall",
    "dataset=prefix_sums",
    "dataset.n_train=500",
    "dataset.length=32",
    "model.width=8",
    "train.epochs=1",
    "train.unrolled_warmup_steps=0",
    "threads=1",
    "seed=0",
    "tracker=none",
    "sweep.tolerances=[1e-3,1e-7]",
    "sweep.batch_size=500",
]


def swept(samples: int, iterations: int, folder: Path) -> float:
    """Train and sweep; print the figures, and return the peak in MB."""
    sizes = [f"dataset.n_validation={samples}", f"dataset.n_test={samples}"]
    budgets = f"sweep.iterations=[1,{iterations // 16},{iterations // 4},{iterations}]"
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "deqrun", "train", *RUN, *sizes, budgets, f"run={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the run with {samples:,} samples failed")
    peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # macOS tells bytes, Linux kilobytes
    report, kept = ((folder / name).stat().st_size / 1e6 for name in ("report.html", "trajectories.npz"))
    seconds = time.perf_counter() - began
    print(
        f"{samples:>7,} samples x {iterations} iterations   peak {peak:6.0f} MB   report {report:.2f} MB   "
        f"trajectories {kept:6.1f} MB   {seconds:5.0f} s",
        flush=True,
    )
    return peak


def main() -> None:
    """Run both sizes, and print the ratio of the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs=2, default=[2000, 20000])
    parser.add_argument("--iterations", type=int, default=256)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        few, many = (swept(samples, given.iterations, Path(home) / str(samples)) for samples in given.samples)
    print(f"peak of the second over the first: {many / few:.2f}")


if __name__ == "__main__":
    main()
