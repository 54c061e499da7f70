"""The one place where torchvision is imported, and the one repair that its import may need.

A torchvision built for CUDA, beside a CPU-only torch, fails to import with "operator torchvision::nms does not
exist": its compiled library does not load, and its Python code then describes two operators that nobody declared.
Declaring their schemas first lets the rest, which is all that deqrun uses, be imported. Where the operators exist
nothing is done.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import torch

__all__ = ["torchvision_datasets", "torchvision_functional"]

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []


def torchvision_datasets() -> ModuleType:
    """The module torchvision.datasets."""
    return _imported("torchvision.datasets")


def torchvision_functional() -> ModuleType:
    """The module torchvision.transforms.v2.functional: the transforms, without their draws."""
    return _imported("torchvision.transforms.v2.functional")


def _imported(name: str) -> ModuleType:
    try:
        return import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_missing()
        return import_module(name)


def _declare_missing() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)  # the declarations live as long as the library object does
