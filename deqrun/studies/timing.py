"""Seconds that can be compared on a machine that does other things as well."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from deqrun.inference import Estimate, Unit, median_interval


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, `repeats` times, all taking turns, after one warm-up of each.

    A slow spell of the machine then slows all of them down, and ratios of neighbours stay the same.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def median_ratio(seconds: list[float] | NDArray[np.float64], base: list[float] | NDArray[np.float64]) -> Estimate:
    """The median of seconds / base over the rounds, paired, with its distribution-free 95 % interval; beside 1."""
    return median_interval(np.asarray(seconds) / np.asarray(base), Unit.ROUNDS, versus=1.0)
