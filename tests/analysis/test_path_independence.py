"""Alignment of maps with one end, with two, and with ends that are their starts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deqrun.analysis.path_independence import alignment, cosine, derangement
from deqrun.solvers import Anderson, Budget, Picard
from tests.problems import TanhNetwork

FLOAT64 = torch.float64
LONG = Budget(300, 1e-10)


def nearest_of_two(z: Tensor) -> Tensor:
    """z ← halfway to ±e₁, whichever side z₁ is on; 0 goes to +e₁."""
    attractor = torch.zeros_like(z)
    attractor[:, 0] = torch.where(z[:, 0] >= 0, 1.0, -1.0)
    return 0.5 * z + 0.5 * attractor


def test_a_contraction_is_path_independent() -> None:
    problem = TanhNetwork(0.9)
    found = alignment(problem.f(8), problem.start(8, FLOAT64), solver=Anderson(), budget=LONG)
    torch.testing.assert_close(found.end, problem.fixed_point(8, FLOAT64), rtol=1e-6, atol=1e-8)
    for name in ("swap", "noise", "zero"):
        assert (found.score[name] > 1 - 1e-12).all()
        assert (found.residual[name] <= 1e-10).all()
    end = found.end
    assert any(torch.allclose(found.chance[0], cosine(end[:1], end[j : j + 1])) for j in range(1, 8)), (
        "chance is a cosine with another sample's end"
    )
    assert (found.chance < 0.99).all()


def test_two_attractors_align_where_the_other_sample_is_on_the_same_side() -> None:
    """Ends ±e₁: swapped starts keep the other's end, so score and chance are the product of the two signs."""
    start = torch.zeros(20, 3, dtype=FLOAT64)
    start[:, 0] = torch.tensor([1.0, -1.0]).repeat(10)
    found = alignment(nearest_of_two, start, budget=LONG, generator=torch.Generator().manual_seed(1))
    other = derangement(20, torch.Generator().manual_seed(1))
    expected = start[:, 0] * start[other, 0]
    torch.testing.assert_close(found.score["swap"], expected)
    torch.testing.assert_close(found.chance, expected)
    torch.testing.assert_close(found.score["zero"], start[:, 0])
    assert set(found.score["noise"].round().tolist()) == {-1.0, 1.0}


def test_a_map_that_stays_where_it_is_scores_chance() -> None:
    """f(z) = z: every start is its own end."""
    start = torch.randn(50, 6, dtype=FLOAT64, generator=torch.Generator().manual_seed(0))
    found = alignment(lambda z: z.clone(), start, budget=LONG)
    torch.testing.assert_close(found.score["swap"], found.chance)
    assert found.score["zero"].isnan().all()  # the end is 0, which has no direction
    assert abs(float(found.score["noise"].mean())) < 4 / (6 * 50) ** 0.5


def test_a_sample_does_not_depend_on_the_others_except_by_the_swap() -> None:
    problem = TanhNetwork(1.5, skew=True)
    starts = problem.start(6, FLOAT64)
    whole = alignment(problem.f(6), starts, budget=LONG, solver=Anderson())
    part = alignment(problem.f(3), starts[:3], budget=LONG, solver=Anderson())
    torch.testing.assert_close(whole.end[:3], part.end)


def test_what_has_no_end_has_no_score() -> None:
    """Row 0 diverges: it has no score, nor has whoever would start from its end; the third is as ever."""

    def f(z: Tensor) -> Tensor:
        out = 0.5 * z + 1
        return torch.cat([z[:1] ** 3 + torch.inf, out[1:]])

    found = alignment(f, torch.zeros(3, 2, dtype=FLOAT64), solver=Picard(), budget=LONG)
    borrower = int((derangement(3, torch.Generator().manual_seed(0)) == 0).nonzero()[0, 0])
    broken = found.score["swap"].isnan()
    assert broken.tolist() == [row in (0, borrower) for row in range(3)]
    assert found.score["zero"].isnan().tolist() == [True, False, False]


def test_one_sample_has_nobody_to_swap_with() -> None:
    found = alignment(lambda z: 0.5 * z + 1, torch.zeros(1, 2, dtype=FLOAT64), budget=LONG)
    assert found.score["swap"].isnan().all()
    assert found.chance.isnan().all()
    assert found.score["noise"].item() == pytest.approx(1)


@given(st.integers(2, 60), st.integers(0, 1000))
def test_derangements_leave_nobody_in_place(n: int, seed: int) -> None:
    places = derangement(n, torch.Generator().manual_seed(seed))
    assert sorted(places.tolist()) == list(range(n))
    assert (places != torch.arange(n)).all()


def test_every_partner_is_as_likely() -> None:
    draw = torch.Generator().manual_seed(0)
    partners = torch.stack([derangement(5, draw) for _ in range(4000)])[:, 0]
    counts = torch.bincount(partners, minlength=5).tolist()
    assert counts[0] == 0
    assert all(abs(count - 1000) < 4 * 27.4 for count in counts[1:])  # binomial standard deviation √(4000·¼·¾)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_cosine_is_free_of_scale(scale: float) -> None:
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]], dtype=FLOAT64)
    b = torch.tensor([[4.0, 3.0], [-2.0, 0.0], [1.0, 0.0]], dtype=FLOAT64)
    found = cosine(a * scale, b)
    assert found[:2].tolist() == pytest.approx([24 / 25, -1.0])
    assert found[2].isnan()


def test_senseless_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no start 'ones'; there are swap, noise, zero"):
        alignment(torch.tanh, torch.zeros(2, 2), starts=("ones",))
