"""What the intervals of the studies cover, and how often their verdicts are false, in simulated worlds.

    python scripts/coverage.py [--worlds 1000] [--seeds 5] [--only STUDY …] [--markdown]

Each world draws what a study would have measured: of seeds whose networks differ, on samples that all of them share.
The study's own `conclude` makes the verdict. A world without effect lies where a verdict is hardest: a difference of 0,
a share at its threshold, a ratio of 1. Printed for each: the share of 95 % intervals of key figures that cover the true
value, the share of verdicts that claim anything that is not so, and, where there is an effect, the share that tell it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deqrun.analysis.fates import Fate
from deqrun.experiment.sweep.breadth import AGGREGATIONS
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim, from_interval, mean_interval, share_interval
from deqrun.report import numbers
from deqrun.report.answer import Conclusion, KeyFigure
from deqrun.report.finding import Finding, judged, of_change, of_saving
from deqrun.studies.questions import (
    adaptive_compute,
    anderson_vs_picard,
    depth_vs_breadth,
    does_anderson_prevent_divergence,
    does_it_converge,
    does_noise_help,
    easy_to_hard,
    fixed_point_or_intermediate,
    infinite_depth_gain,
    is_it_a_contraction,
    is_the_equilibrium_the_start,
    loops_and_perplexity,
    memory_vs_depth,
    path_independence,
    perturb_and_recover,
    recall_and_overthinking,
    settled_or_right,
    tolerance_transfer,
    which_start_is_right,
)
from deqrun.studies.timing import median_ratio

Draw = np.random.Generator
Truth = dict[str, float]
"""The true value of each key figure whose text contains the key."""

SHARED = 0.7
"""Correlation of two networks' latent scores of one sample: hard samples are hard for all seeds."""


def right(draw: Draw, accuracies: NDArray[np.float64], n: int) -> NDArray[np.bool_]:
    """(S, n) right answers of networks with these accuracies, on samples that are easy or hard for all."""
    common = draw.normal(size=n)
    own = draw.normal(size=(len(accuracies), n))
    return np.asarray(stats.norm.cdf(math.sqrt(SHARED) * common + math.sqrt(1 - SHARED) * own) < accuracies[:, None])


def around(draw: Draw, mean: float, spread: float, seeds: int) -> NDArray[np.float64]:
    """(S,) values of seeds, evenly around the mean and within [0, 1]."""
    reach = min(mean, 1 - mean)
    return np.asarray(mean + np.clip(spread * draw.normal(size=seeds), -reach, reach))


def spread_of(draw: Draw) -> float:
    """How far the seeds of a world scatter: not at all, a little, or by ten points."""
    return float(draw.choice([0.0, 0.02, 0.1]))


def flips(draw: Draw, base: NDArray[np.bool_], gain: float, spread: float, share: float) -> NDArray[np.bool_]:
    """`base` (S, n) with a share of answers drawn anew, so that each seed gains about gain ± spread."""
    shift = gain + np.clip(spread * draw.normal(size=len(base)), -3 * spread, 3 * spread)
    return moved(draw, base, shift, share)


