"""The arithmetic of the answers about iterates, tolerances, lengths, paths, halting and baselines, reckoned by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from deqrun.errors import UserError
from deqrun.inference import DIFFERENCE, Told, Unit, claim
from deqrun.studies.question import load_question
from deqrun.studies.questions import (
    adaptive_compute,
    depth_vs_breadth,
    does_noise_help,
    easy_to_hard,
    fixed_point_or_intermediate,
    infinite_depth_gain,
    loops_and_perplexity,
    path_independence,
    perturb_and_recover,
    recall_and_overthinking,
    settled_or_right,
    tolerance_transfer,
)
from tests.studies.worlds import (
    N,
    baseline,
    course,
    disturbed,
    ended,
    grid,
    halted,
    length,
    looped,
    model,
    net,
    ruled,
    shaken,
    shares,
    thought,
    unhalted,
)

# --- fixed_point_or_intermediate


def test_the_gap_is_that_from_the_iterate_which_validation_chose() -> None:
    """All right at iterate 1, three in four at the last; half at iterate 0, which validation may choose in a seed."""
    one = course("bits", "", 2, 0.25)
    assert one.gap.mean == pytest.approx(0.25)
    assert replace(one, best=np.array([0, 0])).gap.mean == pytest.approx(-0.25)
    assert replace(one, best=np.array([0, 1])).gap.mean == pytest.approx(0.0)
    assert replace(one, best=np.array([2, 2])).gap.mean == 0
    assert (one.accuracy(0).mean, one.accuracy(-1).mean) == (0.5, 0.75)


def test_gaps_are_paired_over_samples() -> None:
    one = course("bits", "", 5, 0.25)
    expected = claim(one.right[:, 1].astype(float) - one.right[:, 2], DIFFERENCE)
    assert one.gap == expected
    (key,) = fixed_point_or_intermediate.conclude([one]).key
    assert (key.what, key.told, key.value) == ("bits: lost by going on to the last iterate", Told.ABOVE, "+25.0 points")


def test_a_gap_that_may_be_two_points_is_not_called_none() -> None:
    """Of 200 samples that all keep their answer the interval ends at 1.4 points; of 50, at 5.5."""
    conclusion = fixed_point_or_intermediate.conclude([course("bits", "", 1, 0.0)])
    assert conclusion.verdict.startswith("Yes: ")
    few = course("bits", "", 1, 0.0)
    conclusion = fixed_point_or_intermediate.conclude([replace(few, right=few.right[:, :, :50])])
    assert conclusion.verdict.startswith("Not shown: ")
    assert conclusion.key[0].of.high == pytest.approx(stats.t.ppf(0.975, 51) * math.sqrt(2 / 51 / 52), rel=1e-6)


# --- tolerance_transfer


def test_a_model_that_needs_its_training_tolerance() -> None:
    loose, tight = model(1e-1, 5, (0.9, 0.7, 0.5)), model(1e-3, 5, (0.5, 0.9, 0.9))
    assert (loose.own, tight.own) == (0, 2)
    assert loose.tightened.mean == pytest.approx(-0.4)
    assert (loose.loosest, tight.loosest) == (0, 1)  # 1e-1 and 1e-2
    assert tight.loosened.mean == 0
    conclusion = tolerance_transfer.conclude([loose, tight])
    assert [key.what for key in conclusion.key] == [
        "trained to 1e-1, solved to 1e-3: change of accuracy",
        "trained to 1e-3, solved to 1e-2, the loosest that validation allows: change",
    ]
    assert [key.told for key in conclusion.key] == [Told.BELOW, None]
    assert conclusion.verdict == "No: solving to 1e-3 loses accuracy where training stopped at 1e-1."
    assert conclusion.family == 1


def test_the_loosest_tolerance_is_chosen_on_validation() -> None:
    """On test 1e-1 is as good as any; on validation it costs 40 points. 1e-2 costs one, within √(0.9 · 0.1 / 200)."""
    one = model(1e-3, 5, (0.9, 0.9, 0.9), validation=(0.5, 0.89, 0.9))
    assert one.loosest == 1
    assert replace(one, validation=np.full((5, 3), 0.9)).loosest == 0
    scattered = one.validation + np.array([[0.05], [-0.05], [0.0], [0.02], [-0.02]])
    assert replace(one, validation=scattered).loosest == 1  # over all seeds together
    spoilt = one.validation.copy()
    spoilt[4, 1] = 0.5
    assert replace(one, validation=spoilt).loosest == 2
    treacherous = model(1e-3, 5, (0.5, 0.9, 0.9), validation=(0.9, 0.9, 0.9))
    assert treacherous.loosened.mean == pytest.approx(-0.4)  # chosen on validation, and test tells what it costs


def test_the_training_tolerance_is_the_nearest_by_ratio() -> None:
    assert [model(tol, 1, (0.5, 0.5, 0.5)).own for tol in (3e-1, 4e-2, 2e-3, 1e-9)] == [0, 0, 2, 2]


# --- recall_and_overthinking


def test_recall_that_keeps_the_answer() -> None:
    found = [thought(r, p, *[1.0 if r else 0.25] * 5) for r in (True, False) for p in (True, False)]
    conclusion = recall_and_overthinking.conclude(found)
    worth = {key.what: key for key in conclusion.key}
    recall, loss = worth["worth of recall at the end"], worth["worth of progressive loss at the end"]
    assert (recall.of.mean, recall.told, recall.value) == (pytest.approx(0.75), Told.ABOVE, "+75.0 points")
    assert (loss.of.mean, loss.told) == (0, Told.NOT)
    assert worth["recall alone over the progressive loss alone"].of.mean == pytest.approx(0.75)
    assert worth["no recall, plain loss: lost by going on"].of.mean == pytest.approx(0.75)
    assert conclusion.verdict == (
        "Recall keeps accuracy at the end, recall more than the loss; 2 of 4 recipes are told to overthink."
    )
    assert conclusion.family == 7  # four losses, two effects, and their difference


def test_effects_have_both_sources_of_chance() -> None:
    """Differences of 50, 60 and 70 points by seed: Student's 4.303 · 10 / √3 of the seeds, in squares with that of
    the samples, whose values are means over seeds, and −1 and 1 beside them."""
    kept = {True: (1.0, 1.0, 1.0), False: (0.5, 0.4, 0.3)}
    found = [thought(r, p, *kept[r]) for r in (True, False) for p in (True, False)]
    recall = recall_and_overthinking.effects(found)["recall"]
    lost = np.stack([~one.right[:, -1] for one in found if not one.recall]).mean(axis=(0, 1))
    extended = np.append(lost, [-1, 1])
    seeds = 4.302652730 * 0.1 / math.sqrt(3)
    samples = stats.t.ppf(0.975, 201) * stats.sem(extended)
    assert recall.mean == pytest.approx(0.6)
    assert recall.high == pytest.approx(0.6 + math.hypot(seeds, extended.mean() + samples - 0.6))
    assert recall.low == pytest.approx(0.6 - math.hypot(seeds, 0.6 - extended.mean() + samples))
    assert (recall.unit, recall.seeds, recall.decides) == (Unit.SEEDS, 3, False)


def test_seeds_that_contradict_each_other_show_nothing() -> None:
    mixed = {True: (1.0, 0.1, 0.6, 0.9, 0.2), False: (0.2, 0.9, 0.5, 0.3, 0.8)}
    found = [thought(r, p, *mixed[p]) for r in (True, False) for p in (True, False)]
    assert recall_and_overthinking.conclude(found).verdict.startswith("Not shown: neither recall nor the progressive")


@pytest.mark.parametrize(("kept", "overthink"), [(1.0, "0 of 4"), (0.2, "4 of 4")])
def test_all_alike(kept: float, overthink: str) -> None:
    found = [thought(r, p, *[kept] * 5) for r in (True, False) for p in (True, False)]
    verdict = recall_and_overthinking.conclude(found).verdict
    assert verdict.startswith("Not shown: ")
    assert verdict.endswith(f"{overthink} recipes are told to overthink.")


def test_the_best_iterate_is_the_one_that_validation_chose() -> None:
    """On test the last iterate, with 25 %, is the worst. Validation chose it in the second of two seeds."""
    one = replace(thought(True, True, 0.25, 0.25), best=np.array([1, 4]))
    assert one.at_best.mean == pytest.approx((1.0 + 0.25) / 2)
    assert one.lost.mean == pytest.approx(0.75)


def test_only_the_training_length_is_claimed() -> None:
    own = [thought(r, p, *[1.0] * 5) for r in (True, False) for p in (True, False)]
    longer = [replace(thought(r, p, *[0.1] * 5), length=32) for r in (True, False) for p in (True, False)]
    assert recall_and_overthinking.conclude([*own, *longer]) == recall_and_overthinking.conclude(own)


# --- easy_to_hard


def test_from_where_an_answer_stays_right() -> None:
    correct = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    assert easy_to_hard.settled_from(correct).tolist() == [1, 0, 2, -1]


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize(("power", "side"), [(0.5, Told.BELOW), (2.0, Told.ABOVE)])
def test_the_exponent_is_that_of_a_power(power: float, side: Told, seeds: int) -> None:
    found = [length(bits, seeds, bits**power) for bits in (16, 64, 256)]
    b = easy_to_hard.exponent(found)
    assert (b.mean, b.versus, b.seeds) == (pytest.approx(power, rel=1e-6), 1.0, seeds)
    conclusion = easy_to_hard.conclude(found, 16, 1e-3)
    assert conclusion.key[1].told is side
    assert conclusion.verdict.endswith(f"as its power {power:.2f}.")
    assert [key.of.mean for key in conclusion.key[3:]] == pytest.approx([16**power, 256**power, 1.5 * 256**power])


@pytest.mark.parametrize("factor", [0.1, 0.25, 1.0, 1.5, 3.0])
def test_growth_in_proportion_is_neither_faster_nor_slower(factor: float) -> None:
    """Rounding of the logarithms must not decide it where strings don't scatter at all."""
    found = [length(bits, 1, factor * bits) for bits in (16, 32, 64, 128, 256, 512)]
    assert easy_to_hard.exponent(found).mean == pytest.approx(1)
    assert "grow faster" not in easy_to_hard.conclude(found, 16, 1e-3).verdict
    assert "grow slower" not in easy_to_hard.conclude(found, 16, 1e-3).verdict


