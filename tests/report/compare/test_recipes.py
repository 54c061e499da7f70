"""Seeds folded into recipes: intervals by SciPy, the number of seeds, the mark, the order, and what is left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deqrun.errors import UserError
from deqrun.inference import shares_of_seeds
from deqrun.records.states import RunState
from deqrun.report.compare.recipes import compared, folded, ordered
from deqrun.report.compare.runs import METRICS
from tests.report.compare.runs import made_run

VALIDATION, EVALUATIONS = METRICS[0], METRICS[2]


@given(st.lists(st.floats(0, 100), min_size=2, max_size=12))
def test_folding_evaluations_is_scipys_student_interval(values: list[float]) -> None:
    found = folded(list(values), EVALUATIONS)
    assert found is not None
    assert (found.mean, found.n) == (pytest.approx(np.mean(values), abs=1e-12), len(values))
    if len(set(values)) == 1:
        assert (found.low, found.high) == (None, None)  # no spread is known: the interval would have no width
        return
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_an_accuracy_is_of_the_recipe_from_three_seeds_on_and_of_its_models_before(right: list[int]) -> None:
    """Below three seeds Wilson's interval of the mean (SciPy's), above at least Student's; never beyond 0 and 1."""
    values = [count / 50 for count in right]
    found = folded(list(values), VALIDATION, 50)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.mean <= found.high <= 1
    if len(values) < 3:
        assert found.over == "samples"
        if len(values) == 1:
            wilson = stats.binomtest(right[0], 50).proportion_ci(0.95, "wilson")
            assert (found.low, found.high) == (pytest.approx(wilson.low), pytest.approx(wilson.high))
        return
    assert found.over == "seeds"
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values) + 1e-12)
    assert found.low <= max(low, 0) + 1e-9
    assert found.high >= min(high, 1) - 1e-9
    assert found.high - found.low > 0.01  # equal seeds leave room for others


@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("models", [1, 2])
@pytest.mark.parametrize("accuracy", [0.5, 0.9, 0.99])
def test_the_interval_of_these_models_holds_their_accuracy(agreement: float, models: int, accuracy: float) -> None:
    """2,000 worlds of 360 samples: models answer a sample alike with this probability, else each by itself."""
    rng = np.random.default_rng(0)
    alike = rng.random((2000, 1, 360)) < agreement
    right = np.where(alike, rng.random((2000, 1, 360)), rng.random((2000, models, 360))) < accuracy
    found = [folded(list(shares), VALIDATION, 360) for shares in right.mean(axis=2)]
    held = [f is not None and f.low is not None and f.high is not None and f.low <= accuracy <= f.high for f in found]
    assert np.mean(held) >= 0.93


def test_the_interval_of_a_recipe_is_over_its_seeds() -> None:
    values = [0.91, 0.95, 0.93, 0.96]
    comparison = compared([made_run({"lr": 1}, seed, val_accuracy=value) for seed, value in enumerate(values)])
    (recipe,) = comparison.recipes
    found = recipe.values["val_accuracy"]
    assert found is not None
    assert (found.low, found.high) == pytest.approx(
        (shares_of_seeds(values, 100).low, shares_of_seeds(values, 100).high), abs=0
    )
    assert (found.n, found.over, len(recipe.runs), comparison.keys) == (4, "seeds", 4, ())


def test_one_seed_tells_nothing_of_other_seeds_and_a_missing_value_makes_no_mean() -> None:
    (alone,) = compared([made_run({"lr": 1}, val_accuracy=0.9, evaluations=7.0)]).recipes
    for name, interval in (("val_accuracy", "samples"), ("evaluations", None)):
        value = alone.values[name]
        assert value is not None
        assert (None if value.low is None else value.over) == interval
    assert alone.values["test_accuracy"] is None
    (pair,) = compared([made_run({}, 0, val_accuracy=0.9), made_run({}, 1)]).recipes
    assert pair.values["val_accuracy"] is None  # the mean of those that have one is another selection


def test_a_repeated_seed_is_counted_once() -> None:
    old, new = (made_run({}, 0, val_accuracy=value, changed=at) for at, value in ((1.0, 0.2), (2.0, 0.4)))
    comparison = compared([new, old, made_run({}, 1, val_accuracy=0.6)])
    (recipe,) = comparison.recipes
    assert (len(recipe.runs), comparison.repeats) == (2, (old,))
    assert recipe.values["val_accuracy"] is not None
    assert recipe.values["val_accuracy"].mean == pytest.approx(0.5)


def test_unfinished_runs_are_in_no_mean() -> None:
    failed = made_run({"lr": 1}, 1, val_accuracy=0.1, state=RunState.FAILED, reason="no memory")
    comparison = compared([made_run({"lr": 1}, 0, val_accuracy=0.9), failed])
    assert [len(recipe.runs) for recipe in comparison.recipes] == [1]
    assert comparison.unfinished == (failed,)


def test_names_are_made_of_what_differs() -> None:
    runs = [made_run({"model": m, "budget.tol": t}) for m in ("mlp", "conv") for t in (1e-3, 1e-2)]
    assert {recipe.label for recipe in compared(runs).recipes} == {
        "mlp, tol=1e-3",
        "mlp, tol=0.01",
        "conv, tol=1e-3",
        "conv, tol=0.01",
    }
    assert compared(runs[:1]).recipes[0].label == "mlp on digits"


def test_the_mark_is_the_highest_validation_mean_on_its_data_and_never_by_test() -> None:
    runs = [
        made_run({"lr": 1, "dataset": "digits"}, val_accuracy=0.9, test_accuracy=0.5),
        made_run({"lr": 2, "dataset": "digits"}, val_accuracy=0.8, test_accuracy=0.99),
        made_run({"lr": 1, "dataset": "mazes"}, val_accuracy=0.3),
        made_run({"lr": 2, "dataset": "mazes"}, val_accuracy=0.2),
    ]
    assert [recipe.label for recipe in compared(runs).recipes if recipe.best] == ["digits, lr=1", "mazes, lr=1"]
    assert not compared(runs[:1]).recipes[0].best  # best of one says nothing


def test_recipes_are_sorted_by_any_column_and_those_without_a_value_come_last() -> None:
    costs = (9.0, None, 3.0)
    runs = [made_run({"lr": i, "name2": "x"}, evaluations=cost) for i, cost in zip((10, 9, 100), costs, strict=True)]
    comparison = compared(runs)

    def order(column: str, *, reverse: bool = False) -> list[str]:
        return [recipe.texts[0] for recipe in ordered(comparison.recipes, comparison.keys, column, reverse=reverse)]

    assert order("evaluations") == ["100", "10", "9"]
    assert order("evals", reverse=True) == ["10", "100", "9"]
    assert order("lr") == ["9", "10", "100"]  # as numbers
    with pytest.raises(UserError, match=r"--sort evalutions is not a column .*; the nearest is evaluations\."):
        order("evalutions")
