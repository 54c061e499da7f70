"""Where the solves of a sweep begin."""

from __future__ import annotations

from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.datasets.dataset import SPLITS
from deqrun.experiment.training.seeding import derived_seed, generator

__all__ = ["StartKind", "SweepStart", "derangement", "normal_start"]

StartKind = Literal["zeros", "normal", "other"]

NORMAL, OTHER = range(2)
"""Purposes of the seeds: a number says which stream it is, and is never given to another purpose."""


class SweepStart:
    """z_0 of the samples of a split, from `own`, the cell's initial state (0 unless the cell says otherwise).

        zeros     own
        normal    own + scale · ε, ε ~ N(0, I)
        other     z*_{π(i)}, the solution that another sample's solve from own ended with, π a derangement of the
                  split; own where that solution isn't finite

    Both ε and π are drawn from (seed, split, place in the split), so that neither depends on the batch size, the
    device or the precision.

    kind       zeros, normal or other
    split      its name
    seed       of ε and π
    scale      standard deviation of normal starts
    solutions  (n, *state_shape) of the whole split on the host or in a file, which `other` needs
    draw       number of the draw of ε; another number, another start
    """

    def __init__(
        self,
        kind: StartKind = "zeros",
        *,
        split: str = "test",
        seed: int = 0,
        scale: float = 1.0,
        solutions: Tensor | NDArray[Any] | None = None,
        draw: int = 0,
    ) -> None:
        self.kind, self.split, self.seed, self.scale, self.draw = kind, split, seed, scale, draw
        self._solutions = solutions
        if kind == "other":
            if solutions is None:
                raise ValueError("Starting at another sample's solution needs the solutions of the split.")
            self._other = derangement(len(solutions), seed, split).numpy()

    def begin(self, own: Tensor, place: slice) -> Tensor:
        """z_0 (batch, *state_shape) of the samples at `place` in the split."""
        if self.kind == "normal":
            return normal_start(own, place, seed=self.seed, split=self.split, scale=self.scale, draw=self.draw)
        if self.kind != "other" or self._solutions is None:
            return own
        # A solve that was lost gives no start.
        other = torch.as_tensor(self._solutions[self._other[place]]).to(own, non_blocking=True)
        finite = other.flatten(1).isfinite().all(1).view(-1, *[1] * (own.dim() - 1))
        return torch.where(finite, other, own)


def normal_start(own: Tensor, place: slice, *, seed: int, split: str, scale: float, draw: int = 0) -> Tensor:
    """own + scale · ε (batch, *state_shape), ε of each sample from a generator of its own."""
    # Row by row on the host, so that a sample's start depends on its place alone.
    noise = torch.empty(own.shape, dtype=torch.float32)
    source = torch.Generator()
    for row, i in zip(noise, range(place.start, place.stop), strict=True):
        row.normal_(generator=source.manual_seed(derived_seed(seed, NORMAL, SPLITS.index(split), draw, i)))
    return own + scale * noise.to(own, non_blocking=True)


def derangement(n: int, seed: int, split: str) -> Tensor:
    """A permutation of 0 … n − 1 without fixed point, (n,) long: one random cycle through all (Sattolo 1986).

    Of a single sample there is none, and 0 is returned.
    """
    # One cycle through all samples has no fixed point.
    cycle = torch.randperm(n, generator=generator(seed, OTHER, SPLITS.index(split)))
    other = torch.empty_like(cycle)
    other[cycle] = cycle.roll(-1)
    return other
