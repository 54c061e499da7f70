"""The pretend device keeps the manners that it claims: CUDA's refusals, counted waits, the CPU's numbers."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from deqrun.solvers.device import generator, mark, parted, seconds_between, to_host, wide
from tests.pretend_device import counted, install, without_float64

DEVICE = install()


def on(*shape: int) -> Tensor:
    return torch.arange(1.0, 1 + torch.Size(shape).numel(), device=DEVICE).reshape(shape)


MIXED: dict[str, Callable[[], object]] = {
    "a sum": lambda: on(3) + torch.ones(3),
    "a product": lambda: torch.ones(2, 3) @ on(3, 2),
    "where": lambda: torch.where(on(3) > 0, torch.ones(3), on(3)),
    "an index there into a host tensor": lambda: torch.ones(3)[on(3).long() - 1],
    "out": lambda: torch.add(on(3), on(3), out=torch.empty(3)),
    "cat": lambda: torch.cat([on(3), torch.ones(3)]),
    "in place": lambda: on(3).mul_(torch.ones(3)),
    "a layer": lambda: torch.nn.Linear(3, 3)(on(2, 3)),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_operators_that_mix_devices_are_refused(operation: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        operation()


def test_host_numbers_and_host_indices_are_allowed() -> None:
    assert to_host([on(3) * torch.tensor(2.0)])[0].tolist() == [2, 4, 6]
    assert to_host([on(3)[torch.tensor([2, 0])]])[0].tolist() == [3, 1]


WAITING: dict[str, Callable[[], object]] = {
    "item": lambda: on(1).item(),
    "float": lambda: float(on(1)),
    "bool": lambda: bool(on(1) > 0),
    "a branch": lambda: 1 if (on(3) > 0).any() else 0,
    "nonzero": lambda: on(3).nonzero(),
    "a boolean index": lambda: on(3)[on(3) > 1],
    "masked_select": lambda: on(3).masked_select(on(3) > 1),
    "equal": lambda: torch.equal(on(3), on(3)),
    "unique": lambda: on(3).unique(),
    "cpu": lambda: on(3).cpu(),
    "tolist": lambda: on(3).tolist(),
    "a copy into a host tensor": lambda: torch.empty(3).copy_(on(3)),
    "a copy from the host": lambda: torch.ones(3).to(DEVICE),
    "a tensor of numbers": lambda: torch.tensor([1.0, 2.0], device=DEVICE),
    "an inverse that is checked": lambda: torch.linalg.inv(torch.eye(3, device=DEVICE)),
    "the time of an event": lambda: seconds_between(mark(DEVICE), mark(DEVICE)),
    "many copies at once": lambda: to_host([on(3), on(2, 2).long(), on(1) > 0]),
}


@pytest.mark.parametrize("operation", WAITING.values(), ids=WAITING)
def test_each_wait_is_counted_once(operation: Callable[[], object]) -> None:
    with counted() as found:
        operation()
    assert found.total() == 1, found


def test_work_on_the_device_waits_for_nothing() -> None:
    with counted() as found:
        x = torch.ones(3).to(DEVICE, non_blocking=True).requires_grad_()
        y = torch.where(x > 0, x.exp(), 0.0).cumsum(0).softmax(0).clone()
        y[0] = 2.0
        y[y > 1] = 0.5
        y.square().sum().backward()
        order = x.detach().argsort()
        x.detach().index_copy_(0, order, torch.zeros_like(x))
        parted(x.detach() > 0, 2)
        mark(DEVICE)
    assert found == {}


def test_a_time_that_lies_behind_waits_for_nothing() -> None:
    first, last = mark(DEVICE), mark(DEVICE)
    float(on(1))
    with counted() as found:
        assert seconds_between(first, last) >= 0
    assert found == {}


def test_numbers_come_back_in_one_copy_as_they_were() -> None:
    """Of any shape and dtype, to the last bit; host tensors are the same objects."""
    host = torch.arange(4)
    sent = [torch.randn(3, 2), torch.tensor(True), torch.randn(0, 4), torch.arange(5).to(torch.uint8), torch.randn(3)]
    sent += [torch.randn(2, 3).double().t(), torch.randn(4).bfloat16(), torch.full((2,), torch.nan)]
    found = to_host([*(tensor.to(DEVICE) for tensor in sent), host])
    assert found[-1] is host
    for before, after in zip(sent, found, strict=False):
        assert (after.dtype, after.shape, after.device.type) == (before.dtype, before.shape, "cpu")
        torch.testing.assert_close(after, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("flags", [[0, 1, 1, 0, 1], [0, 0], [1, 1, 1], [1]])
def test_rows_are_parted_in_their_order(flags: list[int]) -> None:
    active = torch.tensor(flags, dtype=torch.bool)
    expected = [(~active).nonzero()[:, 0], active.nonzero()[:, 0]]
    for found in (parted(active, sum(flags)), to_host(parted(active.to(DEVICE), sum(flags)))):
        for one, other in zip(found, expected, strict=True):
            assert one.tolist() == other.tolist()


def test_a_second_derivative_of_a_group_norm() -> None:
    gradients = []
    for place in ("cpu", DEVICE):
        torch.manual_seed(0)
        norm, x = torch.nn.GroupNorm(2, 4).to(place), torch.randn(2, 4, 3).to(place).requires_grad_()
        (first,) = torch.autograd.grad(norm(x).pow(3).sum(), x, create_graph=True)
        first.square().sum().backward()
        gradients.append(x.grad.cpu())
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_shapes_change_in_place() -> None:
    grown, turned = torch.empty(0, device=DEVICE), on(2, 3)
    torch.add(on(3), on(3), out=grown)
    turned.t_().unsqueeze_(0)
    assert grown.tolist() == [2, 4, 6]
    assert turned.shape == (1, 3, 2)
    assert turned.tolist() == torch.arange(1.0, 7).reshape(2, 3).T[None].tolist()
    assert on(3).resize_(2, 4).shape == (2, 4)


def test_a_module_changes_its_dtype_with_its_numbers() -> None:
    layer = torch.nn.Linear(3, 2).to(DEVICE)
    assert copy.deepcopy(layer).double()(on(4, 3).double()).dtype == torch.float64
    assert layer(on(4, 3)).dtype == torch.float32


def test_complex_numbers_are_the_cpus() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 3, dtype=torch.complex64)
    for change in (lambda z: z.conj() + 1, lambda z: z.mH @ z + z.mT, lambda z: z.conj().imag * 2, lambda z: z.mH.real):
        torch.testing.assert_close(change(x.to(DEVICE)).cpu(), change(x), rtol=0, atol=0)


def test_views_share_their_memory() -> None:
    whole = on(4)
    whole[1:3].zero_()
    version = whole._version
    whole.view(2, 2)[0].mul_(5)
    assert whole.tolist() == [5, 0, 0, 4]
    assert whole._version > version


def test_saved_weights_are_read_on_another_machine_and_put_back() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2).to(DEVICE)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.zero_()
    for place in (DEVICE, "cpu"):
        file.seek(0)
        other.load_state_dict(torch.load(file, map_location=place, weights_only=True))
        torch.testing.assert_close(other.weight.cpu(), layer.weight.cpu(), rtol=0, atol=0)


def test_draws_are_the_hosts_and_pytorchs_generator_is_its_own() -> None:
    assert torch.Generator.__module__ == "torch._C"
    for make in (torch.randn, torch.rand):
        here = make(5, generator=generator(DEVICE, 7), device=DEVICE)
        assert here.tolist() == make(5, generator=torch.Generator().manual_seed(7)).tolist()
    with pytest.raises(RuntimeError):
        torch.Generator(DEVICE)


def test_autocast_computes_products_in_16_bits_and_sums_in_32() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(3, 2).to(DEVICE), on(4, 3)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        y = layer(x)
        assert (y.dtype, y.softmax(1).dtype) == (torch.bfloat16, torch.float32)
        with torch.autocast(DEVICE.type, enabled=False):
            assert layer(x).dtype == torch.float32
    y.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_it_can_have_no_float64() -> None:
    assert wide(DEVICE) == torch.float64
    with without_float64():
        assert wide(DEVICE) == torch.float32
        for make in (lambda: on(2).double(), lambda: torch.zeros(2, dtype=torch.float64, device=DEVICE)):
            with pytest.raises(TypeError, match="no float64"):
                make()
    assert on(2).double().dtype == torch.float64
