"""The table of two properties against counting, and its intervals against those of shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deqrun.inference import crossed, wilson


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_every_sample_is_in_one_cell(pairs: list[tuple[bool, bool]]) -> None:
    """Counted one by one; swapping the properties swaps the cells."""
    first, second = [one for one, _ in pairs], [two for _, two in pairs]
    table, n = crossed(first, second), len(pairs)
    wanted = {
        "both": sum(a and b for a, b in pairs),
        "first": sum(a and not b for a, b in pairs),
        "second": sum(b and not a for a, b in pairs),
        "neither": sum(not a and not b for a, b in pairs),
    }
    assert sum(wanted.values()) == n
    for name, count in wanted.items():
        cell = getattr(table, name)
        assert (cell.mean, cell.n) == (pytest.approx(count / n), n)
        assert (cell.low, cell.high) == pytest.approx(wilson(count / n, n))
    other = crossed(second, first)
    assert (other.first, other.second, other.both) == (table.second, table.first, table.both)


def test_senseless_properties_are_refused() -> None:
    with pytest.raises(ValueError, match="got 2 and 3"):
        crossed([True, False], np.ones(3))
    with pytest.raises(ValueError, match="no values"):
        crossed([], [])
