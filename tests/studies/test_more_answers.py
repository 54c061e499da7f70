"""The arithmetic and the words of the answers about iterates, tolerances, lengths, paths, halting, and peers."""

from __future__ import annotations

import numpy as np
import pytest

from deqrun.analysis.fates import Fate
from deqrun.report.sweep_rows import BreadthRow, HaltingRow
from deqrun.studies import (
    adaptive_compute,
    depth_vs_breadth,
    does_it_converge,
    easy_to_hard,
    fixed_point_or_intermediate,
    infinite_depth_gain,
    path_independence,
    perturb_and_recover,
    recall_and_overthinking,
    tolerance_transfer,
)

# --- does_it_converge


def ends(solver: str, dtype: str, fixed: float, lowest: float, n: int = 40) -> does_it_converge.Ends:
    fate = np.where(np.arange(n) < fixed * n, int(Fate.FIXED_POINT), int(Fate.CYCLE))
    return does_it_converge.Ends(
        "conv", solver, dtype, fate, fate, np.full(n, lowest), np.array([0, 9]), np.array([1.0, lowest])
    )


@pytest.mark.parametrize(("fixed", "first"), [(1.0, "Yes: "), (0.0, "No: "), (0.5, "Not always: ")])
def test_what_becomes_of_samples(fixed: float, first: str) -> None:
    found = [
        ends(s, d, fixed if s == "picard" else 1.0, 1e-7)
        for s in ("picard", "anderson")
        for d in ("float32", "float64")
    ]
    answer = does_it_converge.answer_of(found, 1000)
    assert answer.sentences[0].startswith(first)
    assert ("a cycle for" in answer.sentences[0]) == (fixed < 1)
    assert ("as many samples" in answer.sentences[1]) == (fixed == 1)
    assert "1e-7 in the median sample" in answer.sentences[2]


# --- fixed_point_or_intermediate


def course(kind: str, lost: int, n: int = 200) -> fixed_point_or_intermediate.Course:
    change = np.where(np.arange(n) < lost, 1, 0)
    accuracy = np.array([0.5, 1.0, 1.0 - lost / n])
    return fixed_point_or_intermediate.Course(kind, "", 1, 1.0, accuracy, change, 0.1)


@pytest.mark.parametrize(
    ("lost", "first"), [((0, 0), "Yes: "), ((50, 50), "No: "), ((0, 50), "It depends on the training: ")]
)
def test_whether_the_last_iterate_is_the_best(lost: tuple[int, int], first: str) -> None:
    answer = fixed_point_or_intermediate.answer_of([course("bits", lost[0]), course("digits", lost[1])], 8)
    assert answer.sentences[0].startswith(first)
    if lost[1]:
        assert "+25.0 points" in answer.sentences[1]


# --- tolerance_transfer


def model(trained: float, right: list[float], n: int = 200) -> tolerance_transfer.Model:
    answers = np.array([np.arange(n) < share * n for share in right])
    return tolerance_transfer.Model(
        trained, np.array([1e-1, 1e-2, 1e-3]), answers, np.array([2.0, 4.0, 8.0]), np.ones(3)
    )


def test_a_model_that_needs_its_training_tolerance() -> None:
    answer = tolerance_transfer.answer_of([model(1e-1, [0.9, 0.7, 0.5]), model(1e-3, [0.5, 0.9, 0.9])])
    assert "for the worse where training had a tolerance of 1e-1 (−40.0 points" in answer.sentences[0]
    assert "1e-1 when trained to 1e-1 and 1e-2 when trained to 1e-3" in answer.sentences[1]
    assert "changes detectably nothing" in answer.sentences[2]


def test_models_that_answer_alike_at_all_tolerances() -> None:
    answer = tolerance_transfer.answer_of([model(1e-2, [0.9, 0.9, 0.9])])
    assert answer.sentences[0].startswith("Yes, upwards: ")


# --- recall_and_overthinking


def thought(recall: bool, progressive: bool, *kept: float, n: int = 200) -> recall_and_overthinking.Thought:
    """Right at every iterate but the last, where the given share is, in each seed."""
    right = np.ones((len(kept), 5, n), dtype=bool)
    right[:, -1] = np.arange(n) < np.array(kept)[:, None] * n
    return recall_and_overthinking.Thought("net", recall, progressive, 16, 1, right)


def test_recall_that_keeps_the_answer() -> None:
    found = [thought(r, p, 1.0 if r else 0.25) for r in (True, False) for p in (True, False)]
    answer = recall_and_overthinking.answer_of(found)
    assert answer.sentences[0].startswith("It depends on the recipe: ")
    assert "falls with no recall and a progressive loss (100.0 % to 25.0 %)" in answer.sentences[0]
    assert "recall does more" in answer.sentences[1]
    assert "recall is worth +75.0 points (95 % interval +69.0 to +81.0, n = 200)" in answer.sentences[1]
    assert "the progressive loss is worth 0.0 points" in answer.sentences[1]


