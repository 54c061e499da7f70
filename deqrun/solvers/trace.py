"""The record of each iterate, and the Solution made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from deqrun.solvers.device import at_hand
from deqrun.solvers.solution import Budget, Solution, Status
from deqrun.solvers.solver import SolverState


@dataclass
class Trace:
    """Per iterate, of the rows then in the batch: their place, residual, and the solver's costs besides the loop's.

    depth   number of layers of an f that is `Layers`, behind which nothing is evaluated
    """

    rows: list[Tensor] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)
    nfe: list[Tensor] = field(default_factory=list)
    jvps: list[Tensor] = field(default_factory=list)
    depth: int | None = None

    def add(self, rows: Tensor, residual: Tensor, state: SolverState | None) -> None:
        """Record iterate k: residual (rows,), NaN in rows that had stopped before it."""
        self.rows.append(rows)
        self.residuals.append(residual)
        if state is not None and state.nfe is not None:
            self.nfe.append(state.nfe.clone())
        if state is not None and state.jvps is not None:
            self.jvps.append(state.jvps.clone())

    def solution(self, z: Tensor, kept: Tensor, diverged: Tensor, budget: Budget) -> Solution:
        """The Solution whose kept iterates are z; `diverged` (batch,) bool."""
        residuals = self._spread(self.residuals, torch.nan, len(kept))
        steps = (residuals == residuals).sum(0).sub_(1).clamp_(min=0)  # that is, not NaN
        if at_hand(steps):  # elsewhere the rows of NaN that no sample reached stay: to cut them off is to wait
            residuals = residuals[: int(steps.max()) + 1 if len(steps) else 1]
        iterate = torch.arange(len(residuals), device=steps.device)[:, None].minimum(steps)
        nfes = (iterate + 1).clamp(max=self.depth or len(residuals))
        if self.nfe:
            nfes = nfes + self._spread(self.nfe, 0, len(kept)).gather(0, iterate)
        products = torch.zeros_like(nfes)
        if self.jvps:
            products = self._spread(self.jvps, 0, len(kept)).gather(0, iterate)
        final = residuals.gather(0, steps[None])[0]
        return Solution(
            z=z,
            residual=residuals.gather(0, kept[None])[0],
            steps=steps,
            kept=kept,
            nfe=nfes[-1].clone(),
            jvps=products[-1].clone(),
            status=_status(final, steps, diverged, budget),
            residuals=residuals,
            nfes=nfes,
            products=products,
        )

    def _spread(self, columns: list[Tensor], missing: float, batch: int) -> Tensor:
        """(T+1, batch) from the records of the rows in the batch; `missing` where a row had left."""
        if all(len(rows) == batch for rows in self.rows):
            return torch.stack(columns)
        table = columns[0].new_full((len(columns), batch), missing)
        for k, (rows, column) in enumerate(zip(self.rows, columns, strict=True)):
            if len(rows) == batch:
                table[k] = column
            else:
                table[k, rows] = column
        return table


def _status(final: Tensor, steps: Tensor, diverged: Tensor, budget: Budget) -> Tensor:
    status = torch.full_like(steps, int(Status.EXHAUSTED), dtype=torch.uint8)
    if budget.patience is not None:
        most = budget.max_iter if budget.row_max_iter is None else budget.row_max_iter.to(steps, non_blocking=True)
        status.masked_fill_(steps < most, int(Status.STALLED))
    tol = budget.tol if budget.row_tol is None else budget.row_tol.to(final, non_blocking=True)
    converged = (final <= tol) & final.isfinite()  # at the tolerance inf, too
    return status.masked_fill_(diverged, int(Status.DIVERGED)).masked_fill_(converged, int(Status.CONVERGED))
