"""Products with the Jacobian of a map whose rows are independent, counted."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from deqrun.solvers.linearization import Linearization

__all__ = ["Jacobian", "Map", "require_batch"]

Map = Callable[[Tensor], Tensor]


class Jacobian:
    """J = ∂f/∂z at the states z: one D×D matrix per row, never formed, only multiplied with.

    f    (batch, …) -> (batch, …); row i of f(z) depends on row i of z alone.
    z    (batch, …) floating-point states; D numbers per row.

    Both products run on the graph of one recorded evaluation of f (`Linearization`). (On one CPU core that takes 1.3 to
    5 times less than forward mode, which evaluates f again each time: `scripts/jacobian_probes.py`.)

    Products of a row whose z or f(z) is not finite are NaN, also where the derivative there happens to be zero, as that
    of a saturated or cut-off activation does.

    Attributes
        batch, size  rows, and D
        dtype        of the products: z's, or float32 if that is wider
        device       z's
        nfe          evaluations of f: 1
        vjps, jvps   products Jᵀu and Jv so far, each with all rows at once

    Raises TypeError where z or f(z) is no floating-point tensor, ValueError where z has no batch or nothing in its
    rows, or f changes the shape, RuntimeError under `torch.inference_mode`, which records nothing.
    """

    def __init__(self, f: Map, z: Tensor) -> None:
        _check_state(z)
        self.batch, self.device = len(z), z.device
        self.dtype = torch.promote_types(z.dtype, torch.float32)
        with torch.enable_grad():
            root = z.detach().clone().requires_grad_()
            # The fused attention kernels have no second derivative, which Jv needs.
            with sdpa_kernel(SDPBackend.MATH):
                value = _checked(f(root), z)
        self._at = Linearization(root, value)
        self._finite_B1 = (_finite(z) & _finite(value))[:, None]
        self.size = math.prod(z.shape[1:])
        self.nfe, self.vjps, self.jvps = 1, 0, 0

    def vjp(self, u_BD: Tensor) -> Tensor:
        """Jᵀu of each row: (batch, D) -> (batch, D)."""
        self.vjps += 1
        return self._flat(self._at.vjp(self._shaped(u_BD)))

    def jvp(self, v_BD: Tensor) -> Tensor:
        """Jv of each row: (batch, D) -> (batch, D)."""
        self.jvps += 1
        return self._flat(self._at.jvp(self._shaped(v_BD)))

    def _shaped(self, vector_BD: Tensor) -> Tensor:
        return vector_BD.reshape(self._at.value.shape).to(self._at.value.dtype)

    def _flat(self, product: Tensor) -> Tensor:
        product_BD = product.detach().reshape(self.batch, self.size).to(self.dtype)
        return product_BD.masked_fill(~self._finite_B1, torch.nan)


def _finite(x: Tensor) -> Tensor:
    """(batch,) bool: every number of the row is finite."""
    return x.detach().flatten(1).isfinite().all(dim=1)


def require_batch(z: object) -> Tensor:
    """`z` if it is a floating-point tensor with a batch; raises TypeError or ValueError otherwise."""
    if not isinstance(z, Tensor) or not z.is_floating_point():
        got = z.dtype if isinstance(z, Tensor) else type(z).__name__
        raise TypeError(f"z must be a floating-point tensor (batch, …), got {got}.")
    if z.dim() < 1:
        raise ValueError("z must have a batch dimension, (batch, …), got a tensor without dimensions.")
    return z


def _check_state(z: Tensor) -> None:
    require_batch(z)
    if math.prod(z.shape[1:]) == 0:
        raise ValueError(f"z must have at least one number per row, got the shape {tuple(z.shape)}.")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("A Jacobian needs a recorded evaluation: call outside torch.inference_mode().")


def _checked(value: object, z: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"f must return a floating-point tensor of shape {tuple(z.shape)}, got {got}.")
    if value.shape != z.shape:
        raise ValueError(f"f must keep the shape {tuple(z.shape)}, got {tuple(value.shape)}.")
    return value