def test_a_length_without_a_median_has_no_part_in_the_exponent() -> None:
    usable = [length(bits, 5, bits**2) for bits in (16, 32)]
    lost = length(64, 5, 1.0, right=0.4)
    assert easy_to_hard.exponent([*usable, lost]).mean == pytest.approx(2.0)
    alone = easy_to_hard.exponent([usable[0], lost])
    assert math.isnan(alone.mean)
    assert (alone.low, alone.high, alone.p) == (-math.inf, math.inf, 1.0)


def test_a_length_that_is_not_reached() -> None:
    found = [length(16, 5, 4), length(32, 5, 8), length(64, 5, 1, right=0.0, stopped=0.0)]
    conclusion = easy_to_hard.conclude(found, 16, 1e-3)
    assert conclusion.verdict.startswith("Trained on 16 bits, up to 32 bits are solved; ")
    solved, stopped = conclusion.key[0], conclusion.key[2]
    assert (solved.what, solved.value, solved.told) == ("64 bits right in the end", "0.0 %", Told.BELOW)
    assert (stopped.of.mean, stopped.told) == (0, Told.BELOW)
    assert conclusion.family == 5


# --- path_independence


@pytest.mark.parametrize(("sign", "side"), [(1, Told.ABOVE), (-1, Told.BELOW)])
def test_alignment_that_goes_with_accuracy(sign: int, side: Told) -> None:
    nets = [net(f"recipe_{i}", float(v), float(0.5 + sign * (v - 0.75))) for i, v in enumerate(np.linspace(0.5, 1, 12))]
    found = path_independence.correlation(nets)
    assert (found.mean, found.unit, found.seeds, found.n) == (pytest.approx(sign), Unit.RECIPES, 12, 12)
    (key,) = path_independence.conclude(nets, 48).key
    assert key.told is side


