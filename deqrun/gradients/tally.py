"""A map that counts how often it is evaluated, and how often a gradient passes through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deqrun.gradients.gradient import Map


@dataclass
class Tally:
    """Rows that f was evaluated on, and rows of vector-Jacobian products through it."""

    evaluations: int = 0
    products: int = 0

    def note_product(self, gradient: Tensor) -> None:
        """A gradient came back to f's value."""
        self.products += len(gradient)


@dataclass(frozen=True)
class Counted:
    """f, whatever else it can do, adding to the tally.

    A splitting solver evaluates f as prox(affine(z)): there calls of `affine` count.
    """

    f: Any
    tally: Tally

    def __call__(self, z: Tensor) -> Tensor:
        return self._evaluate(self.f, z)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.f, name)
        if name == "take":
            return lambda rows: Counted(attribute(rows), self.tally)
        return (lambda z: self._evaluate(attribute, z)) if name == "affine" else attribute

    def _evaluate(self, function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        self.tally.evaluations += len(z)
        value = function(z)
        if value.requires_grad:
            value.register_hook(self.tally.note_product)
        return value


def counted(f: Map) -> tuple[Map, Tally]:
    """f with a count of its evaluations."""
    tally = Tally()
    return Counted(f, tally), tally
