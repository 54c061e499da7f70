"""Choices across seeds: no seed has a say in its own."""

from __future__ import annotations

import numpy as np

from deqrun.studies.choosing import chosen_without, named


def test_each_seed_is_told_by_the_others_choice() -> None:
    """Candidate 1 shines in seed 0 alone: the others' choice is 0 without it, and with it 1."""
    score = np.array([[0.0, 9.0], [1.0, 0.0], [1.0, 0.0]])
    assert chosen_without(score).tolist() == [0, 1, 1]


def test_a_single_seed_chooses_by_itself_and_equals_go_to_the_first() -> None:
    assert chosen_without([0.0, 2.0, 1.0]).tolist() == [1]
    assert chosen_without([[1.0, 1.0], [1.0, 1.0]]).tolist() == [0, 0]


def test_a_candidate_that_fails_in_one_seed_is_not_chosen_for_the_others() -> None:
    """It is infinitely bad in seed 0, which seed 0's own choice does not see."""
    score = np.array([[-np.inf, 0.0], [2.0, 1.0], [2.0, 1.0]])
    assert chosen_without(score).tolist() == [0, 1, 1]


def test_a_lucky_network_does_not_make_its_own_choice_look_good() -> None:
    """Of equal candidates, lucky in both splits alike, the chosen one has mean 0 by itself; the best of all has not."""
    draw = np.random.default_rng(0)
    luck = draw.normal(size=(2000, 5, 7))
    own = [np.mean([one[seed, place] for seed, place in enumerate(chosen_without(one))]) for one in luck]
    naive = [one.mean(axis=0).max() for one in luck]
    assert abs(np.mean(own)) < 3 * np.std(own) / np.sqrt(len(own))
    assert np.mean(naive) > 0.5


def test_names_come_by_their_frequency() -> None:
    assert named(["a", "b", "c"], np.array([2, 0, 2])) == ["c", "a"]
