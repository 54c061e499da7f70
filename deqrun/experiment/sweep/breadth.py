"""Depth against breadth: B solves from normal starts, their answers put together at the grid's iterations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.analysis.breadth import MeanOfStarts, answer_codes, by_residual, by_vote, chosen, spread, total_evaluations
from deqrun.datasets import Dataset, Split
from deqrun.experiment.evaluate import batch_at, places
from deqrun.experiment.precision import autocast, cast
from deqrun.experiment.ranks import dealt
from deqrun.experiment.ranks import place as place_of_rank
from deqrun.experiment.sweep.starts import SweepStart
from deqrun.inference import DIFFERENCE, Estimate, mean_interval, share_interval
from deqrun.models import DEQ
from deqrun.records.rows import BreadthRow
from deqrun.records.trajectory import TrajectoryKey
from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.device import to_host

__all__ = ["AGGREGATIONS", "Starts", "breadth_rows", "solve_starts"]

AGGREGATIONS = ("mean", "vote", "residual")


@dataclass(frozen=True)
class Starts:
    """Answers of B starts at each of D depths, of n samples.

    correct     by aggregation, (B, D, n): entry b − 1 of the first b starts
    singles     (B, D, n) each start by itself
    spent       by aggregation, (B, T+1): evaluations of each start to each iterate, summed over the samples
    """

    correct: dict[str, NDArray[np.bool_]]
    singles: NDArray[np.bool_]
    spent: dict[str, NDArray[np.int64]]


@torch.no_grad()
def solve_starts(
    deq: DEQ,
    dataset: Dataset,
    split: Split,
    solver: Solver,
    budget: Budget,
    batch_size: int,
    starts: Sequence[SweepStart],
    depths: Sequence[int],
    precision: str = "float32",
    advance: Callable[[int], object] | None = None,
) -> Starts:
    """Solve every sample from each start, and aggregate over the first 1, 2, …, B of them at each depth.

    The answer of a start at depth k is iterate k's, or the answer at which the row stopped before. Kept of a
    batch are read-outs at the depths alone, not states: memory grows with neither B nor the iterations between.
    """
    # In evaluation mode, batch by batch; each batch is solved from every start in turn.
    device = next(deq.parameters()).device
    was_training = deq.training
    deq.eval()

    def solved(place: slice) -> Starts:
        x, y = batch_at(dataset, split, place, device)
        batch = _Batch(dataset, y, depths, budget.max_iter + 1)
        with autocast(precision, device), deq.cell.fixed_weights():
            f = deq.bind(cast(x, precision))
            for start in starts:
                observe = _Depths(deq, batch)
                z0 = start.begin(deq.start(f), place)
                batch.end_start(solve(f, z0, solver=solver, budget=budget, observe=observe), observe)
                if advance is not None:
                    advance(min(len(x) * place_of_rank().count, len(split)))
        return batch.starts()

    # Batches side by side along the samples.
    parts = list(dealt(places(split, batch_size), solved))
    deq.train(was_training)
    return Starts(
        {name: np.concatenate([part.correct[name] for part in parts], axis=2) for name in AGGREGATIONS},
        np.concatenate([part.singles for part in parts], axis=2),
        {name: np.sum([part.spent[name] for part in parts], axis=0) for name in AGGREGATIONS},
    )


class _Depths:
    """The observer of one start: the answer's code and whether it is right, at the depths; read-outs for the mean."""

    def __init__(self, deq: DEQ, batch: _Batch) -> None:
        self.deq, self.batch = deq, batch
        n, device = len(batch.targets), batch.targets.device
        self.code = torch.zeros(n, dtype=torch.long, device=device)
        self.right = torch.zeros(n, dtype=torch.bool, device=device)
        self.codes: dict[int, Tensor] = {}
        self.rights: dict[int, Tensor] = {}

    def __call__(self, k: int, z: Tensor, rows: Tensor) -> None:
        logits, batch = self.deq.cell.readout(z), self.batch
        asked = None if batch.asked is None else batch.asked[rows]
        # A row that has stopped keeps its last answer, so that every depth has one.
        self.code[rows] = answer_codes(logits, asked)
        self.right[rows] = batch.dataset.correct(logits, batch.targets[rows])
        batch.mean.add(k, logits, rows)
        if k in batch.depths:
            self.codes[k], self.rights[k] = self.code.clone(), self.right.clone()

    def at_depths(self) -> tuple[Tensor, Tensor]:
        """(D, n) codes and rights; depths that no row reached have the end's values."""
        codes = torch.stack([self.codes.get(depth, self.code) for depth in self.batch.depths])
        rights = torch.stack([self.rights.get(depth, self.right) for depth in self.batch.depths])
        return codes, rights


