"""When to stop thinking: halting rules over recorded trajectories, their costs, and the choice of a threshold.

A rule is a signal and a threshold. A sample stops at the first iterate k whose signal is at most the threshold; the
two counts, `stable` and `budget`, and the two certainties, `confidence` and `margin`, stop it at the first that is at
least the threshold. A sample that the rule has not
stopped ends where its trajectory ends: at the budget, or where the solve itself stopped it (its tolerance reached, or
diverged). The answer is the one of the iterate at which it stops.

    residual  ‖f(z_k) − z_k‖ / ‖f(z_k)‖, the solver's own
    change    ‖z_k − z_{k−1}‖ / ‖z_k‖
    kl        KL(p_k ‖ p_{k−1}) of the read-outs, nats
    entropy   |H(p_k) − H(p_{k−1})|, nats
    stable    iterates for which the answer has stood
    confidence, margin    the largest probability, and its lead over the second
    acceleration          ‖z_k − 2 z_{k−1} + z_{k−2}‖ / ‖z_{k−1}‖ (`deqrun.analysis.signals` defines these seven)
    head      1 − p, with p the halting head's probability that the answer is right
    budget    k itself: the same number of iterations for every sample, the bound that a rule has to beat
    oracle    whether the answer is right: stops at the first right one, the bound that no rule can beat by answers
              that it has to give itself

**A rule's cost.** With nfe[k] evaluations spent when the residual of iterate k is known, iterate k itself cost
nfe[k] − 1. A sample that `residual` stops at k pays nfe[k], which is k + 1 for Picard, Anderson and Broyden; one that
any other rule stops pays nfe[k] − 1, which is k. A sample that no rule stopped pays nfe[k] where the solve's own check
of the residual ended it, and where the budget did, nfe[T] under `residual`, nfe[T] − 1 under the others. Evaluations
of solvers that take Jacobian products besides count evaluations alone, unless `nfe` is given with both.

**Chosen on validation, reported on test.** `thresholds` and `choose` take validation; `evaluate` reports the choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deqrun.inference import one_error_below
from deqrun.records.frontier import non_dominated
from deqrun.records.halting_rules import BOUNDS, HALTING_RULES, RULES

__all__ = [
    "BOUNDS",
    "RULES",
    "HaltingPoint",
    "InParts",
    "Recording",
    "Stops",
    "choose",
    "choose_within",
    "curve",
    "evaluate",
    "frontier",
    "stops",
    "thresholds",
]


@dataclass(frozen=True)
class Recording:
    """The part of n trajectories over iterates 0 … T that halting needs.

    residual  (T+1, n) as a trajectory has it: NaN after a row stopped
    nfe       (T+1, n) evaluations spent when that residual was known, held after a row stopped
    correct   (T+1, n) bool: whether the read-out of that iterate is right, held after a row stopped
    signals   of halting rules, by name (`deqrun.records.trajectory.SIGNALS`), each (T+1, n); a signal that compares
              iterates is inf where there is none before

    Raises ValueError where shapes differ.
    """

    residual: NDArray[Any]
    nfe: NDArray[Any]
    correct: NDArray[np.bool_]
    signals: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, array in {"nfe": self.nfe, "correct": self.correct, **self.signals}.items():
            if array.shape != self.residual.shape:
                raise ValueError(
                    f"{name} must have the residual's shape {self.residual.shape}, (iterates, samples), "
                    f"got {array.shape}."
                )

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.residual.shape[1])

    def parts(self) -> Iterator[Recording]:
        """The recording itself, as its only part."""
        yield self

    def last(self) -> NDArray[np.intp]:
        """(n,) index of the last iterate of each sample."""
        return np.maximum(np.count_nonzero(~np.isnan(self.residual), axis=0) - 1, 0)

    def rules(self) -> tuple[str, ...]:
        """Rules whose signal was recorded, and the bounds."""
        return tuple(name for name, rule in HALTING_RULES.items() if not rule.recorded or name in self.signals)

    def urge(self, rule: str) -> NDArray[Any]:
        """(T+1, n): the signal turned so that a rule stops at the first value <= its turned threshold; inf if unknown.

        In the signal's own dtype, so that thresholds are compared as a trajectory compares tolerances.
        Raises ValueError for a rule whose signal was not recorded.
        """
        if rule not in self.rules():
            raise ValueError(f"There is no halting rule {rule!r} here; there are {', '.join(self.rules())}.")
        signal, steps = HALTING_RULES[rule].signal(self), np.arange(len(self.residual))[:, None]
        if HALTING_RULES[rule].upward:
            signal = -(signal.astype(np.float64) if HALTING_RULES[rule].counts else signal)
        return np.where((steps <= self.last()) & ~np.isnan(signal), signal, signal.dtype.type(np.inf))


@dataclass(frozen=True)
class Stops:
    """Where each of n samples stopped, under one rule and threshold.

    iterate  (n,) the iterate whose answer is given
    nfe      (n,) evaluations paid
    correct  (n,) bool: whether that answer is right
    fired    (n,) bool: whether the rule stopped it, rather than the end of the trajectory
    """

    iterate: NDArray[np.intp]
    nfe: NDArray[np.int64]
    correct: NDArray[np.bool_]
    fired: NDArray[np.bool_]


@dataclass(frozen=True)
class HaltingPoint:
    """One rule at one threshold over n samples: accuracy, mean and 95 % quantile of the evaluations, share fired.

    threshold is in the signal's units: nats for kl and entropy, iterates for stable and budget; NaN for the oracle,
    which has none.
    """

    rule: str
    threshold: float
    n: int
    accuracy: float
    nfe_mean: float
    nfe_p95: float
    fired: float


class InParts(Protocol):
    """Recordings of a split, of some samples each; a `Recording` is the only part of itself."""

    def parts(self) -> Iterable[Recording]:
        """The parts in order."""
        ...

    def rules(self) -> tuple[str, ...]:
        """As `Recording.rules`."""
        ...


def stops(recording: InParts, rule: str, threshold: float = np.nan) -> Stops:
    """Where each sample stops; the oracle takes no threshold. Raises ValueError for a rule that is not recorded."""
    found = [_stops(part, rule, threshold, _lowest(part, rule)) for part in recording.parts()]
    return Stops(*(np.concatenate([getattr(one, column.name) for one in found]) for column in fields(Stops)))


def _lowest(recording: Recording, rule: str) -> NDArray[Any]:
    """(T+1, n) the running minimum of the rule's urge: it crosses a threshold once."""
    found: NDArray[Any] = np.minimum.accumulate(recording.urge(rule), axis=0)
    return found


