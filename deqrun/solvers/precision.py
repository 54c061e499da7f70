"""Rounding: the residuals that a dtype can tell from it, and products that autocast must not round."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch

_told: set[tuple[float, torch.dtype]] = set()


class PrecisionWarning(UserWarning):
    """A tolerance lies below the reliable precision of f's dtype."""


def full_precision(device: str) -> AbstractContextManager[object]:
    """Within: autocast is off on a type of device. Autocast is for the cell; other products stay in their own dtype."""
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # meta tensors have none
    return torch.autocast(device, enabled=False) if on else nullcontext()


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
