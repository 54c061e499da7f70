"""The Solution of iterations that a gradient makes itself, beside the solvers' loop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from deqrun.solvers import Budget, Solution, Status, solve
from deqrun.solvers.judge import GROWTH_LIMIT
from deqrun.solvers.loop import Observer
from deqrun.solvers.norms import row_norms


@dataclass
class Account:
    """Residuals and status as the solvers' loop means them, of iterates that are shown one by one; keeps no state.

    budget   its norm and tolerance are used
    observe  called as by `solve`, at every iterate with all rows
    depth    number of layers of an f that is `Layers`, behind which nothing is evaluated
    """

    budget: Budget
    observe: Observer | None = None
    depth: int | None = None
    residuals: list[Tensor] = field(default_factory=list)
    limit: Tensor | None = None  # (batch,) of the size, beyond which a row has diverged
    unbounded: Tensor | None = None  # (batch,)

    def note(self, k: int, z: Tensor, fz: Tensor) -> None:
        """Measure iterate k by f(z_k). A checkpointed backward pass comes by a second time: nothing is added."""
        if k < len(self.residuals):
            return
        z, fz = z.detach(), fz.detach()
        only_measure = Budget(max_iter=0, tol=0.0, norm=self.budget.norm)
        self.residuals.append(solve(lambda _: fz, z, budget=only_measure).residual)
        if self.observe is not None:
            self.observe(k, z, torch.arange(len(z), device=z.device))
        z, fz = z.flatten(1), fz.flatten(1).to(z.dtype)
        size = row_norms(fz - z) + row_norms(fz)
        if self.limit is None:
            self.limit = (GROWTH_LIMIT * size).clamp(max=torch.finfo(size.dtype).max)
        self.unbounded = ~(size <= self.limit)

    def solution(self, z: Tensor) -> Solution:
        """The Solution whose rows all took the same steps, to iterate z."""
        assert self.unbounded is not None
        residuals = torch.stack(self.residuals)
        steps = torch.full(residuals.shape[1:], len(residuals) - 1, dtype=torch.long, device=z.device)
        nfes = torch.arange(1, len(residuals) + 1, device=z.device).clamp(max=self.depth or len(residuals))
        nfes = nfes[:, None].expand(residuals.shape)
        status = torch.full_like(steps, int(Status.EXHAUSTED), dtype=torch.uint8)
        status.masked_fill_(self.unbounded, int(Status.DIVERGED))
        tol = self.budget.tol if self.budget.row_tol is None else self.budget.row_tol.to(residuals, non_blocking=True)
        status.masked_fill_((residuals[-1] <= tol) & residuals[-1].isfinite(), int(Status.CONVERGED))
        return Solution(
            z=z.detach(),
            residual=residuals[-1].clone(),
            steps=steps,
            kept=steps.clone(),
            nfe=nfes[-1].clone(),
            jvps=torch.zeros_like(steps),
            status=status,
            residuals=residuals,
            nfes=nfes.clone(),
            products=torch.zeros_like(nfes),
        )

    def after(self, before: Solution, z: Tensor) -> Solution:
        """The Solution of `before` continued: each row goes back to its kept iterate, and from there on to z.

        Its iterate steps + j is the one that was noted as j, and of iterate 0, the kept one, f was evaluated anew.
        """
        here, more = self.solution(z), len(self.residuals) - 1
        place = before.steps + torch.arange(1, more + 1, device=z.device)[:, None]
        residuals = _longer(before.residuals, more, torch.nan).scatter_(0, place, here.residuals[1:])
        nfes = _longer(before.nfes, more, 0).scatter_(0, place, before.nfe + here.nfes[1:])
        ended = (before.status == int(Status.STALLED)) | (before.status == int(Status.DIVERGED))
        unsettled = here.status == int(Status.EXHAUSTED)
        return replace(
            before,
            z=here.z,
            residual=here.residual,
            steps=before.steps + more,
            kept=before.steps + more,
            nfe=before.nfe + here.nfe,
            status=torch.where(ended & unsettled, before.status, here.status),
            residuals=residuals,
            nfes=nfes.cummax(0).values,
            products=_longer(before.products, more, 0).cummax(0).values,
        )


def _longer(table: Tensor, more: int, value: float) -> Tensor:
    """(T+1, batch) with `more` further rows of a value."""
    return torch.cat([table, table.new_full((more, table.shape[1]), value)])
