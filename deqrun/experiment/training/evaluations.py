"""The validation split at several budgets while training goes on: one trajectory a time, read out at every iterate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from deqrun.datasets import Dataset, Split
from deqrun.experiment.sweep.trace import cells, trace_parts
from deqrun.experiment.trackers import Tracker
from deqrun.models import DEQ
from deqrun.records.rows import BudgetEvaluation
from deqrun.records.trajectory import TrajectoryKey, joined
from deqrun.records.writing import RunFolder
from deqrun.settings import TrainSettings

__all__ = ["Evaluations", "evaluate_budgets"]

OF_THE_CELL = ("max_iter", "n", "accuracy", "accuracy_low", "accuracy_high", "converged")
"""Columns of an evaluation that are its cell's, under the same name."""


class Evaluations:
    """The evaluations of a run at `train.eval_iterations`, every `train.eval_every` steps or at the end of each epoch.

    rows  of steps that are done already
    last  the last step of training, which has its evaluation in any case
    """

    def __init__(
        self, settings: TrainSettings, rows: Sequence[BudgetEvaluation], last: int, folder: RunFolder, tracker: Tracker
    ) -> None:
        self.iterations, self.every, self.last = settings.eval_iterations, settings.eval_every, last
        self.batch_size, self.folder, self.tracker = settings.eval_batch_size, folder, tracker
        self.rows = list(rows)

    def due(self, step: int, *, ends_epoch: bool) -> bool:
        """Whether there is an evaluation after this step that is not made yet."""
        if not self.iterations or any(row.step == step for row in self.rows[-1:]):
            return False
        if self.every is None:
            return ends_epoch
        return step > 0 and (step % self.every == 0 or step == self.last)

    def make(
        self, deq: DEQ, dataset: Dataset, split: Split, step: int, epoch: int, between: Callable[[], object]
    ) -> None:
        """Evaluate, write the rows and tell the tracker; `between` is called before each batch."""
        # Rows before the tracker: a tracker may fail, a row may not be lost.
        made = evaluate_budgets(deq, dataset, split, self.batch_size, self.iterations, step, epoch, between)
        self.rows += made
        self.folder.write_rows("evaluations", self.rows)
        self.tracker.log_evaluation(made)


def evaluate_budgets(
    deq: DEQ,
    dataset: Dataset,
    split: Split,
    batch_size: int,
    iterations: Sequence[int],
    step: int = 0,
    epoch: int = 0,
    between: Callable[[], object] = lambda: None,
) -> list[BudgetEvaluation]:
    """A row for each budget of solver steps, equal to a separate evaluation of `split` with that budget.

    The training solver runs once, to the largest budget and the training tolerance; iterates depend on no budget, so
    the read-out of each iterate holds the answer of every smaller one.
    """
    # The largest budget holds all smaller ones.
    budget = deq.budget.with_(max_iter=max(iterations))
    parts = trace_parts(deq, dataset, split, deq.solver, budget, batch_size, loss=True, between=between)
    trajectory = joined([part for part, _ in parts])
    key = TrajectoryKey("training", "zeros", "validation")
    rows = []
    # Accuracy as the sweep derives it; the loss of the iterate that is kept.
    for cell in cells(trajectory, iterations, [budget.tol], key=key, keep=budget.keep):
        kept = trajectory.returned(cell.max_iter, budget.keep, budget.tol)
        loss = float(trajectory.at("loss", kept).astype(np.float64).mean())
        same = {name: getattr(cell, name) for name in OF_THE_CELL}
        rows.append(BudgetEvaluation(step, epoch, **same, loss=loss, nfe=cell.nfe_mean, residual=cell.residual_median))
    return rows
