"""Several maps in the place of one: explicit nets, gone through by the same loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor


class Layers(ABC):
    """An f that is another map at each iterate: z_{k+1} = layer(z_k, k) for k < depth, and z_k from k = depth on.

    It has no fixed point that a solver could look for, so that only plain iteration goes through it, and no single
    value f(z). Iterate k is the state after k layers, its residual the relative change by layer k; behind the last
    layer nothing changes, the residual is 0, and nothing is evaluated.

    depth   number of layers, at least 1
    """

    depth: int

    @abstractmethod
    def layer(self, z: Tensor, k: int) -> Tensor:
        """Layer k of z, (batch, …) -> (batch, …); z itself for k >= depth."""

    def __call__(self, z: Tensor) -> Tensor:
        raise TypeError(
            f"{type(self).__name__} is {self.depth} layers that follow one another, and no map with a fixed point; "
            "go through it with Picard(damping=1.0), and with the gradient Unrolled."
        )


def value_at(f: Callable[[Tensor], Tensor], z: Tensor, k: int) -> Tensor:
    """f of iterate k: f(z), or layer k of z."""
    return f.layer(z, k) if isinstance(f, Layers) else f(z)


def depth_of(f: object) -> int | None:
    """Number of layers; None where f is one map."""
    return f.depth if isinstance(f, Layers) else None
