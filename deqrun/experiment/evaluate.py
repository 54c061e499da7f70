"""How a model does on a split with the solver and budget that it carries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.datasets import Dataset, Split
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


def batches(
    dataset: Dataset, split: Split, batch_size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """(encoded inputs, targets, their place in the split), in order."""
    for low in range(0, len(split), batch_size):
        place = slice(low, min(low + batch_size, len(split)))
        x, y = (part[place].to(device, non_blocking=True) for part in (split.inputs, split.targets))
        yield dataset.encode(x), y, place


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
    """Solve every sample of `split` in evaluation mode (no dropout); `between` is called before each batch."""
    # Without dropout, and in whatever mode the model was afterwards.
    was_training = deq.training
    deq.eval()
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for x, y, _ in batches(dataset, split, batch_size, device):
        between()
        logits, solution = deq(x)
        parts.append((dataset.loss(logits, y), dataset.correct(logits, y), solution.residual, solution.nfe))
    deq.train(was_training)
    loss, correct, residual, nfe = to_host([torch.cat(column) for column in zip(*parts, strict=True)])
    return Evaluation(loss, correct, residual, nfe)
