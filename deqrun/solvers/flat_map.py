"""A map on states of any shape, seen as a map on (batch, D) in the solver's dtype."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from deqrun.solvers.layers import Layers
from deqrun.solvers.precision import matmul_precision


class FlatMap:
    """f on flat float32-or-wider states: reshapes, casts, and checks the output of f.

    f is the map as it was given to `solve`, for the rows of the current batch; `part` calls a method of it. A solver's
    step runs without autocast and TF32, but f is always called with those under which `solve` was.

    Where the scale s of a row, a power of two, is far from 1, y ↦ f(s y) / s is seen instead, whose iterates
    are those of f over s to the last digit. Products of the solver's own vectors then neither overflow nor underflow.

    Raises ValueError where f changes the shape, writes into its input, or returns the same buffer at each call
    (iterates would overwrite each other); TypeError where f returns no floating-point tensor.
    """

    def __init__(self, f: Callable[[Tensor], Tensor], like: Tensor) -> None:
        if not callable(f):
            raise TypeError(f"f must be a callable (batch, …) -> (batch, …), got {type(f).__name__}.")
        self.f = f
        self._shape = tuple(like.shape[1:])
        self._dtype = like.dtype
        self._state_dtype = torch.promote_types(like.dtype, torch.float32)
        self.output_dtype = self._dtype  # that of f's values, once it has been called
        self._device = like.device.type
        autocast = torch.is_autocast_enabled(self._device)
        self._autocast = torch.get_autocast_dtype(self._device) if autocast else None
        self._matmul = torch.get_float32_matmul_precision()
        self.scale: Tensor | None = None  # (rows, 1); None: 1
        self._last: dict[str, tuple[Tensor, int]] = {}  # each part's last output, and how often it had been written to
        self._width = like[0:1].numel() if len(like) else int(torch.tensor(self._shape).prod())

    @property
    def can_take(self) -> bool:
        return hasattr(self.f, "take")

    def take(self, rows: Tensor) -> Self:
        """The map for these rows of the current batch."""
        taken = copy.copy(self)
        taken.f = self.f.take(rows)  # type: ignore[attr-defined]
        taken.scale = None if self.scale is None else self.scale[rows]
        return taken

    def rescale(self, scale: Tensor) -> None:
        """From here on the states are f's over scale (rows, 1)."""
        self.scale = scale

    def given(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        """States of this map as f's: (r, D) of these rows, None for all -> (r, …), in the solver's dtype."""
        if self.scale is not None:
            z = z * (self.scale if rows is None else self.scale[rows])
        return self.unflatten(z)

    def flatten(self, z: Tensor) -> Tensor:
        """(batch, …) -> (batch, D), float32 or wider."""
        flat = z.detach() if z.requires_grad else z
        return (flat if flat.dim() == 2 else flat.reshape(flat.shape[0], self._width)).to(self._state_dtype)

    def unflatten(self, z: Tensor) -> Tensor:
        """(batch, D) -> (batch, …), still in the solver's dtype."""
        return z if len(self._shape) == 1 else z.view(z.shape[0], *self._shape)

    def __call__(self, z: Tensor) -> Tensor:
        return self.part("__call__", z.to(self._dtype))

    def at(self, z: Tensor, k: int) -> Tensor:
        """f(z), or layer k of z where f is `Layers`."""
        return self.part("layer", z.to(self._dtype), k) if isinstance(self.f, Layers) else self(z)

    def part(self, name: str, z: Tensor, *arguments: object) -> Tensor:
        """f's method `name`, a map of states as f is, on flat states and further arguments: (rows, D) -> (rows, D).

        It is given the states in their dtype, which may be wider than the start's, in which f itself is called.
        """
        method = getattr(self.f, name)
        given = self.given(z).to(z.dtype)
        if z.is_inference() or torch.is_inference_mode_enabled():  # such tensors count no writes
            return self._scaled(self._checked(self._evaluate(method, given, *arguments), given))
        version = given._version
        output = self._evaluate(method, given, *arguments)
        value = self._checked(output, given)
        if given._version != version or any(last._version != written for last, written in self._last.values()):
            raise ValueError("f wrote into its input or into its last output; it must return a new tensor each time.")
        self._last[name] = (output, output._version)
        return self._scaled(value)

    def _scaled(self, value: Tensor) -> Tensor:
        return value if self.scale is None else value / self.scale

    def _evaluate(self, method: Callable[..., Tensor], given: Tensor, *arguments: object) -> Tensor:
        if self._matmul != torch.get_float32_matmul_precision():
            with matmul_precision(self._matmul):
                return self._evaluate(method, given, *arguments)
        if self._autocast is None or torch.is_autocast_enabled(self._device):
            return method(given, *arguments)
        with torch.autocast(self._device, self._autocast):
            return method(given, *arguments)

    def _checked(self, value: object, given: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"f must return a floating-point tensor of shape {tuple(given.shape)}, got {got}.")
        if value.shape != given.shape:
            raise ValueError(f"f must keep the shape {tuple(given.shape)}, got {tuple(value.shape)}.")
        self.output_dtype = value.dtype
        return self.flatten(value)
