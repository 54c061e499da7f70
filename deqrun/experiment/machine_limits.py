"""Threads and memory that a command would take, estimated before anything is built."""

from __future__ import annotations

import math
import os

import torch

from deqrun.datasets import Dataset, DataUnavailable
from deqrun.errors import UserError
from deqrun.experiment.build import build_dataset, build_own_cell
from deqrun.experiment.devices import is_accelerator
from deqrun.experiment.sweep.grid import sweep_budget
from deqrun.experiment.sweep.states import size_of_states
from deqrun.models import Cell
from deqrun.records.safe_reading import available_memory
from deqrun.settings import TRUSTED_PACKAGES, Settings

__all__ = ["THREADS_PER_CORE", "cores", "require_memory", "require_threads"]

THREADS_PER_CORE = 4
"""Threads beyond these only wait for each other; a hundred thousand end in a segmentation fault of OpenMP."""

COPIES_OF_WEIGHTS = 4
"""A weight, its gradient, and two moments of Adam."""

COPIES_OF_STATES = 4
"""z, f(z), the residual and the kept iterate: the least that a solve holds."""


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
    if text in seen or not settings.dataset.target.startswith(TRUSTED_PACKAGES):
        return
    seen.add(text)
    # Samples first: they are read whole.
    dataset, available = build_dataset(settings), available_memory()
    try:
        _require("the samples of " + _named(settings, "dataset"), dataset.memory(), available, "dataset")
        shape = dataset.input_shape
    except DataUnavailable:  # which is told elsewhere
        return
    # Then one batch of inputs, of the largest batch that any part of the run takes.
    rows = _rows(settings, dataset)
    _require(
        f"{rows} samples at a time of " + _named(settings, "dataset"),
        4 * rows * math.prod(shape),
        available,
        "dataset, or train.batch_size, train.eval_batch_size and sweep.batch_size",
    )
    # Then the weights with their moments, and the states of a solve; on a GPU these are not the host's.
    cell = _abstract_cell(settings, dataset)
    if cell is not None:
        weights = sum(parameter.numel() * parameter.element_size() for parameter in cell.parameters())
        _require("the weights of " + _named(settings, "model"), COPIES_OF_WEIGHTS * weights, available, "model")
        states = 4 * COPIES_OF_STATES * rows * cell.state_size
        kept = size_of_states(settings.sweep.states, sweep_budget(settings).max_iter, cell.state_size)
        _require("the iterates that sweep.states keeps", kept, available, "sweep.states and sweep.iterations")
        if not is_accelerator(settings.device):
            _require(
                f"the states of {rows} samples at a time of " + _named(settings, "model"),
                states,
                available,
                "model, or train.batch_size, train.eval_batch_size and sweep.batch_size",
            )


def _named(settings: Settings, group: str) -> str:
    return f"{group}={settings.choices.get(group)}"


def _rows(settings: Settings, dataset: Dataset) -> int:
    """The most samples that are solved at a time, of those that there are."""
    batch = max(settings.train.batch_size, settings.train.eval_batch_size, settings.sweep.batch_size)
    sizes = [getattr(dataset, name, None) for name in ("n_train", "n_validation", "n_test")]
    known = [size for size in sizes if isinstance(size, int)]
    return min(batch, max(known)) if known else 1


def _abstract_cell(settings: Settings, dataset: Dataset) -> Cell | None:
    """The cell without memory for its weights; None where that can't be told, as of a cell of the user's own."""
    if settings.own_weights or not settings.model.target.startswith(TRUSTED_PACKAGES):
        return None
    try:
        with torch.device("meta"):
            return build_own_cell(settings, dataset)
    except (UserError, RuntimeError, NotImplementedError):
        return None


def _require(what: str, needed: int, available: int, where: str) -> None:
    if needed > available:
        raise UserError(
            f"{what} take {_gib(needed)} of memory at least, and {_gib(available)} are free; allowed are smaller "
            f"values of {where}."
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
