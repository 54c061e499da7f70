"""Properties of devices: asked for in one module, and nothing to pay for on the host. See tests/devices, too."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from deqrun.solvers import device
from deqrun.solvers.device import at_hand, generator, mark, parted, seconds_between, to_host, wide, widened

PACKAGE = Path(device.__file__).parents[1]
ASKED = re.compile(r"\.is_cuda|torch\.cuda\.|\.type (==|!=) [\"']|\.type in ")


def test_no_other_module_asks_for_the_type_of_a_device() -> None:
    """Else the pretend device of the tests would not take the ways of CUDA."""
    asking = [path for path in PACKAGE.rglob("*.py") if ASKED.search(path.read_text(encoding="utf-8"))]
    assert asking == [Path(device.__file__)]


def test_on_the_host_nothing_is_copied() -> None:
    tensors = [torch.ones(3), torch.tensor(1)]
    assert all(one is other for one, other in zip(to_host(tensors), tensors, strict=True))
    x = torch.ones(2, dtype=torch.float64)
    assert widened(x) is x
    assert wide(x.device) == torch.float64
    assert at_hand(x)


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps", "another"])
def test_accelerators_are_not_at_hand(kind: str) -> None:
    assert not device.TRAITS.get(kind, device.Traits()).at_hand


def test_rows_are_parted() -> None:
    leave, stay = parted(torch.tensor([True, False, True]), 2)
    assert (leave.tolist(), stay.tolist()) == ([1], [0, 2])


def test_a_generator_is_seeded() -> None:
    draws = [torch.rand(3, generator=generator(torch.device("cpu"), 5)).tolist() for _ in range(2)]
    assert draws[0] == draws[1] == torch.rand(3, generator=torch.Generator().manual_seed(5)).tolist()


def test_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 3.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    first, last = mark(torch.device("cpu")), mark(torch.device("cpu"))
    assert seconds_between(first, last) == 2.5
