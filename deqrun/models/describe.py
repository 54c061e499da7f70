"""The size and cost of a cell before training: parameters, state, and multiply-adds, without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from deqrun.models.cell import Cell
from deqrun.models.cell_parts import Part, abstract_parts, names_behind
from deqrun.models.untied import UntiedCell

__all__ = ["BaselineDescription", "CellDescription", "describe", "describe_baseline"]


@dataclass(frozen=True)
class CellDescription:
    """Size and cost of a cell for one input shape.

    parameters, and those that each part is computed from: map_parameters (f), injection_parameters,
    readout_parameters. A parameter that several parts share counts once in `parameters`, and in each of them.

    multiply_adds of one evaluation of f, injection_multiply_adds, readout_multiply_adds: per sample, in
    evaluation mode; convolutions and matrix products only. Norms, activations, sums, biases are not counted.

    untied_layers: the number of layers of a net of untied layers, whose multiply_adds count one layer; else None.
    narrowed: constructor arguments by which these are narrower than the cell whose baseline they are.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    state_shape: tuple[int, ...]
    state_shapes: tuple[tuple[int, ...], ...]
    state_size: int
    parameters: int
    map_parameters: int
    injection_parameters: int
    readout_parameters: int
    multiply_adds: int
    injection_multiply_adds: int
    readout_multiply_adds: int
    untied_layers: int | None = None
    narrowed: Mapping[str, Any] = field(default_factory=dict)

    def answer_multiply_adds(self, nfe: float) -> float:
        """Multiply-adds per sample of an answer from `nfe` evaluations: injection + nfe · f + read-out."""
        return self.injection_multiply_adds + nfe * self.multiply_adds + self.readout_multiply_adds


@dataclass(frozen=True)
class BaselineDescription:
    """An explicit net beside the DEQ whose baseline it is.

    parameters and multiply_adds are the whole net's, deq_parameters the DEQ's, and deq_multiply_adds
    the cost of its answer from as many evaluations as the net has layers; multiply-adds are per sample, with injection
    and read-out. narrowed: constructor arguments by which the net's layers are narrower than the DEQ's cell.
    """

    kind: str
    layers: int
    narrowed: Mapping[str, Any]
    parameters: int
    deq_parameters: int
    multiply_adds: int
    deq_multiply_adds: int


def describe_baseline(net: CellDescription, deq: CellDescription, layers: int) -> BaselineDescription:
    """The net of `layers` layers beside the DEQ."""
    return BaselineDescription(
        kind="tied" if net.untied_layers is None else "untied",
        layers=layers,
        narrowed=net.narrowed,
        parameters=net.parameters,
        deq_parameters=deq.parameters,
        multiply_adds=int(net.answer_multiply_adds(layers)),
        deq_multiply_adds=int(deq.answer_multiply_adds(layers)),
    )


def describe(cell: Cell, input_shape: Sequence[int] | None = None) -> CellDescription:
    """Measure `cell` on one sample of the input shape that it was built for.

    Runs a copy on PyTorch's meta device, which propagates shapes and computes nothing; `cell` stays as it is.
    Raises ValueError if `input_shape` is given and another: a state's size is settled when a cell is built.
    """
    shape = cell.input_shape
    if input_shape is not None and tuple(input_shape) != shape:
        raise ValueError(
            f"input_shape={list(input_shape)} is not what this cell was built for: allowed is {list(shape)}."
        )
    with abstract_parts(cell) as (abstract, parts):
        names = names_behind(cell, abstract, parts)
        multiply_adds, injection_multiply_adds, readout_multiply_adds = (_multiply_adds(part) for part in parts)
    untied = cell if isinstance(cell, UntiedCell) else None
    sizes = {name: parameter.numel() for name, parameter in cell.named_parameters()}
    return CellDescription(
        name=f"{untied.depth} untied layers of {type(untied.layers[0]).__name__}" if untied else type(cell).__name__,
        input_shape=shape,
        num_classes=cell.num_classes,
        state_shape=cell.state_shape,
        state_shapes=cell.state_shapes,
        state_size=cell.state_size,
        parameters=sum(sizes.values()),
        map_parameters=sum(sizes[name] for name in names.of_map),
        injection_parameters=sum(sizes[name] for name in names.of_injection),
        readout_parameters=sum(sizes[name] for name in names.of_readout),
        multiply_adds=multiply_adds // untied.depth if untied else multiply_adds,
        injection_multiply_adds=injection_multiply_adds,
        readout_multiply_adds=readout_multiply_adds,
        untied_layers=untied.depth if untied else None,
        narrowed=untied.narrowed if untied else {},
    )


def _multiply_adds(part: Part) -> int:
    # The counter's unit is one multiplication or one addition: two to a multiply-add.
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        part()
    return int(counter.get_total_flops()) // 2
