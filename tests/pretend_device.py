"""A device for tests that needs no hardware: `pretend:0`, whose tensors lie in host memory, with the manners of CUDA.

Each operator runs on the CPU, so its numbers are the CPU's. Three things are as on an accelerator:

    mixing    an operator that takes tensors of both devices is refused; a host tensor without dimensions may be mixed
              in, and a host index may index a device tensor, as CUDA allows
    waits     each time that the host has to wait for the device is counted under its reason: a value that is read,
              a size that depends on values (nonzero, a boolean index, unique), a copy to the host, and a copy from
              there that is not asked for as non_blocking
    float64   it can be told to have none, as MPS: then making a float64 tensor there is an error

    from tests.pretend_device import install, waits, without_float64
    install()                                      # once per process, for good: see below
    z = torch.zeros(4, 8, device="pretend")

It is built on PyTorch's hook for backends in Python (`torch.utils.backend_registration`, PyTorch 2.13). Registration
cannot be undone and changes PyTorch for its process (an accelerator is then there), so these tests have processes of
their own: `tests/devices/test_in_own_process.py` starts them.
"""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from deqrun.settings import schema
from deqrun.solvers import device

NAME = "pretend"

waits: collections.Counter[str] = collections.Counter()
"""How often the host waited, by reason; `waits.clear()` begins anew."""

COPIES = {"aten::_to_copy", "aten::copy_"}
SCALARS = {"aten::_local_scalar_dense", "aten::equal", "aten::is_nonzero", "aten::item"}
SIZES = {
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
}
CHECKED = {"aten::_linalg_check_errors", "aten::_linalg_eigh", "aten::_linalg_eigvals", "aten::_linalg_svd"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}

LAZY = {"aten::_conj": torch.ops.aten._conj_physical.default, "aten::_neg_view": torch.ops.aten.neg.default}
"""Views that note a change to be made later, as a flag of which a tensor of this kind knows nothing: made at once."""

NOMINAL_STORAGE = 2**48
"""Bytes that a tensor's storage claims, of which none is taken: so the tensor may be resized to any size."""

_state = {"float64": True}
_libraries: list[torch.library.Library] = []


@functools.cache
def _here() -> torch.device:
    return torch.device(NAME, 0)


class PretendTensor(torch.Tensor):
    """A tensor that says it is on `pretend:0`; `host` holds its numbers."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> PretendTensor:
        if host.dtype == torch.float64 and not _state["float64"]:
            raise TypeError("The pretend device was told to have no float64.")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=_here(),
            storage_size=NOMINAL_STORAGE,
        )
        made.host = host
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, arguments: tuple = (), keywords: dict | None = None) -> Any:
        return run(operator, arguments, keywords or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as a tensor of the host, as `torch.load(map_location=…)` of another machine would find it."""
        waits["copy to the host"] += 1
        tensor = torch.nn.Parameter(self.host, self.requires_grad) if _is_parameter(self) else self.host
        return tensor.__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict) -> Any:
        copied = PretendTensor(self.detach().host.clone()).requires_grad_(self.requires_grad)
        if _is_parameter(self):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        memo[id(self)] = copied
        return copied

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        """As of every tensor; who replaces it, as `module.double()` does, replaces the numbers on the host, too."""
        return torch.Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: PretendTensor) -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.host = value.host

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.host!r} on {NAME}:0"

    __format__ = object.__format__

    def tolist(self) -> Any:
        waits["copy to the host"] += 1
        return self.detach().host.tolist()


