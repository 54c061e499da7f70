"""Disturb the state midway: does each sample find back to where it was going, and in how many steps?

A sample is solved to its end z* undisturbed. Then it is taken to iterate k, disturbed there, and solved on, the solver
starting with an empty memory. It has returned if its state is, from some step on and for good, within a relative
distance of z*:

    ‖z_j − z*‖₂ / (‖z*‖₂ + ε) ≤ within   for all j ≥ s;   s is the number of steps it took

and its answer has returned if the read-out equals z*'s from some step on. The same without a disturbance is the
control: the steps beyond the control's are the cost of the disturbance.

Source: networks with recall were found to recover from features replaced midway, where those without were not, by
Bansal, Schwarzschild et al. 2022 (arXiv 2202.05826), and after resets and noise in path-independent networks by Anil et
al. 2022 (arXiv 2211.09961).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.analysis.path_independence import derangement
from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.norms import row_norms

__all__ = ["DISTURBANCES", "Recovery", "Return", "disturb", "recovery"]

DISTURBANCES = ("none", "reset", "noise", "swap")

Readout = Callable[[Tensor], Tensor]


def disturb(
    z: Tensor, kind: str, *, start: Tensor, size: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """The states z (batch, …) disturbed, each row by itself.

    kind 'none'   z
    kind 'reset'  start
    kind 'noise'  z + size · ‖z‖ · u with u uniform on the unit sphere, so that ‖noise‖ / ‖z‖ is exactly `size`: none
                  at a state that is 0
    kind 'swap'   the state of another sample of the batch; z where there is none
    start         (batch, …) where the solve began

    Raises ValueError for another kind, or a size < 0.
    """
    if kind not in DISTURBANCES:
        raise ValueError(f"There is no disturbance {kind!r}; there are {', '.join(DISTURBANCES)}.")
    if not size >= 0:
        raise ValueError(f"size must be a number >= 0, relative to the state's norm, got {size}.")
    if kind == "none":
        return z
    if kind == "reset":
        return start.to(z)
    if kind == "swap":
        return z[derangement(len(z), generator).to(z.device)]
    direction = torch.randn(z.shape, generator=generator, dtype=torch.float64).to(z.device, z.dtype)
    return z + size * _per_row(row_norms(z) / row_norms(direction), z) * direction


@dataclass(frozen=True, eq=False)
class Return:
    """How one run came back, per sample, on the CPU. J is the number of steps that were allowed.

    distance      (J+1, batch) ‖z_j − z*‖ / (‖z*‖ + ε) after j steps, held after the solve stopped; inf if not finite
    steps         (batch,) long: steps after which it stayed within reach; J + 1 where it had not returned in the end
    answer_steps  (batch,) long: steps after which the answer stayed z*'s; J + 1 where it was another in the end;
                  None where no read-out was given
    """

    distance: Tensor
    steps: Tensor
    answer_steps: Tensor | None

    @property
    def returned(self) -> Tensor:
        """(batch,) bool: back at its former end."""
        return self.steps < len(self.distance)

    @property
    def answer_returned(self) -> Tensor | None:
        """(batch,) bool: back at its former answer."""
        return None if self.answer_steps is None else self.answer_steps < len(self.distance)


@dataclass(frozen=True, eq=False)
class Recovery:
    """The run that was disturbed, and its control.

    disturbed  after the disturbance at iterate k
    control    on from iterate k with nothing changed but the solver's memory, which is empty in both
    residual   (batch,) of z* itself: a sample whose z* is no fixed point cannot stay near it, and one whose solve
               diverged has nothing to come back to, and never does
    shift      (batch,) ‖disturbed z_k − z_k‖ / (‖z_k‖ + ε): how far the disturbance went
    """

    disturbed: Return
    control: Return
    residual: Tensor
    shift: Tensor


@torch.no_grad()
def recovery(
    f: Callable[[Tensor], Tensor],
    start: Tensor,
    at: int,
    kind: str,
    *,
    size: float = 1.0,
    within: float = 1e-2,
    solver: Solver | None = None,
    budget: Budget | None = None,
    readout: Readout | None = None,
    asked: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Recovery:
    """Disturb every sample of the batch at iterate `at`, and watch whether it comes back.

    f           a map (batch, …) -> (batch, …) as for `deqrun.solvers.solve`, as are solver and budget, which hold for
                each of the four solves
    start       (batch, …) where solves begin
    at          iterate of the disturbance; a sample that the budget's tolerance stops earlier is disturbed there
    kind, size  as for `disturb`
    within      relative distance that counts as back. A residual r leaves a distance of about r / (1 − ρ): choose it
                well above the budget's tolerance
    readout     z (batch, …) -> logits (batch, classes, …): its answer is argmax over the classes, at asked positions
    asked       (batch, …) bool, as `Dataset.asked` says; None: every position is
    generator   of the noise and of who swaps with whom, on the CPU; None: one of its own, seeded with 0

    Raises ValueError for another kind, a size < 0, or at < 0.
    """
    if at < 0:
        raise ValueError(f"at must be an iterate, 0 or later, got {at}.")
    budget = budget or Budget()
    draw = torch.Generator().manual_seed(0) if generator is None else generator
    reference = solve(f, start, solver=solver, budget=budget.with_(keep="last"))
    midway = solve(f, start, solver=solver, budget=budget.with_(keep="last", max_iter=at, row_max_iter=None)).z
    moved = disturb(midway, kind, start=start, size=size, generator=draw)
    runs = [_watched(f, z, reference, solver, budget, within, readout, asked) for z in (moved, midway)]
    return Recovery(runs[0], runs[1], reference.residual.cpu(), _distance(moved, midway).cpu())


def _watched(
    f: Callable[[Tensor], Tensor],
    begin: Tensor,
    reference: Solution,
    solver: Solver | None,
    budget: Budget,
    within: float,
    readout: Readout | None,
    asked: Tensor | None,
) -> Return:
    target = reference.z.masked_fill(_per_row(reference.diverged, reference.z), torch.nan)
    watch = _Watch(target, budget.max_iter + 1, readout, asked)
    solve(f, begin, solver=solver, budget=budget, observe=watch)
    distance, same = watch.filled()
    answer_steps = None if readout is None else _for_good(same).cpu()
    return Return(distance.cpu(), _for_good(distance <= within).cpu(), answer_steps)


class _Watch:
    """Compares every iterate with `target`, and its answer with the target's; a stopped row keeps its values."""

    def __init__(self, target: Tensor, iterates: int, readout: Readout | None, asked: Tensor | None) -> None:
        self.target, self.readout, self.asked, self.reached = target, readout, asked, 0
        self.distance = target.new_full((iterates, len(target)), torch.inf)
        self.same = torch.zeros(iterates, len(target), dtype=torch.bool, device=target.device)
        self.answer = None if readout is None else self._answer(target, torch.arange(len(target), device=target.device))
        self.sound = target.flatten(1).isfinite().all(1)

    def __call__(self, j: int, z: Tensor, rows: Tensor) -> None:
        self.reached = j
        if j:
            self.distance[j], self.same[j] = self.distance[j - 1], self.same[j - 1]
        self.distance[j, rows] = _distance(z, self.target[rows])
        if self.answer is not None:
            self.same[j, rows] = (self._answer(z, rows) == self.answer[rows]).all(1) & self.sound[rows]

    def _answer(self, z: Tensor, rows: Tensor) -> Tensor:
        """(r, positions) of these rows, 0 where nothing is asked; one position where there is one answer per sample."""
        assert self.readout is not None
        answer = self.readout(z).argmax(1)
        if self.asked is not None:
            answer = answer.masked_fill(~self.asked[rows], 0)
        return answer.reshape(len(answer), -1)

    def filled(self) -> tuple[Tensor, Tensor]:
        """Distances and sameness (J+1, batch), held where every row had stopped."""
        self.distance[self.reached + 1 :] = self.distance[self.reached]
        self.same[self.reached + 1 :] = self.same[self.reached]
        return self.distance, self.same


def _for_good(holds: Tensor) -> Tensor:
    """(batch,) first j from which (J+1, batch) holds to the end; J + 1 where it does not in the end."""
    misses_after = (~holds).flip(0).cumsum(0).flip(0)  # at j: how often it fails from j on
    return (misses_after > 0).sum(0)


def _distance(z: Tensor, target: Tensor) -> Tensor:
    """‖z − target‖ / (‖target‖ + ε) per row; inf if not finite."""
    away = row_norms(z - target) / (row_norms(target) + torch.finfo(target.dtype).tiny)
    return away.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))
