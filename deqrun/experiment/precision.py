"""The precisions in which a model is trained, and asked."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from deqrun.models import DEQ

__all__ = ["autocast", "dtypes_of", "in_precision", "narrow", "widen"]


def in_precision(deq: DEQ, precision: str) -> DEQ:
    """The model itself, or for float64 a copy in double precision."""
    return copy.deepcopy(deq).double() if precision == "float64" else deq


def dtypes_of(model: nn.Module) -> dict[str, torch.dtype]:
    """The dtype of each parameter and buffer."""
    return {name: tensor.dtype for name, tensor in _tensors(model)}


def widen(model: nn.Module, precision: str) -> None:
    """Bring the model, as it is, to the precision of its training: double precision for float64."""
    if precision == "float64":
        model.double()


def narrow(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Undo `widen`: bring parameters and buffers back to the dtypes that they had."""
    for name, tensor in _tensors(model):
        tensor.data = tensor.data.to(dtypes[name])


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """For bfloat16 and float16: within, cell and read-out compute in 16 bits where PyTorch's autocast deems it safe.

    Weights and the solver's state stay float32, so that iterates are not rounded to 8 or 11 bits between steps.
    """
    return torch.autocast(device.type, AUTOCAST[precision]) if precision in AUTOCAST else nullcontext()
