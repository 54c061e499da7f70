"""How many cells of a random full Sudoku grid can be emptied at random, one after the other.

    python scripts/sudoku_holes.py

For each board and number of holes: the share of grids in which digging reaches that many, of 4,096 grids, and the
grids dug per second on one core. Then how often each class of 4x4 grids, up to a permutation of the digits, is drawn.
"""

from __future__ import annotations

import time
from collections import Counter

import numpy as np

from deqrun.datasets.sudoku_generation import canonical, classes_of, dig, fill
from deqrun.datasets.sudoku_solver import rules

GRIDS = 4096
HOLES = {(2, 2): (10, 11, 12, 13), (2, 3): (25, 26, 27, 28), (3, 2): (26, 27, 28), (3, 3): (50, 55, 57, 58, 59)}


def main() -> None:
    print(f"{'boxes':<7} {'holes':>5} {'share of grids':>15} {'grids per second':>17}")
    for (box_rows, box_columns), numbers in HOLES.items():
        rule = rules(box_rows, box_columns)
        words = np.random.PCG64(0)
        grids = fill(words, GRIDS, rule)
        for holes in numbers:
            began = time.perf_counter()
            _, reached = dig(words, grids, holes, rule)
            seconds = time.perf_counter() - began
            print(
                f"{box_rows}x{box_columns:<5} {holes:>5} {reached.mean():>15.2%} {GRIDS / seconds:>17,.0f}", flush=True
            )
    print("4x4 classes, share of grids:", ", ".join(f"{share:.1%}" for share in class_shares(40_000)))


def class_shares(n: int) -> list[float]:
    """Of n 4x4 grids, the share of each class, in ascending order."""
    rule = rules(2, 2)
    classes = canonical(classes_of(fill(np.random.PCG64(0), n, rule), rule))
    return sorted(number / n for number in Counter(row.tobytes() for row in classes).values())


if __name__ == "__main__":
    main()
