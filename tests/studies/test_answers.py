"""The arithmetic of the answers about convergence, solvers and gradients, on records reckoned by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from deqrun.analysis.fates import Fate
from deqrun.datasets import Digits
from deqrun.errors import UserError
from deqrun.gradients import Implicit
from deqrun.inference import DIFFERENCE, SHARE, Told, Unit, claim
from deqrun.models import DEQ
from deqrun.models.conv import ConvCell
from deqrun.models.mlp import MLPCell
from deqrun.records.trajectory import Trajectory
from deqrun.report.answer import Conclusion, KeyFigure
from deqrun.solvers import Budget, Picard
from deqrun.studies.questions import (
    anderson_vs_picard,
    does_anderson_prevent_divergence,
    does_it_converge,
    is_it_a_contraction,
    memory_vs_depth,
)
from tests.studies.worlds import ends, shares, solved, solves, spectra, step


def figure(conclusion: Conclusion, words: str) -> KeyFigure:
    """The key figure whose name has these words."""
    (found,) = [one for one in conclusion.key if words in one.what]
    return found


def interval(figure: KeyFigure) -> tuple[float, float, float, int]:
    return figure.of.mean, figure.of.low, figure.of.high, figure.of.n


# --- is_it_a_contraction


@pytest.mark.parametrize(
    ("radius", "norm", "converged", "settles", "contracts"),
    [
        (0.5, 0.8, True, 0.0, 1.0),
        (0.9, 1.3, True, 1.0, 0.0),
        (0.9, 1.3, False, 0.0, 0.0),
        (1.2, 1.3, False, 0.0, 0.0),
        (1.2, 1.3, True, 0.0, 0.0),
    ],
)
def test_who_settles_and_who_contracts(
    radius: float, norm: float, converged: bool, settles: float, contracts: float
) -> None:
    one = spectra("weight_0", 1, radius, norm, converged)
    assert (one.settles.mean, one.contracts.mean) == (settles, contracts)
    assert one.settles.versus == one.contracts.versus == 0.9


def test_the_radius_beside_the_best_constant_answer() -> None:
    """70 % arrive. ρ < 1 of all is right of 70 %, as "all arrive" is: nothing gained. ρ that knows gains 30 points."""
    arrived = shares(0.7, 1)
    blind = spectra("weight_0", 1, 0.9, 1.3, arrived)
    knowing = replace(blind, radius=np.where(arrived, 0.9, 1.1))
    perverse = replace(blind, radius=np.where(arrived, 1.1, 0.9))
    for one, gain in ((blind, 0.0), (knowing, 0.3), (perverse, -0.7)):
        found = figure(is_it_a_contraction.conclude([one]), "ρ < 1 foretells arriving")
        assert found.of.mean == pytest.approx(gain)
        assert is_it_a_contraction.over_constant([one]).mean == pytest.approx(gain)
    assert figure(is_it_a_contraction.conclude([knowing]), "foretells").told is Told.ABOVE
    assert figure(is_it_a_contraction.conclude([blind]), "foretells").told is Told.NOT


def test_where_most_get_lost_the_constant_answer_is_that_none_arrives() -> None:
    """20 % arrive, and ρ < 1 says that all do: right of 20 %, where "none arrives" is right of 80 %."""
    one = spectra("weight_0", 1, 0.9, 1.3, shares(0.2, 1))
    assert is_it_a_contraction.over_constant([one]).mean == pytest.approx(-0.6)


def test_the_constant_answer_is_one_for_all_variants() -> None:
    """All of one variant arrive, none of the other: no constant is right of both, and ρ is."""
    both = [spectra("weight_0", 5, 1.1, 1.3, False), spectra("weight_5", 5, 0.5, 0.8, True)]
    found = figure(is_it_a_contraction.conclude(both), "ρ < 1 foretells arriving")
    assert found.of.mean == pytest.approx(0.5)
    assert (found.of.n, found.of.seeds) == (100, 5)  # the same samples in both variants: one cluster each
    assert found.told is Told.ABOVE


def test_one_variant_says_how_near_the_rate_is_to_the_radius() -> None:
    found = figure(is_it_a_contraction.conclude([spectra("run", 1, 0.5, 0.8)]), "the rate's distance from ρ")
    assert found.of.mean == pytest.approx(0.01)


def test_where_hardly_any_rate_can_be_told() -> None:
    """Rates of two samples of a hundred: some resamples have neither, and that is no error."""
    one = spectra("run", 1, 0.5, 0.8)
    rate = np.full_like(one.rate, np.nan)
    rate[:, :2] = 0.51
    found = figure(is_it_a_contraction.conclude([replace(one, rate=rate)]), "the rate's distance from ρ")
    assert found.of.mean == pytest.approx(0.01)
    untold = replace(one, rate=np.full_like(one.rate, np.nan))
    assert math.isnan(figure(is_it_a_contraction.conclude([untold]), "the rate's distance").of.mean)


def test_variants_are_named_by_their_penalty() -> None:
    names = [spectra(kind, 1, 0.5, 0.8).name for kind in ("weight_0", "weight_0.5", "run", "as_trained")]
    assert names == ["no Jacobian penalty", "Jacobian penalty 0.5", "run", "as trained"]


# --- anderson_vs_picard


def test_savings_are_paired_medians() -> None:
    """Every sample needs 0.5 times what it needs plainly, though samples differ by a factor of three."""
    picard, fast = solved("picard", 1, 1.0), solved("anderson 5", 1, 0.5)
    found = anderson_vs_picard.relative_cost(fast.cost, picard.cost)
    assert (found.mean, found.low, found.high, found.n, found.versus) == (0.5, 0.5, 0.5, 200, 1.0)


@pytest.mark.parametrize(
    ("cost", "base", "ratio"), [(5.0, 10.0, 0.5), (np.inf, 10.0, np.inf), (5.0, np.inf, 0.0), (np.inf, np.inf, 1.0)]
)
def test_what_never_arrives_is_worth(cost: float, base: float, ratio: float) -> None:
    assert anderson_vs_picard.relative_cost(np.full((1, 30), cost), np.full((1, 30), base)).mean == ratio


def test_the_solver_of_fewest_evaluations_is_chosen_on_validation() -> None:
    """On test Broyden would be the best, with 0.4; validation likes Anderson, with 0.5, and its 0.8 is told."""
    found = [
        solved("picard", 5, 1.0),
        solved("anderson 5", 5, 0.8, 1.0, validation=0.5),
        solved("broyden", 5, 0.4, 1.0, validation=0.9),
    ]
    conclusion = anderson_vs_picard.conclude(found, 1e-3)
    key = conclusion.key[0]
    assert (key.what, key.of.mean, key.told) == (
        "anderson 5 over plain iteration, evaluations to 1e-3",
        pytest.approx(0.8),
        Told.BELOW,
    )
    assert conclusion.verdict.startswith("Yes: anderson 5 saves evaluations")


def test_the_fastest_is_chosen_in_the_first_rounds_and_told_in_the_others() -> None:
    """Broyden is fastest in the first eight rounds, 0.5, and slower than plain iteration in the others, 1.2."""
    picard, anderson, broyden = (
        solved(name, 1, cost) for name, cost in (("picard", 1.0), ("anderson 5", 0.5), ("broyden", 0.7))
    )
    rounds = np.array([[0.5] * 8 + [1.2] * 8])
    found = [picard, replace(anderson, seconds=np.full((1, 16), 0.9)), replace(broyden, seconds=rounds)]
    conclusion = anderson_vs_picard.conclude(found, 1e-3)
    told = figure(conclusion, "broyden over plain iteration, seconds")
    assert (told.of.mean, told.of.n, told.of.unit, told.told) == (pytest.approx(1.2), 8, Unit.ROUNDS, Told.ABOVE)
    assert figure(conclusion, "anderson 5 over plain iteration, seconds").of.mean == pytest.approx(0.9)
    assert conclusion.family == 4


def test_a_solver_that_fails_is_not_the_fastest() -> None:
    """Broyden takes half of the seconds, but reaches the tolerance on validation on a third of the samples."""
    broyden = solved("broyden", 1, 0.9, 0.5)
    failing = np.where(np.arange(200) < 67, broyden.validation, np.inf)
    found = [solved("picard", 1, 1.0), solved("anderson 5", 1, 0.5, 0.8), replace(broyden, validation=failing)]
    conclusion = anderson_vs_picard.conclude(found, 1e-3)
    assert figure(conclusion, "seconds").what == "anderson 5 over plain iteration, seconds"
    assert conclusion.verdict.endswith("by the clock anderson 5 saves time.")


def test_a_saving_on_fewer_samples_is_told_beside_it() -> None:
    found = [solved("picard", 1, 1.0), solved("anderson 5", 1, 0.5, reached=0.8)]
    reached = figure(anderson_vs_picard.conclude(found, 1e-3), "samples that reach it")
    assert (reached.of.mean, reached.told, reached.value) == (
        pytest.approx(-0.2),
        Told.BELOW,
        "\N{MINUS SIGN}20.0 points",
    )


def test_accuracy_is_reached_where_it_stays() -> None:
    accuracy = np.array([0.1, 0.9, 0.5, 0.895, 0.9, 0.9])
    one = replace(solved("picard", 1, 1.0), accuracy=accuracy)
    assert one.accurate_from == 4
    assert replace(one, accuracy=np.full(6, 0.9)).accurate_from == 1


def test_what_is_known_after_so_many_evaluations() -> None:
    """Two samples, iterates at 1, 2, 3 evaluations; the second stops at iterate 1. Products count one for one."""
    residual = np.array([[0.5, 0.4], [0.3, 0.1], [0.2, np.nan]], dtype=np.float32)
    nfe = np.array([[1, 1], [2, 2], [3, 2]], dtype=np.int32)
    jvps = np.array([[0, 0], [2, 0], [4, 0]], dtype=np.int32)
    correct = np.array([[False, False], [True, True], [False, True]])
    trajectory = Trajectory(residual, nfe, correct, np.zeros(3), None, jvps)
    known, right = anderson_vs_picard.after_evaluations(trajectory, np.array([0, 1, 3, 4, 9]))
    assert known == pytest.approx(np.array([[1, 1], [0.5, 0.4], [0.5, 0.1], [0.3, 0.1], [0.2, 0.1]]))
    assert right.tolist() == [[False, False], [False, False], [False, True], [True, True], [False, True]]


# --- does_anderson_prevent_divergence


@pytest.mark.parametrize("seeds", [1, 5])
def test_a_sample_at_several_factors_is_one_cluster(seeds: int) -> None:
    """Every factor twice over: as many samples as before, and the same estimates, intervals and p-values."""
    once = solves(seeds, 1.1, 0.2, 0.6, factors=3)
    twice = solves(seeds, 1.1, 0.2, 0.6, factors=6)
    one, two = (does_anderson_prevent_divergence.conclude(found) for found in (once, twice))
    for a, b in zip(one.key, two.key, strict=True):
        assert interval(b) == pytest.approx(interval(a))
        assert b.of.p == pytest.approx(a.of.p, nan_ok=True)
        assert a.of.n == 60
        assert a.told is b.told


def test_the_gain_by_hand() -> None:
    """At one factor each sample is one value: the gain is the paired difference."""
    found = solves(5, 1.1, 0.2, 0.6, factors=1)
    expected = claim(found.converged["anderson"][:, 0].astype(float) - found.converged["picard"][:, 0], DIFFERENCE)
    gain = found.gain("anderson")
    assert gain is not None
    assert (gain.mean, gain.low, gain.high) == pytest.approx((expected.mean, expected.low, expected.high))
    share, alone = found.share("anderson", found.beyond), claim(found.converged["anderson"][:, 0], SHARE, versus=0.9)
    assert (share.mean, share.low, share.high, share.p) == pytest.approx((alone.mean, alone.low, alone.high, alone.p))


def test_only_entries_beyond_one_count() -> None:
    """At the first factor ρ < 1 and all converge; at the second half do with Anderson. Lost equilibria don't count."""
    found = solves(1, 1.1, 0.0, 0.5)
    radius = found.radius.copy()
    radius[:, 0] = 0.9
    radius[:, 1, 30:] = np.nan
    converged = {name: values.copy() for name, values in found.converged.items()}
    for values in converged.values():
        values[:, 0] = True
    converged["anderson"][:, 1] = np.arange(60) % 2 == 0
    one = replace(found, radius=radius, converged=converged)
    gain = one.gain("anderson")
    assert gain is not None
    assert (gain.mean, gain.n) == (pytest.approx(0.5), 30)
    answer = does_anderson_prevent_divergence.answer_of(one, 200, 1e-4)
    assert "30 of 120 entries are in no bin of ρ" in answer.would_change[0]


