"""Threads and memory that a command would take, estimated before anything is built."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import torch

from deqrun.datasets import Dataset, DataUnavailable
from deqrun.errors import UserError
from deqrun.experiment.build import build_dataset, build_own_cell
from deqrun.experiment.devices import is_accelerator
from deqrun.experiment.sweep.grid import sweep_budget
from deqrun.experiment.sweep.states import size_of_states
from deqrun.models import Cell
from deqrun.records.safe_reading import available_memory
from deqrun.settings import Settings
from deqrun.settings.trust import is_packaged

__all__ = ["THREADS_PER_CORE", "cores", "require_memory", "require_threads"]

THREADS_PER_CORE = 4
"""Threads beyond these only wait for each other; a hundred thousand end in a segmentation fault of OpenMP."""

COPIES_OF_WEIGHTS = 4
"""A weight, its gradient, and two moments of Adam."""

COPIES_OF_STATES = 4
"""z, f(z), the residual and the kept iterate: the least that a solve holds."""

BATCHES = "train.batch_size, train.eval_batch_size and sweep.batch_size"
"""Keys of the sizes of batches, as a sentence names them."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_threads(threads: int | None) -> None:
    """Refuse more threads than four for each core. Raises UserError."""
    most = THREADS_PER_CORE * cores()
    if threads is not None and threads > most:
        raise UserError(
            f"threads={threads} is too many for this machine: allowed are 1 to {most}, {THREADS_PER_CORE} for each of "
            f"{cores()} cores (nearest: {most})."
        )


def require_memory(settings: Settings, seen: set[str]) -> None:
    """Refuse data, a batch, or a model that can't fit into the memory that is free. Raises UserError.

    The estimates are the least that is taken, so that nothing that fits is refused.
    seen  estimates made before, as text; added to
    """
    text = f"memory {settings.model} {settings.dataset} {settings.train} {settings.sweep}"
    if text in seen or not is_packaged(settings.dataset.target):
        return
    seen.add(text)
    available = available_memory()
    for what, needed, where in _estimates(settings):
        if needed > available:
            raise UserError(
                f"{what} take {_gib(needed)} of memory at least, and {_gib(available)} are free; allowed are smaller "
                f"values of {where}."
            )


def _estimates(settings: Settings) -> Iterator[tuple[str, int, str]]:
    """What takes memory, its bytes, and the keys that decide it."""
    dataset = build_dataset(settings)
    data, model = (f"{group}={settings.choices.get(group)}" for group in ("dataset", "model"))
    # Samples first: they are read whole.
    try:
        yield f"the samples of {data}", dataset.memory(), "dataset"
        shape = dataset.input_shape
    except DataUnavailable:  # which is told elsewhere
        return
    # Then one batch of inputs, of the largest batch that any part of the run takes.
    rows = _rows(settings, dataset)
    yield f"{rows} samples at a time of {data}", 4 * rows * math.prod(shape), f"dataset, or {BATCHES}"
    # Then the weights with their moments, and the states of a solve; on a GPU these are not the host's.
    cell = _abstract_cell(settings, dataset)
    if cell is None:
        return
    weights = sum(parameter.numel() * parameter.element_size() for parameter in cell.parameters())
    yield f"the weights of {model}", COPIES_OF_WEIGHTS * weights, "model"
    kept = size_of_states(settings.sweep.states, sweep_budget(settings).max_iter, cell.state_size)
    yield "the iterates that sweep.states keeps", kept, "sweep.states and sweep.iterations"
    if not is_accelerator(settings.device):
        states = 4 * COPIES_OF_STATES * rows * cell.state_size
        yield f"the states of {rows} samples at a time of {model}", states, f"model, or {BATCHES}"


def _rows(settings: Settings, dataset: Dataset) -> int:
    """The most samples that are solved at a time, of those that there are."""
    batch = max(settings.train.batch_size, settings.train.eval_batch_size, settings.sweep.batch_size)
    sizes = [getattr(dataset, name, None) for name in ("n_train", "n_validation", "n_test")]
    known = [size for size in sizes if isinstance(size, int)]
    return min(batch, max(known)) if known else 1


def _abstract_cell(settings: Settings, dataset: Dataset) -> Cell | None:
    """The cell without memory for its weights; None where that can't be told, as of a cell of the user's own."""
    if settings.own_weights or not is_packaged(settings.model.target):
        return None
    try:
        with torch.device("meta"):
            return build_own_cell(settings, dataset)
    except (UserError, RuntimeError, NotImplementedError):
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
