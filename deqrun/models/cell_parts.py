"""The three maps of a cell taken apart, without data: which parameters each is computed from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from deqrun.models.cell import Cell, as_injection

__all__ = ["ParameterNames", "Part", "abstract_parts", "names_behind", "parameter_names"]

Part = Callable[[], tuple[Tensor, ...]]


class ParameterNames(NamedTuple):
    """Names of the parameters that each part of a cell is computed from, as autograd sees it; they may overlap."""

    of_map: frozenset[str]
    of_injection: frozenset[str]
    of_readout: frozenset[str]


def parameter_names(cell: Cell) -> ParameterNames:
    """Which parameters are f's, which the injection's, and which the read-out's; `cell` stays as it is."""
    with abstract_parts(cell) as (abstract, parts):
        return names_behind(cell, abstract, parts)


@contextmanager
def abstract_parts(cell: Cell) -> Iterator[tuple[Cell, tuple[Part, Part, Part]]]:
    """A copy of the cell on the meta device, and its map, injection and read-out for one sample there."""
    abstract = copy.deepcopy(cell).to("meta", torch.float32).eval().requires_grad_(True)
    x = torch.zeros(1, *cell.input_shape, device="meta")
    z = torch.zeros(1, *cell.state_shape, device="meta")
    injection = tuple(part.detach() for part in as_injection(abstract.inject(x)))
    with torch.enable_grad(), abstract.fixed_weights():  # what is computed once per solve is no cost of an evaluation
        yield (
            abstract,
            (
                lambda: (abstract(z, injection),),
                lambda: as_injection(abstract.inject(x)),
                lambda: (abstract.readout(z),),
            ),
        )


def names_behind(cell: Cell, abstract: Cell, parts: Sequence[Part]) -> ParameterNames:
    """The parameters that each part of the abstract copy has a gradient to, by their names in the cell."""
    # On its way to the meta device a parameter that two modules share becomes two; in the cell it has one name.
    one_name = {id(parameter): name for name, parameter in cell.named_parameters()}
    names = [one_name[id(parameter)] for _, parameter in cell.named_parameters(remove_duplicate=False)]
    parameters = [parameter for _, parameter in abstract.named_parameters(remove_duplicate=False)]
    found = []
    for part in parts:
        outputs = [output.sum() for output in part() if output.requires_grad]
        gradients: Sequence[Tensor | None] = [None] * len(names)
        if outputs:
            gradients = torch.autograd.grad(outputs, parameters, allow_unused=True, retain_graph=True)
        pairs = zip(names, gradients, strict=True)
        found.append(frozenset(name for name, gradient in pairs if gradient is not None))
    return ParameterNames(*found)
