"""The halting rules of a sweep: every threshold on both splits, and the ones that validation chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from deqrun.analysis.halting import BOUNDS, HaltingPoint, InParts, Recording, choose, curve, stops, thresholds
from deqrun.experiment.sweep.columns import compared
from deqrun.inference import one_error_below, wilson
from deqrun.records.long_trajectory import AnyTrajectory
from deqrun.records.rows import HaltingRow
from deqrun.records.trajectory import TrajectoryKey

__all__ = ["halting_rows"]

THRESHOLDS = 40
"""Of each rule that is no count. Neighbours then differ by a fortieth of the samples, a fraction of the accuracies'
standard error."""


def halting_rows(
    key: TrajectoryKey, validation: AnyTrajectory, test: AnyTrajectory, rules: Sequence[str]
) -> list[HaltingRow]:
    """Rows of both splits for every rule and threshold.

    Thresholds are values that occur on validation. One target holds for all rules: the accuracy within one standard
    error of the best that any rule or fixed budget reaches on validation. Of each rule, and of the fixed budget, the
    threshold that reaches it with the fewest evaluations is chosen, and on test compared with the chosen budget,
    sample by sample. The oracle takes no part in this.

    key    of either split
    rules  of `deqrun.analysis.halting`; those whose signals were not recorded are left out
    """
    # Curves of both splits, at thresholds that occur on validation.
    recordings = {"validation": _Recordings(validation), "test": _Recordings(test)}
    known = recordings["validation"].rules()
    grids = {rule: thresholds(recordings["validation"], rule, THRESHOLDS) for rule in rules if rule in known}
    curves = {
        (split, rule): curve(recording, rule, grid)
        for split, recording in recordings.items()
        for rule, grid in grids.items()
    }
    # The oracle sees the answers: it is a bound, and is never chosen.
    chosen = _chosen({rule: curves["validation", rule] for rule in grids if rule != "oracle"})
    return [
        _row(key._replace(split=split), recordings[split], point, chosen)
        for (split, _), points in curves.items()
        for point in points
    ]


@dataclass(frozen=True)
class _Recordings:
    """A trajectory as halting sees it, part by part."""

    trajectory: AnyTrajectory

    def parts(self) -> Iterator[Recording]:
        for part in self.trajectory.parts(signals=True):
            yield Recording(part.residual, part.nfe, part.correct, part.signals)

    def rules(self) -> tuple[str, ...]:
        return next(self.parts()).rules()


def _chosen(curves: dict[str, list[HaltingPoint]]) -> dict[str, float]:
    """The threshold of each rule that validation chooses; none for a rule that does not reach the target."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return {}
    best = max(points, key=lambda point: point.accuracy)
    target = one_error_below(best.accuracy, best.n)
    found = {rule: choose(curve, target) for rule, curve in curves.items() if curve}
    return {rule: point.threshold for rule, point in found.items() if point is not None}


def _row(key: TrajectoryKey, recording: InParts, point: HaltingPoint, chosen: dict[str, float]) -> HaltingRow:
    low, high = wilson(point.accuracy, point.n)
    row = HaltingRow(
        **key._asdict(),
        **vars(point),
        accuracy_low=low,
        accuracy_high=high,
        chosen=chosen.get(point.rule) == point.threshold,
    )
    # Only what validation chose is compared on test, and with the budget that it chose.
    if not row.chosen or row.split != "test" or row.rule in BOUNDS or "budget" not in chosen:
        return row
    at, fixed = stops(recording, row.rule, row.threshold), stops(recording, "budget", chosen["budget"])
    return replace(row, **compared(at.correct, at.nfe, fixed.correct, fixed.nfe))
