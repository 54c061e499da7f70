"""A cell that answers at every position of a sequence, of any length: small, and with weights of no one's size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqrun.models import Cell


class PositionCell(Cell):
    """f(z; x) = tanh(V * z + U * x), * a convolution over three positions; the answers are linear in z."""

    def __init__(
        self, *, input_shape: Sequence[int], num_classes: int, output_shape: Sequence[int] = (), width: int = 6
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, output_shape=output_shape)
        self.state_shape = (width, self.input_shape[1])
        self.inner = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.outer = nn.Conv1d(self.input_shape[0], width, 3, padding=1)
        self.answers = nn.Conv1d(width, num_classes, 1)

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.outer(x),)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        return torch.tanh(self.inner(z) + injection[0])

    def readout(self, z: Tensor) -> Tensor:
        logits: Tensor = self.answers(z)
        return logits


class SizedCell(PositionCell):
    """One that has a weight for every position, and so fits one length alone."""

    def __init__(
        self, *, input_shape: Sequence[int], num_classes: int, output_shape: Sequence[int] = (), width: int = 6
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, output_shape=output_shape, width=width)
        self.place = nn.Parameter(torch.zeros(self.state_shape))
