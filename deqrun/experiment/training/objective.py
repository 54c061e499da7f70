"""The objective of one training step: the loss at the end of a run, and at places on the way to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from deqrun.datasets import Dataset
from deqrun.experiment.training.budgets import draw_budgets
from deqrun.experiment.training.draws import Draws, Part, whole_number
from deqrun.experiment.training.stablemax import log_scores
from deqrun.experiment.training.starts import Starts
from deqrun.gradients import Gradient, OneStep, Phantom, Unrolled, jacobian_penalty, residual_penalty, spectral_penalty
from deqrun.models import DEQ
from deqrun.models.cell import BoundCell
from deqrun.settings import TrainSettings
from deqrun.solvers import Budget, Perturbed, Solution, Solver
from deqrun.solvers.device import at_hand


class Batch(NamedTuple):
    """Samples of one step.

    x       (batch, *input_shape) as the model sees them, on the device
    y       (batch, *output_shape) targets, on the device
    places  (batch,) in the training split, on the host
    begin   (batch, *state_shape) states that the solves begin at; None: `train.start` says where
    share   weight of the samples' mean objective: their share of the samples that the batch began with
    """

    x: Tensor
    y: Tensor
    places: Tensor
    begin: Tensor | None = None
    share: float = 1.0

    def rows(self, chosen: slice | Tensor) -> Batch:
        """These rows (a slice, or long on the host) of the batch, with the same weight each."""
        x, y, begin = (None if one is None else one[chosen] for one in (self.x, self.y, self.begin))
        assert x is not None
        assert y is not None
        return Batch(x, y, self.places[chosen], begin, self.share)


class Forward(NamedTuple):
    """One step of training before its backward pass.

    objective   (1 − α) (L(full run) + Σ corrections) + α L(progressive run) + Σ weight · penalty
    loss        L of the full run, detached; of the progressive one where α = 1 and there is no other. So are
    correct     (batch,) bool, and
    solution    the solver's report; its residual belongs to the state of this loss
    losses      (batch,) of which loss is the mean, detached
    halt        (batch,) the halting head's logits there, detached; None where the settings have no use for them
    penalty     ‖∂f/∂z‖² there, or None at a step that doesn't carry it
    z           (batch, *state_shape) that state; after the backward pass its `grad` is ∂objective/∂z
    """

    objective: Tensor
    loss: Tensor
    correct: Tensor
    solution: Solution
    penalty: Tensor | None
    z: Tensor
    losses: Tensor
    halt: Tensor | None = None

    def rows(self, chosen: slice | Tensor) -> Forward:
        """The figures of some rows (a slice, or long on the device), without the graph; means stay those of all."""
        z = self.z.detach()[chosen]
        z.grad = None if self.z.grad is None else self.z.grad[chosen]
        return self._replace(
            objective=self.objective.detach(),
            correct=self.correct[chosen],
            solution=self.solution.rows(chosen),
            penalty=None if self.penalty is None else self.penalty.detach(),
            z=z,
            losses=self.losses[chosen],
            halt=None if self.halt is None else self.halt[chosen],
        )

    def with_rows(self, parts: Sequence[Forward]) -> Forward:
        """The same means, with the rows of several batches in their order."""
        z, gradients = torch.cat([one.z for one in parts]), [one.z.grad for one in parts if one.z.grad is not None]
        z.grad = torch.cat(gradients) if len(gradients) == len(parts) else None
        # A halting head answers in every part, or in none.
        logits = [one.halt for one in parts if one.halt is not None]
        return self._replace(
            correct=torch.cat([one.correct for one in parts]),
            solution=Solution.joined([one.solution for one in parts]),
            z=z,
            losses=torch.cat([one.losses for one in parts]),
            halt=torch.cat(logits) if logits else None,
        )


def forward(
    deq: DEQ,
    dataset: Dataset,
    batch: Batch,
    settings: TrainSettings,
    step: int,
    draws: Draws,
    starts: Starts,
    part: Part | None = None,
) -> Forward:
    """Solve the batch as `settings` has it at this step (counted from 1), and put the objective together.

    Each sample's end is noted in `starts`. Nothing of `deq` is changed: the draws hold for this step alone.
    part: the rows of a larger batch that this one is; its draws are the larger one's.
    """
    # Bind x once, and take the starts that the settings ask for.
    f = deq.bind(batch.x)
    z0 = batch.begin
    if z0 is None:
        z0 = starts.begin(deq.start(f), batch.places, draws.starts, part)
    part = part or Part(0, len(z0), len(z0))
    gradient, budget = _gradient_and_budget(deq, settings, step, part, draws)
    runs = _Runs(deq, dataset, batch.y, f, z0, gradient, budget, settings, draws, part)
    # One or two runs: the full one, and a progressive one where it has a weight.
    alpha = settings.progressive_weight
    full = runs.full() if alpha < 1 else None
    progressive = runs.progressive() if alpha > 0 else None
    shown = full or progressive
    assert shown is not None
    objective = shown.total
    if full is not None and progressive is not None:
        objective = (1 - alpha) * full.total + alpha * progressive.total
    # The end of the run that is shown may be a later step's start.
    starts.end(batch.places, shown.solution.z, part)
    # Penalties are at the state that is shown; those on the Jacobian are costly, and at a share of the steps.
    penalty, spectral = None, settings.spectral_weight > 0
    if (settings.jacobian_weight > 0 or spectral) and _due(settings.jacobian_frequency, draws.penalties):
        draw = partial(torch.randn, (part.size, *shown.z.shape[1:]), dtype=shown.z.dtype, device=shown.z.device)
        if settings.jacobian_weight > 0:
            penalty = jacobian_penalty(f, shown.z, probe=part.rows(draw(generator=draws.probes)))
            objective = objective + settings.jacobian_weight * penalty
        if spectral:
            start = part.rows(draw(generator=draws.spectral))
            excess = spectral_penalty(f, shown.z, start, settings.spectral_target, settings.spectral_steps)
            objective = objective + settings.spectral_weight * excess
    if settings.fixed_point_weight > 0:
        objective = objective + settings.fixed_point_weight * residual_penalty(f, shown.z)
    # The halting head learns to tell right answers, as they are before this step.
    correct = dataset.correct(shown.logits, batch.y)
    halt = deq.cell.halt_logit(shown.z).float() if _asks_the_head(settings) else None
    if halt is not None and settings.halt_weight > 0:
        told = binary_cross_entropy_with_logits(halt, correct.to(halt.dtype))
        objective = objective + settings.halt_weight * told
    # A part of the samples that are left weighs as much as it would among all.
    if batch.share != 1:
        objective = objective * batch.share
    # Its gradient tells how evenly the samples pull (`gradient_share`).
    if shown.z.requires_grad:
        shown.z.retain_grad()
    losses, halt = shown.losses.detach(), None if halt is None else halt.detach()
    return Forward(objective, shown.loss.detach(), correct, shown.solution, penalty, shown.z, losses, halt)


def _asks_the_head(settings: TrainSettings) -> bool:
    return settings.halt_weight > 0 or settings.halt_exploration is not None


def _due(frequency: float, source: torch.Generator) -> bool:
    return frequency >= 1 or float(torch.rand((), generator=source)) < frequency


def _gradient_and_budget(
    deq: DEQ, settings: TrainSettings, step: int, part: Part, draws: Draws
) -> tuple[Gradient, Budget]:
    """Those of this step: at first plain iterations of a given depth, then the model's, the budget drawn if asked."""
    if step <= settings.unrolled_warmup_steps:
        return Unrolled(), deq.budget.with_(max_iter=settings.unrolled_depth)
    if settings.random_budget is None:
        # The model's budget is of all segments together.
        return deq.gradient, deq.budget.with_(max_iter=deq.budget.max_iter // settings.segments)
    (low, high), law, mean = settings.random_budget, settings.random_budget_law, settings.random_budget_mean
    draw = partial(draw_budgets, low, high, law, mean, settings.random_budget_spread, draws.budgets)
    if settings.random_budget_per == "step":
        return deq.gradient, deq.budget.with_(max_iter=int(draw()))
    # A budget for each row: the whole batch runs to the largest, and each row stops at its own.
    whole = draw(part.size)
    return deq.gradient, deq.budget.with_(max_iter=int(whole.max()), row_max_iter=part.rows(whole))


class _Run(NamedTuple):
    """A run's end z with its gradient, the answer there, its losses, their mean, and the mean with corrections."""

    z: Tensor
    solution: Solution
    logits: Tensor
    losses: Tensor
    loss: Tensor
    total: Tensor


@dataclass(frozen=True)
class _Runs:
    """The runs of one step, all from z0."""

    deq: DEQ
    dataset: Dataset
    y: Tensor
    f: BoundCell
    z0: Tensor
    gradient: Gradient
    budget: Budget
    settings: TrainSettings
    draws: Draws
    part: Part

    @property
    def length(self) -> int:
        """Iterations that the full run may take."""
        fixed = self.gradient.steps if isinstance(self.gradient, Unrolled) else None
        return self.budget.max_iter if fixed is None else fixed

    def full(self) -> _Run:
        """The run that is trained in the first place, with the losses on its way."""
        watch = _Watch(correction_weights(self.length, self.settings.corrections, self.settings.correction_decay))
        run = self._run(self.gradient, self.budget, watch)
        total = run.loss
        # Losses on the way, each at an iterate that the solve has come by.
        for k, weight in watch.weights.items():
            total = total + weight * self._correction(watch.state(k, run.solution, self._recorded), run.solution)
        return run._replace(total=total)

    @property
    def _recorded(self) -> int:
        """Steps that the gradient adds to the solve's in the solution."""
        return self.gradient.steps if isinstance(self.gradient, Phantom) and self.gradient.advance else 0

    def progressive(self) -> _Run:
        """n iterations without gradient, then k with it; n and k are drawn (Bansal et al. 2022, Algorithm 1)."""
        longest = max(1, self.length)
        free = whole_number(0, longest - 1, self.draws.depths)
        recorded = whole_number(1, longest - free, self.draws.depths)
        # Unrolled, since the gradient is through the last iterations and not at a fixed point.
        like = self.gradient if isinstance(self.gradient, Unrolled) else Unrolled()
        gradient = replace(like, steps=free + recorded, last=recorded)
        return self._run(gradient, replace(self.budget, row_max_iter=None), None)

    def _run(self, gradient: Gradient, budget: Budget, watch: _Watch | None) -> _Run:
        z, solution = self.deq.settle(
            self.f,
            self.z0,
            gradient,
            solver=self._solver(),
            budget=budget,
            observe=watch if watch and watch.weights else None,
        )
        # One loss for each sample, kept apart until here: the meter takes them, and the mean is trained.
        logits = self.deq.cell.readout(z)
        losses = self._losses(logits)
        loss = losses.mean()
        return _Run(z, solution, logits, losses, loss, loss)

    def _solver(self) -> Solver:
        damping, noise = self.settings.path_damping, self.settings.path_noise
        if damping == 1 and noise == 0:
            return self.deq.solver
        seed, part = whole_number(0, 2**62, self.draws.paths), self.part
        is_whole = part.end - part.first == part.size
        return Perturbed(self.deq.solver, damping, noise, seed, None if is_whole else (part.first, part.size))

    def _correction(self, z: Tensor, solution: Solution) -> Tensor:
        """The loss at a state on the way, with the gradient of a few steps from there."""
        # An implicit gradient needs a fixed point, which a state on the way is not.
        inexact = self.gradient if isinstance(self.gradient, OneStep | Phantom) else OneStep()
        z = inexact.attach(self.f, z.to(self.z0.dtype), solution)
        return self._losses(self.deq.cell.readout(z)).mean()

    def _losses(self, logits: Tensor) -> Tensor:
        """(batch,) the data set's losses of the logits, or of their scores."""
        return self.dataset.loss(log_scores(logits) if self.settings.loss == "stablemax" else logits, self.y)


def correction_weights(length: int, count: int, decay: float) -> dict[int, float]:
    """Iterate -> weight of its loss: `count` iterates that cut a run of `length` steps into equal parts.

    The i-th of n is iterate round(i · length / (n + 1)) and weighs decay^(n + 1 − i), so that the end of the run, which
    is none of them, would weigh 1. The start is left out; of several that round to one iterate the last counts.
    """
    places = {round(i * length / (count + 1)): decay ** (count + 1 - i) for i in range(1, count + 1)}
    return {k: weight for k, weight in places.items() if 0 < k < length}


class _Watch:
    """Keeps the states at which corrections are made, as the solve comes by them."""

    def __init__(self, weights: dict[int, float]) -> None:
        self.weights = weights
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, k: int, z: Tensor, rows: Tensor) -> None:
        if k in self.weights:
            self._seen[k] = (z, rows)

    def state(self, k: int, solution: Solution, added: int = 0) -> Tensor:
        """Iterate k (batch, *state_shape); in rows that had stopped before, their solution.

        added  steps of the solution that are not the solve's
        """
        if k not in self._seen:
            return solution.z
        z, rows = self._seen[k]
        z = z if len(z) == len(solution.z) else solution.z.index_copy(0, rows, z)
        if at_hand(z):
            return z
        # An accelerator shows rows again that have stopped since the last look.
        going = solution.steps - added >= k
        return torch.where(going.view(-1, *[1] * (z.dim() - 1)), z, solution.z)
