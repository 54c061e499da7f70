"""Rounding: the residuals that a dtype can tell from it, and products that autocast must not round."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

_told: set[tuple[float, torch.dtype]] = set()


class PrecisionWarning(UserWarning):
    """A tolerance lies below the reliable precision of f's dtype."""


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Within: products on a type of device are rounded to their own dtype alone.

    Autocast is off, and float32 products are no TF32: both are for the cell.
    """
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # meta tensors have none
    with matmul_precision("highest"), torch.autocast(device, enabled=False) if on else nullcontext():
        yield


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Within: float32 matrix products as `torch.set_float32_matmul_precision` has it; 'high' allows TF32 on CUDA."""
    before = torch.get_float32_matmul_precision()
    if before == name:
        yield
        return
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def warn_if_unreachable(tol: float, dtype: torch.dtype) -> None:
    """Say once per process and pair if 0 < tol < eps(dtype)/2: rounding of f(z) alone makes a residual of that size.

    A row may still stop there by luck, where f(z) rounds to z exactly; tol = 0 asks for no stop, and is not warned of.
    """
    eps = torch.finfo(dtype).eps
    if not 0 < tol < eps / 2 or (tol, dtype) in _told:
        return
    _told.add((tol, dtype))
    warnings.warn(
        f"A residual of {tol:g} is below the rounding of {str(dtype).removeprefix('torch.')} ({eps:.1e}): most rows "
        f"will spend their whole budget; take a tolerance of {2 * eps:.0e} or more, or a wider dtype.",
        PrecisionWarning,
        stacklevel=4,
    )