def test_recipes_are_the_unit_however_many_seeds_they_have() -> None:
    generator = np.random.default_rng(0)
    nets = [net(f"recipe_{i}", *generator.uniform(0.3, 0.9, size=2)) for i in range(10)]
    once = path_independence.correlation(nets)
    thrice = path_independence.correlation([replace(one, label=f"{one.label}-{s}") for one in nets for s in range(3)])
    assert (thrice.mean, thrice.low, thrice.high, thrice.p) == (once.mean, once.low, once.high, once.p)
    assert (once.n, thrice.n, thrice.seeds) == (10, 30, 10)


def test_networks_of_one_recipe_are_one_point() -> None:
    """Within each recipe alignment goes against accuracy; over recipes it goes with it, and that is what is told."""
    nets = [
        net(f"recipe_{i}", 0.5 + 0.02 * i - 0.05 * s, 0.3 + 0.02 * i + 0.1 * s, s) for i in range(12) for s in range(3)
    ]
    assert path_independence.correlation(nets).mean == pytest.approx(1)
    points = path_independence.recipes(nets)
    assert [len(one.nets) for one in points] == [3] * 12
    assert points[0].harder == pytest.approx(0.4)
    assert 10 ** points[0].gap == pytest.approx((0.5 * 0.55 * 0.6) ** (1 / 3))  # the geometric mean of 1 − cosine