def test_seeds_without_an_entry_take_no_part() -> None:
    found = solves(6, 1.1, 0.0, 0.5)
    radius = found.radius.copy()
    radius[0] = 0.9
    gain = replace(found, radius=radius).gain("anderson")
    assert gain is not None
    assert (gain.seeds, gain.mean) == (5, pytest.approx(0.5))
    assert gain.own == pytest.approx((math.nan, *[0.5] * 5), nan_ok=True)  # each seed keeps its place
    assert replace(found, radius=np.full_like(radius, 0.9)).gain("anderson") is None


def test_the_table_by_radius_has_the_bins_that_have_entries() -> None:
    found = solves(1, 1.1, 0.0, 1.0)
    radius = found.radius.copy()
    radius[:, 1] = 2.5
    answer = does_anderson_prevent_divergence.answer_of(replace(found, radius=radius), 200, 1e-4)
    by_radius = answer.tables[0]
    assert by_radius.columns[0].texts == ["ρ from 1 to 1.25", "ρ from 2 to 3"]
    assert by_radius.columns[-1].texts == ["60", "60"]


def deq(cell: MLPCell | ConvCell) -> DEQ:
    return DEQ(cell, Picard(), Budget(), Implicit())


def test_scaled_weights_scale_the_jacobian_of_a_linear_cell() -> None:
    torch.manual_seed(0)
    cell = MLPCell(input_shape=(3,), num_classes=2, width=8, activation="identity")
    before, x = deq(cell), torch.randn(4, 3)
    after = does_anderson_prevent_divergence.scaled(before, 3.0)
    a, b = torch.randn(4, 8), torch.randn(4, 8)
    with torch.no_grad():
        f, g = before.bind(x), after.bind(x)
        torch.testing.assert_close(g(a) - g(b), 3 * (f(a) - f(b)))


