"""Starts with known votes, residuals and probabilities."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from deqrun.analysis.breadth import (
    NO_ANSWER,
    MeanOfStarts,
    answer_codes,
    by_confidence,
    by_residual,
    by_top,
    by_vote,
    chosen,
    confidence,
    distinct_ends,
    equal_compute,
    evaluations,
    pass_at,
    residual_scores,
    spread,
)

NAN = np.nan


def test_votes_by_hand() -> None:
    """Five starts, three samples: 2 after its second vote; a tie goes to the earlier; no answer has no vote."""
    codes = np.array([[1, 5, NO_ANSWER], [2, 6, NO_ANSWER], [2, 6, 4], [1, 5, NO_ANSWER], [2, 7, 3]])
    winners = by_vote(codes)
    assert winners[:, 0].tolist() == [0, 0, 1, 0, 1]
    assert winners[:, 1].tolist() == [0, 0, 1, 0, 0]
    assert winners[:, 2].tolist() == [0, 0, 2, 2, 2]
    assert chosen(codes, winners)[-1].tolist() == [2, 5, 4]


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=9))
def test_votes_are_those_of_a_count(answers: list[int]) -> None:
    winners = by_vote(np.array(answers)[:, None])[:, 0]
    for breadth, winner in enumerate(winners, start=1):
        votes = Counter(answer for answer in answers[:breadth] if answer != NO_ANSWER)
        best = max(votes.values(), default=0)
        assert votes[answers[winner]] == best
        assert winner == min(b for b in range(breadth) if votes[answers[b]] == best)


def test_codes_are_equal_exactly_where_the_asked_answers_are() -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 2, 2, 2, generator=draw)
    asked = torch.tensor([[True, True], [True, False]]).expand(300, 2, 2)
    codes = answer_codes(logits, asked)
    answer = logits.argmax(1).masked_fill(~asked, 0).flatten(1)
    same = (answer[:, None] == answer[None]).all(2)
    assert torch.equal(codes[:, None] == codes[None], same)
    assert len(set(codes.tolist())) == 8
    assert (codes >= 0).all()


def test_the_code_of_a_single_answer_is_its_class() -> None:
    logits = torch.eye(4)
    logits[2, 0] = torch.nan
    assert answer_codes(logits).tolist() == [0, 1, NO_ANSWER, 3]


def test_an_answer_that_is_no_number_counts_where_it_is_asked() -> None:
    logits = torch.eye(2).repeat(3, 1, 1)
    logits[1, 0, 0] = logits[2, 1, 1] = torch.nan
    codes = answer_codes(logits, torch.tensor([[True, False]]).expand(3, 2))
    assert codes[0] == codes[2] != NO_ANSWER
    assert codes[1] == NO_ANSWER


def test_lowest_residual_by_hand() -> None:
    """Means over 3: at k = 2 start 0 has .6, start 1 (.2 at that iterate) .7; start 0 has stopped, and is overtaken."""
    first = [0.6, 0.6, 0.6, NAN, NAN]
    second = [1.0, 0.9, 0.2, 0.1, 0.1]
    third = [np.inf, 0.7, 0.7, 0.7, 0.05]
    winners = by_residual(np.array([first, second, third])[:, :, None])[:, :, 0]
    assert winners[0].tolist() == [0] * 5
    assert winners[1].tolist() == [0, 0, 0, 1, 1]
    assert winners[2].tolist() == [0, 0, 0, 1, 1]
    alone = by_residual(np.array([first, second, third])[:, :, None], window=1)[:, :, 0]
    assert alone[2].tolist() == [0, 0, 1, 1, 2]


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_lowest_residual_one_by_one(starts: int, iterates: int, window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    residual = rng.random((starts, iterates, 3))
    for b, last in enumerate(rng.integers(0, iterates, starts)):
        residual[b, last + 1 :, 0] = NAN
    winners = by_residual(residual, window)
    for breadth, k, sample in np.ndindex(winners.shape):
        known = [r[: k + 1][~np.isnan(r[: k + 1])] for r in residual[: breadth + 1, :, sample]]
        scores = [float(one[-window:].mean()) for one in known]
        assert scores[winners[breadth, k, sample]] == pytest.approx(min(scores), rel=1e-12)


def test_means_of_probabilities_by_hand() -> None:
    """Odds 9:1, then 1:3 and 1:3 — the mean is for class 0 (.9 + .25)/2, then for class 1; the vote is for class 1."""
    means = MeanOfStarts([0, 2])
    everyone, first = torch.tensor([0, 1]), torch.tensor([0])
    first_start = torch.tensor([[9.0, 1.0], [1.0, 1.0]]).log()
    means.add(0, torch.zeros(2, 2), everyone)
    means.add(1, first_start, everyone)
    means.add(2, first_start[:1], first)  # sample 1 has stopped at 1 to 1
    means.end_start()
    torch.testing.assert_close(means.probabilities(0), torch.full((2, 2), 0.5))
    torch.testing.assert_close(means.probabilities(2), torch.tensor([[0.9, 0.1], [0.5, 0.5]]))
    for starts in (2, 3):
        means.add(0, torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log(), everyone)  # all stop at once
        means.end_start()
        expected = (0.9 + 0.25 * (starts - 1)) / starts
        torch.testing.assert_close(means.probabilities(2)[0, 0], torch.tensor(expected))
        assert int(means.probabilities(2)[0].argmax()) == (0 if starts == 2 else 1)
    torch.testing.assert_close(means.probabilities(0)[:, 0], torch.full((2,), (0.5 + 0.25 + 0.25) / 3))
    with pytest.raises(ValueError, match="no mean at depth 1"):
        means.probabilities(1)


def test_a_broken_read_out_adds_nothing() -> None:
    means = MeanOfStarts([0])
    for logits in (torch.tensor([[torch.nan, 0.0]]), torch.tensor([[0.0, 2.0]])):
        means.add(0, logits, torch.tensor([0]))
        means.end_start()
    assert int(means.probabilities(0).argmax(1)) == 1


def test_evaluations_add_up_over_starts() -> None:
    """Two starts of Picard on two samples, the second of which stops at iterate 1 in the second start."""
    nfe = np.array([[[1, 1], [2, 2], [3, 3]], [[1, 1], [2, 2], [3, 2]]])
    assert evaluations(nfe).tolist() == [[0, 1, 2], [0, 2, 4]]
    assert evaluations(nfe, residual_chooses=True).tolist() == [[1, 2, 3], [2, 4, 5.5]]


def test_lines_of_equal_compute() -> None:
    assert equal_compute([1, 2, 4], [2, 4, 8, 0]) == {
        4: [(1, 4), (2, 2)],
        8: [(1, 8), (2, 4), (4, 2)],
        16: [(2, 8), (4, 4)],
    }


def test_spread_over_starts() -> None:
    correct = np.array([[[1, 1, 0, 0]], [[1, 0, 1, 1]]], dtype=bool)
    found = spread(correct)
    assert (found.mean[0], found.least[0], found.most[0]) == (0.625, 0.5, 0.75)
    assert found.deviation[0] == pytest.approx(0.25 / 2**0.5)
    assert (found.any[0], found.all[0]) == (1.0, 0.25)
    assert spread(correct[:1]).deviation[0] == 0


@given(st.integers(0, 99))
def test_no_choice_among_starts_beats_any_or_falls_below_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (5, 4, 20))
    correct, bounds = codes == 1, spread(codes == 1)
    residual = rng.random((5, 4, 20))
    for winners in (by_vote(codes), by_residual(residual), by_top(codes, residual), by_confidence(residual)):
        accuracy = chosen(correct, winners)[-1].mean(axis=1)
        assert (bounds.all <= accuracy).all()
        assert (accuracy <= bounds.any).all()


def test_senseless_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1"):
        by_residual(np.ones((1, 2, 1)), window=0)


@given(st.integers(1, 6), st.integers(0, 99))
def test_the_vote_of_the_best_half_one_by_one(draws: int, seed: int) -> None:
    """Scores with equals among them; a draw without an answer has no vote."""
    rng = np.random.default_rng(seed)
    codes, score = rng.integers(-1, 3, (draws, 5)), rng.integers(0, 4, (draws, 5)) / 4
    winners = by_top(codes, score)
    for breadth, i in np.ndindex(winners.shape):
        order = sorted(range(breadth + 1), key=lambda b, i=i: (score[b, i], b))[: (breadth + 2) // 2]
        votes = Counter(codes[b, i] for b in order if codes[b, i] != NO_ANSWER)
        most = max(votes.values(), default=0)
        first = next((b for b in order if codes[b, i] != NO_ANSWER and votes[codes[b, i]] == most), order[0])
        assert winners[breadth, i] == first


@given(st.permutations(range(5)))
def test_choices_by_a_score_do_not_depend_on_the_order_of_draws(order: list[int]) -> None:
    """With distinct scores; a plain vote prefers the earliest draw, and so does depend on it where votes tie."""
    rng = np.random.default_rng(1)
    codes, score = rng.integers(0, 3, (5, 40)), rng.permutation(200).reshape(5, 40) / 200
    for one, other in (
        (by_top(codes, score), by_top(codes[order], score[order])),
        (by_confidence(score), by_confidence(score[order])),
        (by_residual(score[:, None])[:, 0], by_residual(score[order][:, None])[:, 0]),
    ):
        assert np.array_equal(chosen(codes, one)[-1], chosen(codes[order], other)[-1])


@given(st.integers(1, 6), st.data())
def test_pass_at_is_the_share_of_all_choices_with_a_right_one(draws: int, data: st.DataObject) -> None:
    """Every choice of k draws out of n, one by one."""
    row = st.lists(st.booleans(), min_size=3, max_size=3)
    right = np.array(data.draw(st.lists(row, min_size=draws, max_size=draws)))
    k = data.draw(st.integers(1, draws))
    picks = list(combinations(range(draws), k))
    expected = [sum(any(right[b, i] for b in pick) for pick in picks) / len(picks) for i in range(3)]
    np.testing.assert_allclose(pass_at(right, k), expected, atol=1e-12)
    np.testing.assert_allclose(pass_at(right, draws), right.any(axis=0), atol=1e-12)
    np.testing.assert_allclose(pass_at(right, 1), right.mean(axis=0), atol=1e-12)


def test_pass_at_of_many_draws_has_the_value_of_independent_ones() -> None:
    """1 − (1 − p)^k with p = 1/4, whose estimator is unbiased: a mean over 40,000 samples of 64 draws."""
    right = np.random.default_rng(0).random((64, 40_000)) < 0.25
    for k in (1, 4, 16):
        assert pass_at(right, k).mean() == pytest.approx(1 - 0.75**k, abs=0.003)
    with pytest.raises(ValueError, match="pass@65 needs at least 65 draws"):
        pass_at(right, 65)


def test_confidence_by_hand() -> None:
    """Odds 3:1 and 1:1 at two positions, 0.625 over both, 0.75 where the first alone is asked; NaN of NaN."""
    logits = torch.tensor([[[3.0, 1.0], [1.0, 1.0]]]).log()
    asked = torch.tensor([[True, False]])
    assert confidence(logits).tolist() == pytest.approx([0.625])
    assert confidence(logits, asked).tolist() == pytest.approx([0.75])
    assert confidence(torch.tensor([[9.0, 1.0]]).log()).tolist() == pytest.approx([0.9])
    logits[0, 0, 0] = torch.nan
    assert confidence(logits, ~asked).tolist() == pytest.approx([0.5])
    assert np.isnan(confidence(logits, asked).numpy()).all()
    assert by_confidence(np.array([[NAN], [0.1], [NAN]]))[:, 0].tolist() == [0, 1, 1]


def test_residual_scores_are_what_by_residual_compares() -> None:
    residual = np.random.default_rng(0).random((4, 6, 5))
    assert np.array_equal(by_residual(residual)[-1], residual_scores(residual).argmin(axis=0))


def test_a_map_with_two_attractors_has_two_ends() -> None:
    """z ← z − 0.3 (z³ − z) ends at −1 or 1, by the sign of its start."""
    z = torch.tensor([[0.4, 0.2], [0.7, -0.3], [-0.5, -0.9], [1.4, -0.1]], dtype=torch.float64)[..., None]
    for _ in range(200):
        z = z - 0.3 * (z**3 - z)
    assert distinct_ends(z, 1e-3).tolist() == [[1, 1], [1, 2], [2, 2], [2, 2]]


def test_ends_are_joined_in_chains_and_lost_ones_are_none() -> None:
    """1, 1.02 and 1.01: the last joins two ends that are further apart than 1.5 %; inf is no end."""
    states = torch.tensor([[1.0], [1.02], [torch.inf], [1.01], [5.0]])[:, None]
    assert distinct_ends(states, 0.015)[:, 0].tolist() == [1, 2, 2, 1, 2]


@given(st.integers(0, 200))
def test_ends_are_the_components_of_the_graph_of_near_ones(seed: int) -> None:
    """Against SciPy's components of the graph; no more with a larger tolerance; the same in any order."""
    rng = np.random.default_rng(seed)
    states = torch.from_numpy(rng.normal(1.0, 0.1, (6, 3, 2)))
    counts = distinct_ends(states, 0.08)
    for b, i in np.ndindex(counts.shape):
        own = states[: b + 1, i].numpy()
        sizes, far = np.linalg.norm(own, axis=1), np.linalg.norm(own[:, None] - own[None], axis=2)
        near = far <= 0.08 * np.maximum(sizes[:, None], sizes[None])
        assert counts[b, i] == connected_components(near)[0]
    assert (distinct_ends(states, 0.12) <= counts).all()
    assert np.array_equal(distinct_ends(states[rng.permutation(6)], 0.08)[-1], counts[-1])
