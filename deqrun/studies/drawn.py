"""Draws of a run's samples, as measurements that a study keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.build import build_solver
from deqrun.experiment.sweep.breadth import solve_starts
from deqrun.experiment.sweep.starts import SweepNoise, SweepStart
from deqrun.solvers import Budget
from deqrun.studies.context import StudyRun, first_of

__all__ = ["SPLITS", "drawn", "gathered", "packed", "unpacked"]

SPLITS = ("validation", "test")


def drawn(
    run: StudyRun, depths: Sequence[int], draws: int, samples: int, tol: float, levels: Sequence[float] = (0.0,)
) -> dict[str, Any]:
    """Answers of the first `samples` samples of both splits, from `draws` normal starts, at each depth and level.

    By split and, where there are several levels of the noise, by level as text: each aggregation (B, D, n) and
    `singles` (B, D, n), `packed`, and `ends`, the mean number of distinct ends.
    """
    deq, dataset = run.model()
    grid, budget = run.settings.sweep, Budget(max_iter=max(depths), tol=tol, norm=deq.budget.norm)
    found: dict[str, Any] = {}
    for split in SPLITS:
        some = first_of(dataset.load(split), samples)
        normal = [
            SweepStart("normal", split=split, seed=grid.start_seed, scale=grid.start_scale, draw=draw)
            for draw in range(draws)
        ]
        by_level: dict[str, dict[str, Any]] = {}
        for level in levels:
            solved = solve_starts(
                deq,
                dataset,
                some,
                build_solver(run.settings),
                budget,
                grid.batch_size,
                normal,
                depths,
                noise=SweepNoise(level, split, grid.start_seed),
            )
            arrays = {**solved.correct, "singles": solved.singles}
            by_level[str(level)] = {name: packed(values) for name, values in arrays.items()}
            by_level[str(level)]["ends"] = None if solved.ends is None else float(solved.ends[-1].mean())
        found[split] = by_level if len(levels) > 1 else by_level[str(levels[0])]
    return found


def gathered(parts: Sequence[dict[str, Any]], split: str, name: str, level: float | None = None) -> NDArray[np.bool_]:
    """(S, B, D, n) an aggregation's answers, or `singles`, of S runs; `level` of the noise, where there are several."""
    found = [part[split] if level is None else part[split][str(level)] for part in parts]
    return np.stack([unpacked(one[name]) for one in found])


def packed(values: NDArray[np.bool_]) -> dict[str, Any]:
    """Truths as JSON has them: their shape, and eight to a number."""
    return {"shape": values.shape, "bits": np.packbits(values).tolist()}


def unpacked(part: dict[str, Any]) -> NDArray[np.bool_]:
    """The truths that `packed` made."""
    shape, bits = part["shape"], np.asarray(part["bits"], dtype=np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
