"""Wall time of a grid of small runs, two at a time with one thread each, over the grid one by one with two threads.

    python scripts/parallel_runs.py [--runs 12] [--repeats 1] [overrides of deqrun train …]

Each grid is a command of its own in a folder of its own; the two kinds alternate. Printed are the seconds of each and
the ratio of each pair. Where a second thread speeds a run up, as with model=conv, there is less to gain. Needs the
extra joblib, and two quiet cores.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = ["model=mlp", "train.epochs=20", "sweep=quick", "tracker=none", "report=false"]
KINDS = {"serial": ["threads=2"], "parallel": ["threads=1", "hydra/launcher=parallel", "hydra.launcher.n_jobs=2"]}


def seconds(kind: str, runs: int, overrides: list[str], folder: Path) -> float:
    """Wall time of the grid."""
    seeds = "seed=" + ",".join(map(str, range(runs)))
    command = [sys.executable, "-m", "deqrun", "train", "-m", *JOB, *overrides, seeds, *KINDS[kind]]
    began = time.perf_counter()
    subprocess.run([*command, f"hydra.sweep.dir={folder}"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=1)
    arguments, overrides = parser.parse_known_args()
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        for repeat in range(arguments.repeats):
            took = {
                kind: seconds(kind, arguments.runs, overrides, Path(root) / f"{kind}-{repeat}")
                for kind in (list(KINDS) if repeat % 2 == 0 else list(KINDS)[::-1])
            }
            ratios.append(took["parallel"] / took["serial"])
            print(
                f"{arguments.runs} runs: one by one with two threads {took['serial']:.1f} s, two at a time with one "
                f"{took['parallel']:.1f} s, ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f} of {len(ratios)}")


if __name__ == "__main__":
    main()
