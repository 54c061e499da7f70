"""Which cases `make test` runs, and which `make test-all` alone: the marker `nightly` is set here.

- `usual(values, nightly=…)` thins a list of values by name.
- `@pytest.mark.pairs` thins a product, of parameters and of fixtures with parameters: each pair of values of two
  parameters stays, each value of the largest with each of the second largest. A fault shows with one value or with two
  together, seldom with three alone (Kuhn, Wallace & Gallo 2004: 2 parameters explain 70 to 97 % of faults). The rest
  of the product is nightly, so that nothing is lost. The choice depends on the sizes alone, and is the same everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from functools import cache
from itertools import combinations, product
from typing import Any

import pytest


def usual(values: Iterable[Any], nightly: Collection[Any], name: Callable[[Any], str] = str) -> list[Any]:
    """`values` as parameters named `name(value)`; those in `nightly` are for `make test-all`."""
    return [
        pytest.param(value, id=name(value), marks=[pytest.mark.nightly] if value in nightly else []) for value in values
    ]


@cache
def pairwise(sizes: tuple[int, ...]) -> frozenset[tuple[int, ...]]:
    """Cells of the product of `sizes` in which each pair of values occurs; greedy: first cells with most new pairs."""
    missing = {
        ((i, a), (j, b)) for (i, m), (j, n) in combinations(enumerate(sizes), 2) for a, b in product(range(m), range(n))
    }
    chosen = set()
    for least in range(len(sizes) * (len(sizes) - 1) // 2, 0, -1):
        for cell in product(*map(range, sizes)):
            new = missing.intersection(combinations(enumerate(cell), 2))
            if len(new) >= least:
                chosen.add(cell)
                missing -= new
    return frozenset(chosen)


def thin(items: Iterable[pytest.Item]) -> None:
    """Mark cases of tests with the marker `pairs` as nightly, except for a pairwise choice of each test's cases."""
    tests: dict[tuple[str, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("pairs"):
            tests[str(item.path), item.originalname].append(item)
    for cases in tests.values():
        # A value's place is the order in which it was collected: a part of the suite is thinned as a whole of its own.
        cells = [{name: id(value) for name, value in case.callspec.params.items()} for case in cases]
        places = {name: list(dict.fromkeys(cell[name] for cell in cells)) for name in cells[0]}
        kept = pairwise(tuple(map(len, places.values())))
        for case, cell in zip(cases, cells, strict=True):
            if tuple(places[name].index(cell[name]) for name in places) not in kept:
                case.add_marker(pytest.mark.nightly)
