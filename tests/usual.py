"""Which cases `make test` runs, and which `make test-all` alone: the marker `nightly` is set here.

- `usual(values, nightly=…)` thins a list of values by name.
- `@pytest.mark.pairs` thins a product, of parameters and of fixtures with parameters: each pair of values of two
  parameters stays. A fault shows with one value or with two together, seldom with three alone (Kuhn, Wallace & Gallo
  2004: two explain 70 to 97 % of faults). `@pytest.mark.each` keeps each value of each parameter, for parameters that
  don't meet in the code. The rest of the product is nightly, so that nothing is lost. The choice depends on the numbers
  of values alone: it is the same everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from functools import cache
from itertools import combinations, product
from math import comb
from typing import Any

import pytest

STRENGTHS = {"each": 1, "pairs": 2}
"""Markers, and how many values together each keeps."""


def usual(values: Iterable[Any], nightly: Collection[Any], name: Callable[[Any], str] = str) -> list[Any]:
    """`values` as parameters named `name(value)`; those in `nightly` are for `make test-all`."""
    return [
        pytest.param(value, id=name(value), marks=[pytest.mark.nightly] if value in nightly else []) for value in values
    ]


@cache
def covering(sizes: tuple[int, ...], strength: int) -> frozenset[tuple[int, ...]]:
    """Cells of the product of `sizes` in which any values of `strength` of them occur together.

    Greedy: first the cells with the most values together that no cell before has.
    """
    cells = list(product(*map(range, sizes)))
    missing = {together for cell in cells for together in combinations(enumerate(cell), strength)}
    chosen = set()
    for least in range(comb(len(sizes), strength), 0, -1):
        for cell in cells:
            new = missing.intersection(combinations(enumerate(cell), strength))
            if len(new) >= least:
                chosen.add(cell)
                missing -= new
    return frozenset(chosen)


def thin(items: Iterable[pytest.Item]) -> None:
    """Mark cases of tests that have a marker of `STRENGTHS` as nightly, except for a covering choice of them."""
    tests: dict[tuple[str, str, int], list[pytest.Function]] = defaultdict(list)
    for item in items:
        for marker, strength in STRENGTHS.items():
            asks = isinstance(item, pytest.Function) and item.get_closest_marker(marker)
            if asks and not item.get_closest_marker("nightly"):  # values for the night are not to be covered
                tests[str(item.path), item.originalname, strength].append(item)
    for (_, _, strength), cases in tests.items():
        # A value's place is the order in which it was collected: a part of the suite is thinned as a whole of its own.
        cells = [{name: id(value) for name, value in case.callspec.params.items()} for case in cases]
        places = {name: list(dict.fromkeys(cell[name] for cell in cells)) for name in cells[0]}
        kept = covering(tuple(map(len, places.values())), strength)
        for case, cell in zip(cases, cells, strict=True):
            if tuple(places[name].index(cell[name]) for name in places) not in kept:
                case.add_marker(pytest.mark.nightly)
