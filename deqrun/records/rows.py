"""The rows of a run folder: one dataclass for each kind, and one table, `ROW_KINDS`, of where each kind is kept.

Accuracies and shares are fractions in [0, 1]; times are seconds; residuals are relative unless the run's budget says
otherwise. A new kind of row is a dataclass here, a line of `ROW_KINDS`, and a field of `RunRecord` of that name.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deqrun.records.trajectory import TrajectoryKey


@dataclass(frozen=True)
class Epoch:
    """One row of train.jsonl. A value the run doesn't have (an adjoint without one) is None.

    residual and adjoint_residual are medians over the epoch's solves, behind which single rows can hide. converged and
    adjoint_converged are the shares of the solves that reached their tolerance. gradient_share is the largest share
    that one sample has of its batch's gradient, max_i ‖g_i‖ / Σ_i ‖g_i‖: the epoch's maximum over the batches of full
    size. g_i is the adjoint u_i under the implicit gradient, and ∂L/∂z_i at the end of the solve under the others.
    """

    epoch: int
    step: int | None = None
    loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    learning_rate: float | None = None
    nfe: float | None = None
    residual: float | None = None
    converged: float | None = None
    adjoint_nfe: float | None = None
    adjoint_residual: float | None = None
    adjoint_converged: float | None = None
    jacobian_penalty: float | None = None
    grad_norm: float | None = None
    gradient_share: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Step:
    """One row of steps.jsonl: a step of training, which is a batch, one of every `train.log_every`.

    residual is the median over the batch; converged is the share of its solves that reached their tolerance.
    """

    step: int
    loss: float | None = None
    accuracy: float | None = None
    learning_rate: float | None = None
    nfe: float | None = None
    residual: float | None = None
    converged: float | None = None
    grad_norm: float | None = None


@dataclass(frozen=True)
class BudgetEvaluation:
    """One row of evaluations.jsonl: the validation split at one budget of solver steps, after a step of training.

    With the training solver and tolerance: the result of a separate evaluation with this budget. accuracy_low and
    accuracy_high bound the 95 % interval over the n samples; loss is the mean, residual the median of the kept
    iterates, converged the share of the solves that reached their tolerance.
    """

    step: int
    epoch: int
    max_iter: int
    n: int
    accuracy: float
    accuracy_low: float = math.nan
    accuracy_high: float = math.nan
    loss: float = math.nan
    nfe: float = math.nan
    residual: float = math.nan
    converged: float = math.nan


@dataclass(frozen=True)
class _OfTrajectory:
    """The key of the trajectory that a row is derived from, see `TrajectoryKey`."""

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
    solvers, NaN where a run did not record them. loss is the mean of the data set's loss over the samples, in nats,
    with its 95 % interval (Student's); NaN where a sweep did not record it.
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
    loss: float = math.nan
    loss_low: float = math.nan
    loss_high: float = math.nan


@dataclass(frozen=True)
class HaltingRow(_OfTrajectory):
    """One row of halting.jsonl: how a model does where each sample stops by a halting rule.

    threshold is in the rule's units (`deqrun.analysis.halting`), NaN for the oracle. nfe_mean and nfe_p95 are
    evaluations paid; fired is the share of samples that the rule stopped, rather than their trajectory's end. chosen:
    whether validation chose this threshold for the rule. Of chosen rows of the test split: saved is the mean of the
    evaluations of the chosen fixed budget less the rule's, and gained the mean of right answers, the rule's less the
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
class CurveRow(_OfTrajectory):
    """One row of curves.jsonl: residuals after `nfe` evaluations, over the n samples of a split.

    median, low and high are the 50, 10 and 90 % quantiles, each the residual of some sample; one that stopped keeps
    its last residual. running: how many samples still iterate.
    """

    nfe: int
    median: float
    low: float
    high: float
    running: int
    n: int


@dataclass(frozen=True)
class BreadthRow:
    """One row of breadth.jsonl: the answers of `breadth` draws after max_iter steps each, put together.

    aggregation: mean, vote, residual, top, confident or head (`deqrun.analysis.breadth`). start: how the draws differ:
    normal starts; zeros: the cell's own start, so in their noise alone; symmetries: views of the sample. noise: level
    of the noise of each step (`deqrun.solvers.Noisy`). nfe_mean: evaluations of all draws, a sample. Of the single
    draws: mean, least, greatest and standard deviation of their accuracies, and the shares of samples that some draw,
    or every one, gets right. pass_at: the chance that one of `breadth` draws is right, by all draws of the sweep. ends:
    distinct ends of the draws, a sample, at the largest depth; NaN where they were not told apart. gain: accuracy less
    one draw's accuracy, any of the `breadth`, after breadth · max_iter steps, its 95 % interval over the same samples;
    NaN where the grid has no such cell.
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
    pass_at: float = field(default=math.nan, kw_only=True)
    ends: float = field(default=math.nan, kw_only=True)
    start: str = field(default="normal", kw_only=True)
    noise: float = field(default=0.0, kw_only=True)
    precision: str = field(default="float32", kw_only=True)
    difficulty: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class SavingRow:
    """One row of savings.jsonl: evaluations that draws save, or cost, at the accuracy that depth alone reaches.

    goal: depth, where target is one standard error below the best accuracy of depth alone on validation; or
    all, where it is one below the best of all cells. aggregation, breadth, max_iter and noise are the cell of fewest
    evaluations that reaches the target on validation, of `cells` cells; deep_iter is the smallest depth of one draw
    without noise from deep_start that does (0, and the columns after it NaN: none does): from the cell's own start,
    zeros, where the sweep has it. On test: accuracy of the cell with its 95 %
    interval, mean evaluations; the same of depth alone; saved, the mean of the evaluations of depth alone less the
    cell's; gained, the accuracy of the cell less depth alone's, both paired over the n samples.
    """

    solver: str
    split: str
    goal: str
    target: float
    cells: int
    aggregation: str
    breadth: int
    max_iter: int
    noise: float
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe_mean: float
    deep_iter: int = 0
    deep_accuracy: float = math.nan
    deep_nfe_mean: float = math.nan
    deep_start: str = ""
    saved: float = math.nan
    saved_low: float = math.nan
    saved_high: float = math.nan
    gained: float = math.nan
    gained_low: float = math.nan
    gained_high: float = math.nan
    start: str = field(default="normal", kw_only=True)
    precision: str = field(default="float32", kw_only=True)
    difficulty: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class RowKind:
    """Where one kind of row is kept.

    name  the field of `RunRecord` that holds the rows
    file  in the run folder, JSON lines
    row   the dataclass
    once  of a row, the value that only one row may have: of several, as a resumed run leaves them, the last counts
    """

    name: str
    file: str
    row: type
    once: Callable[[Any], Any] | None = None


ROW_KINDS = {
    kind.name: kind
    for kind in (
        RowKind("epochs", "train.jsonl", Epoch, once=lambda row: row.epoch),
        RowKind("steps", "steps.jsonl", Step, once=lambda row: row.step),
        RowKind("evaluations", "evaluations.jsonl", BudgetEvaluation, once=lambda row: (row.step, row.max_iter)),
        RowKind("sweep", "sweep.jsonl", SweepCell, once=lambda row: (row.key, row.max_iter, row.tol)),
        RowKind("halting", "halting.jsonl", HaltingRow),
        RowKind("curves", "curves.jsonl", CurveRow),
        RowKind("breadth", "breadth.jsonl", BreadthRow),
        RowKind("savings", "savings.jsonl", SavingRow),
    )
}
