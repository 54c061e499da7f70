"""Norms of rows at any scale, and the power of two by which a row is brought to the scale 1."""

from __future__ import annotations

import torch
from torch import Tensor

from deqrun.solvers.device import at_hand, has_float64

__all__ = ["max_norms", "ordinary", "power_of_two", "row_norms"]


def row_norms(v: Tensor) -> Tensor:
    """‖v_b‖₂ of every row of (rows, …), (rows,) in v's dtype: the same at every scale, to rounding.

    Squares underflow below the root of the smallest number and overflow above the largest's root: float32 takes
    1e-23 for 0 and 1e20 for inf. Rows whose norm comes out where that may have happened are measured again, brought to
    the scale 1; no other row is touched, so that no row's norm depends on its neighbours. On an accelerator, where
    looking would make the host wait, squares are summed in float64; where it has none, every row is brought to 1.
    """
    flat = v.flatten(1)
    if not at_hand(flat):
        if has_float64(flat.device):
            return torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64).to(v.dtype)
        size = power_of_two(max_norms(flat))
        return torch.linalg.vector_norm(flat / size[:, None], dim=1) * size
    norm = torch.linalg.vector_norm(flat, dim=1)
    if not flat.numel():
        return norm
    low = torch.finfo(v.dtype).tiny ** 0.4  # 6e-16 in float32: of such rows squares that are lost do not count
    rows = (~((norm >= low) & (norm <= 1 / low))).nonzero()[:, 0]
    if not len(rows):
        return norm
    part = flat[rows]
    scale = power_of_two(part.abs().amax(1))
    norm[rows] = torch.linalg.vector_norm(part / scale[:, None], dim=1) * scale
    return norm


def power_of_two(size: Tensor) -> Tensor:
    """2^⌊log₂ size⌋, by which a division is exact; 1 where size is 0 or not finite."""
    usable = (size > 0) & size.isfinite()
    exponent = torch.frexp(torch.where(usable, size, 1.0)).exponent - 1
    return torch.ldexp(torch.ones_like(size), exponent)


def max_norms(v: Tensor) -> Tensor:
    """‖v_b‖_∞ of every row of (rows, …), (rows,); 0 where a row has no entries."""
    flat = v.flatten(1)
    return torch.linalg.vector_norm(flat, ord=torch.inf, dim=1) if flat.shape[1] else flat.sum(1)


def ordinary(dtype: torch.dtype) -> float:
    """The fourth root of the smallest normal number, 3e-10 in float32: squares of residuals are then far above it."""
    return float(torch.finfo(dtype).tiny ** 0.25)