def _stops(recording: Recording, rule: str, threshold: float, lowest: NDArray[Any]) -> Stops:
    turned = 0.0 if rule == "oracle" else -threshold if HALTING_RULES[rule].upward else threshold
    above = np.count_nonzero(~(lowest <= turned), axis=0)
    fired, last, columns = above < len(lowest), recording.last(), np.arange(recording.n)
    iterate = np.where(fired, above, last)
    known = np.asarray(recording.nfe, dtype=np.int64)[iterate, columns]
    checked = (rule == "residual") | (~fired & (last < len(lowest) - 1))
    return Stops(iterate, known - np.where(checked, 0, 1), recording.correct[iterate, columns], fired)


def evaluate(recording: InParts, rule: str, threshold: float = np.nan) -> HaltingPoint:
    """The rule at this threshold. A threshold chosen on validation is reported so on test."""
    return curve(recording, rule, [threshold])[0]


def curve(recording: InParts, rule: str, grid: Sequence[float] | NDArray[Any]) -> list[HaltingPoint]:
    """The rule at every threshold of the grid, in its order."""
    tallies = [_Tally() for _ in grid]
    for part in recording.parts():
        lowest = _lowest(part, rule)
        for value, tally in zip(grid, tallies, strict=True):
            tally.add(_stops(part, rule, float(value), lowest))
    return [tally.point(rule, float(value)) for value, tally in zip(grid, tallies, strict=True)]


