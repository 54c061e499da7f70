"""Families of claims: Holm's procedure by hand, and on which side of a reference value a claim lies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deqrun.inference import Estimate, Told, Unit, holm, told, told_by_name


@pytest.mark.parametrize(
    ("p_values", "rejected"),
    [
        # sorted .005 <= .05/4, .01 <= .05/3, .02 <= .05/2, .03 <= .05
        ([0.01, 0.02, 0.03, 0.005], [True, True, True, True]),
        # sorted .005 <= .0125, .01 <= .0167, .03 > .025: there it stops, although .04 <= .05
        ([0.01, 0.04, 0.03, 0.005], [True, False, False, True]),
        ([0.05], [True]),
        ([0.0500001], [False]),
        ([0.025, 0.05], [True, True]),
        ([0.026, 0.04], [False, False]),
        ([math.nan, 0.02], [False, True]),
        ([math.nan, 0.03], [False, False]),  # a claim that was not tested is still one of the family
        ([], []),
    ],
)
def test_holm_by_hand(p_values: list[float], rejected: list[bool]) -> None:
    assert holm(p_values).tolist() == rejected


def test_holm_rejects_between_bonferroni_and_no_correction() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        p = generator.random(6) ** 3
        found = holm(p)
        assert (found >= (p <= 0.05 / 6)).all()
        assert (found <= (p <= 0.05)).all()
        assert found[np.argsort(p)].tolist() == sorted(found, reverse=True)  # never a larger p without the smaller


def test_holms_family_errs_as_rarely_as_one_claim() -> None:
    """Of ten true hypotheses with independent p-values at least one is rejected with probability 1 − (1 − .005)^10."""
    p = np.random.default_rng(0).random((4000, 10))
    wrong = np.mean([holm(row).any() for row in p])
    expected = 1 - (1 - 0.005) ** 10
    assert wrong == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 4000))


def estimate(mean: float, half: float = 1.0, p: float = 1e-4, seeds: int = 5, versus: float = 0.0) -> Estimate:
    return Estimate(mean, mean - half, mean + half, 100, Unit.SEEDS, seeds, p, versus)


def test_on_which_side_it_lies() -> None:
    assert told([estimate(2), estimate(-2), estimate(2, p=0.5), estimate(2, half=3)]) == [
        Told.ABOVE,
        Told.BELOW,
        Told.NOT,  # its p does not tell it
        Told.NOT,  # its interval has 0
    ]
    assert told([estimate(2, versus=5), estimate(2, versus=0.5)]) == [Told.BELOW, Told.ABOVE]
    assert told([estimate(2, p=math.nan)]) == [Told.NOT]


@pytest.mark.parametrize(
    ("unit", "seeds", "expected"),
    [
        (Unit.SEEDS, 3, Told.TOO_FEW),
        (Unit.SEEDS, 4, Told.TOO_FEW),
        (Unit.SEEDS, 5, Told.ABOVE),
        (Unit.SAMPLES, 1, Told.ABOVE),
        (Unit.SAMPLES, 2, Told.ABOVE),
        (Unit.RECIPES, 4, Told.ABOVE),
        (Unit.ROUNDS, 1, Told.ABOVE),
    ],
)
def test_only_few_seeds_are_too_few(unit: Unit, seeds: int, expected: Told) -> None:
    assert told([Estimate(2.0, 1.0, 3.0, 9, unit, seeds, 1e-6)]) == [expected]


def test_a_claim_that_is_told_alone_may_be_lost_in_company() -> None:
    alone, others = estimate(2, p=0.02), [estimate(0.1, p=0.9) for _ in range(3)]
    assert told([alone]) == [Told.ABOVE]
    assert told([alone, *others])[0] is Told.NOT
    assert told([alone, *others], level=0.2)[0] is Told.ABOVE


def test_names_keep_their_claims() -> None:
    family = {"gain": estimate(2), "loss": estimate(-2), "nothing": estimate(0.1, p=0.9)}
    assert told_by_name(family) == {"gain": Told.ABOVE, "loss": Told.BELOW, "nothing": Told.NOT}
