"""Batches of stored samples for training, brought to the device."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as IndexedData

from deqrun.datasets import Split
from deqrun.solvers.device import copies_ahead

__all__ = ["loaded", "shuffled"]


def shuffled(n: int, batch_size: int, order: torch.Generator) -> Sequence[Tensor]:
    """The places 0 … n − 1 of a split in random order, cut into batches; the last may be smaller."""
    return torch.randperm(n, generator=order).split(batch_size)


def loaded(
    split: Split, batches: Sequence[Tensor], device: torch.device, *, workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(inputs as stored, targets, places) of each batch, the first two on `device`, in the order of `batches`.

    split       samples on the host
    batches     places in the split, (batch,) long each
    workers     processes that put batches together ahead of time; 0: this one does
    pin_memory  whether a batch goes through page-locked memory, from which CUDA and XPU devices copy by themselves; of
                no effect with another device

    Whatever the options, the numbers are the same, and no random number is drawn.
    """
    # Page-locked memory pays only where a GPU copies from it by itself.
    pinned = pin_memory and copies_ahead(device)
    source = DataLoader(
        _Batches(split),
        sampler=batches,  # a "sample" is a whole batch: one indexing, not one per row
        batch_size=None,
        num_workers=workers,
        pin_memory=pinned,
        generator=torch.Generator(),  # else it takes its workers' seed from the generator of dropout
        worker_init_fn=_heedless,
    )
    for inputs, targets, index in source:
        yield inputs.to(device, non_blocking=True), targets.to(device, non_blocking=True), index


def _heedless(worker: int) -> None:
    """Leave signals that end a run to the run: they come to its workers, too, and it needs them for the step's end."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class _Batches(IndexedData[tuple[Tensor, Tensor, Tensor]]):
    """A DataLoader's data set: a batch by its places."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split.inputs[index], self.split.targets[index], index
