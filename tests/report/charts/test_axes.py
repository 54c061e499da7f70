"""A log axis shows every value and can be read."""

import math

from hypothesis import given
from hypothesis import strategies as st

from deqrun.report.charts.axes import LogAxis, accuracy_axis
from deqrun.report.charts.data import BudgetPoint


@given(st.lists(st.floats(1e-12, 1e8), min_size=1, max_size=6))
def test_every_value_is_inside_and_two_powers_of_ten_are_labelled(values: list[float]) -> None:
    axis = LogAxis.around(values)
    assert all(axis.low < value < axis.high for value in values)
    ticks = axis.axis(most=100).to_dict()["values"]
    assert len(ticks) >= 2
    assert all(axis.low * 0.999 <= tick <= axis.high * 1.001 for tick in ticks)
    assert all(math.isclose(math.log10(tick), round(math.log10(tick)), abs_tol=1e-9) for tick in ticks)


def test_what_lies_beyond_stands_at_the_end() -> None:
    axis = LogAxis.around([1e-3, 10.0])
    assert axis.clip(0.0) == axis.low
    assert axis.clip(math.inf) == axis.high
    assert axis.clip(0.5) == 0.5


def test_many_decades_are_thinned() -> None:
    ticks = LogAxis.around([1e-16, 1.0]).axis(most=10).to_dict()["values"]
    assert [round(math.log10(tick)) for tick in ticks] == list(range(-16, 1, 2))


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3).map(sorted), min_size=1, max_size=6))
def test_an_accuracy_axis_shows_every_interval_and_stays_within_0_and_1(shares: list[list[float]]) -> None:
    """Its ends are whole multiples of five points: the nearest above the values, and the nearest or next below."""
    points = [
        BudgetPoint("picard", "zeros", 4, 1e-3, 10, middle, low, high, nfe_mean=5.0, converged=1.0)
        for low, middle, high in shares
    ]
    axis = accuracy_axis(points, "test")
    assert axis is not None
    low, high = axis["scale"].to_dict()["domain"]
    least, most = min(low for low, _, _ in shares), max(high for _, _, high in shares)
    assert 0 <= low < high <= 1
    assert low - 1e-9 <= least <= most <= high + 1e-9
    assert all(abs(20 * end - round(20 * end)) < 1e-9 for end in (low, high))
    assert least - low <= 0.1 + 1e-9
    assert high - most <= 0.05 + 1e-9
