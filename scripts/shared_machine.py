"""What a shared machine costs a run: an epoch of the demo alone, and beside as many busy processes as there are cores.

    python scripts/shared_machine.py [--repeats 3]

Each row is one way of running: one thread, a thread for each core, and the latter with threads that spin while they
wait for one another (GOMP_SPINCOUNT=300000, what GNU OpenMP does by itself) instead of sleeping, as deqrun sets it.
All ways take turns; a figure is the median of wall seconds, start-up included, and in brackets its range. The busy
processes are started and ended by this script.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CORES = os.cpu_count() or 1
WAYS: dict[str, tuple[int, dict[str, str]]] = {
    "one thread": (1, {}),
    f"{CORES} threads that sleep": (CORES, {}),
    f"{CORES} threads that spin": (CORES, {"GOMP_SPINCOUNT": "300000"}),
}
"""Name -> threads, environment."""
LIMIT = 300.0
"""Seconds after which an epoch is ended, and counted as so many."""


def epoch(threads: int, environment: dict[str, str], folder: Path) -> float:
    """Wall seconds of one epoch of the demo."""
    command = [sys.executable, "-m", "deqrun", "train", "study=demo", "train.epochs=1", "sweep=none", "report=false"]
    command += ["tracker=none", f"threads={threads}", f"run={folder}"]
    begun = time.perf_counter()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **environment}, **quiet)  # type: ignore[call-overload]
    try:
        process.wait(LIMIT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return time.perf_counter() - begun


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that do nothing but count."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"| {CORES} cores | alone, s | beside {CORES} busy processes, s |\n|---|---:|---:|")
    found: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for beside in (0, CORES):
            with busy(beside):
                for repeat in range(arguments.repeats):
                    for name, (threads, environment) in WAYS.items():
                        folder = Path(place) / f"{beside}-{repeat}-{threads}-{len(environment)}"
                        found.setdefault((name, beside), []).append(epoch(threads, environment, folder))
    for name in WAYS:
        print(f"| {name} | " + " | ".join(_shown(found[name, beside]) for beside in (0, CORES)) + " |")


def _shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    main()
