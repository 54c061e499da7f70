"""A model from elsewhere as a cell: its own f, start and read-out, its weights untouched."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from deqrun.models.cell import Cell

__all__ = ["AdaptedCell", "NoModel", "give"]

MAPS = ("f", "start", "readout")
"""Methods that a foreign model must have; `inject` is optional."""

_given: dict[str, nn.Module] = {}
"""Models that Python code of this process gave, by name."""


def give(name: str, model: nn.Module) -> None:
    """From now on `AdaptedCell(given=name)` has a copy of this model, in this process."""
    _given[name] = copy.deepcopy(_with_maps(model))


class AdaptedCell(Cell):
    """A cell whose maps are methods of a module that knows nothing of deqrun.

        injection = model.inject(x)               (x where the model has no `inject`)
        z_0 = model.start(*injection)             f(z; x) = model.f(z, *injection)
        logits = model.readout(z*)

    x is the data set's encoded input (batch, *input_shape). `inject` returns a tensor or a tuple of tensors, each with
    the batch first. A state is one tensor (batch, …) or a tuple of tensors (batch, …) of one dtype; f gets and returns
    the same, and read-out gets it. Solvers see the parts of a tuple side by side, as one vector a sample.

    Arguments
        input_shape, num_classes, output_shape   the data set's
        model                                    an nn.Module with the methods above; its weights are this cell's
        given                                    in its place, the name of a model that `deqrun.sweep_model` was given
                                                 in this process; the cell has a copy

    The start of one sample of zeros settles the state's shape. Raises ValueError where a method is missing, where the
    start or the logits have no such shape, and where there is no model.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        output_shape: Sequence[int] = (),
        model: object = None,
        given: str | None = None,
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, output_shape=output_shape)
        self.model = model = _with_maps(model if given is None else _copied(given))
        # Ask the model once, for the shapes of its state and its logits.
        training = model.training
        with torch.no_grad():
            model.eval()
            injection = self.inject(self._zeros())
            state = _parts(self._own("start")(*injection), "start")
            _require_batch("start", state)
            logits = self._own("readout")(state if len(state) > 1 else state[0])
            model.train(training)
        self._shapes = tuple(tuple(part.shape[1:]) for part in state)
        self._packed = len(state) > 1
        self.state_shape = (sum(map(math.prod, self._shapes)),) if self._packed else self._shapes[0]
        expected = (1, self.num_classes, *self.output_shape)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"readout of {type(model).__name__} returned {found} for one sample; it must return logits {expected}, "
                "classes first, as the data set asks for them"
            )

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the parts of the state."""
        return self._shapes

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the model's `inject` makes of x (batch, *input_shape); (x,) where it has none."""
        own = getattr(self.model, "inject", None)
        return (x,) if own is None else _parts(own(x), "inject")

    def initial_state(self, injection: tuple[Tensor, ...]) -> Tensor:
        """The model's own start, (batch, *state_shape)."""
        return self._pack(_parts(self._own("start")(*injection), "start"))

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, *state_shape) -> the same."""
        return self._pack(_parts(self._own("f")(self._unpacked(z), *injection), "f"))

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes, *output_shape) of the state (batch, *state_shape)."""
        return cast(Tensor, self._own("readout")(self._unpacked(z)))

    def _own(self, name: str) -> Any:
        return getattr(self.model, name)

    def _zeros(self) -> Tensor:
        """One encoded sample of zeros, where the weights are, and in double precision if they are."""
        first = next(iter((*self.model.parameters(), *self.model.buffers())), torch.zeros(()))
        return torch.zeros(1, *self.input_shape, dtype=self.weights_dtype, device=first.device)

    def _pack(self, parts: tuple[Tensor, ...]) -> Tensor:
        """(batch, *state_shape) of the parts of a state."""
        if not self._packed:
            return parts[0]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def _unpacked(self, z: Tensor) -> Any:
        """The state as the model has it: a tensor, or a tuple."""
        if not self._packed:
            return z
        parts = z.split([math.prod(shape) for shape in self._shapes], dim=1)
        return tuple(part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True))


class NoModel:
    """The place of a model that was not named. Raises ValueError."""

    def __init__(self) -> None:
        raise ValueError("model=adapted names no model; give deqrun sweep cell=package.module:factory")


def _copied(name: str) -> nn.Module:
    if name not in _given:
        raise ValueError(
            f"the model {name} was given from Python, by deqrun.sweep_model, and is not in this process; give it again"
        )
    return copy.deepcopy(_given[name])


def _with_maps(model: object) -> nn.Module:
    """The model, if it is a module with the methods of an adapter."""
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {name}; it must be an nn.Module with the methods {', '.join(MAPS)}")
    missing = [each for each in MAPS if not inspect.isroutine(getattr(model, each, None))]
    if missing:
        raise ValueError(
            f"{name} has no method {missing[0]}; a model needs f(z, x), start(x) and readout(z), and may have inject(x)"
        )
    return model


def _parts(given: Any, name: str) -> tuple[Tensor, ...]:
    """The tensors that a method returned."""
    parts = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    wrong = next((part for part in parts if not isinstance(part, Tensor)), None)
    if wrong is not None or not parts:
        kind = "nothing" if not parts else f"a {type(wrong).__name__}"
        raise ValueError(f"{name} returned {kind}; it must return a tensor or a tuple of tensors")
    return parts


def _require_batch(name: str, parts: tuple[Tensor, ...]) -> None:
    for part in parts:
        if part.dim() < 2 or len(part) != 1:
            raise ValueError(
                f"{name} returned {tuple(part.shape)} for one sample; a state has the batch first, as in (batch, width)"
            )
