"""The only iteration loop: evaluate, measure, keep, judge, drop finished rows, and ask the solver for a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from deqrun.solvers.batch import Batch
from deqrun.solvers.judge import Judge
from deqrun.solvers.kept import Kept
from deqrun.solvers.layers import Layers, depth_of
from deqrun.solvers.picard import Picard
from deqrun.solvers.precision import full_precision, warn_if_unreachable
from deqrun.solvers.solution import Budget, Solution
from deqrun.solvers.solver import Solver
from deqrun.solvers.trace import Trace

Observer = Callable[[int, Tensor, Tensor], None]


@torch.no_grad()
def solve(
    f: Callable[[Tensor], Tensor],
    z0: Tensor,
    *,
    solver: Solver[Any, Any] | None = None,
    budget: Budget | None = None,
    observe: Observer | None = None,
) -> Solution:
    """Find z = f(z), each row of the batch by itself.

    f        (batch, …) -> (batch, …), or `Layers`. If it has `take(rows)`, returning f for those rows only, finished
             rows are dropped from the batch; otherwise they ride along unused.
    z0       (batch, …) start, any float dtype; the solver's state is float32 or wider.
    solver   default Picard().
    budget   default Budget().
    observe  called as observe(k, z_k, rows) at each iterate with the rows that have not stopped before k; on an
             accelerator also with rows that have stopped since the host last looked, as they stopped.

    Iterate k is the state after k solver steps, its residual ‖f(z_k) − z_k‖₂ / (‖f(z_k)‖₂ + ε) with ε the dtype's
    smallest normal number, so that the residual is free of scale. So is the solve: of y ↦ f(s y) / s it has the same
    steps, status and residuals, as far as the dtype reaches. No gradient is recorded.
    Raises TypeError or ValueError on senseless arguments and where f changes shape, or writes into its input.
    """
    # Refuse senseless arguments before f is called.
    _check_start(z0)
    solver, budget = solver or Picard(), budget or Budget()
    _check_rows(budget, len(z0))
    _check_layers(f, solver)

    # Iterate 0 is evaluated as the batch is made: its scale decides how the whole solve is scaled.
    batch = Batch(solver.adapt(f, z0), z0, solver, observed=observe is not None)
    judge, kept, trace = Judge(batch, budget), Kept(batch, budget.keep == "best"), Trace(depth=depth_of(f))
    for k in range(budget.max_iter + 1):
        # Evaluate and measure iterate k, record it, show it.
        batch.evaluate(k)
        judge.measure(batch)
        trace.add(batch.rows, _of_active(batch, judge), batch.state)
        if k == 0:
            warn_if_unreachable(budget.tol, batch.f.output_dtype)
        if observe is not None:
            _show(k, batch, judge.active, observe)

        # Decide which rows keep it, and which stop at it.
        kept.keep(k, batch, judge.residual, judge.active)
        judge.judge(k, batch)
        if k == budget.max_iter or not batch.rows_left(k, judge.active):
            break

        # With memory a step costs more than the copy that drops rows, so they go before it; without, after it.
        if batch.state is not None:
            _drop_finished(batch, judge, kept)
        with full_precision(z0.device.type):
            batch.step(k, judge.residual, judge.active)
        if batch.state is None:
            _drop_finished(batch, judge, kept)
    return trace.solution(*kept.result(batch), judge.diverged, budget)


def _of_active(batch: Batch, judge: Judge) -> Tensor:
    """The residual (n,), NaN in rows that had stopped before."""
    return judge.residual if batch.whole else judge.residual.masked_fill(~judge.active, torch.nan)


def _show(k: int, batch: Batch, active: Tensor, observe: Observer) -> None:
    if not batch.at_hand:
        # To find the rows that have stopped is to wait: they are shown again as they were when they stopped.
        batch.shown = batch.z if batch.shown is None else torch.where(active[:, None], batch.z, batch.shown)
        observe(k, batch.f.given(batch.shown), batch.rows)
    elif batch.whole:
        observe(k, batch.f.given(batch.z), batch.rows)
    else:
        index = active.nonzero()[:, 0]
        observe(k, batch.f.given(batch.z[index], index), batch.rows[index])


def _drop_finished(batch: Batch, judge: Judge, kept: Kept) -> None:
    """Drop finished rows from the batch where that pays."""
    parted = batch.leaving(judge.active)
    if parted is None:
        return
    # Kept iterates of the rows that leave are written out before anybody's rows are renumbered.
    leaving, staying = parted
    kept.leave(batch, leaving, staying)
    judge.take(staying)
    batch.take(staying)


def _check_rows(budget: Budget, batch: int) -> None:
    for name in ("max_iter", "tol"):
        value = getattr(budget, f"row_{name}")
        if value is not None and len(value) != batch:
            raise ValueError(f"Budget {name} has {len(value)} rows, but the batch has {batch}.")


def _check_layers(f: object, solver: Solver) -> None:
    # Through layers there is one way: one after the other.
    if isinstance(f, Layers) and not solver.takes_layers:
        raise TypeError(
            f"{solver} looks for a fixed point, but this {type(f).__name__} is {f.depth} layers that follow one "
            "another; only Picard(damping=1.0) goes through them."
        )


def _check_start(z0: Tensor) -> None:
    if not isinstance(z0, Tensor):
        raise TypeError(f"z0 must be a torch tensor (batch, …), got {type(z0).__name__}.")
    if not z0.is_floating_point():
        raise TypeError(f"z0 must have a floating-point dtype, got {z0.dtype}.")
    if z0.dim() < 1:
        raise ValueError("z0 must have a batch dimension, (batch, …), got a tensor without dimensions.")
