"""The area against its definition, and the coverage of its interval in simulated worlds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from deqrun.inference.auroc import auroc, auroc_interval
from deqrun.inference.samples import midranks


def by_definition(score: np.ndarray, kind: np.ndarray) -> float:
    pairs = [(a > b) + (a == b) / 2 for a in score[kind] for b in score[~kind]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_share_of_pairs_in_order_with_ties_as_halves(seed: int) -> None:
    draw = np.random.default_rng(seed)
    n = int(draw.integers(2, 40))
    score = np.where(draw.random(n) < 0.2, np.inf, draw.integers(0, 5, n))
    kind = draw.random(n) < 0.5
    kind[:2] = True, False
    assert auroc(score, kind) == pytest.approx(by_definition(score, kind), abs=1e-12)
    assert auroc(score, kind) + auroc(score, ~kind) == pytest.approx(1, abs=1e-12)
    found = auroc_interval(score, kind)
    assert 0 <= found.low <= found.mean <= found.high <= 1


def test_ranks_are_scipys() -> None:
    values = np.random.default_rng(0).integers(0, 9, 50).astype(float)
    np.testing.assert_array_equal(midranks(values), stats.rankdata(values))


def test_known_ends() -> None:
    assert auroc([3, 4, 1, 2], [True, True, False, False]) == 1.0
    assert auroc([1, 1, 1], [True, False, True]) == 0.5
    assert np.isnan(auroc([1, 2], [True, True]))
    perfect = auroc_interval(range(40), np.arange(40) >= 20)
    assert perfect.mean == perfect.high == 1.0
    assert 0.7 < perfect.low < 0.99
    alone = auroc_interval([1, 2, 3], [True, False, False])
    assert (alone.low, alone.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="NaN"):
        auroc([1, np.nan], [True, False])
    with pytest.raises(ValueError, match="a kind for each score"):
        auroc([1, 2], [True])


@pytest.mark.each
@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0, 4.0])
@pytest.mark.parametrize("sizes", [(20, 20), (10, 90), (150, 30)], ids=str)
def test_coverage(shift: float, sizes: tuple[int, int]) -> None:
    """Of normal scores the area is Φ(shift / √2); 400 worlds, and never below 92.5 %."""
    ones, zeros = sizes
    draw = np.random.default_rng(int(10 * shift) + ones)
    true = stats.norm.cdf(shift / np.sqrt(2))
    kind = np.arange(ones + zeros) < ones
    covered = 0
    for _ in range(400):
        found = auroc_interval(draw.normal(size=ones + zeros) + shift * kind, kind)
        covered += found.low <= true <= found.high
    assert covered >= 370