def moved(draw: Draw, base: NDArray[np.bool_], shift: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """`base` (S, n) with a share of the wrong answers drawn anew, and as many right ones, then shifted by (S,)."""
    shift, wrong = shift[:, None], np.maximum((~base).mean(axis=1, keepdims=True), 1e-9)
    good = np.maximum(base.mean(axis=1, keepdims=True), 1e-9)
    up = np.clip(share + np.maximum(shift, 0) / wrong, 0, 1)
    down = np.clip((share * wrong + np.maximum(-shift, 0)) / good, 0, 1)
    chance = draw.random(base.shape)
    return np.asarray(np.where(base, chance >= down, chance < up))


# --- one world of each study: (effect, seeds) -> conclusion and the truth of its key figures


def adaptive(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    found = []
    for kind in ("bits", "digits"):
        n, gain = 400, 2.0 if effect else 0.0
        fixed = np.full((seeds, n), 13.0)
        own = gain + np.clip(0.3 * draw.normal(size=(seeds, 1)), -1, 1)
        rare = np.where(draw.random(n) < 0.03, -20.0, 20 * 0.03 / 0.97)  # few samples that go on for long
        spent = np.clip(fixed - own - rare - draw.normal(size=(seeds, n)), 0, 65)
        gained = draw.choice([-1.0, 0.0, 1.0], p=[0.01, 0.98, 0.01], size=(seeds, n))
        halted = adaptive_compute.Halted(kind, ("kl",) * seeds, fixed, spent, gained, fixed / 2, 65, [])
        found.append(halted)
    truth = {"evaluations saved": 2.0 if effect else 0.0, "change of accuracy": 0.0}
    return adaptive_compute.conclude(found), truth


def acceleration(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, rounds, factor = 300, 12, 0.6 if effect else 1.0
    difficulty = 40 * np.exp(0.2 * draw.normal(size=(2, n)))
    network = np.exp(0.1 * draw.normal(size=(seeds, 1)))
    clock = 1 + 0.05 * draw.normal(size=(seeds, rounds))

    def solver(name: str, relative: float) -> anderson_vs_picard.Solved:
        own = relative * np.exp(0.05 * draw.normal(size=(seeds, 1)))
        validation, cost = (network * one * own * np.exp(0.1 * draw.normal(size=(seeds, n))) for one in difficulty)
        seconds = clock * relative * np.exp(0.03 * draw.normal(size=(seeds, 1)) + 0.05 * draw.normal(size=clock.shape))
        return anderson_vs_picard.Solved(name, validation, cost, np.ones(3), np.ones(3), seconds)

    validation, cost = (network * one for one in difficulty)
    picard = anderson_vs_picard.Solved("picard", validation, cost, np.ones(3), np.ones(3), clock)
    others = [solver(f"solver {i}", factor) for i in range(4)]
    truth = {"evaluations to": factor, "seconds": factor, "samples that reach it": 0.0}
    return anderson_vs_picard.conclude([picard, *others], 1e-3), truth


def breadth(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    depths, breadths, n = (1, 2, 4, 8, 16, 32), (1, 2, 4, 8), 300
    gain, found = 0.12 if effect else 0.0, []
    for kind in ("sudoku", "bits"):
        correct: dict[str, dict[str, NDArray[np.bool_]]] = {}
        singles = {}
        level, luck = around(draw, 0.5, spread_of(draw), seeds), 0.02 * draw.normal(size=(2, seeds))
        for split in ("validation", "test"):
            base = right(draw, level, n)

            def grid(shift: NDArray[np.float64], base: NDArray[np.bool_] = base) -> NDArray[np.bool_]:
                """(S, B, D, n): every cell of a network gains by its luck."""
                return np.stack([np.stack([moved(draw, base, shift, 0.1) for _ in depths], 1) for _ in range(8)], 1)

            singles[split] = grid(np.zeros(seeds))
            correct[split] = {way: grid(gain + own) for way, own in zip(("mean", "vote"), luck, strict=True)}
            correct[split]["residual"] = grid(np.zeros(seeds))
        found.append(depth_vs_breadth.Grid(kind, breadths, depths, correct, singles))
    truth = {"by mean": gain, "by vote": gain, "by residual": 0.0, "lowest residual": 0.0}
    return depth_vs_breadth.conclude(found), truth


def divergence(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, scales = 240, np.array([1.0, 2.0, 4.0, 8.0])
    gain = 0.3 if effect else 0.0
    radius = np.where(draw.random((seeds, 4, n)) < 0.3, 1.2, 0.9)
    sample = draw.normal(size=n)

    def share(at: NDArray[np.float64]) -> NDArray[np.bool_]:
        own = draw.normal(size=(seeds, len(scales), n))  # a sample behaves alike at every factor
        return np.asarray(stats.norm.cdf(math.sqrt(0.8) * sample + math.sqrt(0.2) * own) < at[:, None, None])

    level = around(draw, 0.4, spread_of(draw), seeds)
    plain = share(level)
    fast = share(np.clip(level + gain + 0.1 * draw.normal(size=seeds), 0, 1))
    none = np.zeros(plain.shape, dtype=bool)
    names = does_anderson_prevent_divergence.SOLVERS
    converged = dict.fromkeys(names, plain) | {"anderson": fast, "broyden": fast}
    arrived = dict.fromkeys(names, none)
    found = does_anderson_prevent_divergence.Solves(scales, radius, converged, arrived)
    truth = {"Anderson over plain iteration: converge": gain, "Broyden over plain iteration": gain, "arrive": 0.0}
    return does_anderson_prevent_divergence.conclude(found), truth


def converging(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, level = 96, 0.995 if effect else 0.9
    found = []
    for kind in ("conv", "one_step", "relu"):
        here = right(draw, around(draw, level, spread_of(draw), seeds), n)
        there = flips(draw, here, 0.0, 0.0, 0.02)
        for solver, ends in (("picard", here), ("anderson", there)):
            fate = np.where(ends, int(Fate.FIXED_POINT), int(Fate.DRIFT))
            found.append(
                does_it_converge.Ends(kind, solver, "float32", fate, np.ones((seeds, n)), np.array([0]), np.ones(1))
            )
    return does_it_converge.conclude(found, 1000), {"at a fixed point": level, "change of that share": 0.0}


def lengths(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, power, level = 100, 1.15 if effect else 1.0, 0.995 if effect else 0.9
    found = []
    slope = power + 0.03 * draw.normal(size=(seeds, 1))
    for length in (16, 32, 64, 128):
        solved = right(draw, around(draw, level, spread_of(draw), seeds), n)
        settled = length**slope * np.exp(0.1 * draw.normal(size=(seeds, n)))
        found.append(easy_to_hard.Length(length, np.where(solved, settled, np.inf), 1.1 * settled, solved, solved))
    truth = {"right in the end": level, "b in evaluations": power, "right at a residual": level}
    return easy_to_hard.conclude(found, 16, 1e-3), truth


def courses(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, iterates, loss = 359, 8, 0.2 if effect else 0.0
    found = []
    for kind in ("bits_to_settle", "bits_to_depth", "digits_to_settle", "digits_to_depth"):
        base = right(draw, around(draw, 0.8, spread_of(draw), seeds), n)
        along = np.stack([flips(draw, base, 0.0, 0.0, 0.02) for _ in range(iterates)], axis=1)
        along[:, -1] = flips(draw, base, -loss, loss / 4, 0.02)
        validation = np.stack([flips(draw, base, 0.0, 0.0, 0.02) for _ in range(iterates - 1)], axis=1)
        best = validation.mean(axis=2).argmax(axis=1)
        found.append(fixed_point_or_intermediate.Course(kind, "", 2, best, along, np.full(seeds, 1e-3)))
    return fixed_point_or_intermediate.conclude(found), {"lost by going on": loss}


def depths(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, gain = 359, 0.15 if effect else 0.0
    level = around(draw, 0.9, spread_of(draw), seeds)
    base = right(draw, level, n)
    found = [infinite_depth_gain.Net("deq", "none", 20.0, 1000, 1e6, level, base)]
    for family in ("tied", "untied"):
        for layers in (2, 4, 8):
            luck = 0.02 * draw.normal(size=seeds)
            net = moved(draw, base, luck - gain, 0.3)
            validation = level - gain + luck + 0.01 * draw.normal(size=seeds)
            found.append(infinite_depth_gain.Net(f"{family}_{layers}", family, layers, 1000, 1e5, validation, net))
    return infinite_depth_gain.conclude(found), {"the DEQ over": gain, "accuracy of the DEQ": 0.9}


def contraction(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, level = 96, 0.995 if effect else 0.9
    found = []
    for kind in ("weight_0", "weight_0.5", "weight_5"):
        inside = right(draw, around(draw, level, spread_of(draw), seeds), n)
        radius = np.where(inside, 0.9, 1.1)
        found.append(
            is_it_a_contraction.Spectra(
                kind,
                radius,
                np.full((seeds, n), 1.2),
                np.full((seeds, n), 1e-6),
                np.ones((seeds, n), dtype=bool),
                radius,
            )
        )
    truth = {"arrive with ρ < 1 ≤": level, "arrive with ‖J‖ < 1": 0.0, "foretells": level - 1}
    return is_it_a_contraction.conclude(found), truth


def memory(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    ratio = 0.5 if effect else 1.0
    steps = []
    for depth in (1, 64):
        base = 1 + 0.1 * draw.random(11)
        for name in ("unrolled", "implicit", "checkpointed", "phantom", "one-step"):
            seconds = base * (1.0 if name == "unrolled" else ratio) * np.exp(0.05 * draw.normal(size=11))
            peak = 100 * depth if name == "unrolled" else 100
            steps.append(memory_vs_depth.Step(name, depth, peak, median_ratio(seconds, base)))
    return memory_vs_depth.conclude(steps), {"over unrolled": ratio}


def paths(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    nets, recipes = [], 12
    latent = draw.normal(size=(recipes, 2))
    rho = 0.95 if effect else 0.0
    latent[:, 1] = rho * latent[:, 0] + math.sqrt(1 - rho**2) * latent[:, 1]
    for recipe, (aligned, harder) in enumerate(latent):
        for seed in range(2):  # the seeds of a recipe are alike
            gap = 10 ** (-3 - 2 * aligned + 0.2 * draw.normal())
            accuracy = float(stats.norm.cdf(harder + 0.1 * draw.normal()))
            nets.append(
                path_independence.Net(f"{recipe}-{seed}", str(recipe), 1 - min(gap, 1.9), 0.0, 0.5, 1.0, 1.0, accuracy)
            )
    truth = (
        6 / math.pi * math.asin(rho * 0.985 / 2) if effect else 0.0
    )  # Spearman's of a normal pair, with the seeds' noise
    return path_independence.conclude(nets, 64), {"rank correlation": truth}


def disturbed(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, level = 200, 0.995 if effect else 0.9
    found = []
    for kind in ("bits_to_settle", "bits_to_depth", "bits_forgetful", "digits_to_settle"):
        back = right(draw, around(draw, level, spread_of(draw), seeds), n)
        steps = np.where(back, np.round(5 * np.exp(0.3 * draw.normal(size=(seeds, n)))), np.inf)
        for disturbance in perturb_and_recover.KINDS:  # a sample that is lost is lost after each
            found.append(perturb_and_recover.Disturbed(kind, disturbance, back, steps, steps))
    return perturb_and_recover.conclude(found), {"answers back": level}


def recall(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, gain = 300, 0.5 if effect else 0.0
    found = []
    for has in (True, False):
        for progressive in (True, False):
            base = right(draw, around(draw, 0.7, spread_of(draw), seeds), n)
            end = flips(draw, base, 0.0 if has else -gain, 0.1, 0.05)
            along = np.stack([base, base, end], axis=1)
            best = np.zeros(seeds, dtype=int)
            found.append(recall_and_overthinking.Thought("a", has, progressive, 16, 1, best, along))
    truth = {"worth of recall at": gain, "worth of progressive": 0.0, "recall alone over": gain}
    for loss in ("progressive", "plain"):
        truth |= {f"no recall, {loss} loss: lost": gain, f"recall, {loss} loss: lost": 0.0}
    return recall_and_overthinking.conclude(found), truth


def begun(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, gain, found = 300, 0.1 if effect else 0.0, []
    for kind in ("digits", "bits"):
        second = right(draw, around(draw, 0.8, spread_of(draw), seeds), n)
        first = right(draw, np.full(seeds, 0.1), n)
        last = flips(draw, second, gain, 0.01, 0.05)
        found.append(is_the_equilibrium_the_start.Begun(kind, first, second, last))
    truth = {"equilibrium less one": gain, "equilibrium less the start": 0.7 + gain}
    return is_the_equilibrium_the_start.conclude(found), truth


def loops(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, rise, found = 300, 0.2 if effect else 0.0, []
    for kind, change in (("fixed", rise), ("random", 0.0)):
        window = 1.0 + 0.2 * draw.normal(size=n)
        trained = window + 0.03 * draw.normal(size=(seeds, 1)) + 0.02 * draw.normal(size=(seeds, n))
        last = trained + change + 0.02 * draw.normal(size=(seeds, 1)) + 0.05 * draw.normal(size=n)
        best = np.zeros(seeds, dtype=np.int64)
        found.append(loops_and_perplexity.Looped(kind, 8, (8, 64), best, np.stack([trained, last], axis=1)))
    truth = {"random less fixed": -rise, "fixed: change": rise, "random: change": 0.0}
    return loops_and_perplexity.conclude(found), truth


def tolerances(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    n, loss = 359, 0.15 if effect else 0.0
    tested = np.array([0.3, 0.1, 0.01, 1e-3, 1e-4])
    found, truth = [], {}
    for trained in (0.3, 0.1, 0.01, 1e-4):
        base = right(draw, around(draw, 0.9, spread_of(draw), seeds), n)
        harm = loss if trained == 0.3 else 0.0
        correct = np.stack([flips(draw, base, 0.0, 0.0, 0.01) for _ in tested], axis=1)
        own = int(np.abs(np.log(tested / trained)).argmin())
        correct[:, own] = base
        if own != len(tested) - 1:
            correct[:, -1] = flips(draw, base, -harm, 0.03, 0.02)
        truth[f"trained to {numbers.tolerance(trained)}, solved to 1e-4"] = -harm
        validation = np.repeat(base.mean(axis=1)[:, None], len(tested), axis=1)
        found.append(tolerance_transfer.Model(trained, tested, validation, correct, np.ones(len(tested)), n))
    truth["the loosest that validation allows"] = 0.0
    return tolerance_transfer.conclude(found), truth


def noise(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    """Every cell of a network gains by its luck, in both splits; with an effect every noisy cell gains, too."""
    depths, levels, n, starts = (2, 4, 8, 16), (0.0, 0.03, 0.1, 0.3), 300, 4
    gain, found = 0.12 if effect else 0.0, []
    for kind in ("sudoku", "bits"):
        correct: dict[str, dict[float, dict[str, NDArray[np.bool_]]]] = {}
        singles = {}
        level, luck = around(draw, 0.5, spread_of(draw), seeds), 0.02 * draw.normal(size=(len(levels), seeds))
        for split in ("validation", "test"):
            base = right(draw, level, n)

            def cells(shift: NDArray[np.float64], base: NDArray[np.bool_] = base) -> NDArray[np.bool_]:
                """(S, D, n)"""
                return np.stack([moved(draw, base, shift, 0.1) for _ in depths], axis=1)

            correct[split] = {
                one: {way: cells((gain + luck[place]) * (one > 0)) for way in AGGREGATIONS}
                for place, one in enumerate(levels)
            }
            singles[split] = np.stack([cells(np.zeros(seeds)) for _ in range(starts)], axis=1)
        ends = dict.fromkeys(levels, 1.0)
        found.append(does_noise_help.Shaken(kind, levels, depths, correct, singles, ends))
    return does_noise_help.conclude(found), {"over none": gain, "over one start": gain}


def rules(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    """Every rule of a network gains by its luck, in both splits; with an effect every rule is better than chance."""
    n, starts, gain, found = 300, 8, 0.08 if effect else 0.0, []
    for kind in ("sudoku", "bits"):
        level, luck = around(draw, 0.5, spread_of(draw), seeds), 0.02 * draw.normal(size=(len(AGGREGATIONS), seeds))
        correct: dict[str, dict[str, NDArray[np.bool_]]] = {}
        singles = {}
        for split in ("validation", "test"):
            base = right(draw, level, n)
            singles[split] = np.stack([moved(draw, base, np.zeros(seeds), 0.1) for _ in range(starts)], axis=1)
            correct[split] = {
                rule: moved(draw, base, gain + luck[place], 0.1)[:, None] for place, rule in enumerate(AGGREGATIONS)
            }
        found.append(which_start_is_right.Chosen(kind, 32, correct, singles))
    return which_start_is_right.conclude(found), {"over the mean start": gain, "over the vote": 0.0}


def rests(draw: Draw, effect: bool, seeds: int) -> tuple[Conclusion, Truth]:
    """Half of the samples settle; 90 % of these answers are right, as of the others, or 98 % beside 60 % of the others.

    Residuals of samples that have not settled tell nothing, so the AUROC of the true shares is by hand.
    """
    n, found = 400, []
    trusted, others = (0.98, 0.6) if effect else (0.9, 0.9)
    for kind in ("sudoku", "bits"):
        spread = min(spread_of(draw), 0.02)
        inner, outer = around(draw, trusted, spread, seeds), around(draw, others, spread, seeds)
        settled = np.tile(draw.random(n) < 0.5, (seeds, 1))
        answers = np.where(settled, right(draw, inner, n), right(draw, outer, n))
        residual = np.where(settled, 1e-5, 1e-2 + draw.random((seeds, n)))
        found.append(settled_or_right.Ended(kind, 1e-3, residual, answers))
    # P(settled | right) and P(settled | wrong); pairs on one side are even.
    of_right, of_wrong = trusted / (trusted + others), (1 - trusted) / (2 - trusted - others)
    area = of_right * (1 - of_wrong) + 0.5 * (of_right * of_wrong + (1 - of_right) * (1 - of_wrong))
    return settled_or_right.conclude(found), {"AUROC": area, "settled answers that are right": trusted}


STUDIES: dict[str, tuple[Callable[[Draw, bool, int], tuple[Conclusion, Truth]], str]] = {
    "adaptive_compute": (adaptive, "Yes"),
    "anderson_vs_picard": (acceleration, "Yes"),
    "depth_vs_breadth": (breadth, "Yes"),
    "does_anderson_prevent_divergence": (divergence, "In part"),
    "does_it_converge": (converging, "Yes"),
    "does_noise_help": (noise, "Yes"),
    "easy_to_hard": (lengths, "Trained on 16 bits, up to 128 bits are solved; evaluations grow faster"),
    "fixed_point_or_intermediate": (courses, "No"),
    "infinite_depth_gain": (depths, "Yes"),
    "is_it_a_contraction": (contraction, "No"),
    "is_the_equilibrium_the_start": (begun, "Yes"),
    "loops_and_perplexity": (loops, "It depends on the training"),
    "memory_vs_depth": (memory, "Unrolling pays for depth in bytes"),
    "path_independence": (paths, "Yes"),
    "perturb_and_recover": (disturbed, "Yes"),
    "recall_and_overthinking": (recall, "Recall keeps"),
    "settled_or_right": (rests, "Yes"),
    "tolerance_transfer": (tolerances, "No"),
    "which_start_is_right": (rules, "Yes"),
}
"""The world of each study, and the first words of its verdict where there is an effect."""


@dataclass
class Count:
    """Over many worlds."""

    worlds: int = 0
    intervals: int = 0
    covered: int = 0
    by_figure: dict[str, list[int]] = field(default_factory=dict)
    false: int = 0
    told: int = 0

    def add(self, conclusion: Conclusion, truth: Truth, effect: str) -> None:
        self.worlds += 1
        wrong = False
        for figure in conclusion.key:
            true = next((value for key, value in truth.items() if key in figure.what), None)
            if true is None or not math.isfinite(figure.of.mean):
                continue
            inside = figure.of.low <= true <= figure.of.high
            self.intervals += 1
            self.covered += inside
            key = next(key for key in truth if key in figure.what)
            self.by_figure.setdefault(key, []).append(inside)
            wrong |= untrue(figure, true)
        if not effect:
            wrong |= claims(conclusion.verdict)
        self.false += wrong
        self.told += bool(effect) and conclusion.verdict.startswith(effect)

    @property
    def worst(self) -> float:
        """Coverage of the key figure that is covered least."""
        return min((float(np.mean(hits)) for hits in self.by_figure.values()), default=math.nan)


def untrue(figure: KeyFigure, true: float) -> bool:
    """Whether the side that is told of the figure is not that of the true value."""
    if figure.told is Told.ABOVE:
        return true <= figure.of.versus
    return figure.told is Told.BELOW and true >= figure.of.versus


def claims(verdict: str) -> bool:
    """Whether a verdict claims anything: in a world without effect it may not."""
    nothing = (
        "Not shown",
        "Yes: for no model and task is an earlier",
        "No: perplexity stays",
        "Unrolling pays for depth in bytes; the implicit gradient does not, and holds",
    )
    if verdict.startswith("Trained on"):
        return True
    return not verdict.startswith(nothing) or ("told to overthink" in verdict and "0 of" not in verdict)


def reports(draw: Draw) -> Iterator[tuple[str, Estimate, float]]:
    """The intervals of a run's own report: a share, a paired change, evaluations saved, of n = 359 samples."""
    for share in (0.5, 0.9, 0.99, 0.999):
        yield f"share {share}", share_interval(draw.random(359) < share), share
    for discordant in (0.002, 0.01, 0.1):
        change = draw.choice([-1.0, 0.0, 1.0], p=[discordant / 4, 1 - discordant, 3 * discordant / 4], size=359)
        yield f"paired change, {discordant:.1%} discordant", mean_interval(change, DIFFERENCE), discordant / 2
    saved = np.clip(3 + draw.normal(size=359) - 40 * (draw.random(359) < 0.01), -65, 65)
    yield "evaluations saved, rare outliers", mean_interval(saved, (-65.0, 65.0)), 2.6
    for seeds in (3, 5):
        for accuracy in (0.7, 0.97):
            for spread in (0.0, 0.01, 0.1):
                own = right(draw, np.clip(accuracy + spread * draw.normal(size=seeds), 0, 1), 359)
                where = f"share of {seeds} seeds about {accuracy:.0%}, spread {100 * spread:.0f} points"
                yield where, claim(own, SHARE), accuracy
    lost = np.where(draw.random(5) < 0.1, 0.0, 0.98)
    found = claim(right(draw, lost, 359), SHARE)
    yield "share of 5 seeds, one in ten lost: of the typical seed", found, 0.98
    yield "the same: of the mean over seeds, which is not claimed", found, 0.9 * 0.98


def differences(draw: Draw, discordant: float) -> list[Finding]:
    """The differences of a run's table where there is none: four of accuracy, one of evaluations, two as recorded.

    discordant  share of the 359 samples that one of the two settings gets right, and the other not
    """
    flips = [discordant / 2, 1 - discordant, discordant / 2]
    accuracies = [mean_interval(draw.choice([-1.0, 0.0, 1.0], p=flips, size=359), DIFFERENCE) for _ in range(5)]
    evaluations = [mean_interval(np.clip(draw.normal(0, 3, size=359).round(), -65, 65), (-65.0, 65.0)) for _ in "ab"]
    recorded = [from_interval(one.mean, one.low, one.high, one.n) for one in (accuracies[-1], evaluations[-1])]
    return [
        *(of_change("", "", change, "") for change in [*accuracies[:-1], recorded[0]]),
        *(of_saving("", "", saved, "") for saved in (evaluations[0], recorded[1])),
    ]


def simulate(name: str, effect: bool, seeds: int, worlds: int) -> Count:
    make, first = STUDIES[name]
    count = Count()
    for world in range(worlds):
        conclusion, truth = make(np.random.default_rng([world, int(effect), seeds]), effect, seeds)
        count.add(conclusion, truth, first if effect else "")
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*STUDIES, "reports"], default=[*STUDIES, "reports"])
    arguments = parser.parse_args()
    print(f"{arguments.worlds:,} worlds of each kind, {arguments.seeds} seeds in each\n")
    print("| study | covered | least covered figure | false verdicts, no effect | false, effect | effect told |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in [name for name in STUDIES if name in arguments.only]:
        null, real = (simulate(name, effect, arguments.seeds, arguments.worlds) for effect in (False, True))
        both = null.intervals + real.intervals
        covered = f"{100 * (null.covered + real.covered) / both:.1f} %" if both else "–"
        worst = min(null.worst, real.worst)
        shares = null.false / null.worlds, real.false / real.worlds, real.told / real.worlds
        cells = " | ".join(f"{100 * share:.1f} %" for share in (worst, *shares))
        print(f"| `{name}` | {covered} | {cells} |", flush=True)
    if "reports" in arguments.only:
        hits: dict[str, list[bool]] = {}
        for world in range(arguments.worlds):
            for name, found, true in reports(np.random.default_rng(world)):
                hits.setdefault(name, []).append(found.low <= true <= found.high)
        print("\n| interval of a report, n = 359 | covered |\n|---|---:|")
        for name, inside in hits.items():
            print(f"| {name} | {100 * np.mean(inside):.1f} % |")
        print("\n| seven differences of a run's table, all 0, n = 359 | tables that show one |\n|---|---:|")
        for discordant in (0.002, 0.01, 0.1):
            tables = (
                judged(differences(np.random.default_rng([world, 7]), discordant)) for world in range(arguments.worlds)
            )
            false = np.mean([any(row.shown != "not shown" for row in table) for table in tables])
            print(f"| {discordant:.1%} of the samples discordant | {100 * false:.1f} % |")


if __name__ == "__main__":
    main()
