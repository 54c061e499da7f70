"""Records of studies in worlds whose outcome is known: what each study would have measured there.

Every `…_world` takes a number of seeds and gives the answer of its study. Variants have the names of the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from deqrun.analysis.fates import Fate
from deqrun.experiment.sweep.breadth import AGGREGATIONS
from deqrun.records.rows import HaltingRow
from deqrun.report.answer import Answer
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

N = 200


def shares(share: float, seeds: int, *, n: int = N, seed: int = 0) -> NDArray[np.bool_]:
    """(S, n) answers of which so many are right, others in each seed."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(np.arange(n) < round(share * n)) for _ in range(seeds)])


# --- adaptive_compute


def halting_row(rule: str, nfe: float, chosen: bool) -> HaltingRow:
    return HaltingRow("own", "zeros", "test", rule, 0.1, N, 0.9, 0.85, 0.93, nfe, nfe + 2, 1.0, chosen)


def halted(kind: str, seeds: int, saved: float, lost: float = 0.0) -> adaptive_compute.Halted:
    """A fixed budget of 20 evaluations, and a rule that takes so many fewer in the mean, 2 more or fewer by sample."""
    spread = np.tile([-2.0, 2.0], N // 2)
    spent = np.tile(20 - saved + spread, (seeds, 1))
    gained = -shares(lost, seeds).astype(float)
    rows = [halting_row("kl", 20 - saved, True), halting_row("budget", 20, True), halting_row("oracle", 3, False)]
    fixed, oracle = np.full((seeds, N), 20.0), np.full((seeds, N), 3.0)
    return adaptive_compute.Halted(kind, ("kl",) * seeds, fixed, spent, gained, oracle, 65, rows)


def unhalted(kind: str, seeds: int) -> adaptive_compute.Halted:
    """No rule keeps the accuracy of the best: the fixed budget stands in for it."""
    one = halted(kind, seeds, 0)
    return replace(one, rules=("budget",) * seeds, spent=one.fixed)


def halting_world(seeds: int, saved: tuple[float, float], lost: float = 0.0) -> Answer:
    kinds = zip(("bits", "digits"), saved, strict=True)
    return adaptive_compute.answer_of([halted(kind, seeds, one, lost) for kind, one in kinds], 64)


# --- anderson_vs_picard


def solved(
    name: str, seeds: int, cost: float, seconds: float = 1.0, *, validation: float | None = None, reached: float = 1.0
) -> anderson_vs_picard.Solved:
    """Every sample needs `cost` times 10 to 29 evaluations, if it is among the share that reaches the tolerance."""
    own = 10.0 + np.arange(N) % 20
    at_all = np.arange(N) < reached * N
    test = np.tile(np.where(at_all, cost * own, np.inf), (seeds, 1))
    known = test if validation is None else np.tile(validation * own, (seeds, 1))
    residual, accuracy = np.geomspace(1, 1e-5, 50), np.minimum(np.arange(50) / 10, 1.0)
    return anderson_vs_picard.Solved(name, known, test, residual, accuracy, np.full((seeds, 16), seconds))


def acceleration_world(seeds: int, cost: float, seconds: float, reached: float = 1.0) -> Answer:
    found = [
        solved("picard", seeds, 1.0),
        solved("anderson 5", seeds, cost, seconds, reached=reached),
        solved("broyden", seeds, 1.5 * cost, 2 * seconds),
    ]
    return anderson_vs_picard.answer_of(found, 1e-3, 100, 96)


# --- depth_vs_breadth


def grid(
    kind: str, seeds: int, broad: float, deep: float, picked: float | None = None, *, n: int = N
) -> depth_vs_breadth.Grid:
    """Up to 2 starts at 4, 8 and 16 iterations: put together, by the residual, and single, so many right."""
    depths, breadths = (4, 8, 16), (1, 2)

    def cube(share: float, seed: int) -> NDArray[np.bool_]:
        flat = shares(share, seeds * len(breadths) * len(depths), n=n, seed=seed)
        return flat.reshape(seeds, len(breadths), len(depths), n)

    correct = {
        split: {
            way: cube(broad if way != "residual" or picked is None else picked, 7 * place + 100 * number)
            for place, way in enumerate(depth_vs_breadth.WAYS)
        }
        for number, split in enumerate(("validation", "test"))
    }
    singles = {split: cube(deep, 50 + number) for number, split in enumerate(("validation", "test"))}
    return depth_vs_breadth.Grid(kind, breadths, depths, correct, singles)


BREADTH_KINDS = ("sudoku_from_zeros", "sudoku_from_anywhere", "bits_from_anywhere")


def breadth_world(seeds: int, broad: tuple[float, float, float], deep: float, picked: float | None = None) -> Answer:
    found = [grid(kind, seeds, one, deep, picked) for kind, one in zip(BREADTH_KINDS, broad, strict=True)]
    return depth_vs_breadth.answer_of(found)


# --- does_noise_help

SUDOKUS = ("sudoku_from_zeros", "sudoku_from_anywhere")


def shaken(kind: str, seeds: int, plain: float, noisy: float, deep: float, *, n: int = N) -> does_noise_help.Shaken:
    """2 draws at 4 and 8 iterations: so many right without noise and with it, and of single starts without."""
    depths, levels = (4, 8), (0.0, 0.1)

    def flat(share: float, seed: int) -> NDArray[np.bool_]:
        return np.stack([shares(share, seeds, n=n, seed=seed + place) for place in range(len(depths))], axis=1)

    correct = {
        split: {
            level: {
                way: flat(plain if level == 0 else noisy, 31 * place + 7 * number + round(10 * level))
                for place, way in enumerate(AGGREGATIONS)
            }
            for level in levels
        }
        for number, split in enumerate(("validation", "test"))
    }
    singles = {
        split: np.stack([flat(deep, 50 + 2 * start + number) for start in range(2)], axis=1)
        for number, split in enumerate(("validation", "test"))
    }
    return does_noise_help.Shaken(kind, levels, depths, correct, singles, dict.fromkeys(levels, 1.5))


def noise_world(seeds: int, plain: float, noisy: tuple[float, float], deep: float = 0.5) -> Answer:
    found = [shaken(kind, seeds, plain, one, deep) for kind, one in zip(SUDOKUS, noisy, strict=True)]
    return does_noise_help.answer_of(found)


# --- which_start_is_right


def ruled(kind: str, seeds: int, single: float, rules: dict[str, float], *, n: int = N) -> which_start_is_right.Chosen:
    """3 starts, of which so many are right, and as many of the answers that the rules give; 0.5 of the others."""
    singles = {
        split: np.stack([shares(single, seeds, n=n, seed=place + 10 * number) for place in range(3)], axis=1)
        for number, split in enumerate(("validation", "test"))
    }
    correct = {
        split: {
            rule: np.stack([singles[split][:, 0]] * 2 + [shares(rules.get(rule, 0.5), seeds, n=n, seed=place)], axis=1)
            for place, rule in enumerate(AGGREGATIONS)
        }
        for split in singles
    }
    return which_start_is_right.Chosen(kind, 8, correct, singles)


def rule_world(seeds: int, first: dict[str, float], second: dict[str, float], single: float = 0.5) -> Answer:
    found = [ruled(kind, seeds, single, one) for kind, one in zip(SUDOKUS, (first, second), strict=True)]
    return which_start_is_right.answer_of(found)


# --- settled_or_right


def ended(kind: str, seeds: int, right: float, trusted: float, settled: float = 0.5) -> settled_or_right.Ended:
    """So many samples settle, of which so many are right, and of the others so many."""
    rests = np.arange(N) < round(settled * N)
    residual = np.tile(np.where(rests, 1e-4, np.geomspace(2e-3, 1.0, N)), (seeds, 1))
    answers = [
        np.where(rests, ranks < trusted * rests.sum(), ranks < right * (~rests).sum())
        for seed in range(seeds)
        for draw in [np.random.default_rng(seed)]
        for ranks in [np.concatenate([draw.permutation(int(rests.sum())), draw.permutation(int((~rests).sum()))])]
    ]
    return settled_or_right.Ended(kind, 1e-3, residual, np.array(answers))


def rest_world(seeds: int, right: float, trusted: tuple[float, float], settled: float = 0.5) -> Answer:
    found = [ended(kind, seeds, right, one, settled) for kind, one in zip(SUDOKUS, trusted, strict=True)]
    return settled_or_right.answer_of(found, 64)


# --- does_anderson_prevent_divergence


def solves(
    seeds: int, radius: float, picard: float, anderson: float, *, factors: int = 2
) -> does_anderson_prevent_divergence.Solves:
    """So many samples that converge, the same at every factor."""

    def all_factors(share: float, seed: int) -> NDArray[np.bool_]:
        return np.repeat(shares(share, seeds, n=60, seed=seed)[:, None], factors, axis=1)

    converged = {name: all_factors(0.25, 1) for name in does_anderson_prevent_divergence.SOLVERS}
    converged |= {"picard": all_factors(picard, 2), "anderson": all_factors(anderson, 3)}
    scale = np.arange(1.0, factors + 1)
    return does_anderson_prevent_divergence.Solves(scale, np.full((seeds, factors, 60), radius), converged, converged)


def divergence_world(seeds: int, radius: float, picard: float, anderson: float) -> Answer:
    return does_anderson_prevent_divergence.answer_of(solves(seeds, radius, picard, anderson), 200, 1e-4)


# --- does_it_converge


def ends(kind: str, solver: str, dtype: str, seeds: int, fixed: float) -> does_it_converge.Ends:
    fate = np.where(shares(fixed, seeds), int(Fate.FIXED_POINT), int(Fate.CYCLE))
    lowest = np.full((seeds, N), 1e-7)
    return does_it_converge.Ends(kind, solver, dtype, fate, lowest, np.array([0, 9]), np.array([1.0, 1e-7]))


def convergence_world(seeds: int, *fixed: float) -> Answer:
    kinds = zip(("conv", "conv_one_step", "mlp_relu"), fixed, strict=False)
    found = [
        ends(kind, solver, dtype, seeds, share if solver == "picard" else 1.0)
        for kind, share in kinds
        for solver in ("picard", "anderson")
        for dtype in ("float32", "float64")
    ]
    return does_it_converge.answer_of(found, 1000)


# --- easy_to_hard


def length(
    bits: int, seeds: int, settled: float, right: float = 1.0, stopped: float = 1.0, scatter: float = 0.0
) -> easy_to_hard.Length:
    """Strings that need so many evaluations, times or over e^scatter; so many are right, at the end and stopped."""
    answers = shares(right, seeds)
    factors = np.exp(scatter * np.random.default_rng(bits).normal(size=(seeds, N)))
    spent = np.where(answers, settled * factors, np.inf)
    return easy_to_hard.Length(bits, spent, np.full((seeds, N), 1.5 * settled), answers, shares(stopped, seeds))


def length_world(seeds: int, power: float, *right: float) -> Answer:
    found = [
        length(bits, seeds, bits**power, share, scatter=0.2) for bits, share in zip((16, 64, 256), right, strict=True)
    ]
    return easy_to_hard.answer_of(found, 16, 1024, 1e-3)


# --- fixed_point_or_intermediate


COURSE_KINDS = ("bits_to_settle", "bits_to_depth", "digits_to_settle", "digits_to_depth")


def course(kind: str, task: str, seeds: int, lost: float, best: int = 1) -> fixed_point_or_intermediate.Course:
    """Three iterates: half are right at the start, all at the first, and all but the lost ones at the last."""
    right = np.stack([shares(0.5, seeds), shares(1.0, seeds), ~shares(lost, seeds)], axis=1)
    return fixed_point_or_intermediate.Course(kind, task, 1, np.full(seeds, best), right, np.full(seeds, 0.1))


def course_world(seeds: int, *lost: float) -> Answer:
    found = [
        course(kind, task, seeds, share)
        for kind, share in zip(COURSE_KINDS, lost, strict=True)
        for task in (("16 bits", "32 bits") if "bits" in kind else ("",))
    ]
    return fixed_point_or_intermediate.answer_of(found, 8)


# --- infinite_depth_gain


def baseline(
    kind: str, family: str, layers: float, seeds: int, right: float, cost: float = 100, validation: float | None = None
) -> infinite_depth_gain.Net:
    own = np.full(seeds, right if validation is None else validation)
    return infinite_depth_gain.Net(kind, family, layers, 1000, cost, own, shares(right, seeds, seed=int(layers)))


def baseline_world(seeds: int, deq: float, tied: float, untied: float, confounded: tuple[str, ...] = ()) -> Answer:
    nets = [
        baseline("deq", "none", 10, seeds, deq),
        baseline("tied_2", "tied", 2, seeds, tied - 0.2),
        baseline("tied_8", "tied", 8, seeds, tied),
        baseline("untied_2", "untied", 2, seeds, untied),
    ]
    return infinite_depth_gain.answer_of(nets, confounded)


# --- is_it_a_contraction


def spectra(
    kind: str, seeds: int, radius: float, norm: float, converged: NDArray[np.bool_] | bool = True
) -> is_it_a_contraction.Spectra:
    arrived = np.broadcast_to(
        np.asarray(converged), (seeds, np.size(converged) // seeds if np.ndim(converged) else 100)
    )

    def all_of(value: float) -> NDArray[np.float64]:
        return np.full(arrived.shape, value)

    return is_it_a_contraction.Spectra(kind, all_of(radius), all_of(norm), all_of(1e-6), arrived, all_of(radius + 0.01))


def contraction_world(seeds: int, *variants: tuple[float, float, float]) -> Answer:
    """Of each variant ρ, ‖J‖, and the share of samples that arrive."""
    kinds = ("weight_0", "weight_0.5", "weight_5")
    found = [
        spectra(kind, seeds, radius, norm, shares(arriving, seeds, n=100))
        for kind, (radius, norm, arriving) in zip(kinds, variants, strict=False)
    ]
    return is_it_a_contraction.answer_of(found, 200, 1e-4)


# --- memory_vs_depth


def step(gradient: str, depth: int, mib: float, relative: float) -> memory_vs_depth.Step:
    """Seconds in eleven rounds that scatter by a tenth about so many times those of the unrolled iterations."""
    rounds = relative * np.geomspace(0.9, 1 / 0.9, 11)
    return memory_vs_depth.Step(gradient, depth, int(mib * memory_vs_depth.MIB), median_ratio(rounds, np.ones(11)))


def memory_world(implicit: float = 0.5, growing: bool = False) -> Answer:
    steps = [step("unrolled", depth, 1 + 2 * depth, 1.0) for depth in (1, 8)]
    steps += [step("checkpointed", 1, 3, 1.0), step("checkpointed", 8, 8, 1.3)]
    for name in ("phantom", "one-step"):
        steps += [step(name, depth, 4, 0.5) for depth in (1, 8)]
    steps += [step("implicit", depth, 4 + depth * growing, implicit) for depth in (1, 8)]
    return memory_vs_depth.answer_of(steps, 64, 11)


# --- path_independence


def net(kind: str, aligned: float, harder: float, seed: int = 0) -> path_independence.Net:
    return path_independence.Net(f"{kind}-{seed}", kind, aligned, 0.0, 0.5, 1.0, 1.0, harder)


def path_world(seeds: int, order: Callable[[NDArray[np.float64]], NDArray[np.float64]], recipes: int = 12) -> Answer:
    """Alignments that rise evenly over the recipes, and accuracies that follow them in some order."""
    values = np.linspace(0.5, 0.9, recipes)
    nets = [
        net(f"recipe_{place}", float(a), float(b), seed)
        for place, (a, b) in enumerate(zip(values, order(values), strict=True))
        for seed in range(seeds)
    ]
    return path_independence.answer_of(nets, 64, 200)


# --- perturb_and_recover


def disturbed(kind: str, disturbance: str, seeds: int, back: float) -> perturb_and_recover.Disturbed:
    returned = shares(back, seeds)
    steps = np.where(returned, 7.0, np.inf)
    return perturb_and_recover.Disturbed(kind, disturbance, returned, steps, np.zeros((seeds, N)))


DISTURBED_KINDS = ("bits_to_settle", "bits_to_depth", "bits_forgetful", "digits_to_settle")


def disturbance_world(seeds: int, *back: float) -> Answer:
    found = [
        disturbed(kind, disturbance, seeds, share)
        for kind, share in zip(DISTURBED_KINDS, back, strict=True)
        for disturbance in perturb_and_recover.KINDS
    ]
    return perturb_and_recover.answer_of(found, 24, 1.0, 150)


# --- is_the_equilibrium_the_start


def start_world(seeds: int, *rights: tuple[float, float, float]) -> Answer:
    """So many right at the start, after one iteration, and in the end, of each recipe."""
    found = []
    for place, own in enumerate(rights):
        right = [np.tile(np.arange(N) < share * N, (seeds, 1)) for share in own]
        found.append(is_the_equilibrium_the_start.Begun("abcdef"[place], *right))
    return is_the_equilibrium_the_start.answer_of(found)


# --- loops_and_perplexity

LOOPS = (1, 2, 4, 8, 16, 32)


def looped(kind: str, seeds: int, beyond: float) -> loops_and_perplexity.Looped:
    """Trained to 8 loops, where the loss is 1.2 nats; it changes by so much to 32, a little more or less by window."""
    curve = 1.2 + np.array([0.8, 0.4, 0.1, 0.0, beyond / 2, beyond])
    windows = 0.01 * np.array([-1.0, 1.0])[np.arange(N) % 2]
    loss = np.tile(curve[None, :, None], (seeds, 1, N)) + windows * np.arange(len(LOOPS))[:, None]
    best = np.full(seeds, int(curve.argmin()))
    return loops_and_perplexity.Looped(kind, 8, LOOPS, best, loss)


def loops_world(seeds: int, *beyond: float) -> Answer:
    return loops_and_perplexity.answer_of(
        [looped(kind, seeds, own) for kind, own in zip(("fixed", "random"), beyond, strict=False)]
    )


# --- recall_and_overthinking


def thought(recall: bool, progressive: bool, *kept: float, seed: int = 0) -> recall_and_overthinking.Thought:
    """Right at every iterate but the last, where the given share is, in each seed; the second is training's depth."""
    right = np.ones((len(kept), 5, N), dtype=bool)
    for place, share in enumerate(kept):
        right[place, -1] = shares(share, 1, seed=place + 10 * seed)
    return recall_and_overthinking.Thought("net", recall, progressive, 16, 1, np.ones(len(kept), dtype=int), right)


def recall_world(seeds: int, forgetful: float, plain: float, both: float, neither: float) -> Answer:
    """Kept at the end with the progressive loss alone, with recall alone, with both, and with neither."""
    kept = {(True, True): both, (True, False): plain, (False, True): forgetful, (False, False): neither}
    found = [
        thought(recall, progressive, *[share] * seeds, seed=place)
        for place, ((recall, progressive), share) in enumerate(kept.items())
    ]
    return recall_and_overthinking.answer_of(found)


# --- tolerance_transfer

TESTED = np.array([1e-1, 1e-2, 1e-3])


def model(
    trained: float, seeds: int, right: tuple[float, float, float], validation: tuple[float, ...] | None = None
) -> tolerance_transfer.Model:
    """So many right at each test tolerance: whoever is right where fewer are is right where more are, too."""
    answers = np.stack([np.tile(np.arange(N) < share * N, (seeds, 1)) for share in right], axis=1)
    known = np.tile(np.array(right if validation is None else validation), (seeds, 1))
    return tolerance_transfer.Model(trained, TESTED, known, answers, np.array([2.0, 4.0, 8.0]), N)


def tolerance_world(seeds: int, loose: tuple[float, float, float], middle: tuple[float, float, float]) -> Answer:
    tightest = (middle[0], middle[2], middle[2])
    found = [model(1e-1, seeds, loose), model(1e-2, seeds, middle), model(1e-3, seeds, tightest)]
    return tolerance_transfer.answer_of(found)


# --- all of them

World = Callable[[int], Answer]


def shuffled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.random.default_rng(1).permutation(len(values))]


WORLDS: dict[str, tuple[World, str]] = {
    # name: the answer of so many seeds, and how its verdict begins where there are enough
    "adaptive_compute, both save": (partial(halting_world, saved=(6, 4)), "Yes: "),
    "adaptive_compute, one saves": (partial(halting_world, saved=(6, 0)), "It depends: "),
    "adaptive_compute, saved at a loss": (partial(halting_world, saved=(6, 6), lost=0.2), "Not shown: "),
    "adaptive_compute, nothing saved": (partial(halting_world, saved=(0, 0)), "Not shown: "),
    "adaptive_compute, no rule is as good": (
        lambda seeds: adaptive_compute.answer_of([unhalted("bits", seeds), unhalted("digits", seeds)], 64),
        "Not shown: ",
    ),
    "adaptive_compute, it costs more": (partial(halting_world, saved=(-3, -3)), "No: "),
    "anderson_vs_picard, saves both": (partial(acceleration_world, cost=0.5, seconds=0.7), "Yes: "),
    "anderson_vs_picard, saves evaluations": (partial(acceleration_world, cost=0.5, seconds=1.7), "Yes: "),
    "anderson_vs_picard, equal": (partial(acceleration_world, cost=1.0, seconds=1.0), "Not shown: "),
    "anderson_vs_picard, costs more": (partial(acceleration_world, cost=1.4, seconds=2.0), "No: "),
    "anderson_vs_picard, one hardly arrives": (
        partial(acceleration_world, cost=0.5, seconds=2.0, reached=0.2),
        "Yes: ",
    ),  # of the other one
    "depth_vs_breadth, pays everywhere": (partial(breadth_world, broad=(0.9,) * 3, deep=0.5), "Yes: "),
    "depth_vs_breadth, pays on two": (
        partial(breadth_world, broad=(0.9, 0.9, 0.5), deep=0.5, picked=0.8),
        "Yes: ",
    ),  # by the residual, on the third
    "depth_vs_breadth, pays on one": (
        partial(breadth_world, broad=(0.9, 0.5, 0.5), deep=0.5, picked=0.5),
        "It depends: ",
    ),
    "depth_vs_breadth, nothing": (partial(breadth_world, broad=(0.7,) * 3, deep=0.7), "Not shown: "),
    "depth_vs_breadth, depth is better": (partial(breadth_world, broad=(0.3,) * 3, deep=0.7), "No: "),
    "does_noise_help, in both": (partial(noise_world, plain=0.5, noisy=(0.8, 0.8), deep=0.9), "Yes: "),
    "does_noise_help, in one": (partial(noise_world, plain=0.5, noisy=(0.8, 0.5)), "It depends: "),
    "does_noise_help, nothing": (partial(noise_world, plain=0.5, noisy=(0.5, 0.5)), "Not shown: "),
    "does_noise_help, draws alone": (partial(noise_world, plain=0.8, noisy=(0.8, 0.8)), "Not shown: "),
    "does_noise_help, it costs": (partial(noise_world, plain=0.8, noisy=(0.4, 0.4)), "No: "),
    "which_start_is_right, confidence": (
        partial(rule_world, first={"confident": 0.9}, second={"confident": 0.9}),
        "Yes: confident beats the mean start in every variant; it beats the vote",
    ),
    "which_start_is_right, the vote": (
        partial(rule_world, first={"vote": 0.9}, second={"vote": 0.9}),
        "Yes: vote beats the mean start in every variant.",
    ),
    "which_start_is_right, in one": (partial(rule_world, first={"top": 0.9}, second={}), "It depends: "),
    "which_start_is_right, nothing": (partial(rule_world, first={}, second={}), "Not shown: "),
    "which_start_is_right, all are worse": (partial(rule_world, first={}, second={}, single=0.8), "No: "),
    "settled_or_right, both": (partial(rest_world, right=0.2, trusted=(1.0, 1.0)), "Yes: "),
    "settled_or_right, one": (partial(rest_world, right=0.2, trusted=(1.0, 0.9)), "It depends: "),
    "settled_or_right, wrong ones rest": (
        partial(rest_world, right=0.2, trusted=(0.6, 0.6)),
        "No: fewer than 90 % of settled answers are right in every variant; a low residual speaks for",
    ),
    "settled_or_right, the residual tells nothing": (partial(rest_world, right=0.9, trusted=(0.9, 0.9)), "Not shown: "),
    "settled_or_right, nothing settles": (
        partial(rest_world, right=0.5, trusted=(1.0, 1.0), settled=0.0),
        "Not shown: ",
    ),
    "does_anderson_prevent_divergence, wholly": (
        partial(divergence_world, radius=1.1, picard=0.0, anderson=1.0),
        "Yes: ",
    ),
    "does_anderson_prevent_divergence, in part": (
        partial(divergence_world, radius=1.1, picard=0.0, anderson=0.5),
        "In part: ",
    ),
    "does_anderson_prevent_divergence, equal": (
        partial(divergence_world, radius=1.1, picard=0.5, anderson=0.5),
        "Not shown: ",
    ),
    "does_anderson_prevent_divergence, worse": (
        partial(divergence_world, radius=1.1, picard=0.7, anderson=0.1),
        "No: ",
    ),
    "does_it_converge, all": (lambda seeds: convergence_world(seeds, 1.0, 1.0, 1.0), "Yes: "),
    "does_it_converge, none": (lambda seeds: convergence_world(seeds, 0.2, 0.0, 0.5), "No: "),
    "does_it_converge, some": (lambda seeds: convergence_world(seeds, 0.5, 1.0, 1.0), "It depends: "),
    "does_it_converge, nine in ten": (lambda seeds: convergence_world(seeds, 0.9, 0.9, 0.9), "Not shown: "),
    "easy_to_hard, all lengths slower": (
        lambda seeds: length_world(seeds, 0.5, 1.0, 1.0, 1.0),
        "Trained on 16 bits, up to 256 bits are solved; ",
    ),
    "easy_to_hard, in proportion": (
        lambda seeds: length_world(seeds, 1.0, 1.0, 1.0, 1.0),
        "Trained on 16 bits, up to 256 bits are solved; that ",
    ),
    "easy_to_hard, the longest is lost": (
        lambda seeds: length_world(seeds, 2.0, 1.0, 1.0, 0.3),
        "Trained on 16 bits, up to 64 bits are solved; ",
    ),
    "easy_to_hard, no length": (lambda seeds: length_world(seeds, 1.0, 0.6, 0.4, 0.2), "Not shown: "),
    "fixed_point_or_intermediate, none loses": (lambda seeds: course_world(seeds, 0, 0, 0, 0), "Yes: "),
    "fixed_point_or_intermediate, one loses": (
        lambda seeds: course_world(seeds, 0, 0.3, 0, 0),
        "It depends on the training: ",
    ),
    "fixed_point_or_intermediate, three lose": (
        lambda seeds: course_world(seeds, 0.3, 0.3, 0.3, 0),
        "It depends on the training: ",
    ),
    "fixed_point_or_intermediate, all lose": (lambda seeds: course_world(seeds, 0.3, 0.3, 0.3, 0.3), "No: "),
    "infinite_depth_gain, over both": (partial(baseline_world, deq=0.95, tied=0.6, untied=0.5), "Yes: "),
    "infinite_depth_gain, over one": (partial(baseline_world, deq=0.8, tied=0.8, untied=0.4), "It depends: "),
    "infinite_depth_gain, confounded": (
        partial(baseline_world, deq=0.8, tied=0.8, untied=0.4, confounded=("train.jacobian_weight",)),
        "It depends: ",
    ),
    "infinite_depth_gain, over and under": (partial(baseline_world, deq=0.7, tied=1.0, untied=0.4), "It depends: "),
    "infinite_depth_gain, loses": (partial(baseline_world, deq=0.4, tied=0.8, untied=0.8), "No: "),
    "infinite_depth_gain, equal": (
        partial(baseline_world, deq=0.8, tied=0.8, untied=0.8, confounded=("train.epochs",)),
        "Not shown: ",
    ),
    "is_it_a_contraction, contracts": (
        lambda seeds: contraction_world(seeds, (0.5, 0.8, 1), (0.4, 0.7, 1), (0.3, 0.6, 1)),
        "Yes: ",
    ),
    "is_it_a_contraction, settles": (
        lambda seeds: contraction_world(seeds, (0.9, 1.3, 1), (0.9, 1.2, 1), (0.8, 1.1, 1)),
        "No: ",
    ),
    "is_it_a_contraction, by penalty": (
        lambda seeds: contraction_world(seeds, (0.9, 1.3, 1), (0.5, 0.9, 1), (0.4, 0.7, 1)),
        "It depends",
    ),
    "is_it_a_contraction, half arrive": (
        lambda seeds: contraction_world(seeds, (0.9, 1.3, 0.5), (0.9, 1.2, 0.5), (0.5, 0.8, 0.5)),
        "Not shown: ",
    ),
    "perturb_and_recover, all": (lambda seeds: disturbance_world(seeds, 1, 1, 1, 1), "Yes: "),
    "perturb_and_recover, none": (lambda seeds: disturbance_world(seeds, 0.3, 0.2, 0.1, 0.3), "No: "),
    "perturb_and_recover, most": (lambda seeds: disturbance_world(seeds, 1, 1, 0.1, 1), "It depends on the training: "),
    "perturb_and_recover, some lost": (lambda seeds: disturbance_world(seeds, 0.9, 0.2, 0.1, 0.2), "It depends: "),
    "perturb_and_recover, nine in ten": (lambda seeds: disturbance_world(seeds, 0.9, 0.9, 0.9, 0.9), "Not shown: "),
    "is_the_equilibrium_the_start, better": (
        lambda seeds: start_world(seeds, (0.1, 0.5, 0.9), (0.1, 0.6, 0.8)),
        "Yes: ",
    ),
    "is_the_equilibrium_the_start, the same": (
        lambda seeds: start_world(seeds, (0.1, 0.8, 0.8), (0.1, 0.7, 0.7)),
        "Not shown: ",
    ),
    "is_the_equilibrium_the_start, better and worse": (
        lambda seeds: start_world(seeds, (0.1, 0.5, 0.9), (0.1, 0.9, 0.5)),
        "It depends: the equilibrium is told to beat one iteration in 1 of 2 variants, and to lose in 1.",
    ),
    "is_the_equilibrium_the_start, here and there": (
        lambda seeds: start_world(seeds, (0.1, 0.5, 0.9), (0.1, 0.7, 0.7)),
        "It depends: ",
    ),
    "is_the_equilibrium_the_start, worse": (lambda seeds: start_world(seeds, (0.1, 0.9, 0.5), (0.1, 0.7, 0.7)), "No: "),
    "is_the_equilibrium_the_start, perhaps": (
        lambda seeds: start_world(seeds, (0.1, 0.8, 0.81), (0.1, 0.7, 0.7)),
        "Not shown: ",
    ),
    "loops_and_perplexity, both ways": (lambda seeds: loops_world(seeds, 0.6, 0.0), "It depends on the training: "),
    "loops_and_perplexity, stays": (lambda seeds: loops_world(seeds, 0.01, 0.0), "No: perplexity stays"),
    "loops_and_perplexity, falls": (lambda seeds: loops_world(seeds, -0.3, -0.2), "Yes: "),
    "loops_and_perplexity, rises": (lambda seeds: loops_world(seeds, 0.3, 0.2), "No: perplexity rises"),
    "recall_and_overthinking, recall keeps": (
        partial(recall_world, forgetful=0.25, plain=1.0, both=1.0, neither=0.25),
        "Recall keeps accuracy at the end",
    ),
    "recall_and_overthinking, the loss keeps": (
        partial(recall_world, forgetful=1.0, plain=0.25, both=1.0, neither=0.25),
        "Progressive loss keeps accuracy",
    ),
    "recall_and_overthinking, both keep": (
        partial(recall_world, forgetful=0.5, plain=0.7, both=1.0, neither=0.1),
        "Recall and progressive loss keep ",
    ),
    "recall_and_overthinking, both harm": (
        partial(recall_world, forgetful=0.5, plain=0.5, both=0.1, neither=1.0),
        "Recall and progressive loss harm",
    ),
    "recall_and_overthinking, neither matters": (
        partial(recall_world, forgetful=0.6, plain=0.6, both=0.6, neither=0.6),
        "Not shown: ",
    ),
    "tolerance_transfer, loses": (partial(tolerance_world, loose=(0.9, 0.7, 0.5), middle=(0.9, 0.9, 0.9)), "No: "),
    "tolerance_transfer, gains": (partial(tolerance_world, loose=(0.5, 0.7, 0.9), middle=(0.5, 0.6, 0.9)), "Yes: "),
    "tolerance_transfer, both ways": (
        partial(tolerance_world, loose=(0.9, 0.7, 0.5), middle=(0.5, 0.6, 0.9)),
        "It depends: ",
    ),
    "tolerance_transfer, nothing": (
        partial(tolerance_world, loose=(0.9, 0.9, 0.9), middle=(0.9, 0.9, 0.9)),
        "Not shown: ",
    ),
}
"""Claims of models and recipes."""

OTHERS: dict[str, tuple[Callable[[], Answer], str, str]] = {
    # name: the answer, how its verdict begins, and its scope
    "does_anderson_prevent_divergence, ρ < 1": (
        lambda: divergence_world(1, 0.9, 1.0, 1.0),
        "Nothing to prevent: ",
        "Of this model.",
    ),
    "memory_vs_depth, faster": (memory_world, "Unrolling pays for depth in bytes; ", "Of this model on this machine."),
    "memory_vs_depth, slower": (
        lambda: memory_world(2.0),
        "Unrolling pays for depth in bytes; ",
        "Of this model on this machine.",
    ),
    "memory_vs_depth, both grow": (lambda: memory_world(1.0, True), "Both grow: ", "Of this model on this machine."),
    "path_independence, aligned are better": (
        lambda: path_world(3, lambda v: v),
        "Yes: ",
        "Of recipes like these, 12 of them.",
    ),
    "path_independence, aligned are worse": (
        lambda: path_world(3, lambda v: -v + 1),
        "No: ",
        "Of recipes like these, 12 of them.",
    ),
    "path_independence, in any order": (
        lambda: path_world(3, shuffled),
        "Not shown: ",
        "Of recipes like these, 12 of them.",
    ),
    "path_independence, all alike": (
        lambda: path_world(3, lambda v: 0 * v + 0.5),
        "Not shown: ",
        "Of recipes like these, 12 of them.",
    ),
    "path_independence, four recipes": (
        lambda: path_world(5, lambda v: v, 4),
        "Not shown: ",
        "Of recipes like these, 4 of them.",
    ),
}
"""Claims whose unit is neither samples nor seeds, and answers where there is nothing to claim."""
