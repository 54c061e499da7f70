"""Batches of stored samples for training, brought to the device."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as IndexedData

from deqrun.datasets import DataUnavailable, Split
from deqrun.errors import UserError
from deqrun.solvers.device import copies_ahead

__all__ = ["Loaded", "shuffled"]


def shuffled(n: int, batch_size: int, order: torch.Generator) -> Sequence[Tensor]:
    """The places 0 … n − 1 of a split in random order, cut into batches; the last may be smaller."""
    return torch.randperm(n, generator=order).split(batch_size)


class Loaded:
    """(inputs as stored, targets, places) of each batch, the first two on `device`, in the order of `batches`.

    split       samples on the host
    batches     places in the split, (batch,) long each
    workers     processes that put batches together ahead of time; 0: this one does
    pin_memory  whether a batch goes through page-locked memory, from which CUDA and XPU devices copy by themselves; of
                no effect with another device

    Whatever the options, the numbers are the same, and no random number is drawn. Raises UserError where data can't be
    read, or a worker dies.

    waited  seconds that the caller has waited for batches
    taken   samples that it has taken
    """

    def __init__(
        self, split: Split, batches: Sequence[Tensor], device: torch.device, *, workers: int, pin_memory: bool
    ) -> None:
        self.device, self.workers = device, workers
        self.waited, self.taken = 0.0, 0
        # Page-locked memory pays only where a GPU copies from it by itself.
        self._source = DataLoader(
            _Batches(split),
            # A "sample" is a whole batch: one indexing, not one per row. As arrays, which go to a worker by value; of a
            # tensor it would have to ask this process for the memory.
            sampler=[batch.numpy() for batch in batches],
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory and copies_ahead(device),
            generator=torch.Generator(),  # else it takes its workers' seed from the generator of dropout
            worker_init_fn=_heedless,
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        source, self._began = iter(self._source), time.perf_counter()
        while True:
            # Only the wait for a batch is timed: the step that works on it runs between two turns of this loop.
            asked = time.perf_counter()
            try:
                batch = next(source, None)
            except RuntimeError as error:
                raise self._told(error) from error
            self.waited += time.perf_counter() - asked
            if batch is None:
                return
            if isinstance(batch, DataUnavailable):
                raise UserError(str(batch))
            inputs, targets, index = batch
            self.taken += len(index)
            yield inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True), index

    @property
    def wait(self) -> float:
        """Share of the time since the first batch was asked for that went by waiting for batches."""
        return self.waited / max(1e-9, time.perf_counter() - self._began)

    def words(self) -> str:
        """Samples per second, and the share of the time that went by waiting, for the progress bar."""
        rate = self.taken / max(1e-9, time.perf_counter() - self._began)
        return f"{rate:.3g}/s" + (f" wait {self.wait:.0%}" if self.wait >= 0.01 else "")

    def _told(self, error: RuntimeError) -> Exception:
        """One sentence where a worker died; any other error as it is."""
        text = " ".join(str(error).split())
        if not self.workers or "DataLoader worker" not in text or "exited unexpectedly" not in text:
            return error
        why = str(error.__cause__ or error.__context__ or "").rstrip(".")
        return UserError(
            f"A process that puts batches together died ({why or text}), as for lack of memory; give fewer than "
            f"train.workers={self.workers} or smaller batches, or train.workers=0, which shows the error itself."
        )


def _heedless(worker: int) -> None:
    """Leave signals that end a run to the run: they come to its workers, too, and it needs them for the step's end."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class _Batches(IndexedData[tuple[Tensor, Tensor, Tensor] | DataUnavailable]):
    """A DataLoader's data set: a batch by its places."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor] | DataUnavailable:
        index = torch.from_numpy(places)
        try:
            return self.split.inputs[index], self.split.targets[index], index
        except DataUnavailable as error:  # handed on, since a worker's errors come with its trace
            return error
