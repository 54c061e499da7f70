"""Inference: intervals whose unit is named, and the claims that a family of them carries.

Every claim is about something, and that is the unit that was drawn at random:

    of_these_models   these very networks, on other samples: samples are the unit
    of_the_recipe     networks trained by the recipe with other seeds: seeds are the unit
    of_recipes        other recipes: recipes are the unit

`told` says which members of a family of claims its data carry, corrected for their number. `scripts/coverage.py`
simulates the coverage of each interval and how often a claim is false. Imports no torch.
"""

from deqrun.inference.auroc import auroc, auroc_interval
from deqrun.inference.calibration import ReliabilityBin, expected_calibration_error, reliability
from deqrun.inference.crossed import Crossed, crossed
from deqrun.inference.estimate import LEAST_SEEDS, SEEDS_TO_DECIDE, Estimate, Unit
from deqrun.inference.family import Told, holm, told, told_by_name
from deqrun.inference.recipes import of_recipes, rank_correlation
from deqrun.inference.samples import (
    from_interval,
    mean_interval,
    median_interval,
    one_error_below,
    p_value,
    share_interval,
    wilson,
)
from deqrun.inference.units import (
    DIFFERENCE,
    SHARE,
    claim,
    claim_median,
    claim_statistic,
    of_seeds,
    of_the_recipe,
    of_these_models,
    resampled,
    shares_of_seeds,
)

__all__ = [
    "DIFFERENCE",
    "LEAST_SEEDS",
    "SEEDS_TO_DECIDE",
    "SHARE",
    "Crossed",
    "Estimate",
    "ReliabilityBin",
    "Told",
    "Unit",
    "auroc",
    "auroc_interval",
    "claim",
    "claim_median",
    "claim_statistic",
    "crossed",
    "expected_calibration_error",
    "from_interval",
    "holm",
    "mean_interval",
    "median_interval",
    "of_recipes",
    "of_seeds",
    "of_the_recipe",
    "of_these_models",
    "one_error_below",
    "p_value",
    "rank_correlation",
    "reliability",
    "resampled",
    "share_interval",
    "shares_of_seeds",
    "told",
    "told_by_name",
    "wilson",
]
