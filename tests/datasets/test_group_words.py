"""Axioms of the groups, their published orders of elements, and products by composed permutations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from deqrun.datasets.dataset import SPLITS
from deqrun.datasets.group_words import GROUPS, GroupWords, elements, products

every_group = pytest.mark.parametrize("group", GROUPS)


@every_group
def test_the_table_is_a_group_s(group: str) -> None:
    table = products(group)
    order = len(table)
    numbers = np.arange(order)
    assert (table[0] == numbers).all()
    assert (table[:, 0] == numbers).all()
    assert (np.sort(table, axis=0) == numbers[:, None]).all()  # every equation g x = h has one solution
    assert (np.sort(table, axis=1) == numbers).all()
    assert (table[table] == table[:, table]).all()  # (g h) k = g (h k) for all three


@pytest.mark.parametrize(
    ("group", "known"), [("A5", {1: 1, 2: 15, 3: 20, 5: 24}), ("S5", {1: 1, 2: 25, 3: 20, 4: 30, 5: 24, 6: 20})]
)
def test_elements_have_the_published_orders(group: str, known: dict[int, int]) -> None:
    table, found = products(group), Counter[int]()
    for element in range(len(table)):
        power, order = element, 1
        while power != 0:
            power, order = table[power, element], order + 1
        found[order] += 1
    assert found == known


@every_group
def test_commutators_make_a5_so_neither_group_is_solvable(group: str) -> None:
    table = products(group)
    inverse = table.argmin(1)
    g, h = np.divmod(np.arange(len(table) ** 2), len(table))
    made = set(np.unique(table[table[g, h], table[inverse[g], inverse[h]]]).tolist())
    while True:
        more = made | {int(table[a, b]) for a in made for b in made}
        if more == made:
            break
        made = more
    assert len(made) == 60


@every_group
def test_answers_are_composed_permutations(group: str) -> None:
    data = GroupWords(group=group, length=9, n_train=50, n_validation=50, n_test=50)
    known = elements(group).tolist()
    for split in map(data.load, SPLITS):
        for word, answers in zip(split.inputs.tolist(), split.targets.tolist(), strict=True):
            state = list(range(5))
            for letter, answer in zip(word, answers, strict=True):
                state = [known[letter][place] for place in state]
                assert state == known[answer]
                assert data.classes is not None
                assert "".join(map(str, state)) == data.classes[answer]


@every_group
def test_every_element_is_drawn_and_answered_alike_often(group: str) -> None:
    train = GroupWords(group=group, length=8).load("train")
    order = len(elements(group))
    for numbers in (train.inputs.long(), train.targets[:, -1:]):
        counts = numbers.flatten().bincount(minlength=order).double()
        expected = counts.sum() / order
        assert float(((counts - expected).square() / expected).sum()) < order + 5 * (2 * order) ** 0.5


def test_no_word_is_in_two_splits_of_any_seed() -> None:
    seen: dict[bytes, str] = {}
    for seed in (0, 1):
        data = GroupWords(length=2, n_train=1_000, n_validation=300, n_test=300, data_seed=seed)
        for split in SPLITS:
            for row in data.load(split).inputs.numpy():
                assert seen.setdefault(row.tobytes(), split) == split
    assert len(seen) > 1_000


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="group='A4' is unknown: allowed are A5, S5"):
        GroupWords(group="A4")
    with pytest.raises(ValueError, match="length=1 is too small"):
        GroupWords(length=1)
