"""The validation split at several budgets while training goes on: one trajectory a time, read out at every iterate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.datasets import Dataset, Split
from deqrun.experiment.evaluate import batch_at, places
from deqrun.experiment.ranks import dealt
from deqrun.experiment.trackers import Tracker
from deqrun.inference import share_interval
from deqrun.models import DEQ
from deqrun.records.rows import BudgetEvaluation
from deqrun.records.trajectory import Trajectory
from deqrun.records.writing import RunFolder
from deqrun.settings import TrainSettings
from deqrun.solvers import Solution

__all__ = ["Evaluations", "evaluate_budgets"]


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
        made = evaluate_budgets(deq, dataset, split, self.batch_size, self.iterations, step, epoch, between)
        self.rows += made
        self.folder.write_rows("evaluations", self.rows)
        self.tracker.log_evaluation(made)


@torch.no_grad()
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
    device, was_training = next(deq.parameters()).device, deq.training
    deq.eval()
    budget = deq.budget.with_(max_iter=max(iterations))
    reader = _Reader(deq, dataset, len(split), budget.max_iter + 1)

    def read(place: slice) -> tuple[slice, _Columns]:
        x, y = batch_at(dataset, split, place, device)
        with deq.cell.fixed_weights():
            f = deq.bind(x)
            reader.begin(y)
            _, solution = deq.settle(f, deq.start(f), budget=budget, observe=reader)
        return place, reader.columns(solution)

    try:
        for place, columns in dealt(places(split, batch_size), read, between):
            reader.put(place, columns)
    finally:
        deq.train(was_training)
    # Of every budget: where each sample stops, which iterate it returns, and what was read there.
    trajectory, samples = reader.trajectory(budget.min_iter), np.arange(len(split))
    rows = []
    for max_iter in iterations:
        stop = trajectory.stop(max_iter, budget.tol)
        kept = trajectory.returned(max_iter, budget.keep, budget.tol)
        share = share_interval(trajectory.correct[kept, samples])
        rows.append(
            BudgetEvaluation(
                step=step,
                epoch=epoch,
                max_iter=max_iter,
                n=len(split),
                accuracy=share.mean,
                accuracy_low=share.low,
                accuracy_high=share.high,
                loss=float(reader.loss[kept, samples].astype(np.float64).mean()),
                nfe=float(trajectory.nfe[stop, samples].mean()),
                residual=float(np.median(trajectory.residual[kept, samples])),
                converged=float((trajectory.residual[stop, samples] <= budget.tol).mean()),
            )
        )
    return rows


_Columns = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]
"""Loss, answer, residual and evaluations of the iterates of a batch, (iterates, batch) each."""


class _Reader:
    """Reads loss and answer of every iterate, (T+1, n); a row that has stopped keeps its last ones."""

    def __init__(self, deq: DEQ, dataset: Dataset, samples: int, iterates: int) -> None:
        self.deq, self.dataset, self.iterates = deq, dataset, iterates
        wide = next(deq.parameters()).dtype == torch.float64
        self.loss = np.full((iterates, samples), np.nan)
        self.correct = np.zeros((iterates, samples), dtype=np.bool_)
        self.residual = np.full((iterates, samples), np.nan, dtype=np.float64 if wide else np.float32)
        self.nfe = np.zeros((iterates, samples), dtype=np.int32)

    def begin(self, targets: Tensor) -> None:
        """Before the solve of a batch with these targets."""
        self._targets = targets
        shape = (self.iterates, len(targets))
        self._loss = torch.full(shape, torch.nan, dtype=torch.float64, device=targets.device)
        self._correct = torch.zeros(shape, dtype=torch.bool, device=targets.device)

    def __call__(self, k: int, z: Tensor, rows: Tensor) -> None:
        logits, targets = self.deq.cell.readout(z), self._targets[rows]
        self._loss[k], self._correct[k] = self._loss[k - 1], self._correct[k - 1]
        self._loss[k, rows] = self.dataset.loss(logits, targets).to(self._loss)
        self._correct[k, rows] = self.dataset.correct(logits, targets)

    def columns(self, solution: Solution) -> _Columns:
        """Of the batch that was solved, on the host."""
        known = len(solution.residuals)
        tables = (self._loss[:known], self._correct[:known], solution.residuals, solution.nfes)
        loss, correct, residual, nfe = (table.cpu().numpy() for table in tables)
        return loss, correct, residual, nfe

    def put(self, place: slice, columns: _Columns) -> None:
        """The columns of a batch at its place of the split."""
        known = len(columns[0])
        for table, column in zip((self.loss, self.correct, self.residual, self.nfe), columns, strict=True):
            table[:known, place] = column

    def trajectory(self, min_iter: int) -> Trajectory:
        """Of the whole split; no iterate after a row's last is ever looked at."""
        return Trajectory(self.residual, self.nfe, self.correct, np.zeros(self.iterates), min_iter=min_iter)