def _is_parameter(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


class _Facts(NamedTuple):
    """Facts of an operator by its name and schema, found once."""

    name: str
    call: Any
    """Its call with host tensors."""
    writes: tuple[tuple[int, str], ...]
    """Place and name of each argument that it writes to."""
    in_place: bool
    waits: bool
    """Whether a call of it may wait: `_count` has each case."""


@functools.cache
def _facts(operator: Any) -> _Facts:
    name = operator._schema.name
    places = enumerate(operator._schema.arguments)
    writes = ((place, each.name) for place, each in places if each.alias_info is not None and each.alias_info.is_write)
    may_wait = any(name in names for names in (SCALARS, CHECKED, SIZES, COPIES, INDEXED))
    return _Facts(name, LAZY.get(name, operator), tuple(writes), name.endswith("_"), may_wait)


def run(operator: Any, arguments: tuple, keywords: dict) -> Any:
    """Run one operator on the host, in the manner of a device."""
    facts = _facts(operator)
    # The same call with host tensors, and with the host where the device is named.
    here: list[PretendTensor] = []
    elsewhere: list[torch.Tensor] = []
    given = [_taken(value, here, elsewhere) for value in arguments]
    named = {key: _taken(value, here, elsewhere) for key, value in keywords.items()}
    target = _target(facts.name, arguments, keywords)
    if here and elsewhere:
        _refuse_mixed(facts.name, elsewhere, arguments)
    if facts.waits:
        _count(facts.name, arguments, keywords, here, target)
    found = facts.call(*given, **named)

    # Results go to the device that is named, or stay where the arguments are.
    stays = target.type == NAME if target is not None else bool(here)
    if facts.name in SCALARS or not stays:
        return found
    if facts.writes or facts.in_place:
        changed = [keywords["out"]] if isinstance(keywords.get("out"), PretendTensor) else []
        if facts.in_place and arguments and isinstance(arguments[0], PretendTensor):
            changed.append(arguments[0])
        for tensor in [*changed, *_written(facts.writes, arguments, keywords)]:
            _follow(tensor)
        if changed:
            return changed[0]
    return _given_back(found, here)


PLAIN = frozenset({int, float, bool, type(None), torch.dtype, torch.layout, torch.memory_format, str})
"""Types of arguments that are the same on every device."""


def _taken(value: Any, here: list[PretendTensor], elsewhere: list[torch.Tensor]) -> Any:
    """An argument as the host takes it; tensors in it are noted by their device."""
    kind = type(value)
    if kind is PretendTensor:
        here.append(value)
        return value.host
    if kind in PLAIN:
        return value
    if kind is list or kind is tuple:
        return kind([_taken(part, here, elsewhere) for part in value]) if value else value
    if isinstance(value, torch.Tensor):
        elsewhere.append(value)
    elif kind is torch.device and value.type == NAME:
        return torch.device("cpu")
    return value


def _given_back(value: Any, here: list[PretendTensor]) -> Any:
    """A result on the device: the argument itself where the operator gave back its numbers."""
    if isinstance(value, torch.Tensor) and not isinstance(value, PretendTensor):
        for tensor in here:
            if tensor.host is value:
                return tensor
        return PretendTensor(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_given_back(part, here) for part in value]) if value else value
    return value


def _written(writes: tuple[tuple[int, str], ...], arguments: tuple, keywords: dict) -> Iterator[PretendTensor]:
    """Arguments that the operator writes to."""
    for place, name in writes:
        given = arguments[place] if place < len(arguments) else keywords.get(name)
        for tensor in given if isinstance(given, (list, tuple)) else [given]:
            if isinstance(tensor, PretendTensor):
                yield tensor


def _follow(tensor: PretendTensor) -> None:
    """Give a tensor the shape and strides that its host tensor has now."""
    host = tensor.host
    if tensor.shape == host.shape and tensor.stride() == host.stride():
        return
    before = torch._C._meta_in_tls_dispatch_include()
    with no_dispatch():
        torch._C._set_meta_in_tls_dispatch_include(True)
        try:
            torch.ops.aten.as_strided_.default(tensor, host.size(), host.stride(), host.storage_offset())
        finally:
            torch._C._set_meta_in_tls_dispatch_include(before)


def _target(name: str, arguments: tuple, keywords: dict) -> torch.device | None:
    """The device that the operator is asked to put its result on."""
    if keywords.get("device") is not None:
        return torch.device(keywords["device"])
    if name == "aten::copy_":
        return arguments[0].device
    return None


def _refuse_mixed(name: str, elsewhere: list[torch.Tensor], arguments: tuple) -> None:
    """Refuse host tensors beside the device's, except for numbers, copies, and indices of a device tensor."""
    if name in COPIES:
        return
    elsewhere = [tensor for tensor in elsewhere if tensor.dim()]
    if name in INDEXED and isinstance(arguments[0], PretendTensor):
        indices = {id(index) for index in arguments[1] if index is not None}
        elsewhere = [tensor for tensor in elsewhere if id(tensor) not in indices]
    if elsewhere:
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {NAME}:0 and cpu.")


