"""The choice of the usual run: nothing that it promises is left out, and it is small."""

from __future__ import annotations

from itertools import combinations, product
from math import prod

import pytest

from tests.usual import covering

SIZES = [(18, 14, 2, 3), (3, 2, 14), (2, 2, 2), (5,), (4, 1), (3, 2, 2, 2, 2)]


@pytest.mark.parametrize("strength", [1, 2])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_all_values_occur_together(sizes: tuple[int, ...], strength: int) -> None:
    chosen = covering(sizes, strength)
    for places in combinations(range(len(sizes)), strength):
        found = {tuple(cell[place] for place in places) for cell in chosen}
        assert found == set(product(*(range(sizes[place]) for place in places)))
    least = prod(sorted(sizes)[-strength:])
    assert len(chosen) <= (least if strength == 1 else least + 2)
