"""What the halting head of a run said about its answers, and how they were."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from deqrun.inference import auroc_interval, expected_calibration_error, reliability
from deqrun.records.long_trajectory import AnyTrajectory, LongTrajectory
from deqrun.records.run import RunRecord
from deqrun.report.finding import Finding

__all__ = ["halting_head", "told_and_right"]


def told_and_right(record: RunRecord, split: str = "test") -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """The head's probabilities and whether the answers are right, (n,) each; None where no head was recorded.

    At the last iterate of each sample in the main solver's trajectory; a sample without a finite state has none.
    """
    solver = record.main_solver
    trajectory = record.trajectory(solver, split) if solver is not None else None
    if trajectory is None or not _has_head(trajectory):
        return None
    last = trajectory.last()
    told, right = trajectory.at("head", last).astype(np.float64), trajectory.at("correct", last)
    known = np.isfinite(told)
    return (told[known], right[known]) if known.any() else None


def _has_head(trajectory: AnyTrajectory) -> bool:
    if isinstance(trajectory, LongTrajectory):
        return "head" in trajectory.names
    return trajectory.head is not None


def halting_head(record: RunRecord) -> Iterator[Finding]:
    """Whether the head's probabilities come true, and whether they tell right answers from wrong ones, on test."""
    found = told_and_right(record)
    if found is None:
        return
    told, right = found
    title, where = "Halting head", f"at the last iterate of {record.main_solver}"
    bins = reliability(told, right)
    how = f"means: told {told.mean():.1%}, right {right.mean():.1%}; ten bins of equal width".replace("%", " %")
    yield Finding(
        title, f"expected calibration error {where}", f"{expected_calibration_error(bins):.3f}", "", len(told), how
    )
    if 2 <= right.sum() <= len(right) - 2:
        area = auroc_interval(told, right)
        what = f"AUROC of the probability for right answers, {where}"
        how = "pairs of a right and a wrong answer in which the right one has the higher probability; 0.5 tells nothing"
        yield Finding(title, what, f"{area.mean:.2f}", f"{area.low:.2f} to {area.high:.2f}", area.n, how)