def test_a_solve_that_diverges_is_the_least_aligned() -> None:
    assert path_independence.aligned(torch.tensor([1.0, math.nan, 0.4])) == pytest.approx(0.4 / 3)
    assert path_independence.aligned(torch.full((4,), math.nan)) == -1
    nets = [net(f"recipe_{i}", 0.5 + 0.03 * i, 0.5 + 0.03 * i) for i in range(11)]
    lost = net("lost", path_independence.aligned(torch.full((4,), math.nan)), 0.1)
    assert lost.gap == 2
    assert path_independence.correlation([*nets, lost]).mean == pytest.approx(1)
    assert path_independence.correlation([*nets, replace(lost, harder=1.0)]).mean < 0.6


def test_alignments_that_differ_by_rounding_are_ties() -> None:
    nets = [net(f"recipe_{i}", 1 - 1e-9 * i, 0.1 * i) for i in range(8)]
    assert {one.gap for one in nets} == {1e-7}
    assert math.isnan(path_independence.correlation(nets).mean)


# --- perturb_and_recover


def test_an_answer_is_back_if_it_returns_after_every_disturbance() -> None:
    """Each disturbance takes another tenth of the answers: seven in ten return after all three."""
    found = []
    for place, kind in enumerate(perturb_and_recover.KINDS):
        steps = np.full((5, 200), 7.0)
        steps[:, 20 * place : 20 * (place + 1)] = np.inf
        found.append(replace(disturbed("bits", kind, 5, 1.0), steps=steps))
    assert [one.answer_back.mean for one in found] == pytest.approx([0.9, 0.9, 0.9])
    conclusion = perturb_and_recover.conclude(found)
    (key,) = conclusion.key
    assert (key.what, key.of.mean, key.told) == (
        "bits: answers back after every disturbance",
        pytest.approx(0.7),
        Told.BELOW,
    )
    assert key.of == perturb_and_recover.all_back(found)
    assert conclusion.family == 1