class _Batch:
    """One batch: the answers of its starts so far."""

    def __init__(self, dataset: Dataset, targets: Tensor, depths: Sequence[int], iterates: int) -> None:
        self.dataset, self.targets, self.depths, self.iterates = dataset, targets, list(depths), iterates
        self.asked = dataset.asked(targets)
        self.mean = MeanOfStarts(self.depths)
        self._codes: list[NDArray[np.int64]] = []
        self._rights: list[NDArray[np.bool_]] = []
        self._of_mean: list[NDArray[np.bool_]] = []
        self._residual: list[NDArray[np.float64]] = []
        self._nfe: list[NDArray[np.int64]] = []

    def end_start(self, solution: Solution, observe: _Depths) -> None:
        """Take in one start's solve."""
        # The mean over the starts so far, read out at each depth.
        self.mean.end_start()
        probabilities = (self.mean.probabilities(depth) for depth in self.depths)
        of_mean = torch.stack([self.dataset.correct(p, self.targets) for p in probabilities])
        # One copy to the host for all of a start.
        tensors = (*observe.at_depths(), of_mean, solution.residuals, solution.nfes)
        codes, rights, means, residuals, nfe = (tensor.numpy() for tensor in to_host(tensors))
        self._codes.append(codes)
        self._rights.append(rights)
        self._of_mean.append(means)
        # Residuals and evaluations as far as the budget goes: NaN, and the last count, behind the stop.
        known, n = len(solution.residuals), len(self.targets)
        residual = np.full((self.iterates, n), np.nan)
        residual[:known] = residuals
        self._residual.append(residual)
        self._nfe.append(nfe[np.minimum(np.arange(self.iterates), known - 1)])

    def starts(self) -> Starts:
        """All starts together."""
        singles = np.stack(self._rights)
        # Each aggregation of the first b starts, for every b at once.
        of_residual = by_residual(np.stack(self._residual))[:, self.depths]
        correct = {
            "mean": np.stack(self._of_mean),
            "vote": chosen(singles, by_vote(np.stack(self._codes))),
            "residual": chosen(singles, of_residual),
        }
        # To choose by residual costs one evaluation more a start where the residual is not known yet.
        nfe = np.stack(self._nfe)
        spent = {name: total_evaluations(nfe, residual_chooses=name == "residual") for name in AGGREGATIONS}
        return Starts(correct, singles, spent)


def breadth_rows(
    starts: Starts, breadths: Sequence[int], depths: Sequence[int], key: TrajectoryKey
) -> list[BreadthRow]:
    """A row for every breadth, depth and aggregation.

    key  of the solves; its start is left out of the rows, which have several
    """
    samples = starts.singles.shape[2]
    costs = {name: np.cumsum(spent / samples, axis=0) for name, spent in starts.spent.items()}
    spreads = {breadth: vars(spread(starts.singles[:breadth])) for breadth in breadths}
    return [
        BreadthRow(
            key.solver,
            key.split,
            name,
            breadth,
            depth,
            share.n,
            share.mean,
            share.low,
            share.high,
            float(costs[name][breadth - 1, depth]),
            *(float(values[place]) for values in spreads[breadth].values()),
            gain=gain.mean,
            gain_low=gain.low,
            gain_high=gain.high,
            precision=key.precision,
            difficulty=key.difficulty,
        )
        for breadth in breadths
        for name, correct in starts.correct.items()
        for place, depth in enumerate(depths)
        for share in [share_interval(correct[breadth - 1, place])]
        for gain in [_gain(correct[breadth - 1, place], starts.singles[:breadth], breadth * depth, depths)]
    ]


def _gain(correct: NDArray[np.bool_], singles: NDArray[np.bool_], depth: int, depths: Sequence[int]) -> Estimate:
    """The gain of several starts (n,) over one of them, (B, D, n), that goes on to `depth`; NaN where none does."""
    # Equal compute: one start that goes on for as many iterations as all starts took together.
    if len(singles) == 1 or depth not in depths:
        return Estimate(np.nan, np.nan, np.nan, len(correct))
    return mean_interval(correct - singles[:, list(depths).index(depth)].mean(0), DIFFERENCE)
