"""Ranks: the processes that share the batches of one run. Alone, every function here does nothing, and costs nothing.

Collective functions (`told`, `gathered`, `dealt`, `agreed`, `add_up`, `wait`) must be called by all ranks
in the same order. Values of the host go through gloo; tensors on CUDA through NCCL.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from deqrun.errors import RankLost
from deqrun.settings.place import Place

__all__ = ["add_up", "agreed", "dealt", "gathered", "joined", "leads", "place", "rows_of", "several", "told", "wait"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")

_ALONE = Place()
_place = _ALONE


def place() -> Place:
    """This process among its ranks."""
    return _place


def several() -> bool:
    """Whether there are other ranks."""
    return _place.count > 1


def leads() -> bool:
    """Whether this rank writes, tracks and prints: the first one, or a process alone."""
    return _place.rank == 0


@contextmanager
def joined(own: Place, store: dist.Store, minutes: float, device_type: str = "cpu") -> Iterator[None]:
    """Within: this process is a rank.

    store        through which the ranks find each other
    minutes      the longest that a collective function waits; then `RankLost`
    device_type  of the run's device: tensors on "cuda" go through NCCL
    """
    global _place
    # Values of the host and tensors on CUDA take different ways.
    backend = "cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo"
    with _answering(own):
        dist.init_process_group(
            backend, store=store, rank=own.rank, world_size=own.count, timeout=timedelta(minutes=minutes)
        )
    _place = own
    try:
        yield
    finally:
        _place = _ALONE
        with suppress(Exception):
            dist.destroy_process_group()


@contextmanager
def _answering(own: Place | None = None) -> Iterator[None]:
    """Within, the other ranks are waited for. Raises RankLost where one of them does not answer."""
    own = own or _place
    try:
        yield
    except RuntimeError as error:  # all errors of torch.distributed are
        # torch.distributed tells a time-out by its words alone.
        text = " ".join(str(error).split())
        late = "timed out" in text.lower() or "timeout" in text.lower()
        raise RankLost(
            f"rank {own.rank} of {own.count} on {socket.gethostname()} "
            + ("waited longer than launch.timeout_minutes for another rank" if late else "lost another rank"),
            late=late,
        ) from error


def wait() -> None:
    """Wait until all ranks are here."""
    if several():
        with _answering():
            dist.all_reduce(torch.zeros(1))


def told(value: Value) -> Value:
    """The first rank's value, at every rank."""
    if not several():
        return value
    box = [value]
    with _answering():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: Value) -> list[Value]:
    """The value of every rank, in their order; for a process alone, its own."""
    if not several():
        return [value]
    found: list[Any] = [None] * _place.count
    with _answering():
        dist.all_gather_object(found, value)
    return found


def agreed(*flags: bool) -> tuple[bool, ...]:
    """Of each flag, whether it is set at any rank."""
    if not several():
        return flags
    asked = torch.tensor([float(flag) for flag in flags])
    with _answering():
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in asked.tolist())


def dealt(
    items: Sequence[Item], work: Callable[[Item], Result], between: Callable[[], object] = lambda: None
) -> Iterator[Result]:
    """The result of every item, in order, at every rank; rank r of W works on the items r, r + W, r + 2 W, …

    One item per rank is under way at a time, so that no rank has to keep results until the others are done.
    between  called before each item; of several ranks by all at once, so that it may be collective
    """
    # One item a rank, then all results in order, then the next ones.
    for first in range(0, len(items), _place.count):
        between()
        mine = first + _place.rank
        for results in gathered([work(items[mine])] if mine < len(items) else []):
            yield from results


def rows_of(size: int) -> tuple[int, int]:
    """First and end of this rank's rows of a batch; equal where there are fewer rows than ranks."""
    rank, count = _place.rank, _place.count
    return size * rank // count, size * (rank + 1) // count


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the ranks, the same to the last bit at every rank."""
    if not several():
        return
    # In one message for each type: many small ones would take longer than the numbers in them.
    for kind in dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors):
        alike = [tensor for tensor in tensors if (tensor.dtype, tensor.device) == kind]
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
        with _answering():
            dist.all_reduce(flat)
        for tensor, summed in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.detach().copy_(summed.view(tensor.shape))
