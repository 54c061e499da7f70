"""Depth against breadth: B solves of each sample, their answers put together at the grid's iterations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.analysis.breadth import (
    MeanOfStarts,
    answer_codes,
    by_confidence,
    by_score,
    by_top,
    by_vote,
    chosen,
    confidence,
    distinct_ends,
    pass_at,
    residual_scores,
    spread,
    total_evaluations,
)
from deqrun.datasets import Dataset, Split
from deqrun.datasets.puzzle_symmetries import Views
from deqrun.experiment.evaluate import batch_at, in_evaluation, places
from deqrun.experiment.precision import autocast
from deqrun.experiment.ranks import dealt
from deqrun.experiment.ranks import place as place_of_rank
from deqrun.experiment.sweep.columns import interval
from deqrun.experiment.sweep.starts import SweepNoise, SweepStart, SweepViews
from deqrun.inference import DIFFERENCE, Estimate, mean_interval, share_interval
from deqrun.models import DEQ
from deqrun.records.rows import BreadthRow
from deqrun.records.trajectory import TrajectoryKey
from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.device import has_float64, to_host

__all__ = ["AGGREGATIONS", "Starts", "breadth_rows", "solve_starts"]

AGGREGATIONS = ("mean", "vote", "residual", "top", "confident")
"""The ways to put answers together (`deqrun.analysis.breadth`)."""

HEAD = "head"
"""One more, of a model whose halting head was trained: the answer of the draw whose head deems it right most surely."""

BY_RESIDUAL = ("residual", "top")
"""Ways that need the residual of the last iterate, which costs an evaluation more."""

ENDS_TOL = 0.01
"""Relative distance within which two draws have the same end."""

ENDS_HELD = 2**28
"""Bytes of end states of one batch that are held to tell ends apart; beyond them their number is not known."""


@dataclass(frozen=True)
class Starts:
    """Answers of B draws at each of D depths, of n samples.

    correct     by aggregation, (B, D, n): entry b − 1 of the first b draws
    singles     (B, D, n) each draw by itself
    spent       by aggregation, (B, T+1): evaluations of each draw to each iterate, summed over the samples
    nfe         (B, D, n) evaluations of each draw to its answer at each depth
    running     (B, D, n) whether the residual of that answer costs one more, as of a sample that had not stopped before
    ends        (B, n) distinct ends of the first b draws (`distinct_ends`); None: not known
    """

    correct: dict[str, NDArray[np.bool_]]
    singles: NDArray[np.bool_]
    spent: dict[str, NDArray[np.int64]]
    nfe: NDArray[np.int32]
    running: NDArray[np.bool_]
    ends: NDArray[np.int64] | None = None

    def evaluations(self, aggregation: str, breadth: int, place: int) -> NDArray[np.int64]:
        """(n,) evaluations of the first `breadth` draws to the depth at `place`, put together in this way."""
        total = self.nfe[:breadth, place].sum(axis=0, dtype=np.int64)
        return total + self.running[:breadth, place].sum(axis=0) if aggregation in BY_RESIDUAL else total


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
    *,
    noise: SweepNoise | None = None,
    views: SweepViews | None = None,
    head: bool = False,
) -> Starts:
    """Solve every sample from each start, and aggregate over the first 1, 2, …, B of them at each depth.

    The answer of a start at depth k is iterate k's, or the answer at which the row stopped before. Kept of a
    batch are read-outs at the depths and end states (up to `ENDS_HELD`): memory does not grow with the iterations
    between.

    noise  of the steps; each start has its own, by its number `draw`. None: none
    views  symmetries through which the samples are seen, of each start its own, by its number; answers are mapped back
           before they are put together. None: each is seen as it is
    head   whether the cell's halting head chooses, too
    """
    # Batch by batch; each batch is solved from every start in turn.
    device = next(deq.parameters()).device

    def solved(place: slice) -> Starts:
        x, y = batch_at(dataset, split, place, device)
        # States of different views are no ends of one map.
        batch = _Batch(dataset, y, depths, budget.max_iter + 1, len(starts), ends=views is None, head=head)
        # One map for all starts, unless each start sees the sample through a symmetry of its own.
        with autocast(precision, device), deq.cell.fixed_weights():
            f = None
            for start in starts:
                view = None if views is None else views.of(dataset, place, start.draw, device)
                if f is None or views is not None:
                    f = deq.bind(x if view is None else view.seen(x))
                # The observer reads out at the depths while the solve goes by; only then is its end taken in.
                observe = _Depths(deq, batch, view)
                z0 = start.begin(deq.start(f), place)
                shaken = solver if noise is None else noise.shaken(solver, place, start.draw)
                batch.end_start(solve(f, z0, solver=shaken, budget=budget, observe=observe), observe)
                if advance is not None:
                    advance(min(len(x) * place_of_rank().count, len(split)))
        return batch.starts()

    # Batches side by side along the samples.
    with in_evaluation(deq):
        parts = list(dealt(places(split, batch_size), solved))
    ways = list(parts[0].correct)
    return Starts(
        {name: np.concatenate([part.correct[name] for part in parts], axis=2) for name in ways},
        np.concatenate([part.singles for part in parts], axis=2),
        {name: np.sum([part.spent[name] for part in parts], axis=0) for name in ways},
        np.concatenate([part.nfe for part in parts], axis=2),
        np.concatenate([part.running for part in parts], axis=2),
        _joined_ends([part.ends for part in parts]),
    )


def _joined_ends(parts: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    # One batch whose ends were too large leaves the number unknown for the whole split.
    known = [part for part in parts if part is not None]
    return np.concatenate(known, axis=1) if len(known) == len(parts) else None


class _Depths:
    """The observer of one start: the answer's code, confidence, the head's logit, and whether it is right, at the
    depths; read-outs for the mean."""

    def __init__(self, deq: DEQ, batch: _Batch, view: Views | None = None) -> None:
        self.deq, self.batch, self.view = deq, batch, view
        n, device = len(batch.targets), batch.targets.device
        self.code = torch.zeros(n, dtype=torch.long, device=device)
        self.right = torch.zeros(n, dtype=torch.bool, device=device)
        self.sure = torch.zeros(n, dtype=torch.float64 if has_float64(device) else torch.float32, device=device)
        self.told = torch.zeros(n, device=device)
        self.seen: dict[int, tuple[Tensor, ...]] = {}

    def __call__(self, k: int, z: Tensor, rows: Tensor) -> None:
        # Answers of a view are mapped back before they are compared or averaged.
        logits, batch = self.deq.cell.readout(z), self.batch
        if self.view is not None:
            logits = self.view.take(rows).back(logits)
        asked = None if batch.asked is None else batch.asked[rows]
        # A row that has stopped keeps its last answer, so that every depth has one.
        self.code[rows] = answer_codes(logits, asked)
        self.right[rows] = batch.dataset.correct(logits, batch.targets[rows])
        self.sure[rows] = confidence(logits, asked).to(self.sure)
        if batch.head:
            self.told[rows] = self.deq.cell.halt_logit(z).to(self.told)
        # The mean is over probabilities; its sums are kept at the depths alone.
        batch.mean.add(k, logits, rows)
        if k in batch.depths:
            self.seen[k] = tuple(each.clone() for each in self._now())

    def _now(self) -> tuple[Tensor, ...]:
        return self.code, self.right, self.sure, self.told

    def at_depths(self) -> tuple[Tensor, ...]:
        """(D, n) codes, rights, confidences and the head's logits; depths that no row reached have the end's values."""
        # All rows had stopped before: the answers at the end stand for every later depth.
        seen = [self.seen.get(depth, self._now()) for depth in self.batch.depths]
        return tuple(torch.stack(each) for each in zip(*seen, strict=True))


class _Batch:
    """One batch: the answers of its starts so far."""

    def __init__(
        self,
        dataset: Dataset,
        targets: Tensor,
        depths: Sequence[int],
        iterates: int,
        draws: int,
        *,
        ends: bool,
        head: bool,
    ) -> None:
        self.dataset, self.targets, self.depths, self.iterates = dataset, targets, list(depths), iterates
        self.draws, self.ends, self.head = draws, ends, head
        self.asked = dataset.asked(targets)
        self.mean = MeanOfStarts(self.depths)
        self._starts: list[tuple[NDArray[Any], ...]] = []
        self._ends: list[Tensor] = []

    def end_start(self, solution: Solution, observe: _Depths) -> None:
        """Take in one start's solve."""
        # The mean over the starts so far, read out at each depth.
        self.mean.end_start()
        probabilities = (self.mean.probabilities(depth) for depth in self.depths)
        of_mean = torch.stack([self.dataset.correct(p, self.targets) for p in probabilities])
        # One copy to the host for all of a start.
        tensors = (*observe.at_depths(), of_mean, solution.residuals, solution.nfes)
        *answers, residuals, nfe = (tensor.numpy() for tensor in to_host(tensors))
        # End states are held only where those of all draws fit.
        if self.ends and solution.z.numel() * solution.z.element_size() * self.draws <= ENDS_HELD:
            self._ends.append(solution.z)
        # Residuals and evaluations as far as the budget goes: NaN, and the last count, behind the stop.
        known, n = len(solution.residuals), len(self.targets)
        residual = np.full((self.iterates, n), np.nan)
        residual[:known] = residuals
        self._starts.append((*answers, residual, nfe[np.minimum(np.arange(self.iterates), known - 1)]))

    def starts(self) -> Starts:
        """All starts together."""
        codes, singles, sure, told, means, residual, nfe = (np.stack(each) for each in zip(*self._starts, strict=True))
        scores = residual_scores(residual)[:, self.depths]
        # Each aggregation of the first b starts, for every b at once.
        correct = {
            "mean": means,
            "vote": chosen(singles, by_vote(codes)),
            "residual": chosen(singles, by_score(scores)),
            "top": chosen(singles, by_top(codes, scores)),
            "confident": chosen(singles, by_confidence(sure)),
        }
        if self.head:
            correct[HEAD] = chosen(singles, by_confidence(told))
        # To choose by residual costs one evaluation more a start where the residual is not known yet.
        spent = {name: total_evaluations(nfe, residual_chooses=name in BY_RESIDUAL) for name in correct}
        # A row was iterating at k if its count rose there; its answer cost one less than its residual.
        running = np.ones(nfe.shape, dtype=bool)
        running[:, 1:] = nfe[:, 1:] > nfe[:, :-1]
        running = running[:, self.depths]
        own = (nfe[:, self.depths] - running).astype(np.int32)
        ends = distinct_ends(torch.stack(self._ends), ENDS_TOL) if len(self._ends) == self.draws else None
        return Starts(correct, singles, spent, own, running, ends)


def breadth_rows(
    starts: Starts,
    breadths: Sequence[int],
    depths: Sequence[int],
    key: TrajectoryKey,
    *,
    start: str = "normal",
    noise: float = 0.0,
) -> list[BreadthRow]:
    """A row for every breadth, depth and aggregation.

    key    of the solves; its start is left out
    start  where the draws begin, or in what they differ
    noise  level of their noise
    """
    # Costs are means over the samples; everything else is taken at each breadth and depth.
    samples = starts.singles.shape[2]
    costs = {name: np.cumsum(spent / samples, axis=0) for name, spent in starts.spent.items()}
    spreads = {breadth: vars(spread(starts.singles[:breadth])) for breadth in breadths}
    passes = {breadth: pass_at(starts.singles, breadth).mean(axis=1) for breadth in breadths}
    ends = {b: math.nan if starts.ends is None else float(starts.ends[b - 1].mean()) for b in breadths}
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
            **interval("gain", gain),
            pass_at=float(passes[breadth][place]),
            ends=ends[breadth],
            start=start,
            noise=noise,
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
