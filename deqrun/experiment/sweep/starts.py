"""The draws of a sweep: where its solves begin, the noise of their steps, and the symmetries they are seen through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.datasets.dataset import SPLITS, Dataset
from deqrun.datasets.puzzle_symmetries import Views
from deqrun.experiment.training.seeding import derived_seed, generator
from deqrun.solvers import Noisy, Solver

__all__ = ["StartKind", "SweepNoise", "SweepStart", "SweepViews", "derangement", "normal_start", "step_noise"]

StartKind = Literal["zeros", "normal", "other"]

NORMAL, OTHER, NOISE, SYMMETRY = range(4)
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
        # π is drawn for the whole split at once: it depends on no batch.
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
    return own + scale * _drawn(own, place, seed, NORMAL, SPLITS.index(split), draw)


def step_noise(like: Tensor, place: slice, *, seed: int, split: str, draw: int, step: int) -> Tensor:
    """ε (batch, D) ~ N(0, I) of one step, of each sample from (seed, split, its place, draw, step) alone.

    like  (rows, D) a state of some of the samples, for shape, dtype and device
    """
    return _drawn(like, place, seed, NOISE, SPLITS.index(split), draw, step)


def _drawn(like: Tensor, place: slice, *parts: int) -> Tensor:
    """Normal numbers (samples at `place`, …), as wide as `like` and where it is."""
    # Row by row on the host, in float32: a sample's numbers depend on its place alone, whatever batch it is in.
    drawn = torch.empty(place.stop - place.start, *like.shape[1:], dtype=torch.float32)
    source = torch.Generator()
    for row, i in zip(drawn, range(place.start, place.stop), strict=True):
        row.normal_(generator=source.manual_seed(derived_seed(*parts, i)))
    return drawn.to(like, non_blocking=True)


@dataclass(frozen=True)
class SweepNoise:
    """Noise of the steps of a sweep: level · rms(z) · ε (`deqrun.solvers.Noisy`), ε as `step_noise` draws it.

    ε does not depend on the level: draws at two levels differ in the size of the same noise.

    level  standard deviation over the state's root mean square; 0: the solver as it is
    split  its name
    seed   of ε
    """

    level: float = 0.0
    split: str = "test"
    seed: int = 0

    def shaken(self, solver: Solver, place: slice, draw: int) -> Solver:
        """The solver with this noise, of the samples at `place` in the split, in this draw."""
        # Without noise nothing is wrapped, so that numbers are equal to the last bit.
        if self.level == 0:
            return solver

        def epsilon(k: int, z: Tensor) -> Tensor:
            return step_noise(z, place, seed=self.seed, split=self.split, draw=draw, step=k)

        return Noisy(solver, self.level, epsilon)


@dataclass(frozen=True)
class SweepViews:
    """A symmetry of each sample in each draw, from (seed, split, draw, place in the split) alone; draw 0 is as it is.

    split  its name
    seed   of the symmetries
    """

    split: str = "test"
    seed: int = 0

    def of(self, dataset: Dataset, place: slice, draw: int, device: torch.device) -> Views | None:
        """The views of the samples at `place` in this draw; None: as they are."""
        if draw == 0:
            return None
        parts = (self.seed, SYMMETRY, SPLITS.index(self.split), draw)
        drawn = [dataset.views(1, generator(*parts, i)) for i in range(place.start, place.stop)]
        return Views.joined(drawn, device)


def derangement(n: int, seed: int, split: str) -> Tensor:
    """A permutation of 0 … n − 1 without fixed point, (n,) long: one random cycle through all (Sattolo 1986).

    Of a single sample there is none, and 0 is returned.
    """
    # One cycle through all samples has no fixed point.
    cycle = torch.randperm(n, generator=generator(seed, OTHER, SPLITS.index(split)))
    other = torch.empty_like(cycle)
    other[cycle] = cycle.roll(-1)
    return other
