"""Evaluations whose backward pass can be differentiated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["is_twice_differentiable", "twice_differentiable"]


_WITHIN: ContextVar[bool] = ContextVar("twice_differentiable", default=False)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within: f is evaluated so that its backward pass can be differentiated, for a penalty on products Jᵀu.

    Attention is computed by its formula: the fused kernels have no second derivative. `nn.MultiheadAttention` and
    `nn.TransformerEncoderLayer` leave out their fast path, too. Layers may record nodes whose backward pass is cheaper
    to differentiate, and gives gradients by states alone while it is recorded itself (`models.second_derivatives`).
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    token = _WITHIN.set(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        _WITHIN.reset(token)
        torch.backends.mha.set_fastpath_enabled(fast)


def is_twice_differentiable() -> bool:
    """Whether f is evaluated within `twice_differentiable`."""
    return _WITHIN.get()
