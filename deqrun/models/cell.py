"""The cell f(z; x) that a deep equilibrium model iterates, and the cell bound to one batch of inputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_shape
from deqrun.gradients.twice import is_eager

__all__ = ["BoundCell", "Cell", "as_injection"]


class Cell(nn.Module, ABC):
    """A map f(z; x) whose fixed point z* = f(z*; x) is the model's hidden state.

    A cell is three maps, so that each is computed as often as it must be and no oftener:

        injection = inject(x)             once per solve
        f(z; x) = forward(z, injection)   at every evaluation
        logits = readout(z*)              once per answer

    Arguments
        input_shape   shape of one sample's input, without the batch
        num_classes   number of logits of each answer
        output_shape  positions that are answered; () is one answer per sample. A constructor without this
                      parameter builds cells that answer once per sample

    Attributes
        state_shape   shape of one sample's state z, without the batch; each subclass sets it
        compiled      `forward` compiled, while it is to be used; else None

    f must treat every row of the batch alone: row i of f(z; x) depends on row i of z and of the injection
    only. That rules out batch norm in `forward`; `inject` and `readout` may have it, as in published models.
    """

    input_shape: tuple[int, ...]
    num_classes: int
    output_shape: tuple[int, ...]
    state_shape: tuple[int, ...]
    compiled: Callable[[Tensor, tuple[Tensor, ...]], Tensor] | None = None

    def __init__(self, *, input_shape: Sequence[int], num_classes: int, output_shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.input_shape = require_shape("input_shape", input_shape)
        self.num_classes = require_at_least("num_classes", num_classes, 1)
        self.output_shape = require_shape("output_shape", output_shape) if output_shape else ()

    @property
    def state_size(self) -> int:
        """Numbers in one sample's state."""
        return math.prod(self.state_shape)

    @property
    def weights_dtype(self) -> torch.dtype:
        """The widest dtype of the parameters, float32 at least: of states, and of inputs to double precision."""
        return reduce(torch.promote_types, {parameter.dtype for parameter in self.parameters()}, torch.float32)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the parts that the state consists of: itself, unless a cell concatenates several."""
        return (self.state_shape,)

    @abstractmethod
    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """All that stays fixed within one solve: features of x and, in training, dropout masks.

        x is (batch, *input_shape). Every tensor of the tuple has the batch as its first dimension, so that
        rows can be taken from it. A tensor alone is taken for a tuple of one, and `forward` gets that tuple.
        """

    def initial_state(self, injection: tuple[Tensor, ...]) -> Tensor:
        """z_0 (batch, *state_shape), where solves begin: 0, unless a cell overrides it.

        injection is the value of `inject`. A cell that hears of x in the start alone returns features of it.
        """
        (batch, *_), device = injection[0].shape, injection[0].device
        return torch.zeros(batch, *self.state_shape, device=device)

    def bind(self, x: Tensor) -> BoundCell:
        """f(·; x) for one batch x (batch, *input_shape), its injection computed here; a map for a solver."""
        return BoundCell(self, as_injection(self.inject(x)))

    @abstractmethod
    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, *state_shape) -> (batch, *state_shape)."""

    @abstractmethod
    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of the state z (batch, *state_shape)."""

    @property
    def has_halting_head(self) -> bool:
        """Whether `halt_logit` has an answer: False, unless a cell has a head that tells when to stop."""
        return False

    def halt_logit(self, z: Tensor) -> Tensor:
        """(batch,) the logit of the probability that the whole answer of the state z (batch, *state_shape) is right.

        Raises ValueError where the cell has no halting head.
        """
        raise ValueError(f"{type(self).__name__} has no halting head.")

    def narrower(self) -> Iterable[dict[str, Any]]:
        """Constructor arguments that make this cell narrower, and its own: each dictionary replaces some of them.

        Of these an untied net takes the layers with which it has as many parameters as the DEQ (see `UntiedCell`).
        Depth, norms, injection and read-out are to stay as they are but for their widths. The base class knows of
        none.
        """
        return ()

    def fixed_weights(self) -> AbstractContextManager[None]:
        """Within the context, weights that are functions of parameters (weight norm) are computed once.

        Enter it with gradients enabled if any evaluation inside is to reach the parameters.
        The base class has no such weights, and does nothing.
        """
        return nullcontext()


def as_injection(given: tuple[Tensor, ...] | Tensor) -> tuple[Tensor, ...]:
    """The tuple of tensors that `inject` returned; a tensor alone is a tuple of one, a list a tuple."""
    return (given,) if isinstance(given, Tensor) else tuple(given)


class BoundCell:
    """f = cell(·; x) for one batch x: a map for a solver.

    Arguments
        cell        the cell
        injection   the value of `cell.inject(x)`; every tensor (batch, …)
    """

    def __init__(self, cell: Cell, injection: tuple[Tensor, ...]) -> None:
        self.cell = cell
        self.injection = injection

    def __call__(self, z: Tensor) -> Tensor:
        """f(z; x), (batch, *state_shape), in z's dtype."""
        evaluate = self.cell if self.cell.compiled is None or is_eager() else self.cell.compiled
        value: Tensor = evaluate(z, self.injection)
        # Under autocast a cell computes in 16 bits; the solver's state stays in 32 or more.
        return value.to(z.dtype)

    def take(self, rows: Tensor) -> Self:
        """The same map for the samples `rows` (long, indices into this batch) alone, in that order."""
        return type(self)(self.cell, tuple(torch.index_select(part, 0, rows) for part in self.injection))
