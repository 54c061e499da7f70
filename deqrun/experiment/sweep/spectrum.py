"""The spectral radius of the trained map at the states that it answers with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.analysis.spectrum import spectral_radius
from deqrun.datasets import Dataset, Split
from deqrun.experiment.evaluate import in_evaluation
from deqrun.experiment.ranks import dealt
from deqrun.inference import median_interval
from deqrun.models import DEQ

ITERATIONS = 60
LARGEST_BASIS = 2**26
"""Numbers that one Arnoldi basis may hold: 256 MB in float32. Samples are taken in batches that keep to it."""


@dataclass(frozen=True)
class LocalStability:
    """ρ(∂f/∂z) at the returned states of `n` samples: the median with its 95 % interval, the largest, the share < 1.

    NaN where no sample has a finite Jacobian.
    """

    median: float
    low: float
    high: float
    largest: float
    below_one: float
    n: int


def local_stability(deq: DEQ, dataset: Dataset, split: Split, samples: int) -> LocalStability:
    """Estimate ρ(∂f/∂z) at the states that the training solve returns, for samples evenly spaced over the split.

    Errors near a fixed point shrink in the long run by the factor ρ per plain step: below 1 plain iteration comes back
    to it. Arnoldi's method, 60 products with Jᵀ each (`deqrun.analysis.spectrum`).

    samples  at most; all of the split where it has fewer
    """
    device = next(deq.parameters()).device
    places = torch.linspace(0, len(split) - 1, min(samples, len(split))).round().long()

    def radii(now: Tensor) -> tuple[NDArray[np.float64], int]:
        """Of the samples at these places, and the size of a state."""
        with deq.cell.fixed_weights(), torch.no_grad():
            f = deq.bind(dataset.encode(split.inputs[now].to(device)))
            z, _ = deq.settle(f, deq.start(f))
            return spectral_radius(f, z, iterations=ITERATIONS).value.numpy(), z[0].numel()

    # The first sample tells the size of a state, and with it how many fit into one basis.
    with in_evaluation(deq):
        first, size = radii(places[:1])
        rows = max(1, LARGEST_BASIS // (ITERATIONS * size))
        parts = [first, *(found for found, _ in dealt(places[1:].split(rows) if len(places) > 1 else (), radii))]
    radius = np.concatenate(parts)
    # A sample whose products are not finite has no radius; it counts as a sample, not as a value.
    known = radius[~np.isnan(radius)]
    if not known.size:
        return LocalStability(np.nan, np.nan, np.nan, np.nan, np.nan, len(radius))
    median = median_interval(known)
    return LocalStability(
        median.mean, median.low, median.high, float(known.max()), float((radius < 1).mean()), len(radius)
    )
