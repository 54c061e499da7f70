"""The device that `device=` names, or one sentence where it is not there."""

from __future__ import annotations

import torch

from deqrun.errors import UserError
from deqrun.settings import Settings
from deqrun.settings.place import Place
from deqrun.solvers.device import has_float64, traits

__all__ = ["count_of", "find", "find_for_rank", "is_accelerator", "kind_of", "require_device"]

NAMES = {"cuda": "CUDA", "mps": "MPS", "xpu": "XPU"}


def find(name: str) -> torch.device:
    """The device of a name that `Settings.device` allows: auto is CUDA if there is any, else the CPU.

    Raises UserError where PyTorch sees no such device, or fewer than the number asks for.
    """
    kind, number = kind_of(name), name.partition(":")[2]
    if kind == "cpu":
        return torch.device("cpu")
    count, said = count_of(kind), NAMES.get(kind, kind)
    if not count:
        raise UserError(
            f"device={name} was given, but PyTorch sees no {said} device; allowed here: {', '.join(_present())}."
        )
    if int(number or 0) >= count:
        devices = f"{count} {said} device{'' if count == 1 else 's'}"
        raise UserError(
            f"device={name} was given, but PyTorch sees {devices}; allowed here: {kind}:0"
            f"{f' to {kind}:{count - 1}' if count > 1 else ''} (nearest: {kind}:{count - 1})."
        )
    return torch.device(kind, int(number)) if number else torch.device(kind)


def find_for_rank(name: str, own: Place) -> torch.device:
    """The device of a rank: of CUDA and XPU devices the one with its number on this machine.

    Raises UserError where there are fewer devices than ranks, or where the name is of one device alone.
    """
    kind = kind_of(name)
    if own.count == 1 or kind == "cpu":
        return find(name)
    if kind == "mps" or ":" in name:
        raise UserError(
            f"device={name} is one device, and the run has {own.count} ranks; allowed are auto, cpu, cuda and xpu "
            f"(nearest: device={'cpu' if kind == 'mps' else kind})."
        )
    return find(f"{kind}:{own.local}")


def kind_of(name: str) -> str:
    """cpu, cuda, mps or xpu: of auto, CUDA if there is any, else the CPU."""
    kind = name.partition(":")[0]
    return ("cuda" if count_of("cuda") else "cpu") if kind == "auto" else kind


def is_accelerator(name: str) -> bool:
    """Whether a name stands for another device than the CPU, as far as that can be told; never raises."""
    return name != "cpu" and (name != "auto" or count_of("cuda") > 0)


def require_device(settings: Settings) -> None:
    """Refuse a device that is not there, or that lacks a precision of the training or sweep. Raises UserError."""
    device = find(settings.device)
    if traits(device).at_hand or has_float64(device):
        return
    if settings.train.precision == "float64":
        raise UserError(
            f"train.precision=float64 is not possible on device={settings.device}, which has no float64; allowed: "
            "float32, bfloat16, float16 (nearest: float32)."
        )
    if "float64" in settings.sweep.precisions and not settings.sweep.empty:
        others = [precision for precision in settings.sweep.precisions if precision != "float64"] or ["float32"]
        raise UserError(
            f"sweep.precisions names float64, which device={settings.device} does not have; allowed there: float32, "
            f"bfloat16 (nearest: sweep.precisions=[{','.join(others)}])."
        )


def count_of(kind: str) -> int:
    """How many devices of a kind PyTorch sees; 0 where it is built without."""
    if kind == "mps":  # whose module does not say whether it is there
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind, None)
    return int(module.device_count()) if module is not None and module.is_available() else 0


def _present() -> list[str]:
    return ["auto", "cpu", *(kind for kind in NAMES if count_of(kind))]
