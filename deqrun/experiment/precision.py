"""The precisions in which a model is trained, and asked."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch

from deqrun.models import DEQ

__all__ = ["autocast", "in_precision"]


def in_precision(deq: DEQ, precision: str) -> DEQ:
    """The model itself, or for float64 a copy in double precision."""
    return copy.deepcopy(deq).double() if precision == "float64" else deq


AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """For bfloat16 and float16: within, cell and read-out compute in 16 bits where PyTorch's autocast deems it safe.

    Weights and the solver's state stay float32, so that iterates are not rounded to 8 or 11 bits between steps.
    """
    return torch.autocast(device.type, AUTOCAST[precision]) if precision in AUTOCAST else nullcontext()
