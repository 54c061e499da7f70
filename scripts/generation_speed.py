"""Seconds in which generated data sets are made, on one core, beside what each may take.

    python scripts/generation_speed.py [NAME …]

Times everything from the constructor to the loaded splits, once each; NAME leaves out the others. Exit code 1 where
one takes longer than it may.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from deqrun.datasets import SPLITS, Dataset
from deqrun.datasets.copy_memory import CopyMemory
from deqrun.datasets.mazes import Mazes
from deqrun.datasets.prefix_sums import PrefixSums
from deqrun.datasets.sudoku import Sudoku


class Case(NamedTuple):
    """A data set to be made, and the seconds that it may take."""

    name: str
    make: Callable[[], Dataset]
    target: float


CASES = [
    Case("prefix_sums, 16 bits", lambda: PrefixSums(n_train=8_000), 1.0),
    Case("prefix_sums, 512 bits", lambda: PrefixSums(length=512, n_train=8_000), 1.0),
    Case("copy_memory, 50 blanks", lambda: CopyMemory(n_train=8_000), 1.0),
    Case("mazes, 9x9", lambda: Mazes(n_train=8_000), 30.0),
    Case("mazes, 59x59", lambda: Mazes(size=59, n_train=8_000), 30.0),
    Case("sudoku, 4x4, 8 holes", lambda: Sudoku(n_train=8_000), 30.0),
    Case("sudoku, 4x4, 12 holes", lambda: Sudoku(holes=12, n_train=8_000), 30.0),
    Case("sudoku, 6x6, 18 holes", lambda: Sudoku(box_columns=3, n_train=8_000), 30.0),
    Case("sudoku, 9x9, 40 holes", lambda: Sudoku(box_rows=3, box_columns=3, n_train=8_000), 30.0),
]
"""10,000 samples each, over the three splits."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of the names to time; all by default")
    wanted = tuple(parser.parse_args().names)
    torch.set_num_threads(1)
    met = True
    print(f"{'data set':<28} {'n':>7} {'seconds':>9} {'target':>7}")
    for case in CASES:
        if not wanted or case.name.startswith(wanted):
            n, seconds = timed(case.make)
            met &= seconds < case.target
            print(f"{case.name:<28} {n:>7,} {seconds:>9.3f} {case.target:>7g}", flush=True)
    return 0 if met else 1


def timed(make: Callable[[], Dataset]) -> tuple[int, float]:
    """Samples over the three splits, and the seconds from the constructor to the last of them."""
    began = time.perf_counter()
    dataset = make()
    n = sum(len(dataset.load(split)) for split in SPLITS)
    return n, time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
