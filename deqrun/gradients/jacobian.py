"""Hutchinson's estimate of the Jacobian's Frobenius norm, as a regulariser."""

from __future__ import annotations

import torch
from torch import Tensor

from deqrun.gradients.gradient import Map, recording, rooted
from deqrun.gradients.twice import twice_differentiable


def jacobian_penalty(
    f: Map, z: Tensor, generator: torch.Generator | None = None, *, probe: Tensor | None = None
) -> Tensor:
    """‖εᵀJ‖² / numel(z) with ε ~ N(0, I): an unbiased estimate of ‖J‖_F² / numel(z), J = ∂f/∂z at z.

    Differentiable with respect to the tensors that f closes over; z is held constant. (Bai, Koltun & Kolter 2021,
    arXiv 2106.14342, eq. 5; Hutchinson 1989.) Attention in f takes its plain form here, which has a second derivative.
    probe: ε, of z's shape, in place of a draw. Returns a scalar.
    """
    with recording(), twice_differentiable():
        z_in = rooted(z)
        value = f(z_in)
        if probe is None:
            probe = torch.randn(value.shape, generator=generator, dtype=value.dtype, device=value.device)
        (product,) = torch.autograd.grad(value, z_in, probe, create_graph=True, materialize_grads=True)
        return product.square().sum() / max(1, z.numel())
