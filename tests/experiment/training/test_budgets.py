"""Random budgets: the means and variances of their laws in closed form, their range, and their streams."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from deqrun.errors import UserError
from deqrun.experiment.training.budgets import draw_budgets, draw_unclipped
from deqrun.settings import Settings
from tests.experiment.linear_model import model, step

N = 200_000
LAWS: dict[str, Callable[[float, float], float]] = {
    "poisson_lognormal": lambda m, s: m + m**2 * math.expm1(s**2),
    "gamma": lambda m, s: m + m**2 * s**2,
    "exponential": lambda m, s: m + m**2,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("mean", "spread"), [(33.0, 0.5), (4.0, 0.3), (2.5, 0.8)])
@pytest.mark.parametrize("law", LAWS)
def test_means_and_variances_before_clipping(law: str, mean: float, spread: float) -> None:
    """To 4.5 standard errors, the variance's from the sample's own fourth moment."""
    drawn = draw_unclipped(law, mean, spread, seeded(), (N,))
    assert int(drawn.min()) >= 1
    k = drawn.double()
    variance = LAWS[law](mean - 1, spread)
    assert float(k.mean()) == pytest.approx(mean, abs=4.5 * math.sqrt(variance / N))
    squares = (k - k.mean()).square()
    assert float(squares.mean()) == pytest.approx(variance, abs=4.5 * float(squares.std()) / math.sqrt(N))


def test_exponential_rates_give_geometric_numbers() -> None:
    """P(K = k) = (1 − q) q^(k−1) with q = m / (1 + m)."""
    drawn = draw_unclipped("exponential", 4.0, 1.0, seeded(), (N,))
    for k in range(1, 9):
        p = 0.25 * 0.75 ** (k - 1)
        assert float((drawn == k).double().mean()) == pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / N))


def test_a_mean_of_one_is_one_iteration() -> None:
    for law in LAWS:
        assert draw_unclipped(law, 1.0, 0.5, seeded(), (100,)).unique().tolist() == [1]


@pytest.mark.parametrize("law", [*LAWS, "uniform"])
def test_draws_keep_within_their_range_and_repeat(law: str) -> None:
    """What lies beyond is at the ends; a seed gives its draws again; one draw is the first of many's law."""
    drawn = draw_budgets(3, 9, law, None if law == "uniform" else 6.0, 0.5, seeded(), 2_000)
    assert sorted(drawn.unique().tolist()) == list(range(3, 10))
    assert torch.equal(drawn, draw_budgets(3, 9, law, None if law == "uniform" else 6.0, 0.5, seeded(), 2_000))
    one = draw_budgets(3, 9, law, None, 0.5, seeded())
    assert one.shape == ()
    if law != "uniform":
        free = draw_unclipped(law, 6.0, 0.5, seeded(), (2_000,))
        assert torch.equal(drawn, free.clamp(3, 9))


@pytest.mark.parametrize("law", LAWS)
def test_a_step_of_training_takes_its_draw(law: str) -> None:
    """All rows of a step the first draw of the epoch's stream; with per=sample each row its own."""
    from deqrun.gradients import OneStep
    from deqrun.solvers import Budget
    from tests.experiment.linear_model import ROWS, draws

    keys = {"random_budget": [2, 30], "random_budget_law": law, "random_budget_mean": 9.0}
    deq = model(OneStep(), Budget(max_iter=8, tol=0.0, keep="last"))
    expected = int(draw_budgets(2, 30, law, 9.0, 0.5, draws().budgets))
    assert step(deq, **keys).solution.steps.unique().tolist() == [expected]
    each = draw_budgets(2, 30, law, 9.0, 0.5, draws().budgets, ROWS)
    assert torch.equal(step(deq, **keys, random_budget_per="sample").solution.steps, each)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["train.random_budget_law=gama"], "train.random_budget_law=gama is not allowed; it must be"),
        (["train.random_budget_law=gamma"], "train has random_budget_law=gamma, but no random_budget to keep its"),
        (
            ["train.random_budget=[1,9]", "train.random_budget_mean=4"],
            "train has random_budget_mean=4.0, but random_bud",
        ),
        (["train.random_budget_mean=0.5"], "train.random_budget_mean=0.5 is out of range; it must be at least 1"),
        (["train.random_budget_spread=0"], "train.random_budget_spread=0 is out of range; it must be more than 0"),
    ],
)
def test_what_is_not_allowed_is_told(settings_of: Callable[..., Settings], overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        settings_of(*overrides)
    assert str(raised.value).startswith(sentence)
    assert "\n" not in str(raised.value)