def test_an_equilibrium_is_followed_where_others_appear() -> None:
    """z = tanh(s z + b) has one solution for small s, and three for large ones; followed, it is the upper one."""
    cell = MLPCell(input_shape=(1,), num_classes=2, width=1)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.fill_(0.0)
        cell.layers[0].weight.fill_(0.5)
        cell.encoder.bias.fill_(0.3)
        found = does_anderson_prevent_divergence.follow(deq(cell), torch.zeros(3, 1), None, 0.0, 4.0, 1e-4)
    z = 1.0
    for _ in range(200):
        z = np.tanh(2.0 * z + 0.3)
    torch.testing.assert_close(found, torch.full((3, 1), z), rtol=1e-3, atol=0)


def test_cells_that_would_undo_the_scaling_are_refused() -> None:
    with pytest.raises(UserError, match="choose model=mlp"):
        does_anderson_prevent_divergence.scaled(deq(ConvCell(input_shape=(1, 8, 8), num_classes=10)), 2.0)


# --- does_it_converge


def test_ends_by_fate_and_what_anderson_changes() -> None:
    found = [
        ends("conv", solver, dtype, 5, 0.5 if solver == "picard" else 0.75)
        for solver in ("picard", "anderson")
        for dtype in ("float32", "float64")
    ]
    assert [found[0].of(fate).mean for fate in Fate] == [0.5, 0.5, 0.0, 0.0]
    key = does_it_converge.conclude(found, 1000).key
    assert key[0].what == "conv: at a fixed point after 1,000 plain iterations"
    assert (key[0].of.mean, key[0].told, key[0].tells) == (0.5, Told.BELOW, "below 90 %")
    assert (key[1].of.mean, key[1].told, key[1].value) == (0.25, Told.ABOVE, "+25.0 points")


