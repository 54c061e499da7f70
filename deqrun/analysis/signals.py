"""The signals of halting rules: how much the state, the answer and its certainty have moved since the last iterate.

Iterate k of a sample is its state z_k, read out as p_k, a distribution over the classes at every answered position.
The signals of iterate k compare it with iterate k − 1, so that they cost no evaluation beyond those behind z_k:

    change   ‖z_k − z_{k−1}‖₂ / (‖z_k‖₂ + ε), ε the dtype's smallest normal number
    kl       KL(p_k ‖ p_{k−1}) = Σ_c p_k(c) ln(p_k(c) / p_{k−1}(c)), in nats; the mean over the asked positions
    entropy  |H(p_k) − H(p_{k−1})|, H(p) = −Σ_c p(c) ln p(c), in nats; the mean over the asked positions, so that a
             position that gains certainty does not hide one that loses it
    stable   for how many iterates the answer has stood: the largest j with answer(k) = … = answer(k − j), the answer
             being the most likely class of every asked position

Three further signals, recorded where a rule asks for them:

    confidence    max_c p_k(c), the mean over the asked positions
    margin        the largest p_k(c) less the second, the mean over the asked positions; 1 of a single class
    acceleration  ‖z_k − 2 z_{k−1} + z_{k−2}‖₂ / (‖z_{k−1}‖₂ + ε): by how much the step has changed

and three measures that no rule uses, recorded with `sweep.measures`:

    positions     share of the asked positions whose answer is right
    cosine        of the angle between the steps z_k − z_{k−1} and z_{k−1} − z_{k−2}: 1 ahead, −1 back and forth
    step          ‖z_k − z_{k−1}‖₂

One more is of iterate k alone, and only of models with a halting head:

    head     sigmoid(l_k), l_k the head's logit: the model's own probability that its whole answer is right

Stopping where consecutive read-outs differ by little in KL is the rule of Geiping et al. 2025 (arXiv 2502.05171) for
models of recurrent depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.solvers.device import to_host
from deqrun.solvers.norms import row_norms

__all__ = [
    "CORE",
    "Reading",
    "SignalRecorder",
    "acceleration",
    "answers_agree",
    "certainty",
    "entropy_change",
    "kl_divergence",
    "over_asked",
    "state_change",
    "step_cosine",
]

CORE = ("change", "kl", "entropy", "stable")
"""The signals that compare an iterate with the one before it: recorded together, as they share their terms."""


@dataclass(frozen=True, eq=False)
class Reading:
    """The read-out of one iterate, with the terms of two comparisons computed once.

    log_p    (n, classes, *positions) log-probabilities, float32 or wider
    entropy  (n, *positions) in nats
    answer   (n, *positions) the most likely class
    asked    (n, *positions) bool, or None where every position is
    """

    log_p: Tensor
    entropy: Tensor
    answer: Tensor
    asked: Tensor | None

    @classmethod
    def of(cls, logits: Tensor, asked: Tensor | None = None) -> Reading:
        """From logits (n, classes, *positions)."""
        log_p = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
        entropy = -(log_p.exp() * log_p).nan_to_num(nan=0.0).sum(1)  # 0 ln 0 = 0
        return cls(log_p, entropy, logits.argmax(1), asked)

    def take(self, rows: Tensor) -> Reading:
        """These rows (long) alone."""
        asked = None if self.asked is None else self.asked[rows]
        return Reading(self.log_p[rows], self.entropy[rows], self.answer[rows], asked)


def state_change(z: Tensor, before: Tensor) -> Tensor:
    """‖z − before‖₂ / (‖z‖₂ + ε) of each row of (n, …): (n,)."""
    return _known(row_norms(z - before) / (row_norms(z) + torch.finfo(z.dtype).tiny))


def kl_divergence(now: Reading, before: Reading) -> Tensor:
    """KL(p ‖ q) in nats, the mean over the asked positions, of p = now and q = before: (n,), never negative.

    Summed as Σ p (e^d − 1 − d) with d = ln q − ln p, which is the same since p and q both sum to 1: every term is
    positive, and the sum stays exact where p and q agree to the last few digits, where Σ p ln(p/q) cancels.
    """
    p, d = now.log_p.exp(), before.log_p - now.log_p
    near = p * (torch.expm1(d) - d)
    # e^d overflows where p is tiny, p e^d = q does not; where p is 0, p ln p is.
    far = before.log_p.exp() - p - torch.where(p > 0, p * d, 0.0)
    terms = torch.where(d.abs() < 1, near, far)
    return _known(over_asked(terms.sum(1).clamp(min=0), now.asked))


def entropy_change(now: Reading, before: Reading) -> Tensor:
    """|H(p) − H(q)| in nats, the mean over the asked positions: (n,)."""
    broken = now.log_p.isnan().any(1) | before.log_p.isnan().any(1)
    change = (now.entropy - before.entropy).abs().masked_fill(broken, torch.inf)
    return _known(over_asked(change, now.asked))


def answers_agree(now: Reading, before: Reading) -> Tensor:
    """Whether the answer is the same at every asked position: (n,) bool. An answer that is no number never agrees."""
    same = (now.answer == before.answer) & ~now.log_p.isnan().any(1)
    return (same if now.asked is None else same | ~now.asked).flatten(1).all(1) if same.dim() > 1 else same


def certainty(logits: Tensor, asked: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(confidence, margin), (n,) each, of logits (n, classes, *positions); NaN where an asked read-out is NaN.

    asked  (n, *positions) bool; None: every position is
    """
    p = torch.softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
    if p.shape[1] == 1:
        first, second = p[:, 0], torch.zeros_like(p[:, 0])
    else:
        first, second = p.topk(2, dim=1).values.unbind(1)
        first = torch.where(p.isnan().any(1), torch.nan, first)
    return over_asked(first, asked), over_asked(first - second, asked)