def test_answers_return_where_states_may_not() -> None:
    """An answer counts by its steps, whether or not the state comes back to its former end."""
    one = disturbed("bits", "noise", 1, 1.0)
    assert (one.back.mean, one.answer_back.mean) == (1, 1)
    lost = replace(one, returned=np.zeros_like(one.returned))
    assert (lost.back.mean, lost.answer_back.mean) == (0, 1)


def test_steps_back_are_told_of_those_that_find_back() -> None:
    found = [
        disturbed(variant, kind, 5, back)
        for variant, back in (("a", 1.0), ("b", 0.2))
        for kind in perturb_and_recover.KINDS
    ]
    key = perturb_and_recover.conclude(found).key
    assert [one.what for one in key if "steps back" in one.what] == ["a: steps back from another sample's state"]
    assert (key[-1].of.mean, key[-1].value) == (7, "7 steps")


# --- adaptive_compute


@pytest.mark.parametrize("seeds", [1, 5])
def test_what_halting_saves(seeds: int) -> None:
    """20 evaluations by the fixed budget, 14 and 18 by turns with the rule: 4 saved, ±2 about it."""
    one = halted("bits", seeds, 4)
    assert (one.saved.mean, one.accuracy.mean, one.mean(one.oracle).mean) == (4, 0, 3)
    values = np.append(np.tile([6.0, 2.0], 100), [-65, 65])
    half = stats.t.ppf(0.975, 201) * stats.sem(values)
    assert one.saved.low == pytest.approx(4 - abs(values.mean() - half - 4))
    conclusion = adaptive_compute.conclude([one])
    saved, accuracy, fixed = conclusion.key
    assert (saved.what, saved.value, saved.told) == ("bits: evaluations saved a sample", "4", Told.ABOVE)
    assert (accuracy.told, fixed.of.mean) == (Told.NOT, 20)


def test_evaluations_saved_at_a_loss_are_no_saving() -> None:
    conclusion = adaptive_compute.conclude([halted("bits", 5, 6, lost=0.2), halted("digits", 5, 6)])
    assert conclusion.verdict == (
        "It depends: stopping each sample by itself saves evaluations on digits; accuracy falls on bits."
    )
    assert conclusion.family == 4


def test_where_no_rule_is_as_good_the_budget_saves_nothing() -> None:
    one = unhalted("bits", 5)
    assert one.saved.mean == one.accuracy.mean == 0
    assert adaptive_compute.conclude([one, halted("digits", 5, 6)]).verdict == (
        "It depends: stopping each sample by itself saves evaluations on digits."
    )


def test_rules_that_differ_by_seed_are_both_named() -> None:
    one = replace(halted("bits", 2, 4), rules=("kl", "residual"))
    table = adaptive_compute.answer_of([one], 64).tables[0]
    assert table.columns[1].texts == ["kl, residual"]


# --- depth_vs_breadth


def test_gains_at_equal_compute_by_hand() -> None:
    """Two starts of 4 against the mean of the same two starts of 8, sample by sample."""
    one = grid("run", 2, 0.9, 0.5)
    cell = depth_vs_breadth.Cell(2, 4, "vote")
    gains = one.gains(cell, "test")
    both, first, second = one.correct["test"]["vote"][:, 1, 0], *(one.singles["test"][:, start, 1] for start in (0, 1))
    assert gains.tolist() == (both.astype(float) - (first.astype(float) + second) / 2).tolist()
    assert gains.mean() == pytest.approx(0.9 - 0.5)
    assert one.cells == [
        depth_vs_breadth.Cell(2, depth, way) for depth in (4, 8) for way in ("mean", "vote", "residual")
    ]
    assert cell.words == "2 starts of 4 by vote, over one of 8"