def test_seeds_are_what_intervals_are_over_where_there_are_several() -> None:
    """Differences of 50, 60 and 70 points by seed: Student's interval is 60 ± 4.303 · 10 / √3."""
    kept = {True: (1.0, 1.0, 1.0), False: (0.5, 0.4, 0.3)}
    found = [thought(r, p, *kept[r]) for r in (True, False) for p in (True, False)]
    answer = recall_and_overthinking.answer_of(found)
    assert answer.sentences[0].startswith("It depends on recipe and seed: ")
    assert "no recall and a plain loss in 3 of 3 seeds (100.0 % to 40.0 %)" in answer.sentences[0]
    assert "recall and a plain loss in 0 of 3 seeds (100.0 % to 100.0 %)" in answer.sentences[0]
    assert "recall is worth +60.0 points (95 % interval +35.2 to +84.8, 3 seeds)" in answer.sentences[1]
    unclear = [
        thought(r, p, *((1.0, 0.1, 0.6) if p else (0.2, 0.9, 0.5))) for r in (True, False) for p in (True, False)
    ]
    assert "neither is shown to do anything" in recall_and_overthinking.answer_of(unclear).sentences[1]


@pytest.mark.parametrize(("kept", "first"), [(1.0, "None overthinks"), (0.2, "All overthink")])
def test_all_alike(kept: float, first: str) -> None:
    found = [thought(r, p, kept, kept) for r in (True, False) for p in (True, False)]
    assert recall_and_overthinking.answer_of(found).sentences[0].startswith(first)


# --- easy_to_hard


def test_from_where_an_answer_stays_right() -> None:
    correct = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    assert easy_to_hard.settled_from(correct).tolist() == [1, 0, 2, -1]


def length(bits: int, settled: float, right: bool = True, n: int = 20) -> easy_to_hard.Length:
    spent = np.full(n, settled if right else np.inf)
    return easy_to_hard.Length(bits, spent, spent * 1.5, np.full(n, right), np.full(n, right))


@pytest.mark.parametrize(("power", "word"), [(1.0, ""), (0.5, "slower"), (2.0, "faster"), (1.05, "nearly")])
def test_the_exponent_is_that_of_a_power(power: float, word: str) -> None:
    found = [length(bits, bits**power) for bits in (16, 64, 256)]
    assert easy_to_hard.exponent(found).mean == pytest.approx(power, rel=1e-6)
    answer = easy_to_hard.answer_of(found, 16, 1000, 1e-3)
    assert f"grow {word}" in answer.sentences[1]
    assert ("in proportion" in answer.sentences[1]) == (abs(power - 1) < 0.1)
    assert answer.sentences[0].startswith("Trained on 16 bits, the network solves strings of 256 bits")
    assert "1.50 times what the answer needs" in answer.sentences[2]


def test_a_length_that_is_not_reached() -> None:
    answer = easy_to_hard.answer_of([length(16, 4), length(32, 8), length(64, 0, right=False)], 16, 1000, 1e-3)
    assert "solves strings of up to 32 bits; of 64 bits 0.0 %" in answer.sentences[0]
    assert answer.sentences[2].startswith("A residual of 1e-3 is no sign that it is done")


# --- path_independence


def net(kind: str, aligned: float, harder: float) -> path_independence.Net:
    return path_independence.Net(f"{kind}-{aligned}", kind, aligned, 0.5, 1.0, 1.0, harder)


@pytest.mark.parametrize(("sign", "first"), [(1, "Yes: "), (-1, "No, on the contrary: ")])
def test_alignment_that_goes_with_accuracy(sign: int, first: str) -> None:
    values = np.linspace(0.5, 1, 12)
    nets = [net("a" if i < 6 else "b", float(v), float(0.5 + sign * (v - 0.75))) for i, v in enumerate(values)]
    found = path_independence.correlation(nets)
    assert found.mean == pytest.approx(sign)
    answer = path_independence.answer_of(nets, 48, 200)
    assert answer.sentences[0].startswith(first)


def test_nets_that_are_all_alike() -> None:
    answer = path_independence.answer_of([net("a", 1.0, 1.0) for _ in range(12)], 48, 200)
    assert answer.sentences[0].startswith("It can't be told")


def test_networks_that_diverge_are_counted_apart() -> None:
    values = np.linspace(0.5, 1, 12)
    nets = [net("a", float(v), float(v)) for v in values] + [net("b", np.nan, 0.25), net("b", np.nan, 0.35)]
    answer = path_independence.answer_of(nets, 48, 200)
    assert "is 1 (95 % interval 1.00 to 1.00, n = 12)" in answer.sentences[0]
    assert "2 more networks diverge, and are left out: of 48 bits they get 30.0 % right." in answer.would_change
    assert "n = 14)" in answer.would_change


