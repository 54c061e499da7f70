"""Regularisers at an equilibrium: the Jacobian's Frobenius norm and spectral norm, and the residual."""

from __future__ import annotations

import torch
from torch import Tensor

from deqrun.gradients.gradient import Map, recording, rooted
from deqrun.gradients.twice import twice_differentiable
from deqrun.solvers.linearization import Linearization

__all__ = ["jacobian_norms", "jacobian_penalty", "residual_penalty", "spectral_penalty"]


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


def jacobian_norms(f: Map, z: Tensor, start: Tensor, steps: int = 8) -> Tensor:
    """(batch,) estimates of ‖J_i‖₂, the largest singular value of each row's J_i = ∂f_i/∂z_i at z (batch, …).

        u ← J v / ‖J v‖,  v ← Jᵀu / ‖Jᵀu‖   `steps` times;    σ = uᵀ J v

    Power iteration on JᵀJ from v = start, of z's shape: a lower bound that rises to ‖J‖₂ with the number of steps, by
    the factor (σ_2/σ_1)² in its error for each. Differentiable with respect to the tensors that f closes over; z, u and
    v are held constant, which is exact at the singular vectors (∂σ = uᵀ ∂J v). One evaluation and 2 · steps + 1
    products. steps >= 1. (Yoshida & Miyato 2017, arXiv 1705.10941; Miyato et al. 2018, arXiv 1802.05957, for weights.)
    """
    with recording(), twice_differentiable():
        z_in = rooted(z)
        value = f(z_in)
        at, v = Linearization(z_in, value), _unit(start)
        u = torch.zeros_like(v)
        for _ in range(steps):
            u = _unit(at.jvp(v).detach())
            v = _unit(at.vjp(u).detach())
        (product,) = torch.autograd.grad(value, z_in, u, create_graph=True, materialize_grads=True)
        return (product * v).flatten(1).sum(1)


def spectral_penalty(f: Map, z: Tensor, start: Tensor, target: float, steps: int = 8) -> Tensor:
    """Mean over the rows of max(0, σ_i − target)², σ_i of `jacobian_norms`; a scalar.

    0 where every ‖J_i‖₂ is at most the target: a target below 1 asks for a contraction at z and for no more.
    """
    return (jacobian_norms(f, z, start, steps) - target).clamp(min=0).square().mean()


def residual_penalty(f: Map, z: Tensor) -> Tensor:
    """Mean over the rows of ‖f(z_i) − z_i‖² / ‖z_i‖² at z (batch, …), held constant; a scalar.

    The square of a relative residual. Differentiable with respect to the tensors that f closes over: the gradient moves
    the map's value at z, where a solve ended, towards z. One evaluation.
    """
    with recording():
        z = z.detach()
        rows = (f(z) - z).flatten(1).square().sum(1)
        return (rows / z.flatten(1).square().sum(1).clamp(min=torch.finfo(z.dtype).tiny)).mean()


def _unit(v: Tensor) -> Tensor:
    """Each row over its norm; a row of 0 stays 0."""
    norms = torch.linalg.vector_norm(v.flatten(1), dim=1).clamp(min=torch.finfo(v.dtype).tiny)
    return v / norms.view(-1, *[1] * (v.dim() - 1))