def _count(name: str, arguments: tuple, keywords: dict, here: list, target: torch.device | None) -> None:
    if name in SCALARS and here:
        waits["value read"] += 1
    elif name in CHECKED and here:
        waits["matrix checked"] += 1
    elif name in SIZES and here:
        waits["size that depends on values"] += 1
    elif name in COPIES and target is not None and target.type == "cpu" and here:
        waits["copy to the host"] += 1
    elif name in COPIES and target is not None and target.type == NAME:
        source = arguments[1 if name == "aten::copy_" else 0]
        ahead = keywords.get("non_blocking") or (name == "aten::copy_" and len(arguments) > 2 and arguments[2])
        if not isinstance(source, PretendTensor) and not ahead:
            waits["copy from the host"] += 1
    elif name in INDEXED and any(isinstance(i, PretendTensor) and i.dtype == torch.bool for i in arguments[1]):
        fills = name != "aten::index" and arguments[2].numel() == 1 and len(arguments[1]) == 1
        if not fills:  # a value put where a mask is true is masked_fill_, which waits for nothing
            waits["size that depends on values"] += 1


class Event:
    """A moment in the queue. To ask for its time is to wait, unless the host has waited since for something later."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.seconds, self._waited = 0.0, -1

    def record(self) -> None:
        self.seconds, self._waited = time.perf_counter(), waits.total()

    def synchronize(self) -> None:
        if waits.total() == self._waited:
            waits["synchronize"] += 1

    def elapsed_time(self, later: Event) -> float:
        """Milliseconds."""
        return 1000 * (later.seconds - self.seconds)


class _Module(_DummyBackendModule):
    """`torch.pretend`: what PyTorch asks of a device's module."""

    Event = Event

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def synchronize(self, device: Any = None) -> None:
        waits["synchronize"] += 1

    def manual_seed_all(self, seed: int) -> None:
        """Draws on this device are the CPU's, whose generator is seeded anyway."""

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


LOWER_PRECISION = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "conv1d", "conv2d", "convolution", "einsum")
FULL_PRECISION = ("log_softmax.int", "softmax.int", "cross_entropy_loss", "layer_norm", "group_norm", "sum")


def _register_autocast(library: torch.library.Library) -> None:
    """Autocast by PyTorch's usual lists, as far as the cells here have such operators."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(leaf: Any, dtype: torch.dtype) -> Any:
        known = isinstance(leaf, PretendTensor) and leaf.is_floating_point() and leaf.dtype != torch.float64
        return leaf.to(dtype) if known else leaf

    def of(operator: Any, full: bool) -> Any:
        @functools.wraps(operator)
        def casting(*arguments: Any, **keywords: Any) -> Any:
            leaves, spec = tree_flatten((arguments, keywords))
            with torch._C._ExcludeDispatchKeyGuard(keys):
                dtype = torch.float32 if full else torch.get_autocast_dtype(NAME)
                given, named = tree_unflatten([cast(leaf, dtype) for leaf in leaves], spec)
                return operator(*given, **named)

        return casting

    for full, names in ((False, LOWER_PRECISION), (True, FULL_PRECISION)):
        for name in names:
            packet, _, overload = name.partition(".")
            operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
            library.impl(name, of(operator, full), "AutocastPrivateUse1")


def install() -> torch.device:
    """Register the device with PyTorch and with deqrun, if that is not done yet, and return it."""
    if not _libraries:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
        fallback = torch.library.Library("_", "IMPL")
        fallback.fallback(lambda operator, *given, **named: run(operator, given, named), "PrivateUse1")
        # torch.tensor(…, device="pretend") comes by these without the fallback.
        aten, rest = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
        for name in ("_to_copy", "lift", "lift_fresh", "detach"):
            aten.impl(name, functools.partial(_run_named, getattr(torch.ops.aten, name).default), "PrivateUse1")
        _register_autocast(aten)
        # A file is read to the host whatever device it was saved on or is wanted on; modules copy from there.
        torch.serialization.register_package(0, lambda storage: None, _stay_on_host)
        rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
        device.TRAITS[NAME] = device.Traits(draws=False)
        schema.DEVICES += (NAME,)
        _libraries.extend([fallback, aten, rest])
    return torch.device(NAME, 0)


def _stay_on_host(storage: Any, location: str) -> Any:
    return storage if location.startswith(NAME) else None


def _run_named(operator: Any, *arguments: Any, **keywords: Any) -> Any:
    return run(operator, arguments, keywords)


@contextmanager
def without_float64() -> Iterator[None]:
    """Within, the device has no float64."""
    _state["float64"] = False
    device.TRAITS[NAME] = device.Traits(draws=False, float64=False)
    try:
        yield
    finally:
        _state["float64"] = True
        device.TRAITS[NAME] = device.Traits(draws=False)


@contextmanager
def counted() -> Iterator[collections.Counter[str]]:
    """The waits within."""
    before = waits.copy()
    found: collections.Counter[str] = collections.Counter()
    try:
        yield found
    finally:
        found.update({name: count - before[name] for name, count in waits.items() if count > before[name]})