def test_the_cell_is_chosen_on_validation() -> None:
    """On test two starts of 8 by vote gain the most; validation likes two of 4 by mean, which lose on test."""
    one = grid("run", 5, 0.6, 0.5)
    correct = {split: {way: values.copy() for way, values in ways.items()} for split, ways in one.correct.items()}
    correct["validation"]["mean"][:, 1, 0] = True
    correct["test"]["mean"][:, 1, 0] = False
    correct["test"]["vote"][:, 1, 1] = True
    changed = replace(one, correct=correct)
    assert changed.chosen == [depth_vs_breadth.Cell(2, 4, "mean")] * 5
    assert changed.gain.mean == pytest.approx(-0.5)
    assert depth_vs_breadth.conclude([changed]).key[0].told is Told.BELOW


def test_the_cell_is_chosen_on_the_other_seeds() -> None:
    """Two starts of 4 by mean are best in one seed of five, and worst in the four others: no seed is told by them."""
    one = grid("run", 5, 0.6, 0.5)
    ways = {way: values.copy() for way, values in one.correct["validation"].items()}
    ways["mean"][0, 1, 0], ways["mean"][1:, 1, 0] = True, False
    changed = replace(one, correct={**one.correct, "validation": ways})
    assert depth_vs_breadth.Cell(2, 4, "mean") not in changed.chosen


def test_where_the_start_decides_and_whether_the_residual_picks() -> None:
    one = grid("run", 1, 0.9, 0.5, n=4)
    singles = {"validation": one.singles["validation"], "test": one.singles["test"].copy()}
    singles["test"][0, :, -1] = [[1, 1, 0, 0], [1, 0, 1, 0]]
    correct = {**one.correct, "test": {**one.correct["test"], "residual": one.correct["test"]["residual"].copy()}}
    correct["test"]["residual"][0, -1, -1] = [1, 1, 1, 0]
    changed = replace(one, singles=singles, correct=correct)
    assert changed.undecided.mean == 0.5  # the second and the third sample
    assert changed.picked.mean == pytest.approx(3 / 4 - 2 / 4)


# --- infinite_depth_gain


def test_the_deq_beside_its_baselines() -> None:
    nets = [
        baseline("deq", "none", 10, 5, 0.9, 100),
        baseline("tied_2", "tied", 2, 5, 0.6, 20),
        baseline("tied_8", "tied", 8, 5, 0.9, 80),
        baseline("untied_2", "untied", 2, 5, 0.5, 10),
    ]
    conclusion = infinite_depth_gain.conclude(nets)
    assert conclusion.verdict == (
        "It depends: the DEQ gains over the best untied layers and is not told apart from the best tied layers."
    )
    tied, untied, accuracy, cheaper, cheapest = conclusion.key
    assert (tied.what, tied.told) == ("the DEQ over 8 tied layers, best on validation", Told.NOT)
    assert (untied.of.mean, untied.told) == (pytest.approx(0.4), Told.ABOVE)
    assert (accuracy.value, cheaper.value, cheapest.value) == ("90.0 %", "1.25 times", "10 times")
    assert conclusion.family == 2


def test_the_depth_of_a_family_is_chosen_on_validation() -> None:
    """On test 2 layers have 95 % and 8 have 70 %; validation likes 8. The DEQ is told beside these."""
    shallow, deep = baseline("a", "tied", 2, 5, 0.95, validation=0.6), baseline("b", "tied", 8, 5, 0.7, validation=0.8)
    deq, other = baseline("deq", "none", 10, 5, 0.85), baseline("c", "untied", 2, 5, 0.5)
    nets = [deq, shallow, deep, other]
    assert infinite_depth_gain.best(nets, "tied") == [deep] * 5
    conclusion = infinite_depth_gain.conclude(nets)
    assert conclusion.key[0].what == "the DEQ over 8 tied layers, best on validation"
    assert conclusion.key[0].of == infinite_depth_gain.gain(deq, deep)
    assert conclusion.key[0].of.mean == pytest.approx(0.15)


