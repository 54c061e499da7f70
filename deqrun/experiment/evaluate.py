"""How a model does on a split with the solver and budget that it carries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.datasets import Dataset, Split
from deqrun.experiment.ranks import dealt, several
from deqrun.models import DEQ
from deqrun.solvers.device import to_host


@dataclass(frozen=True)
class Evaluation:
    """Per sample of a split, on the host: loss (n,), correct (n,) bool, residual (n,), nfe (n,)."""

    loss: Tensor
    correct: Tensor
    residual: Tensor
    nfe: Tensor

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())

    @property
    def mean_loss(self) -> float:
        return float(self.loss.double().mean())


def places(split: Split, batch_size: int) -> list[slice]:
    """The places of each batch in the split, in order."""
    return [slice(low, min(low + batch_size, len(split))) for low in range(0, len(split), batch_size)]


def batch_at(dataset: Dataset, split: Split, place: slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """(encoded inputs, targets) of the samples at a place of the split, on the device."""
    x, y = (part[place].to(device, non_blocking=True) for part in (split.inputs, split.targets))
    return dataset.encode(x), y


@contextmanager
def in_evaluation(deq: DEQ) -> Iterator[None]:
    """Within: the model is in evaluation mode (no dropout); afterwards in whatever mode it was."""
    was_training = deq.training
    deq.eval()
    try:
        yield
    finally:
        deq.train(was_training)


@torch.no_grad()
def evaluate(
    deq: DEQ,
    dataset: Dataset,
    split: Split,
    batch_size: int,
    device: torch.device,
    *,
    between: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Solve every sample of `split` in evaluation mode (no dropout); `between` is called before each batch.

    Several ranks take whole batches, so that the numbers are one process's, and each has the figures of all samples.
    """

    def solved(place: slice) -> Sequence[Tensor]:
        x, y = batch_at(dataset, split, place, device)
        logits, solution = deq(x)
        figures = [dataset.loss(logits, y), dataset.correct(logits, y), solution.residual, solution.nfe]
        return to_host(figures) if several() else figures

    with in_evaluation(deq):
        parts = list(dealt(places(split, batch_size), solved, between))
    loss, correct, residual, nfe = to_host([torch.cat(column) for column in zip(*parts, strict=True)])
    return Evaluation(loss, correct, residual, nfe)
