"""Attention of PyTorch's own layers can be penalised: the fused kernels have no second derivative, the formula has."""

from __future__ import annotations

import torch
from torch import nn

from deqrun.gradients import jacobian_penalty
from deqrun.gradients.twice import twice_differentiable


def test_the_gradient_of_the_penalty_is_its_difference_quotient() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).double()
    z = torch.randn(2, 5, 8, dtype=torch.float64)
    weight = layer.self_attn.out_proj.weight

    def penalty() -> torch.Tensor:
        return jacobian_penalty(layer, z, torch.Generator().manual_seed(1))

    penalty().backward()
    assert weight.grad is not None
    step = 1e-5
    with torch.no_grad():
        weight[0, 0] += step
        above = float(penalty())
        weight[0, 0] -= 2 * step
        below = float(penalty())
    assert abs((above - below) / (2 * step) - float(weight.grad[0, 0])) < 1e-8


def test_the_fast_path_is_as_it_was_afterwards() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    with twice_differentiable():
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled() is before