def test_of_equal_depths_the_shallower_is_chosen() -> None:
    nets = [baseline("a", "tied", 16, 5, 0.8), baseline("b", "tied", 4, 5, 0.8), baseline("c", "tied", 8, 5, 0.8)]
    assert [net.layers for net in infinite_depth_gain.best(nets, "tied")] == [4] * 5
    assert infinite_depth_gain.best(nets, "untied") == []


def test_settings_that_differ_too_are_said() -> None:
    nets = [baseline("deq", "none", 10, 5, 0.95), baseline("a", "tied", 2, 5, 0.5), baseline("b", "untied", 2, 5, 0.5)]
    answer = infinite_depth_gain.answer_of(nets, ("train.jacobian_weight", "train.start"))
    assert answer.verdict.endswith("; other settings differ, too.")
    assert answer.would_change[-1] == "Settings that differ, too: train.jacobian_weight and train.start."
    clean = infinite_depth_gain.answer_of(nets)
    assert "differ" not in clean.verdict
    assert not any("Settings that differ" in line for line in clean.would_change)


def test_gains_are_paired_over_samples_and_seeds() -> None:
    deq, other = baseline("deq", "none", 10, 5, 0.9), baseline("a", "tied", 2, 5, 0.8)
    same = replace(other, right=deq.right)
    assert infinite_depth_gain.gain(deq, same).mean == 0
    assert infinite_depth_gain.gain(deq, same).high < 0.015
    assert infinite_depth_gain.gain(deq, other) == claim(deq.right.astype(float) - other.right, DIFFERENCE)
    assert shares(0.9, 5).mean() == pytest.approx(0.9)


# --- loops_and_perplexity


def test_the_saturating_exponential_is_found_again() -> None:
    loops = (1, 2, 4, 8, 16, 32, 64)
    t = np.array(loops, dtype=float)
    fit = loops_and_perplexity.fitted(loops, 1.3 + 2.5 * np.exp(-t / 3.7))
    assert (fit.floor, fit.gain, fit.rate) == pytest.approx((1.3, 2.5, 3.7), rel=1e-4)
    assert fit.largest < 1e-6


def test_a_loss_that_rises_again_is_no_saturating_exponential() -> None:
    """Down by a nat to 8 loops, and up again as far: the best fit stays half a nat off somewhere, or nearly."""
    loops = (1, 2, 4, 8, 16, 32, 64)
    fit = loops_and_perplexity.fitted(loops, np.array([2.0, 1.5, 1.2, 1.0, 1.3, 1.7, 2.0]))
    assert fit.largest > 0.3
    assert fit.error > 0.2


def test_a_plateau_needs_its_whole_interval_within_five_per_cent_of_perplexity() -> None:
    """Windows that move up and down by a nat each tell neither a change nor a plateau."""
    quiet, noisy = looped("random", 5, 0.0), looped("random", 5, 0.0)
    noise = np.where(np.arange(N) % 2, 1.0, -1.0)
    noisy.loss[:, -1] += noise
    assert "stays" in loops_and_perplexity.conclude([quiet]).verdict
    assert loops_and_perplexity.conclude([noisy]).verdict.startswith("Not shown: ")
    both = loops_and_perplexity.conclude([replace(noisy, kind="fixed"), quiet]).verdict
    assert both == "Not shown: perplexity stays within 5 % beyond the training depth for random; fixed is not told."


# --- does_noise_help


def test_gains_of_noise_by_hand() -> None:
    """At equal draws against the same cell without noise, and against the mean of both starts of twice the steps."""
    one = shaken("run", 2, 0.5, 0.8, 0.6)
    cell = does_noise_help.Cell(0.1, 4, "vote")
    noisy, plain = (one.correct["test"][level]["vote"][:, 0].astype(float) for level in (0.1, 0.0))
    first, second = (one.singles["test"][:, start, 1].astype(float) for start in (0, 1))
    assert one.over_none(cell, "test").tolist() == (noisy - plain).tolist()
    assert one.over_depth(cell, "test").tolist() == (noisy - (first + second) / 2).tolist()
    assert one.gain("none").mean == pytest.approx(0.3)
    assert one.gain("depth").mean == pytest.approx(0.2)
    assert {cell.depth for cell in one.cells} == {4}  # no start has gone 16 steps
    assert cell.words == "noise 0.1, 4 iterations, by vote"


