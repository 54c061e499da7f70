"""Thinking in breadth: one answer from B solves of a sample, at every depth and every B' ≤ B.

The B draws differ in their start, in the noise of their steps, or in the symmetry under which the sample is seen.
Shapes: B draws, T+1 iterates (or D depths), n samples; a draw's records are held after a sample stopped. Results have B
entries in their first dimension, of which entry b − 1 aggregates the first b draws: one set of solves answers every
breadth B' ≤ B.

    mean       argmax_c of (1/B') Σ_b p_b(c), at every position
    vote       the whole answer (all asked positions together) that most draws give; of equally many the one that the
               earliest draw gives
    residual   the answer of the draw of lowest residual, averaged over its last 3 iterates; of equals the earliest
    top        a vote among the ⌈B'/2⌉ draws of lowest residual; of equally many the one that the draw of lowest
               residual gives
    confident  the answer of the draw whose largest probability, averaged over the asked positions, is largest; of
               equals the earliest
    head       the answer of the draw whose halting head deems it right most surely (a model with a trained one)

`pass_at` bounds them: the chance that one of k draws is right. B draws of k iterates cost B·k evaluations (and B more
where residuals choose: iterate k's residual needs one more), so cells on one hyperbola B·k = const cost the same.

Sources: depth and breadth as two axes, and the selection by convergence over a window of 3, are those of Equilibrium
Reasoners (Huang, Geng & Kolter 2026, arXiv 2605.21488), whose published code measures convergence by the change of the
logits; here it is the residual of the state. Draws that differ by noise, selected among afterwards: Probabilistic TRM
(arXiv 2605.19943). pass@k: Chen et al. 2021 (arXiv 2107.03374).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.analysis.signals import over_asked
from deqrun.solvers.norms import row_norms

__all__ = [
    "NO_ANSWER",
    "MeanOfStarts",
    "Spread",
    "answer_codes",
    "by_confidence",
    "by_residual",
    "by_score",
    "by_top",
    "by_vote",
    "chosen",
    "confidence",
    "distinct_ends",
    "equal_compute",
    "evaluations",
    "pass_at",
    "residual_scores",
    "spread",
    "total_evaluations",
]

NO_ANSWER = -1
"""Code of a read-out that is no number: it gets no vote."""

WINDOW = 3
"""Last iterates over which a residual is averaged before draws are compared by it."""


def answer_codes(logits: Tensor, asked: Tensor | None = None) -> Tensor:
    """(n,) long: a number for each sample's whole answer, the same for the same answer.

    NO_ANSWER where the read-out of an asked position is NaN.

    logits  (n, classes, *positions)
    asked   (n, *positions) bool; None: every position is

    With one answer per sample the code is the class. With several it is a sum of fixed random multiples of the asked
    classes modulo 2⁶²: two different answers share a code with a probability below 2⁻⁵⁰, for up to 1,000 classes.
    """
    answer, unknown = logits.argmax(1), logits.isnan().any(1)
    if answer.dim() > 1:
        if asked is not None:
            answer, unknown = answer.masked_fill(~asked, 0), unknown & asked
        answer, unknown = answer.flatten(1), unknown.flatten(1).any(1)
        draw = torch.Generator().manual_seed(0)
        weights = torch.randint(1, 2**62, (answer.shape[1],), generator=draw).to(answer.device, non_blocking=True)
        answer = ((answer + 1) * (2 * weights + 1)).sum(1) & (2**62 - 1)  # wraps around, which is as good
    return answer.masked_fill(unknown, NO_ANSWER)


def by_vote(codes: NDArray[Any]) -> NDArray[np.intp]:
    """Which start's answer wins the vote: codes (B, …) of the answers -> (B, …) index of a start below B'.

    Starts without an answer have no vote; where none has one the first start is taken.
    """
    codes = np.asarray(codes)
    votes = np.zeros(codes.shape, dtype=np.int32)  # of the answer that each start gave, so far
    winners = np.zeros(codes.shape, dtype=np.intp)
    for b in range(len(codes)):
        same = (codes[: b + 1] == codes[b]) & (codes[b] != NO_ANSWER)
        votes[: b + 1] += same
        votes[b] = same.sum(axis=0)
        winners[b] = votes[: b + 1].argmax(axis=0)
    return winners


def residual_scores(residual: NDArray[Any], window: int = WINDOW) -> NDArray[np.float64]:
    """The residual averaged over its last `window` iterates: (B, T+1, n) -> (B, T+1, n).

    At iterate k that is the mean over iterates k − window + 1 … k, those that there are; a sample that has stopped
    (NaN from there) keeps the mean at which it did. Raises ValueError for a window < 1.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 iterate, got {window}.")
    values = np.asarray(residual, dtype=np.float64)
    iterates = values.shape[1]
    last = np.maximum((~np.isnan(values)).sum(axis=1, keepdims=True) - 1, 0)
    at = np.minimum(np.arange(iterates)[None, :, None], last)  # (B, T+1, n)
    parts = [np.take_along_axis(values, np.maximum(at - back, 0), axis=1) for back in range(window)]
    counts = np.minimum(at + 1, window)
    score: NDArray[np.float64] = sum(np.where(back < counts, part, 0.0) for back, part in enumerate(parts)) / counts
    return score