class _Tally:
    """Counts over the samples of several parts, from which their means and quantiles follow exactly."""

    def __init__(self) -> None:
        self.n = self.correct = self.fired = 0
        self.by_nfe = np.zeros(1, dtype=np.int64)

    def add(self, at: Stops) -> None:
        """Take in the samples of one part."""
        self.n += len(at.nfe)
        self.correct += int(at.correct.sum())
        self.fired += int(at.fired.sum())
        counts = np.bincount(at.nfe, minlength=len(self.by_nfe))
        counts[: len(self.by_nfe)] += self.by_nfe
        self.by_nfe = counts

    def point(self, rule: str, threshold: float) -> HaltingPoint:
        """The rule at this threshold over all samples."""
        total = int(self.by_nfe @ np.arange(len(self.by_nfe)))
        return HaltingPoint(
            rule, threshold, self.n, self.correct / self.n, total / self.n, self._quantile(0.95), self.fired / self.n
        )

    def _quantile(self, q: float) -> float:
        """Of the evaluations, linear between order statistics: as `numpy.quantile` of all of them."""
        place = q * (self.n - 1)
        low = math.floor(place)
        below = np.searchsorted(self.by_nfe.cumsum(), [low, min(low + 1, self.n - 1)], side="right")
        return float(np.quantile(below, place - low))


def thresholds(validation: InParts, rule: str, count: int = 50) -> NDArray[np.float64]:
    """Thresholds worth trying, from validation, in ascending order; each stops some sample somewhere.

    The counts take every whole number, budgets 0 … T and runs 1 … the longest, however many they are: neighbours are
    an evaluation of every sample apart. Other rules take at most `count` evenly spaced quantiles of the values that
    are the lowest so far in their trajectory: a threshold between two neighbours among these changes nothing, and one
    above or below them all stops all samples at once or none at all. Each is a value that was observed. The oracle has
    no threshold: [nan].

    Raises ValueError for count < 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1 threshold, got {count}.")
    if rule == "oracle":
        return np.array([np.nan])
    known = HALTING_RULES.get(rule)
    counted, upward = known is not None and known.counts, known is not None and known.upward
    values = []
    for part in validation.parts():
        urge = part.urge(rule)
        found = np.minimum.accumulate(urge, axis=0)[np.isfinite(urge)]
        values.append(np.unique(found) if counted else found)
    if counted:
        counts = np.unique(-np.concatenate(values)) + 0.0  # no negative zero
        return np.asarray(counts[counts >= (1 if rule == "stable" else 0)], dtype=np.float64)
    # Of the samples' values, not of the distinct ones: thresholds lie close where many samples stop.
    ordered = np.concatenate(values)
    ordered.sort()
    places = np.rint(np.linspace(0, len(ordered) - 1, min(count, len(ordered)))).astype(int)
    found = np.unique(ordered[places])
    return np.asarray(-found[::-1] if upward else found, dtype=np.float64)


def frontier(points: Sequence[HaltingPoint]) -> list[HaltingPoint]:
    """The points that no other beats, by rising cost.

    Cost is mean evaluations, gain is accuracy; see `deqrun.records.frontier`.
    """
    return [points[place] for place in non_dominated([(point.nfe_mean, point.accuracy) for point in points])]


def choose(points: Sequence[HaltingPoint], target: float | None = None) -> HaltingPoint | None:
    """The cheapest point of validation whose accuracy is at least `target`; of equals the more accurate.

    target  default: within one standard error of the best, p − √(p (1 − p) / n) with p the best point's accuracy (the
            one-standard-error rule of Breiman, Friedman, Olshen & Stone 1984). Give one to compare rules at equal
            accuracy, such as the whole budget's.

    None where no point reaches it. Raises ValueError where there are no points.
    """
    best = _best(points)
    least = one_error_below(best.accuracy, best.n) if target is None else target
    reaching = [point for point in points if point.accuracy >= least]
    return min(reaching, key=lambda point: (point.nfe_mean, -point.accuracy), default=None)


def choose_within(points: Sequence[HaltingPoint], nfe: float) -> HaltingPoint | None:
    """The most accurate point of validation that costs at most `nfe` mean evaluations; of equals the cheaper.

    None where every point costs more. Over a grid of costs this is a rule's curve: each choice is made on validation
    and its accuracy and cost are read on test with `evaluate`. Raises ValueError where there are no points.
    """
    _best(points)
    affordable = [point for point in points if point.nfe_mean <= nfe]
    return min(affordable, key=lambda point: (-point.accuracy, point.nfe_mean), default=None)


def _best(points: Sequence[HaltingPoint]) -> HaltingPoint:
    if not points:
        raise ValueError("There are no points to choose from.")
    return max(points, key=lambda point: point.accuracy)
