"""A fully connected deep equilibrium model: the smallest cell, and one with a closed form for checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_choice
from deqrun.models.cell import Cell

__all__ = ["ACTIVATIONS", "MLPCell"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "identity": nn.Identity}


class MLPCell(Cell):
    """f(z; x) = h_depth with h_1 = σ(W₁ z + U x + b) and h_l = σ(W_l h_{l-1} + b_l) for l = 2 … depth.

    x is flattened; U x + b is computed once per solve. With depth 1 this is f = σ(W z + U x + b), the
    implicit model of El Ghaoui et al. 2021 (arXiv 1908.06315); with activation `identity` besides, its
    equilibrium is (I - W)⁻¹(U x + b). The logits are linear in z*. The state is a vector: (width,).

    Every W starts uniform in ±1/√width (PyTorch's default): by the circular law its spectral radius is near
    1/√3 ≈ 0.58, so that plain iteration of a 1-Lipschitz σ usually converges before training.

    Arguments
        input_shape   shape of one sample; any number of dimensions
        num_classes   number of logits
        width         size of the state and of every hidden layer
        depth         number of layers in one evaluation of f
        activation    σ: tanh, relu, gelu or identity

    Raises ValueError for parameters outside these ranges.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        width: int = 128,
        depth: int = 1,
        activation: str = "tanh",
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes)
        width = require_at_least("width", width, 1)
        depth = require_at_least("depth", depth, 1)
        self.activation = ACTIVATIONS[require_choice("activation", activation, ACTIVATIONS)]()
        self.state_shape = (width,)
        self.encoder = nn.Linear(math.prod(self.input_shape), width)
        # The encoder's bias is the first layer's b: one more there would be the same parameter twice.
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=i > 0) for i in range(depth))
        self.classifier = nn.Linear(width, num_classes)

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """(U x + b,) of shape (batch, width) from inputs x (batch, *input_shape)."""
        return (self.encoder(x.flatten(1)),)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, width) -> (batch, width)."""
        (features,) = injection
        first, *others = self.layers
        h: Tensor = self.activation(first(z) + features)
        for layer in others:
            h = self.activation(layer(h))
        return h

    def narrower(self) -> Iterable[dict[str, Any]]:
        """Every width up to its own."""
        return ({"width": width} for width in range(1, self.state_size + 1))

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes) of the state (batch, width)."""
        logits: Tensor = self.classifier(z)
        return logits