def by_residual(residual: NDArray[Any], window: int = WINDOW) -> NDArray[np.intp]:
    """Which draw has the lowest `residual_scores`: (B, T+1, n) -> (B, T+1, n) index of a draw below B'."""
    return by_score(residual_scores(residual, window))


def by_confidence(confident: NDArray[Any]) -> NDArray[np.intp]:
    """Which draw is the most confident: `confidence` (B, …) -> (B, …) index of a draw below B'; NaN never is."""
    known = np.asarray(confident, dtype=np.float64)
    return by_score(np.where(np.isnan(known), np.inf, -known))


def by_score(score: NDArray[Any]) -> NDArray[np.intp]:
    """Which draw has the lowest score, of equals the earliest: (B, …) -> (B, …) index of a draw below B'."""
    winners = np.zeros(score.shape, dtype=np.intp)
    best = np.array(score[0])
    for b in range(1, len(score)):
        better = score[b] < best
        best, winners[b] = np.where(better, score[b], best), np.where(better, b, winners[b - 1])
    return winners


def by_top(codes: NDArray[Any], score: NDArray[Any]) -> NDArray[np.intp]:
    """A vote among the ⌈B'/2⌉ draws of lowest score: codes, score (B, …) -> (B, …) index of a draw below B'.

    Of equally many votes the answer that the draw of lowest score gives; draws of equal score rank by their number.
    The draw that is named is the draw of lowest score with the winning answer.
    """
    codes, score = np.asarray(codes), np.asarray(score, dtype=np.float64)
    winners = np.zeros(codes.shape, dtype=np.intp)
    for b in range(1, len(codes)):
        # The best half in the order of its scores: `by_vote` prefers the earlier of equals.
        best = np.argsort(score[: b + 1], axis=0, kind="stable")[: -(-(b + 1) // 2)]
        place = by_vote(np.take_along_axis(codes, best, axis=0))[-1:]
        winners[b] = np.take_along_axis(best, place, axis=0)[0]
    return winners


def confidence(logits: Tensor, asked: Tensor | None = None) -> Tensor:
    """(n,) max_c p(c), averaged over the asked positions; NaN where the read-out of one of them is.

    logits  (n, classes, *positions)
    asked   (n, *positions) bool; None: every position is. Where a sample asks nothing it is 1
    """
    p = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1).amax(1)
    mean = over_asked(p, asked)
    return mean if p.dim() == 1 or asked is None else torch.where(asked.flatten(1).any(1), mean, 1.0)


def pass_at(right: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """The chance that one of k of the n draws is right, 1 − C(n − c, k) / C(n, k): right (n, …) -> (…).

    c of the n draws are right. Unbiased for 1 − (1 − p)^k, where draws are right with chance p (Chen et al. 2021).
    Raises ValueError unless 1 <= k <= n.
    """
    n = len(right)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} draws, and k at least 1; there are {n} draws.")
    wrong = n - np.asarray(right, dtype=bool).sum(axis=0)
    # C(n − c, k) / C(n, k) as a product, of which a factor is 0 where fewer than k draws are wrong.
    fails = np.ones(wrong.shape)
    for i in range(k):
        fails = fails * (np.maximum(wrong - i, 0) / (n - i))
    return 1.0 - fails


def distinct_ends(states: Tensor, tol: float) -> NDArray[np.int64]:
    """How many distinct ends the first b draws have, b = 1 … B: states (B, n, …) -> (B, n).

    Two ends are the same if ‖a − b‖ ≤ tol · max(‖a‖, ‖b‖), or if a chain of such pairs joins them (single linkage).
    An end that is not finite is none.
    """
    flat = states.flatten(2)
    draws, n = flat.shape[:2]
    finite = flat.isfinite().all(2).cpu().numpy()
    sizes = torch.stack([row_norms(end) for end in flat])
    cluster = np.tile(np.arange(draws)[:, None], (1, n))  # the cluster of each draw, named by its latest member
    counts = np.zeros((draws, n), dtype=np.int64)
    for b in range(draws):
        joined = np.zeros((draws, n), dtype=bool)
        for a in range(b):
            near = row_norms(flat[b] - flat[a]) <= tol * torch.maximum(sizes[a], sizes[b])
            same = near.cpu().numpy() & finite[a] & finite[b]
            joined |= same & (cluster == cluster[a])
        cluster = np.where(joined, b, cluster)
        known = cluster[: b + 1]
        leads = known == np.arange(b + 1)[:, None]
        counts[b] = (leads & finite[: b + 1]).sum(axis=0)
    return counts


def chosen(values: NDArray[Any], winners: NDArray[np.intp]) -> NDArray[Any]:
    """The winning start's values: values (B, …), such as correct, and winners (B, …) -> (B, …)."""
    return np.take_along_axis(np.asarray(values), winners, axis=0)


class MeanOfStarts:
    """Mean read-outs over the starts so far, at chosen depths, taken in start by start as the solves come by.

    For each start call `add` at every iterate, in order, then `end_start`. A sample that stopped keeps its last
    read-out at all later depths. A read-out that is no number adds nothing to the sum.

    depths  iterates at which the mean is wanted, ascending
    """

    def __init__(self, depths: Sequence[int]) -> None:
        self.depths = list(depths)
        self.starts = 0
        self._sums: Tensor | None = None  # (depths, batch, classes, *positions), the sums over starts
        self._now: Tensor | None = None  # (batch, classes, *positions) of the current start
        self._filled = 0  # depths that the current start has reached

    def add(self, k: int, logits: Tensor, rows: Tensor) -> None:
        """Iterate k: logits (r, classes, *positions) of the samples `rows` (r,), all of the batch at k = 0."""
        p = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1).nan_to_num(0.0)
        if self._now is None:
            self._now = p.clone()
        else:
            self._fill(k - 1)
            self._now[rows] = p

    def _fill(self, k: int) -> None:
        """Whatever is wanted up to depth k is now known."""
        assert self._now is not None
        if self._sums is None:
            self._sums = torch.zeros(len(self.depths), *self._now.shape, dtype=self._now.dtype, device=self._now.device)
        while self._filled < len(self.depths) and self.depths[self._filled] <= k:
            self._sums[self._filled] += self._now
            self._filled += 1

    def end_start(self) -> None:
        """The solve from this start is over."""
        if self._now is not None and self.depths:
            self._fill(self.depths[-1])
        self._now, self._filled, self.starts = None, 0, self.starts + 1

    def probabilities(self, depth: int) -> Tensor:
        """(batch, classes, *positions): (1/B') Σ_b p_b at `depth`, over the starts that have ended.

        Whoever asks which class is most likely may take it for logits. Raises ValueError before the first start has
        ended and for a depth that was not asked for.
        """
        if self._sums is None or not self.starts or depth not in self.depths:
            raise ValueError(f"There is no mean at depth {depth}: of {self.starts} starts there are {self.depths}.")
        return self._sums[self.depths.index(depth)] / self.starts


