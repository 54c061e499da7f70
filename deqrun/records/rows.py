"""The rows that are derived from trajectories: sweep.jsonl, halting.jsonl and breadth.jsonl.

Accuracies and shares are fractions in [0, 1]; times are seconds.
"""

import math
from dataclasses import dataclass, field

from deqrun.records.trajectory import TrajectoryKey


@dataclass(frozen=True)
class _OfTrajectory:
    """What a row has of the trajectory that it is derived from, see `TrajectoryKey`."""

    solver: str
    start: str
    split: str
    precision: str = field(default="float32", kw_only=True)
    difficulty: int | None = field(default=None, kw_only=True)

    @property
    def key(self) -> TrajectoryKey:
        return TrajectoryKey(self.solver, self.start, self.split, self.precision, self.difficulty)


@dataclass(frozen=True)
class SweepCell(_OfTrajectory):
    """One row of sweep.jsonl: how a trained model does with one solver, start, budget and tolerance on one split.

    accuracy_low and accuracy_high bound the 95 % interval over the n samples; `converged` and
    `diverged` are fractions of the samples. jvps_mean are Jacobian products, which are no evaluations: 0 for most
    solvers, NaN where a run did not record them.
    """

    max_iter: int
    tol: float
    n: int
    accuracy: float
    accuracy_low: float = math.nan
    accuracy_high: float = math.nan
    nfe_mean: float = math.nan
    nfe_p95: float = math.nan
    seconds: float = math.nan
    converged: float = math.nan
    diverged: float = math.nan
    residual_median: float = math.nan
    jvps_mean: float = math.nan


@dataclass(frozen=True)
class HaltingRow(_OfTrajectory):
    """One row of halting.jsonl: how a model does where each sample stops by a halting rule.

    threshold is in the rule's units (`deqrun.analysis.halting`), NaN for the oracle. nfe_mean and nfe_p95 are
    evaluations paid; fired is the share of samples that the rule stopped, rather than their trajectory's end. chosen:
    whether validation chose this threshold for the rule. Of chosen rows of the test split: saved is the mean of the
    evaluations of the chosen fixed budget less the rule's, and gained that of right answers, the rule's less the
    budget's, each with its 95 % interval, paired over the samples; NaN elsewhere.
    """

    rule: str
    threshold: float
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe_mean: float
    nfe_p95: float
    fired: float
    chosen: bool = False
    saved: float = math.nan
    saved_low: float = math.nan
    saved_high: float = math.nan
    gained: float = math.nan
    gained_low: float = math.nan
    gained_high: float = math.nan


@dataclass(frozen=True)
class BreadthRow:
    """One row of breadth.jsonl: the answers of `breadth` normal starts after max_iter steps each, put together.

    aggregation: mean, vote or residual (`deqrun.analysis.breadth`). nfe_mean: evaluations of all starts, a sample.
    Of the single starts: mean, least, greatest and standard deviation of their accuracies, and the shares of samples
    that some start, or every one, gets right. gain: accuracy less that of one start, any of the `breadth`, after
    breadth · max_iter steps, its 95 % interval over the same samples; NaN where the grid has no such cell.
    """

    solver: str
    split: str
    aggregation: str
    breadth: int
    max_iter: int
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe_mean: float
    starts_mean: float = math.nan
    starts_least: float = math.nan
    starts_most: float = math.nan
    starts_deviation: float = math.nan
    some_right: float = math.nan
    all_right: float = math.nan
    gain: float = field(default=math.nan, kw_only=True)
    gain_low: float = field(default=math.nan, kw_only=True)
    gain_high: float = field(default=math.nan, kw_only=True)
    precision: str = field(default="float32", kw_only=True)
    difficulty: int | None = field(default=None, kw_only=True)