def test_the_level_is_chosen_on_the_other_seeds() -> None:
    """One seed's validation likes the mean, and the four others like the vote: the fifth is told by the vote, too."""
    one = shaken("run", 5, 0.5, 0.5, 0.5)
    ways = {way: values.copy() for way, values in one.correct["validation"][0.1].items()}
    ways["mean"][0], ways["mean"][1:], ways["vote"][1:] = True, False, True
    changed = replace(one, correct={**one.correct, "validation": {**one.correct["validation"], 0.1: ways}})
    assert [cell.way for cell in changed.chosen("none")] == ["vote"] * 5


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ({"noise": [0.0]}, "ask.noise with a level above 0"),
        ({"draws": 1}, "ask.draws above 1"),
        ({"iterations": [2, 4]}, "the product of some of its depths"),
    ],
)
def test_noise_needs_a_level_and_a_depth_beside_it(given: dict[str, object], needed: str) -> None:
    ask = {"iterations": [2, 16], "draws": 8, "noise": [0.1], "samples": 5, "tol": 0.0}
    load_question("does_noise_help", ask)
    with pytest.raises(UserError) as raised:
        load_question("does_noise_help", ask | given)
    assert needed in str(raised.value)


# --- which_start_is_right


def test_rules_over_chance_and_over_the_vote_by_hand() -> None:
    one = ruled("run", 1, 0.5, {"top": 0.9, "vote": 0.7})
    right = one.correct["test"]["top"][0, -1].astype(float)
    assert one.best == ["top"]
    assert one.over_chance("top", "test")[0].tolist() == (right - one.singles["test"][0].mean(axis=0)).tolist()
    assert one.gain.mean == pytest.approx(0.4)
    assert one.over_vote.mean == pytest.approx(0.2)
    single = one.singles["test"][0]
    assert one.room.mean == pytest.approx((single.any(axis=0) & ~single.all(axis=0)).mean())


def test_a_rule_is_chosen_on_validation() -> None:
    """On test confidence is always right; validation likes the vote, which never is."""
    one = ruled("run", 5, 0.5, {})
    correct = {split: {rule: values.copy() for rule, values in rules.items()} for split, rules in one.correct.items()}
    correct["validation"]["vote"][:, -1], correct["test"]["vote"][:, -1] = True, False
    correct["test"]["confident"][:, -1] = True
    assert replace(one, correct=correct).gain.mean == pytest.approx(-0.5)


# --- settled_or_right


def test_areas_and_trust_by_hand() -> None:
    """Settled: 1, 2 and 3, of which 3 is wrong; 4 is right at 0.1, 5 wrong at 0.2, and 6 lost, wrong.

    Right are 1, 2 and 4. Of nine pairs with a wrong one, 1 ties with 3, 4 loses against 3, and all others are won.
    """
    residual = np.array([[1e-4, 1e-5, 1e-4, 0.1, 0.2, np.inf]])
    one = settled_or_right.Ended("run", 1e-3, residual, np.array([[True, True, False, True, False, False]]))
    assert one.area.mean == pytest.approx((0.5 + 7) / 9)
    assert one.area.versus == 0.5
    assert one.trusted is not None
    assert one.trusted.mean == pytest.approx(2 / 3)
    shares = [one.share(settled, right).mean for settled in (True, False) for right in (True, False)]
    assert shares == pytest.approx([2 / 6, 1 / 6, 1 / 6, 2 / 6])


def test_where_no_answer_settles_none_is_trusted() -> None:
    assert ended("run", 3, 0.5, 1.0, settled=0.0).trusted is None
    assert ended("run", 3, 0.5, 1.0, settled=0.5).trusted is not None