def acceleration(z: Tensor, before: Tensor, first: Tensor) -> Tensor:
    """‖z − 2 before + first‖₂ / (‖before‖₂ + ε) of each row of (n, …), three iterates in a row: (n,)."""
    bend = row_norms((z - before) - (before - first))
    return _known(bend / (row_norms(before) + torch.finfo(z.dtype).tiny))


def step_cosine(z: Tensor, before: Tensor, first: Tensor) -> Tensor:
    """⟨z − before, before − first⟩ / (‖z − before‖ ‖before − first‖) of each row: (n,); NaN where a step is 0."""
    steps = [(z - before).flatten(1), (before - first).flatten(1)]
    # Each is brought to length 1 first, so that no product underflows.
    units = [step / row_norms(step)[:, None] for step in steps]
    return (units[0] * units[1]).sum(1)


def over_asked(values: Tensor, asked: Tensor | None) -> Tensor:
    """(n,) mean over the asked positions of (n, *positions); 0 where nothing is asked."""
    if values.dim() == 1:
        return values
    if asked is None:
        return values.flatten(1).mean(1)
    return values.masked_fill(~asked, 0.0).flatten(1).sum(1) / asked.flatten(1).sum(1).clamp(min=1)


def _known(values: Tensor) -> Tensor:
    """NaN becomes infinite: no rule stops there."""
    return values.nan_to_num(nan=torch.inf, posinf=torch.inf)


class _Iterate(NamedTuple):
    """The iterate before, for comparison: rows (r,), their states, read-outs, and how long the answer stood.

    first  the states of the iterate before that one; None: there is none, or nobody asks for it
    """

    rows: Tensor
    z: Tensor
    reading: Reading
    stable: Tensor
    first: Tensor | None = None

    def take(self, rows: Tensor, batch: int) -> _Iterate:
        """Those of the rows that went on."""
        if len(rows) == len(self.rows):
            return self
        place = torch.empty(batch, dtype=torch.long, device=rows.device)
        place[self.rows] = torch.arange(len(self.rows), device=rows.device)
        index = place[rows]
        first = None if self.first is None else self.first[index]
        return _Iterate(rows, self.z[index], self.reading.take(index), self.stable[index], first)