def test_what_nearly_all_samples_get_down_to() -> None:
    """Of 200 samples the 190th lowest is what 95 % get down to; the worst seed counts."""
    one = ends("conv", "picard", "float32", 2, 1.0)
    lowest = np.stack([np.arange(1, 201) * 1e-6, np.arange(200, 0, -1) * 1e-7])
    assert replace(one, lowest=lowest).reachable == pytest.approx(190e-6)
    assert replace(one, lowest=lowest[:1]).reached.mean == pytest.approx(100.5e-6)


def test_a_curve_keeps_the_residual_of_a_sample_that_stopped() -> None:
    found = does_it_converge._curve(np.array([[1.0, 1.0, 1.0], [0.5, 0.1, 0.4], [0.2, np.nan, 0.3]]))
    assert found == {"at": [0, 1, 2], "median": pytest.approx([1.0, 0.4, 0.2])}


# --- memory_vs_depth


def test_bytes_and_seconds_of_depth() -> None:
    """Unrolled 1 + 2 d MiB at depth d, implicit 4 at any: 17 / 4 at depth 8."""
    steps = [step("unrolled", depth, 1 + 2 * depth, 1.0) for depth in (1, 8)]
    for name, relative in (("checkpointed", 1.3), ("phantom", 0.5), ("one-step", 0.4), ("implicit", 0.6)):
        steps += [step(name, depth, 4, relative) for depth in (1, 8)]
    assert memory_vs_depth.growth(steps, "unrolled") == 2 * memory_vs_depth.MIB
    assert memory_vs_depth.growth(steps, "implicit") == 0
    conclusion = memory_vs_depth.conclude(steps)
    assert conclusion.verdict == (
        "Unrolling pays for depth in bytes; the implicit gradient does not, and holds 4.2 times less at depth 8, "
        "in less time."
    )
    more, over, implicit, checkpointed, phantom, one_step = conclusion.key
    assert (more.value, more.interval, over.value) == ("2 MiB", "–", "4.25 times")
    assert [one.told for one in (more, over)] == [None, None]
    assert (implicit.of.mean, implicit.told, implicit.tells) == (pytest.approx(0.6), Told.BELOW, "below 1")
    assert [one.told for one in (checkpointed, phantom, one_step)] == [Told.ABOVE, Told.BELOW, Told.BELOW]
    assert conclusion.family == 4


