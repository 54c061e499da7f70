"""Evaluations whose backward pass can be differentiated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["eager", "is_eager", "is_twice_differentiable", "twice_differentiable"]


_within = _eager = 0
"""How many `twice_differentiable` and `eager` are entered; plain numbers, since compiled cells read them."""


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within: f is evaluated so that its backward pass can be differentiated, for a penalty on products Jᵀu.

    Attention is computed by its formula: the fused kernels have no second derivative. `nn.MultiheadAttention` and
    `nn.TransformerEncoderLayer` leave out their fast path, too. Layers may record nodes whose backward pass is cheaper
    to differentiate, and gives gradients by states alone while it is recorded itself (`models.second_derivatives`).
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    global _within
    _within += 1
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        _within -= 1
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def eager() -> Iterator[None]:
    """Within: f is evaluated operator by operator, since many products will be taken of one evaluation."""
    global _eager
    _eager += 1
    try:
        yield
    finally:
        _eager -= 1


def is_eager() -> bool:
    """Whether f is evaluated within `eager` or `twice_differentiable`."""
    return _eager > 0 or _within > 0


def is_twice_differentiable() -> bool:
    """Whether f is evaluated within `twice_differentiable`."""
    return _within > 0
