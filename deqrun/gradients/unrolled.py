"""Back-propagation through plain iterations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deqrun.arguments import require_count, require_damping
from deqrun.gradients.account import Account
from deqrun.gradients.gradient import Gradient, Map, forget_casts, relax, state_dtype
from deqrun.solvers import Budget, Perturbed, Solution, Solver
from deqrun.solvers.layers import depth_of, value_at
from deqrun.solvers.loop import Observer


@dataclass(frozen=True)
class Unrolled(Gradient):
    """z_K of z_{k+1} = z_k + damping · (f(z_k) − z_k) from the start, differentiated through its steps.

    The solver and the tolerance play no part, every row takes all K steps: a weight-tied K-layer network is trained,
    and the gradient is exactly the returned value's, the start's included. Of a `Perturbed` solver the damping
    and the noise do play a part: z_{k+1} above is then what it takes for the unperturbed step, and damps and shakes.

    steps       K >= 1; None: the budget's max_iter.
    damping     in (0, 2]; 1 is undamped.
    checkpoint  0, or the steps >= 1 per segment of gradient checkpointing (Griewank & Walther 2000; Chen et al. 2016,
                arXiv 1604.06174): only the K / checkpoint states between segments are kept, and the backward pass
                evaluates each segment again before it goes through it. √K needs the least memory.
    last        None, or the number >= 1 of last steps that are differentiated, those before being run without a graph:
                truncated back-propagation (Williams & Peng 1990). At a fixed point it gives the first `last` terms of
                the Neumann series of (I − J)⁻¹; from there the start gets no gradient.

    f may be `Layers`, each of which takes the place of f at one iterate: then the network's weights are not tied.

    Memory grows with the differentiated steps: all of them, `last`, or K / checkpoint + checkpoint.
    solution.nfe is K + 1: the K evaluations that are z, recorded or not, and one more that tells its residual; what a
    checkpointed backward pass evaluates again is not in it. solution.status compares z's residual with the budget.

    With `checkpoint` f is also called in the backward pass, and must still be the same map then: a context that f
    needs (weights fixed for one solve, parametrisations, autocast weights) has to be open around both passes.

    Raises ValueError on other parameters, and where its steps come from a budget with a max_iter per row.
    """

    steps: int | None = None
    damping: float = 1.0
    checkpoint: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None:
            require_count("Unrolled steps", self.steps, 1)
        require_damping("Unrolled damping", self.damping)
        require_count("Unrolled checkpoint", self.checkpoint, 0)
        if self.last is not None:
            require_count("Unrolled last", self.last, 1)
            if self.steps is not None and self.last > self.steps:
                raise ValueError(f"Unrolled last must be at most steps={self.steps}, got {self.last}.")

    def run(
        self, f: Map, z0: Tensor, solver: Solver | None, budget: Budget | None, observe: Observer | None = None
    ) -> tuple[Tensor, Solution]:
        budget = budget or Budget()
        if self.steps is None and budget.row_max_iter is not None:
            raise ValueError("Unrolled takes the same steps in every row, but the budget has a max_iter per row.")
        steps = budget.max_iter if self.steps is None else self.steps
        free = 0 if self.last is None else max(0, steps - self.last)
        account = Account(budget, observe, depth_of(f))
        perturbed = solver if isinstance(solver, Perturbed) else None
        iteration = _Iteration(f, self.damping, z0.dtype, account, perturbed)
        z = z0.to(state_dtype(z0))
        with torch.no_grad():
            z = iteration.advance(z, 0, free)
        forget_casts()
        z = self._record(iteration, z, free, steps)
        with torch.no_grad():
            account.note(steps, z, value_at(f, z.to(z0.dtype), steps))
        return z.to(z0.dtype), account.solution(z)

    def _record(self, iteration: _Iteration, z: Tensor, begin: int, end: int) -> Tensor:
        """Steps begin … end with a graph, in segments if checkpointed."""
        if not (self.checkpoint and torch.is_grad_enabled()):
            return iteration.advance(z, begin, end)
        for k in range(begin, end, self.checkpoint):
            z = checkpoint(iteration.advance, z, k, min(k + self.checkpoint, end), use_reentrant=False)
        return z

    def attach(self, f: Map, z: Tensor, solution: Solution) -> Tensor:
        raise NotImplementedError("Unrolled records its own iterations.")


@dataclass(frozen=True)
class _Iteration:
    """The steps of one unrolled solve."""

    f: Map
    damping: float
    dtype: torch.dtype
    account: Account
    perturbed: Perturbed | None

    def advance(self, z: Tensor, begin: int, end: int) -> Tensor:
        """Iterate `end` from iterate `begin`."""
        for k in range(begin, end):
            fz = value_at(self.f, z.to(self.dtype), k)
            self.account.note(k, z, fz)
            taken = relax(z, fz, self.damping)
            z = taken if self.perturbed is None else self.perturbed.move(k, z, taken)
        return z
