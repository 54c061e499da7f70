"""Names of devices: what is found, and one sentence for what is not there."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from deqrun.errors import UserError
from deqrun.experiment.devices import find, is_accelerator
from deqrun.settings import Settings

SettingsOf = Callable[..., Settings]


def machine(patch: pytest.MonkeyPatch, **counts: int) -> None:
    """A machine with so many devices of each kind."""
    for kind in ("cuda", "xpu"):
        count = counts.get(kind, 0)
        patch.setattr(getattr(torch, kind), "is_available", lambda count=count: count > 0)
        patch.setattr(getattr(torch, kind), "device_count", lambda count=count: count)
    patch.setattr(torch.backends, "mps", SimpleNamespace(is_available=lambda: counts.get("mps", 0) > 0))


@pytest.mark.parametrize(
    ("name", "there", "found"),
    [
        ("auto", {}, "cpu"),
        ("auto", {"cuda": 2}, "cuda"),
        ("auto", {"mps": 1, "xpu": 1}, "cpu"),
        ("cpu", {"cuda": 1}, "cpu"),
        ("cuda", {"cuda": 1}, "cuda"),
        ("cuda:1", {"cuda": 2}, "cuda:1"),
        ("mps", {"mps": 1}, "mps"),
        ("xpu:0", {"xpu": 1}, "xpu:0"),
    ],
)
def test_a_name_finds_its_device(name: str, there: dict[str, int], found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, **there)
    assert find(name) == torch.device(found)
    assert is_accelerator(name) == (found != "cpu")


@pytest.mark.parametrize(
    ("name", "there", "sentence"),
    [
        ("cuda", {}, "device=cuda was given, but PyTorch sees no CUDA device; allowed here: auto, cpu."),
        ("mps", {"cuda": 1}, "device=mps was given, but PyTorch sees no MPS device; allowed here: auto, cpu, cuda."),
        ("xpu", {"mps": 1}, "device=xpu was given, but PyTorch sees no XPU device; allowed here: auto, cpu, mps."),
        (
            "cuda:3",
            {"cuda": 2},
            "device=cuda:3 was given, but PyTorch sees 2 CUDA devices; allowed here: cuda:0 to cuda:1 "
            "(nearest: cuda:1).",
        ),
        (
            "xpu:1",
            {"xpu": 1},
            "device=xpu:1 was given, but PyTorch sees 1 XPU device; allowed here: xpu:0 (nearest: xpu:0).",
        ),
    ],
)
def test_a_device_that_is_not_there_is_told_in_one_sentence(
    name: str, there: dict[str, int], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, **there)
    with pytest.raises(UserError) as error:
        find(name)
    assert str(error.value) == sentence


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "xpu", "xpu:1", "mps"])
def test_settings_take_every_device(name: str, settings_of: SettingsOf) -> None:
    """On any machine: a run of another one can be read here."""
    assert settings_of(f"device={name}").device == name


@pytest.mark.parametrize(
    "name", ["gpu", "cuda:", "cuda:one", "cuda:-1", "mps:0", "cpu:0", "CUDA", "pretend", "privateuseone"]
)
def test_other_names_are_refused_with_those_that_are_allowed(name: str, settings_of: SettingsOf) -> None:
    with pytest.raises(UserError) as error:
        settings_of(f"device='{name}'")
    told = str(error.value)
    assert told.startswith(f"device names {name}, which is not a device; allowed: auto, cpu, cuda, cuda:1, mps, xpu")
    assert "\n" not in told
    assert told.count("pretend") == (name == "pretend")