def evaluations(nfe: NDArray[Any], residual_chooses: bool = False) -> NDArray[np.float64]:
    """Mean evaluations per sample of B' starts to each depth: nfe (B, T+1, n), as trajectories have it -> (B, T+1).

    nfe[k] counts what iterate k's residual needs, one more than iterate k itself; `residual_chooses` says whether that
    was needed, as it was for a sample that its own tolerance had stopped before k.
    """
    return np.cumsum(total_evaluations(nfe, residual_chooses) / np.shape(nfe)[2], axis=0)


def total_evaluations(nfe: NDArray[Any], residual_chooses: bool = False) -> NDArray[np.int64]:
    """Evaluations of each single start to each depth, (B, T+1), summed over the samples; otherwise as `evaluations`."""
    spent = np.asarray(nfe, dtype=np.int64)
    if not residual_chooses:
        going = np.ones(spent.shape, dtype=bool)
        going[:, 1:] = spent[:, 1:] > spent[:, :-1]
        spent = spent - going
    found: NDArray[np.int64] = spent.sum(axis=2)
    return found


def equal_compute(breadths: Sequence[int], depths: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
    """The lines of equal compute of a grid: B·k -> its (B, k) by rising breadth, for products that occur twice."""
    lines: dict[int, list[tuple[int, int]]] = {}
    for breadth in sorted(breadths):
        for depth in depths:
            lines.setdefault(breadth * depth, []).append((breadth, depth))
    return {cost: cells for cost, cells in sorted(lines.items()) if cost > 0 and len(cells) > 1}


@dataclass(frozen=True)
class Spread:
    """Accuracy of single starts at each iterate, (T+1,) each: over the B starts their mean, least, most, and the
    standard deviation √(Σ (a_b − ā)² / (B − 1)), 0 for one start; `any` and `all`: share of the samples that some
    start, or every start, gets right, which bound what a choice among starts can reach."""

    mean: NDArray[np.float64]
    least: NDArray[np.float64]
    most: NDArray[np.float64]
    deviation: NDArray[np.float64]
    any: NDArray[np.float64]
    all: NDArray[np.float64]


def spread(correct: NDArray[np.bool_]) -> Spread:
    """How accuracy varies over the starts: correct (B, T+1, n)."""
    right = np.asarray(correct, dtype=bool)
    accuracy = right.mean(axis=2)
    deviation = accuracy.std(axis=0, ddof=1) if len(right) > 1 else np.zeros(right.shape[1])
    return Spread(
        accuracy.mean(axis=0),
        accuracy.min(axis=0),
        accuracy.max(axis=0),
        deviation,
        right.any(axis=0).mean(axis=1),
        right.all(axis=0).mean(axis=1),
    )
