"""Layers with weight normalisation, whose weight can be computed once for a whole solve.

An equilibrium evaluates the same layer dozens of times per solve with the same parameters. PyTorch's
own parametrisation recomputes the weight at each call, or caches what the first call computed: a cache
filled by the solver's no-grad evaluations would silently cut the gradient of the one that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.models.second_derivatives import convolve

__all__ = ["WeightNorm", "WeightNormConv2d", "WeightNormLinear", "weight_norm_fixed"]


class WeightNorm(nn.Module):
    """A layer whose output o has the weight gain_o · v_o / ‖v_o‖₂; at first v is `initial` and gain_o = ‖v_o‖₂.

    Source: Salimans & Kingma 2016, Weight Normalization (arXiv 1602.07868), equation 2.

    Arguments
        initial   (outputs, …), the weight to start from
    """

    def __init__(self, initial: Tensor) -> None:
        super().__init__()
        self.direction = nn.Parameter(initial.detach().clone())
        self.gain = nn.Parameter(self._norms().detach().clone())
        self.fixed_weight: Tensor | None = None

    def _norms(self) -> Tensor:
        return torch.linalg.vector_norm(self.direction, dim=tuple(range(1, self.direction.dim())), keepdim=True)

    def weight(self) -> Tensor:
        """The weight, in the shape of `initial`, of the present parameters."""
        return self.direction * (self.gain / self._norms())

    def present_weight(self) -> Tensor:
        """The fixed weight, or else the weight computed from the present parameters."""
        return self.weight() if self.fixed_weight is None else self.fixed_weight


class WeightNormConv2d(WeightNorm):
    """Size-preserving, weight-normalised 2-d convolution without bias, at first PyTorch's default one.

    Arguments
        in_channels, out_channels   channels of input and output
        kernel_size                 odd
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, kernel_size, bias=False).weight)
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, H, W) -> (batch, out_channels, H, W)."""
        return convolve(x, self.present_weight(), padding=self.padding)


class WeightNormLinear(WeightNorm):
    """Weight-normalised linear layer, at first PyTorch's default one with a bias of 0, or none.

    Arguments
        in_features, out_features   last dimension of input and output
        bias                        whether there is one
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(nn.Linear(in_features, out_features, bias=False).weight)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features)."""
        return F.linear(x, self.present_weight(), self.bias)


@contextmanager
def weight_norm_fixed(module: nn.Module) -> Iterator[None]:
    """Within the context, every `WeightNorm` of `module` uses the weight of its parameters at entry.

    The weight is computed in the grad mode at entry: if gradients are enabled there, its history reaches the
    parameters, whatever evaluations inside run without. Contexts nest: each restores the state before it.
    """
    layers = [part for part in module.modules() if isinstance(part, WeightNorm)]
    before = [layer.fixed_weight for layer in layers]
    try:
        for layer in layers:
            layer.fixed_weight = layer.weight()
        yield
    finally:
        for layer, weight in zip(layers, before, strict=True):
            layer.fixed_weight = weight
