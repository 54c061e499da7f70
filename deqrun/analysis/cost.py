"""The cost of an answer, and the memory of a training step: evaluations, multiply-adds, seconds, and bytes, kept apart.

None is ever passed off as another: an accelerated solver saves evaluations and pays in arithmetic of its own, which
multiply-adds of the cell do not show and seconds do.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.models import CellDescription

__all__ = ["Cost", "SavedBytes", "cost_of_answers", "saved_for_backward"]


@dataclass(frozen=True)
class Cost:
    """Per sample, the mean over samples.

    evaluations    of f
    products       Jacobian products (Jv and Jᵀu), which are no evaluations
    multiply_adds  of injection, evaluations and read-outs: convolutions and matrix products of the model. Not in it:
                   Jacobian products, and the solver's own arithmetic
    seconds        by the clock, everything in it; NaN where it wasn't measured
    """

    evaluations: float
    products: float
    multiply_adds: float
    seconds: float


def cost_of_answers(
    description: CellDescription,
    nfe: float,
    *,
    products: float = 0.0,
    readouts: float = 1.0,
    seconds: float = torch.nan,
) -> Cost:
    """The cost of an answer from `nfe` mean evaluations.

        multiply_adds = injection + nfe · f + readouts · read-out,   of `deqrun.models.describe`

    readouts  per answer; a halting rule that looks at answers reads out at every iterate, k + 1 times by iterate k
    seconds   as measured, per sample

    Raises ValueError for a negative count.
    """
    for name, value in (("nfe", nfe), ("products", products), ("readouts", readouts)):
        if not value >= 0:
            raise ValueError(f"{name} must be a number >= 0, got {value}.")
    multiply_adds = description.answer_multiply_adds(nfe) + (readouts - 1) * description.readout_multiply_adds
    return Cost(nfe, products, multiply_adds, seconds)


class SavedBytes:
    """Bytes that autograd holds for backward passes, of the tensors saved within `saved_for_backward`.

    now      held at this moment
    peak     most that were held at one moment
    tensors  saved so far, each as often as it was

    A storage counts once, in full, however many tensors and views of it are saved, and from the first of them that is
    saved until the last is let go. Parameters and inputs count like all others where an operation saves them.
    """

    def __init__(self) -> None:
        self.now = self.peak = self.tensors = 0
        self._held: dict[int, int] = {}  # storage address -> saved tensors in it

    def _take(self, tensor: Tensor) -> _Held:
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        self.tensors += 1
        if address not in self._held:
            self._held[address] = 0
            self.now += size
            self.peak = max(self.peak, self.now)
        self._held[address] += 1
        held = _Held(tensor.detach())  # an output holds the graph that holds it: a circle that nothing would free
        weakref.finalize(held, self._let_go, address, size).atexit = False
        return held

    def _let_go(self, address: int, size: int) -> None:
        self._held[address] -= 1
        if not self._held[address]:
            del self._held[address]
            self.now -= size


class _Held:
    """A saved tensor: alive as long as the graph that saved it, and keeping its storage's address from being reused."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextmanager
def saved_for_backward() -> Iterator[SavedBytes]:
    """Count the bytes that operations within the context save for backward; the count goes on living after it.

        with saved_for_backward() as saved:
            loss = …
        print(saved.now)  # until loss is backpropagated or let go

    An operation with hooks of its own (a checkpointed segment) is counted by the tensors that those hooks hand on.
    """
    saved = SavedBytes()
    with torch.autograd.graph.saved_tensors_hooks(saved._take, lambda held: held.tensor):
        yield saved
