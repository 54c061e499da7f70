"""Halting rows of two splits: what is chosen, and what it saves, by hand."""

from __future__ import annotations

import math

import numpy as np

from deqrun.experiment.sweep.halting import halting_rows
from deqrun.records.trajectory import Trajectory, TrajectoryKey


def trajectory(kl: list[list[float]], correct: list[list[int]]) -> Trajectory:
    """Iterates in rows; nothing ever converges, and iterate k costs k evaluations."""
    n, iterates = len(kl[0]), len(kl)
    nfe = np.repeat(np.arange(1, iterates + 1, dtype=np.int32)[:, None], n, axis=1)
    return Trajectory(
        np.ones((iterates, n), dtype=np.float32),
        nfe,
        np.asarray(correct, dtype=bool),
        np.zeros(iterates),
        kl=np.asarray(kl, dtype=np.float32),
    )


# Two samples are right from iterate 1 on and say so, two from iterate 3 on.
KL = [[math.inf] * 4, [0.01, 0.01, 0.9, 0.9], [0.001, 0.001, 0.8, 0.8], [1e-4, 1e-4, 0.02, 0.02]]
CORRECT = [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]


def test_validation_chooses_and_test_reports_what_is_saved() -> None:
    """All right on validation: the target is 1. KL <= 0.01 stops at 1 or not before the end, 3: two evaluations a
    sample, where the budget takes 3.

    On test the last sample deceives: its distribution stands still at iterate 1, while it is wrong.
    """
    key = TrajectoryKey("picard", "zeros", "validation", "float64", 9)
    validation = trajectory(KL, CORRECT)
    tricky = [[*values[:3], values[0]] for values in KL]
    rows = halting_rows(key, validation, trajectory(tricky, CORRECT), ["kl", "stable", "oracle", "budget"])
    assert {row.rule for row in rows} == {"kl", "oracle", "budget"}  # what `stable` sees was not recorded
    assert {(row.precision, row.difficulty, row.solver) for row in rows} == {("float64", 9, "picard")}
    chosen = {(row.split, row.rule): row for row in rows if row.chosen}
    assert set(chosen) == {(split, rule) for split in ("validation", "test") for rule in ("kl", "budget")}
    assert chosen["validation", "kl"].threshold == np.float32(0.01)
    assert (chosen["validation", "kl"].accuracy, chosen["validation", "kl"].nfe_mean) == (1.0, 2.0)
    assert (chosen["validation", "budget"].threshold, chosen["validation", "budget"].nfe_mean) == (3.0, 3.0)
    test = chosen["test", "kl"]
    assert (test.accuracy, test.nfe_mean) == (0.75, 1.5)
    assert (test.saved, test.gained) == (1.5, -0.25)  # of 3, 1, 1, 3 → 1 at the last; one right answer lost
    assert test.saved_low <= 1.5 <= test.saved_high
    assert math.isnan(chosen["validation", "kl"].saved)
    assert math.isnan(chosen["test", "budget"].saved)
    (oracle,) = (row for row in rows if row.rule == "oracle" and row.split == "test")
    assert (oracle.accuracy, oracle.nfe_mean, math.isnan(oracle.threshold)) == (1.0, 2.0, True)


def test_the_fixed_budget_is_chosen_among_all_of_them() -> None:
    """64 iterations, all samples right from the fourth on: four are chosen, and a rule that stops there saves none."""
    k = np.arange(65)
    right = [[int(i >= 4)] * 3 for i in k]
    both = trajectory([[math.inf if i < 4 else 1.0 / i] * 3 for i in k], right)
    rows = halting_rows(TrajectoryKey("picard", "zeros", "validation"), both, both, ["kl", "budget"])
    chosen = {row.rule: row for row in rows if row.chosen and row.split == "test"}
    assert (chosen["budget"].threshold, chosen["budget"].nfe_mean, chosen["kl"].nfe_mean) == (4.0, 4.0, 4.0)
    assert chosen["kl"].saved == 0.0
    assert [row.threshold for row in rows if row.rule == "budget" and row.split == "test"] == list(range(65))


def test_a_single_split_has_thresholds_but_no_rule_without_a_value() -> None:
    """A rule whose signal is never finite has no threshold, and is left out rather than chosen."""
    silent = trajectory([[math.inf] * 4] * 4, CORRECT)
    rows = halting_rows(TrajectoryKey("s", "zeros", "test"), silent, silent, ["kl", "budget"])
    assert {row.rule for row in rows} == {"budget"}