def test_ratios_of_rounds_have_the_medians_interval() -> None:
    """Of eleven rounds P(Binomial(11, 1/2) <= 1) = 12/2048 and <= 2 is 67/2048 > 2.5 %: the second and the tenth."""
    assert stats.binom.cdf(1, 11, 0.5) == pytest.approx(12 / 2048)
    rounds = 2.0 * np.geomspace(0.9, 1 / 0.9, 11)
    found = step("implicit", 8, 4, 2.0).relative
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, rounds[1], rounds[9]))
    assert found.p == pytest.approx(2 * 0.5**11)


@pytest.mark.parametrize(
    ("relative", "word"), [(0.5, "in less time."), (2.0, "in more time."), (1.0, "not told apart.")]
)
def test_how_long_the_implicit_gradient_takes(relative: float, word: str) -> None:
    steps = [step("unrolled", depth, depth, 1.0) for depth in (1, 8)]
    steps += [step("implicit", depth, 1, relative) for depth in (1, 8)]
    assert memory_vs_depth.conclude(steps).verdict.endswith(word)


def test_segments_are_the_root_of_the_depth() -> None:
    assert [memory_vs_depth.segment(depth) for depth in (1, 2, 4, 5, 64, 65)] == [1, 2, 2, 3, 8, 9]


def test_measured_bytes_of_a_tanh_cell() -> None:
    """tanh(W z + U x + b) saves its output, and z, which is the output before: a state for each iteration."""
    torch.manual_seed(0)
    data = Digits()
    model = deq(MLPCell(input_shape=(1, 8, 8), num_classes=10, width=32)).train()
    model.budget = Budget(max_iter=4, tol=0.0, keep="last")
    batch = data.load("train")
    x, y = data.encode(batch.inputs[:16]), batch.targets[:16]
    assert memory_vs_depth._bytes_per_iteration(model, data, x, y) == 16 * 32 * 4
