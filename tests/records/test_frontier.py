"""Points that no other beats in cost and gain."""

from hypothesis import given
from hypothesis import strategies as st

from deqrun.records.frontier import non_dominated


@given(st.lists(st.tuples(st.integers(1, 8).map(float), st.integers(0, 8).map(float)), min_size=1, max_size=30))
def test_frontier_is_the_non_dominated_set(points: list[tuple[float, float]]) -> None:
    """By definition: q beats p where q costs no more and gains no less, one of them strictly; equals stand once."""

    def beaten(p: tuple[float, float]) -> bool:
        return any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)

    chosen = [points[index] for index in non_dominated(points)]
    assert sorted(chosen) == sorted({p for p in points if not beaten(p)})