# --- perturb_and_recover


def disturbed(kind: str, disturbance: str, back: float, n: int = 100) -> perturb_and_recover.Disturbed:
    returned = np.arange(n) < back * n
    steps = np.where(returned, 7.0, np.inf)
    return perturb_and_recover.Disturbed(kind, disturbance, returned, returned, steps, np.zeros(n))


@pytest.mark.parametrize(
    ("back", "first"), [((1.0, 1.0), "Yes: "), ((0.2, 0.2), "No: "), ((1.0, 0.2), "It depends on the training: ")]
)
def test_whether_it_finds_back(back: tuple[float, float], first: str) -> None:
    found = [disturbed(k, d, b) for k, b in zip(("a", "b"), back, strict=True) for d in perturb_and_recover.KINDS]
    answer = perturb_and_recover.answer_of(found, 24, 1.0, 150)
    assert answer.sentences[0].startswith(first)
    assert ("7 steps" in answer.sentences[2]) == (max(back) > 0.5)


# --- adaptive_compute


def row(rule: str, nfe: float, chosen: bool, saved: float = np.nan) -> HaltingRow:
    return HaltingRow(
        "own", "zeros", "test", rule, 0.1, 100, 0.9, 0.8, 0.95, nfe, nfe + 2, 1.0, chosen, saved, saved - 0.5,
        saved + 0.5, 0.0, -0.01, 0.01,
    )  # fmt: skip


@pytest.mark.parametrize(("saved", "first"), [(4.0, "Yes: "), (0.1, "No: ")])
def test_what_halting_saves(saved: float, first: str) -> None:
    rows = [
        row("budget", 10, True),
        row("kl", 10 - saved, True, saved),
        row("entropy", 11, True, -1.0),
        row("oracle", 3, False),
    ]
    answer = adaptive_compute.answer_of([adaptive_compute.Halted("bits", rows)], 64)
    assert answer.sentences[0].startswith(first)
    assert f"the rule by kl saves {saved:g}" in answer.sentences[0].replace(".00", "")
    assert "would take 3.0 on bits" in answer.sentences[2]


# --- depth_vs_breadth


def cell(split: str, breadth: int, k: int, accuracy: float, gain: float = np.nan) -> BreadthRow:
    return BreadthRow(
        "picard", split, "residual", breadth, k, 1000, accuracy, 0, 1, breadth * k, 0.4, 0.3, 0.5, 0.1, 0.9, 0.1,
        gain=gain, gain_low=gain - 0.1, gain_high=gain + 0.1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (
            0.3,
            "breadth pays on run, by most for 2 starts of 4 iterations on run (70.0 %, +30.0 points (95 %",
        ),
        (-0.3, "breadth never pays, and depth is better by most for 2 starts of 4 iterations on run (70.0 %, −30.0"),
        (0.05, "no cell of several starts"),
    ],
)
def test_where_breadth_pays(gain: float, words: str) -> None:
    grid = [cell(split, *one) for split in ("validation", "test") for one in ((1, 4, 0.4), (1, 8, 0.7 - gain))]
    grid += [cell(split, 2, 4, 0.7, gain) for split in ("validation", "test")]
    grid += [cell(split, 2, 8, 0.7) for split in ("validation", "test")]
    one = depth_vs_breadth.Grid("run", grid)
    assert one.costs == [8]
    answer = depth_vs_breadth.answer_of([one])
    assert words in answer.sentences[0]
    assert "for 80.0 % of the samples on run" in answer.sentences[2]


# --- infinite_depth_gain


def peer(kind: str, family: str, layers: float, right: float, cost: float, n: int = 400) -> infinite_depth_gain.Net:
    return infinite_depth_gain.Net(kind, family, layers, 1000, cost, np.arange(n) < right * n)


def test_the_deq_beside_its_peers() -> None:
    nets = [
        peer("deq", "none", 10, 0.9, 100), peer("tied_2", "tied", 2, 0.6, 20), peer("tied_8", "tied", 8, 0.9, 80),
        peer("untied_2", "untied", 2, 0.5, 10),
    ]  # fmt: skip
    answer = infinite_depth_gain.answer_of(nets)
    assert "is not told apart from the best tied net, 8 tied layers" in answer.sentences[0]
    assert "it is better than 2 tied layers" in answer.sentences[0]
    assert "is better than the best untied net, 2 untied layers: +40.0 points" in answer.sentences[1]
    assert "The cheapest that it is not shown to beat, 8 tied layers" in answer.sentences[2]
    assert "the DEQ with 1.2 times as many" in answer.sentences[2]
