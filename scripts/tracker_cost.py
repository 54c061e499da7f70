"""Processor time of one training run with W&B offline, over the same run without a tracker; prints each and the ratio.

    python scripts/tracker_cost.py [--repeats N] [overrides of deqrun train]

The two kinds of runs alternate, and each is a process of its own. Its time is the processor time, user and system, of
the process and of its children, W&B's own process among them. The ratio is the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

KINDS = {"disabled": "tracker.mode=disabled", "offline": "tracker.mode=offline"}


def seconds(overrides: list[str], folder: Path) -> float:
    """Processor time of `deqrun train` with these overrides, in seconds."""
    before = os.times()
    command = [sys.executable, "-m", "deqrun", "train", *overrides, f"run={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    given, overrides = parser.parse_known_args()
    overrides = overrides or ["study=demo"]
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as home:
        for repeat in range(given.repeats):
            for kind in list(KINDS)[:: 1 if repeat % 2 == 0 else -1]:
                folder = Path(home) / f"{kind}{repeat}"
                times[kind].append(seconds([*overrides, "threads=1", "tracker=wandb", KINDS[kind]], folder))
                print(f"{kind:>8} {times[kind][-1]:7.2f} s", flush=True)
    medians = {kind: statistics.median(values) for kind, values in times.items()}
    print(f"offline over disabled: {medians['offline'] / medians['disabled']:.3f}  ({' '.join(overrides)})")


if __name__ == "__main__":
    main()
