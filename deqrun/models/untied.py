"""The explicit baseline of a deep equilibrium model whose layers have weights of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from deqrun.arguments import require_at_least
from deqrun.models.cell import BoundCell, Cell, as_injection
from deqrun.models.cell_parts import parameter_names
from deqrun.solvers.layers import Layers

__all__ = ["BoundLayers", "Match", "UntiedCell", "untied_baseline"]

Match = Literal["parameters", "multiply_adds"]


class UntiedCell(Cell):
    """z_{k+1} = f_k(z_k; x) for k = 0 … L − 1, logits = readout(z_L): f_k is a cell's map, each with its own weights.

    Injection, start and read-out are there once, so that all that tells this net from L iterations of the cell is that
    the weights are not tied. (A cell whose map and injection share weights is injected for each layer by its own.)
    Draws in the injection, such as dropout masks, are the same for all layers.

    Arguments
        layers      L >= 1 cells of one kind and size; what is not f's own is taken from the first of them, the others'
                    is given up
        narrowed    constructor arguments by which they are narrower than the cell whose baseline this is

    Attributes of the same names. `forward` is the whole way from z_0 to z_L.
    """

    def __init__(self, layers: Sequence[Cell], *, narrowed: Mapping[str, Any] | None = None) -> None:
        first = layers[0]
        super().__init__(input_shape=first.input_shape, num_classes=first.num_classes, output_shape=first.output_shape)
        self.state_shape = first.state_shape
        self.narrowed = dict(narrowed or {})
        own = parameter_names(first)
        self.injected_each = not own.of_map.isdisjoint(own.of_injection)
        for layer in layers[1:]:
            _share(layer, first, own.of_map)
        self.layers = nn.ModuleList(layers)

    @property
    def depth(self) -> int:
        """Number of layers, L."""
        return len(self.layers)

    @property
    def state_shapes(self) -> tuple[tuple[int, ...], ...]:
        return self._first.state_shapes

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """The cell's injection, once; one after the other for all layers where their weights take part in it."""
        injecting = self._cells() if self.injected_each else [self._first]
        return tuple(part for cell in injecting for part in as_injection(cell.inject(x)))

    def initial_state(self, injection: tuple[Tensor, ...]) -> Tensor:
        return self._first.initial_state(self.injection_of(0, injection))

    def bind(self, x: Tensor) -> BoundLayers:
        """The layers for one batch x (batch, *input_shape)."""
        return BoundLayers(self, self.inject(x))

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """z_L of z_0 = z: (batch, *state_shape) -> (batch, *state_shape)."""
        for k in range(self.depth):
            z = self.evaluate(k, z, injection)
        return z

    def evaluate(self, k: int, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """f_k(z; x), k < L."""
        value: Tensor = self.layers[k](z, self.injection_of(k, injection))
        return value

    def injection_of(self, k: int, injection: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Layer k's part of the injection."""
        if not self.injected_each:
            return injection
        each = len(injection) // self.depth
        return injection[k * each : (k + 1) * each]

    def readout(self, z: Tensor) -> Tensor:
        return self._first.readout(z)

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        with ExitStack() as stack:
            for cell in self._cells():
                stack.enter_context(cell.fixed_weights())
            yield

    @property
    def _first(self) -> Cell:
        return self._cells()[0]

    def _cells(self) -> list[Cell]:
        return [layer for layer in self.layers if isinstance(layer, Cell)]  # all of them


class BoundLayers(Layers, BoundCell):
    """The layers of an untied net for one batch, for plain iteration to go through."""

    cell: UntiedCell

    @property
    def depth(self) -> int:  # type: ignore[override]
        return self.cell.depth

    def layer(self, z: Tensor, k: int) -> Tensor:
        """f_k(z; x) in z's dtype; z itself behind the last layer."""
        return self.cell.evaluate(k, z, self.injection).to(z.dtype) if k < self.depth else z


def untied_baseline(make: Callable[..., Cell], layers: int, match: Match) -> UntiedCell:
    """The net of `layers` untied layers beside the cell that `make()` builds.

        parameters      each layer is narrower than the cell: of all the widths that the cell knows (`Cell.narrower`)
                        that with which the whole net has most parameters, yet no more than the cell
        multiply_adds   each layer is as wide as the cell, and costs one evaluation of it

    make   builds the cell, its keyword arguments in the place of the cell's own; is called within the meta device, too

    Raises ValueError where layers < 1, and with match=parameters where no width is narrow enough.
    """
    layers = require_at_least("layers", layers, 1)
    with torch.device("meta"):  # sizes are wanted, and no random numbers drawn for them
        changes = _matched(make, layers) if match == "parameters" else {}
    return UntiedCell([make(**changes) for _ in range(layers)], narrowed=changes)


def _matched(make: Callable[..., Cell], layers: int) -> dict[str, Any]:
    """The arguments with which the net has most parameters, of those with which it has no more than the cell."""
    cell = make()
    own, most = parameter_names(cell).of_map, sum(parameter.numel() for parameter in cell.parameters())
    counts = [(_count(make(**changes), own, layers), changes) for changes in cell.narrower()]
    if not counts:
        raise ValueError(
            f"match=parameters needs narrower layers, but {type(cell).__name__} does not say how it is narrowed "
            "(`Cell.narrower`); allowed is match=multiply_adds."
        )
    fitting = [(count, changes) for count, changes in counts if count <= most]
    if not fitting:
        count, narrowest = min(counts, key=lambda pair: pair[0])
        raise ValueError(
            f"match=parameters can't be met by layers={layers}: at their narrowest ({_shown(narrowest)}) they have "
            f"{count:,} parameters in all, and the DEQ has {most:,}; give fewer layers, or match=multiply_adds."
        )
    return max(fitting, key=lambda pair: pair[0])[1]


def _count(cell: Cell, own: frozenset[str], layers: int) -> int:
    return sum(p.numel() * (layers if name in own else 1) for name, p in cell.named_parameters())


def _shown(changes: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in changes.items())


def _share(module: nn.Module, first: nn.Module, own: frozenset[str], at: str = "") -> None:
    """Replace the parts of `module` that hold no parameter of f by `first`'s."""
    for name in [name for name in module._parameters if at + name not in own]:
        module._parameters[name] = first._parameters[name]
    for name, part in list(module._modules.items()):
        if part is None:
            continue
        held = [at + f"{name}.{inner}" for inner, _ in part.named_parameters()]
        if own.isdisjoint(held):
            module._modules[name] = first._modules[name]
        else:
            inner = first._modules[name]
            assert inner is not None
            _share(part, inner, own, f"{at}{name}.")
