"""An optimizer's step in a training precision, and the cell compiled for training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from deqrun.errors import UserError
from deqrun.experiment.precision import autocast
from deqrun.models import DEQ
from deqrun.solvers.device import traits
from deqrun.solvers.precision import matmul_precision

__all__ = ["Stepping", "compilations", "compiled"]

MOST_SKIPPED = 50
"""Steps in a row that float16 may leave out: the scale has then fallen by 2^50."""


class Stepping:
    """Backward passes and steps in a precision: float32, bfloat16, float16, or float64 with a model that has it.

    The forward pass runs under autocast. Of float16 small gradients would vanish, so the objective is scaled by a power
    of two and gradients are scaled back before they are clipped; a step whose gradient overflows is left out, and
    the scale halved (Micikevicius et al. 2018, arXiv 1710.03740). A relative tolerance makes the adjoint's solve the
    same at every scale.

    skipped  steps in a row that were left out
    taken    optimizer steps of the run so far, with those that were left out
    """

    def __init__(self, precision: str, device: torch.device, *, tf32: bool = False) -> None:
        self.precision, self.device = precision, device
        self.tf32 = tf32 and not traits(device).at_hand
        self._scaler = torch.amp.GradScaler(device.type) if precision == "float16" else None
        self.skipped = self.taken = 0

    @property
    def scales(self) -> bool:
        """Whether a gradient that is not finite is left out, in place of ending the run."""
        return self._scaler is not None

    def autocast(self) -> AbstractContextManager[object]:
        """Around a forward pass."""
        return autocast(self.precision, self.device)

    def products(self) -> AbstractContextManager[object]:
        """Around training: on an accelerator that has TF32 the cell's float32 products may use it."""
        return matmul_precision("high") if self.tf32 else nullcontext()

    def backward(self, objective: Tensor) -> None:
        """Add the gradients of an objective to the parameters'."""
        (objective if self._scaler is None else self._scaler.scale(objective)).backward()

    def clip(self, optimizer: Optimizer, parameters: Sequence[Tensor], most: float | None) -> Tensor:
        """Scale gradients back, clip their norm to `most`, and return the norm that they had."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, most or math.inf)

    def step(self, optimizer: Optimizer, norm: Tensor) -> None:
        """Move the weights, unless the gradient overflowed. Raises UserError where that goes on and on."""
        self.taken += 1
        if self._scaler is None:
            optimizer.step()
            return
        # The scaler leaves the step out where the gradient overflowed, which now and then is normal.
        self._scaler.step(optimizer)
        self._scaler.update()
        self.skipped = 0 if bool(norm.isfinite()) else self.skipped + 1
        if self.skipped > MOST_SKIPPED:
            raise UserError(
                f"The gradient overflowed float16 in {self.skipped} steps in a row; take train.precision=bfloat16, or "
                "float32."
            )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        scaling = {} if self._scaler is None else {"scaler": self._scaler.state_dict(), "skipped": self.skipped}
        return {"taken": self.taken, **scaling}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.taken = state["taken"]
        if self._scaler is not None and "scaler" in state:
            self._scaler.load_state_dict(state["scaler"])
            self.skipped = state["skipped"]


@contextmanager
def compiled(deq: DEQ, wanted: bool) -> Iterator[None]:
    """Within: evaluations of the cell run compiled, for any number of rows.

    Left as they are: the evaluation that an implicit gradient takes its products from, since a compiled backward pass
    computes gradients by all weights each time, and evaluations within a penalty, which has second derivatives.
    Afterwards `deq.compilations` says how many graphs were made.
    """
    if not wanted:
        yield
        return
    from torch._functorch import config

    before, config.donated_buffer = config.donated_buffer, False  # else a graph serves one backward pass
    # One graph for any number of rows: finished rows leave the batch.
    count = compilations()
    deq.cell.compiled = torch.compile(deq.cell.forward, dynamic=True)
    try:
        yield
    finally:
        deq.cell.compiled, config.donated_buffer = None, before
        deq.compilations = compilations() - count


def compilations() -> int:
    """Graphs that this process has compiled so far."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
