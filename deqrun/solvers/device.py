"""The properties of devices by which code decides how to work on them; nothing else in deqrun asks for a device's type.

A CPU has its numbers at hand. An accelerator works through a queue while the host goes ahead, so to read a number is to
wait until the queue is empty. Code that looks at numbers therefore has two ways: on the host by a look, on an
accelerator by masks, and by one look in `HOST_CHECK_EVERY` steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "HOST_CHECK_EVERY",
    "Mark",
    "Traits",
    "at_hand",
    "copies_ahead",
    "generator",
    "has_float64",
    "mark",
    "noise_of",
    "parted",
    "seconds_between",
    "set_noise_of",
    "to_host",
    "traits",
    "wide",
    "widened",
]

HOST_CHECK_EVERY = 8
"""On an accelerator the host asks only every so many steps whether rows are left."""


@dataclass(frozen=True)
class Traits:
    """The manners of a type of device.

    at_hand       whether the host reads numbers without waiting
    float64       whether there is float64
    copies_ahead  whether it copies from page-locked memory by itself, while the host goes on
    draws         whether it has generators of its own; else draws come from the host's
    """

    at_hand: bool = False
    float64: bool = True
    copies_ahead: bool = False
    draws: bool = True


TRAITS: dict[str, Traits] = {
    "cpu": Traits(at_hand=True),
    "cuda": Traits(copies_ahead=True),
    "xpu": Traits(copies_ahead=True),
    "mps": Traits(float64=False),
}
"""By type; a type that is not here is taken for an accelerator with float64."""

_UNKNOWN = Traits()


def traits(device: torch.device) -> Traits:
    """The manners of a device."""
    return TRAITS.get(device.type, _UNKNOWN)


def at_hand(tensor: Tensor) -> bool:
    """Whether the host reads numbers of a tensor without waiting for its device."""
    return traits(tensor.device).at_hand


def copies_ahead(device: torch.device) -> bool:
    """Whether the device copies from page-locked memory by itself, while the host goes on."""
    return traits(device).copies_ahead


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64."""
    if device.type == "xpu":  # of these some have and some have not
        return bool(torch.xpu.get_device_properties(device).has_fp64)
    return traits(device).float64


def wide(device: torch.device) -> torch.dtype:
    """The dtype of small systems and of sums of squares: float64, or float32 where there is no float64."""
    return torch.float64 if has_float64(device) else torch.float32


def widened(tensor: Tensor) -> Tensor:
    """A tensor in its device's `wide` dtype."""
    return tensor.to(wide(tensor.device))


def generator(device: torch.device, seed: int) -> torch.Generator:
    """A generator of the device, or of the host where the device has none of its own."""
    return torch.Generator(device if traits(device).draws else "cpu").manual_seed(seed)


def noise_of(device: torch.device) -> Tensor | None:
    """The state of PyTorch's own generator of an accelerator, on the host; None where draws come from the host's."""
    if traits(device).at_hand or not traits(device).draws:
        return None
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def set_noise_of(device: torch.device, state: Tensor) -> None:
    """Go back to a state of `noise_of`."""
    torch.get_device_module(device).set_rng_state(state, device)


def parted(active: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(places where `active` (n,) bool is false, places where it is true), ascending; `count` is how many are true.

    Since the sizes are given, no device has to be waited for.
    """
    if at_hand(active):
        return active.logical_not().nonzero()[:, 0], active.nonzero()[:, 0]
    # A stable sort keeps the order within false and true.
    order = active.to(torch.uint8).argsort(stable=True)
    return order[: len(order) - count], order[len(order) - count :]


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The tensors on the host, of whatever shapes and dtypes, by one copy and one wait for each device.

    Tensors of the host are returned as they are.
    """
    found = list(tensors)
    by_device: dict[torch.device, list[int]] = {}
    for place, tensor in enumerate(tensors):
        if not at_hand(tensor):
            by_device.setdefault(tensor.device, []).append(place)
    for places in by_device.values():
        # As bytes, which lose nothing of any dtype, in one row.
        chosen = [tensors[place].detach().contiguous() for place in places]
        packed = torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in chosen]).cpu()
        parts = packed.split([tensor.numel() * tensor.element_size() for tensor in chosen])
        for place, part, tensor in zip(places, parts, chosen, strict=True):
            # In memory of its own, since a view as wider numbers needs an aligned beginning.
            found[place] = part.clone().view(tensor.dtype).reshape(tensor.shape)
    return found


Mark = Any
"""A moment: seconds of the host's clock, or an event in a device's queue."""


def mark(device: torch.device) -> Mark:
    """This moment, as the device comes by it in its queue; nobody waits."""
    if traits(device).at_hand:
        return time.perf_counter()
    module = torch.get_device_module(device)
    event = module.Event(enable_timing=True)
    if hasattr(module, "current_stream"):  # of this device, which need not be the process's current one
        event.record(module.current_stream(device))
    else:
        event.record()
    return event


def seconds_between(earlier: Mark, later: Mark) -> float:
    """Seconds from one moment of a device to another; the host waits for the later one, if it lies ahead."""
    if isinstance(earlier, float):
        return float(later) - earlier
    later.synchronize()
    return float(earlier.elapsed_time(later)) / 1000
