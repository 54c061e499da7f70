"""An estimate with its 95 % interval, the unit that it generalises over, and its evidence against a reference value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

LEVEL = 0.05
"""Two-sided error of an interval, and of a family of claims."""

LEAST_SEEDS = 3
"""Fewer seeds say nothing of a recipe: the claim is then of these very models."""

SEEDS_TO_DECIDE = 5
"""Seeds from which on a claim about a recipe may be a Yes or a No."""


class Unit(StrEnum):
    """The unit that was drawn at random, over which an interval generalises."""

    SAMPLES = "samples"
    SEEDS = "seeds"
    RECIPES = "recipes"
    ROUNDS = "rounds"


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval [low, high].

    mean    the estimate: a mean, share, median, ratio or correlation
    n       samples, or rounds of the clock, that it rests on
    unit    over which the interval generalises
    seeds   trained networks that it rests on; recipes, where these are the unit
    p       two-sided p-value of the true value being `versus`, by inverting the interval; NaN: not tested
    versus  the reference value: 0 of a difference, 1 of a ratio, a threshold of a share
    own     the value of each seed by itself, where there are several
    """

    mean: float
    low: float
    high: float
    n: int
    unit: Unit = Unit.SAMPLES
    seeds: int = 1
    p: float = math.nan
    versus: float = 0.0
    own: tuple[float, ...] = ()

    @property
    def decides(self) -> bool:
        """Whether there are enough units for a Yes or a No."""
        return self.unit is not Unit.SEEDS or self.seeds >= SEEDS_TO_DECIDE