class SignalRecorder:
    """The signals of every iterate of one batch, taken in as the solve comes by them.

    Call it from the `observe` of a solve. At k = 0, which has no iterate before it, change, kl and entropy are inf
    and stable is 0; acceleration is inf at k = 0 and 1. step and cosine are NaN where there is no such step. After a
    row has stopped all are NaN, but stable is 0, and positions keeps its last value, as the answer does. head is known
    at k = 0, too.

    Arguments
        iterates  T + 1, the most that there will be
        batch     samples of the batch
        asked     (batch, *positions) bool: which positions are answered; None for all, or for one answer per sample
        further   names beside `CORE`
        targets   (batch, *positions) long, which positions needs

    Raises ValueError where an iterate is skipped or repeated.
    """

    def __init__(
        self,
        iterates: int,
        batch: int,
        asked: Tensor | None = None,
        *,
        further: Sequence[str] = (),
        targets: Tensor | None = None,
    ) -> None:
        self.iterates, self.batch, self.asked, self.targets = iterates, batch, asked, targets
        self.names = (*CORE, *(name for name in further if name not in CORE))
        # One state more is held where two steps are compared.
        self._two_steps = bool({"acceleration", "cosine"} & set(self.names))
        self._before: _Iterate | None = None
        self._columns: list[tuple[Tensor, tuple[Tensor, ...]]] = []  # rows, and their values by name

    def __call__(self, k: int, z: Tensor, logits: Tensor, rows: Tensor, halt: Tensor | None = None) -> None:
        """Take in iterate k; each is to follow the one before it.

        z       (r, …) states, logits (r, classes, *positions) their read-outs
        rows    (r,) long: their places in the batch, each among those of iterate k − 1
        halt    (r,) logits of the halting head, where there is one
        """
        if k != len(self._columns):
            raise ValueError(f"Iterates must come in order: {len(self._columns)} was next, got {k}.")
        reading = Reading.of(logits, None if self.asked is None else self.asked[rows])
        before = None if self._before is None else self._before.take(rows, self.batch)
        if before is None:
            unknown = torch.full((len(rows),), torch.inf, device=z.device)
            column = (unknown, unknown, unknown, torch.zeros(len(rows), dtype=torch.int32, device=z.device))
        else:
            column = (
                state_change(z, before.z),
                kl_divergence(reading, before.reading),
                entropy_change(reading, before.reading),
                torch.where(answers_agree(reading, before.reading), before.stable + 1, 0),
            )
        further = self._further(z, logits, rows, reading, before, halt)
        values = (*column, *(further[name]() for name in self.names[len(CORE) :]))
        first = before.z if before is not None and self._two_steps else None
        self._before = _Iterate(rows, z, reading, column[3], first)
        self._columns.append((rows, values))

    def _further(
        self, z: Tensor, logits: Tensor, rows: Tensor, reading: Reading, before: _Iterate | None, halt: Tensor | None
    ) -> dict[str, Callable[[], Tensor]]:
        """How each further value of this iterate is computed."""
        first = None if before is None else before.first

        def everywhere(value: float) -> Tensor:
            return torch.full((len(rows),), value, device=z.device)

        def positions() -> Tensor:
            assert self.targets is not None, "positions needs targets"
            right = (reading.answer == self.targets[rows]) & ~reading.log_p.isnan().any(1)
            return over_asked(right.to(torch.float32), reading.asked)

        def head() -> Tensor:
            assert halt is not None, "head needs a halting head"
            return halt.sigmoid()

        return {
            "head": head,
            "confidence": lambda: certainty(logits, reading.asked)[0],
            "margin": lambda: certainty(logits, reading.asked)[1],
            "acceleration": lambda: (
                everywhere(torch.inf) if before is None or first is None else acceleration(z, before.z, first)
            ),
            "positions": positions,
            "cosine": lambda: (
                everywhere(torch.nan) if before is None or first is None else step_cosine(z, before.z, first)
            ),
            "step": lambda: everywhere(torch.nan) if before is None else row_norms(z - before.z),
        }

    def tensors(self) -> list[Tensor]:
        """All that was taken in, for a copy to the host together with other records: see `arrays`."""
        return [part for rows, column in self._columns for part in (rows, *column)]

    def arrays(
        self, steps: Tensor | None = None, copied: Sequence[Tensor] | None = None
    ) -> dict[str, NDArray[np.float32] | NDArray[np.int32]]:
        """By name, (iterates, batch) each: stable int32, the others float32.

        steps   (batch,) at which rows stopped; needed where an accelerator showed them again afterwards
        copied  `tensors()` on the host; None: they are copied here
        """
        tables: dict[str, NDArray[np.float32] | NDArray[np.int32]] = {
            name: np.full((self.iterates, self.batch), np.nan, dtype=np.float32) for name in self.names
        }
        tables["stable"] = np.zeros((self.iterates, self.batch), dtype=np.int32)
        parts = [part.numpy() for part in (to_host(self.tensors()) if copied is None else copied)]
        width = 1 + len(self.names)
        for k in range(len(self._columns)):
            places, *column = parts[width * k : width * (k + 1)]
            for name, values in zip(self.names, column, strict=True):
                tables[name][k, places] = values
        if steps is not None:
            stopped = np.arange(self.iterates)[:, None] > steps.cpu().numpy()
            for name, table in tables.items():
                table[stopped] = 0 if name == "stable" else np.nan
        if "positions" in tables:
            # Held behind the end, as whether the whole answer is right.
            table, steps_T = tables["positions"], np.arange(self.iterates)[:, None]
            last = np.where(np.isnan(table), 0, steps_T).max(axis=0)
            table[:] = np.take_along_axis(table, np.minimum(steps_T, last), axis=0)
        return tables
