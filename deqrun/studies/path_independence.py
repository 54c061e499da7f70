"""Do networks whose answer does not depend on the path gain from more iterations?

Anil et al. 2022 (arXiv 2211.09961) find the asymptotic alignment of a network, the cosine of the ends reached from two
starts, to go with its accuracy on problems harder than in training. Networks of several recipes are trained; of each
the alignment on strings of the training length is set beside the accuracy on longer ones, at many more iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from deqrun.analysis.path_independence import alignment, rank_correlation
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval
from deqrun.report.charts.answers import Axis, Point, cloud
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget, Picard, solve
from deqrun.studies.answering.context import Context, StudyRun, batch_of
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import number, significant

RESAMPLES = 4000
SAME = 1e-6
"""Cosines this close to 1 are those of one end."""
FINEST = 1e-7
"""Of a float32 state: where cosines are closer to 1, what they still differ by is rounding."""


@dataclass(frozen=True)
class Net:
    """One trained network.

    aligned    mean cosine of the ends from its own start and from another sample's end
    chance     the same of the ends of two samples
    own        accuracy at the training length and budget
    longer     accuracy at the training length, after many iterations
    harder     accuracy on the longer strings, after as many
    """

    label: str
    kind: str
    aligned: float
    chance: float
    own: float
    longer: float
    harder: float

    @property
    def gap(self) -> float:
        """1 − aligned, or FINEST if that is more: 0 says that all starts lead to one end."""
        return float(np.maximum(1 - self.aligned, FINEST))

    @property
    def has_ends(self) -> bool:
        """Whether there is an end to speak of: False where all of its solves diverge."""
        return bool(np.isfinite([self.aligned, self.harder]).all())


def answer(context: Context, *, length: int, samples: int, iterations: int) -> Answer:
    """Ask every network. length: bits of the harder strings; samples: of the test split; iterations: plain ones."""
    nets = []
    for run in context.runs:
        found = context.once(run.label, partial(_measured, run, length, samples, iterations))
        nets.append(Net(run.label, run.kind, **found))
        context.progress(
            f"{run.label}: alignment {nets[-1].aligned:.3f}, {numbers.percent(nets[-1].harder)} of {length} bits"
        )
    return answer_of(nets, length, iterations)


@torch.no_grad()
def _measured(run: StudyRun, length: int, samples: int, iterations: int) -> dict[str, Any]:
    deq, dataset = run.model()
    x, y = batch_of(dataset, "test", samples, run.device)
    budget = Budget(max_iter=iterations, tol=0.0, keep="last")
    with deq.cell.fixed_weights():
        f = deq.bind(x)
        found = alignment(f, deq.start(f), solver=Picard(), budget=budget, starts=("swap",))
        longer = dataset.correct(deq.cell.readout(found.end), y).double().mean()
    own = dataset.correct(deq(x)[0], y).double().mean()
    deq, dataset = run.model(length=length, n_train=1, n_validation=1, n_test=samples)
    x, y = batch_of(dataset, "test", samples, run.device)
    with deq.cell.fixed_weights():
        f = deq.bind(x)
        end = solve(f, deq.start(f), solver=Picard(), budget=budget)
    harder = dataset.correct(deq.cell.readout(end.z), y).double().mean()
    return {
        "aligned": float(found.score["swap"].nanmean()), "chance": float(found.chance.nanmean()), "own": float(own),
        "longer": float(longer), "harder": float(harder),
    }  # fmt: skip


def answer_of(nets: Sequence[Net], length: int, iterations: int) -> Answer:
    """The answer that these networks give."""
    usable = [net for net in nets if net.has_ends]
    rho = correlation(usable)
    return Answer(
        sentences=(_goes_with(rho, length), _same_end(usable, length), _recipes(nets, length)),
        would_change=(
            f"Each of the {len(usable)} networks is one point, and networks of one recipe resemble one another, "
            f"which the interval over networks does not know. Ends are those after {iterations:,} plain iterations, "
            f"whether or not they are fixed points.{_diverging(nets, length)} Where all recipes solve the longer "
            f"strings, or none does, as with model.norm=rms, there is nothing to correlate with."
        ),
        figures=[_figure(usable, length)],
        tables=[_table(nets, length)],
        numbers={"nets": list(nets), "rank_correlation": rho},
    )  # fmt: skip


def _diverging(nets: Sequence[Net], length: int) -> str:
    """What the networks without ends are like, and what counting them in would change."""
    lost = [net for net in nets if not net.has_ends]
    if not lost:
        return ""
    least = [net if net.has_ends else replace(net, aligned=-1.0) for net in nets]
    return (
        f" {len(lost)} more {'network diverges' if len(lost) == 1 else 'networks diverge'}, and are left out: of "
        f"{length} bits they get {numbers.percent(float(np.mean([net.harder for net in lost])))} right. Counted as the "
        f"least aligned, they make the correlation {number(correlation(least))}."
    )


def correlation(nets: Sequence[Net], seed: int = 0) -> MeanInterval:
    """Spearman's correlation of alignment with harder accuracy, and its bootstrap interval over networks."""
    pairs = np.array([[-net.gap, net.harder] for net in nets])
    if len(pairs) < 3 or np.ptp(pairs, axis=0).min() == 0:
        return MeanInterval(np.nan, -np.inf, np.inf, len(pairs))
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        one = pairs[generator.integers(len(pairs), size=len(pairs))]
        if np.ptp(one, axis=0).min() > 0:
            drawn.append(rank_correlation(*one.T))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return MeanInterval(rank_correlation(*pairs.T), float(low), float(high), len(pairs))


def _goes_with(rho: MeanInterval, length: int) -> str:
    if not np.isfinite(rho.mean):
        return f"It can't be told: all networks are equally aligned, or equally good on {length} bits."
    word = "Yes" if rho.low > 0 else "No, on the contrary" if rho.high < 0 else "Not detectably"
    return (
        f"{word}: over networks, the rank correlation of alignment with accuracy on {length} bits, longer than in "
        f"training, "
        f"is {number(rho)}."
    )


def _same_end(nets: Sequence[Net], length: int) -> str:
    """The networks of which every start leads to the same end, beside the others."""
    same = [net for net in nets if net.gap <= SAME]
    others = [net for net in nets if net.gap > SAME]
    chance = significant(float(np.mean([net.chance for net in nets]))) if nets else "–"
    if not same or not others:
        which = "all" if same else "none"
        return f"Of the {len(nets)} networks {which} reach the same end from every start; chance level is {chance}."
    right = [numbers.percent(float(np.mean([net.harder for net in part]))) for part in (same, others)]
    return (
        f"The {len(same)} networks that reach the same end from every start, with cosines within "
        f"{numbers.tolerance(SAME)} of 1, get {right[0]} of them right, the other {len(others)} get {right[1]}; chance "
        f"level is a cosine of {chance}."
    )


def _recipes(nets: Sequence[Net], length: int) -> str:
    """The best and the worst recipe, in the mean over their seeds."""
    kinds = list(dict.fromkeys(net.kind for net in nets))
    of = {kind: [net for net in nets if net.kind == kind] for kind in kinds}
    right = {kind: float(np.mean([net.harder for net in of[kind]])) for kind in kinds}
    if len(set(right.values())) == 1:
        return f"All {len(kinds)} recipes get the same share of {length} bits right."
    told = [
        f"{kind.replace('_', ' ')} does {word} with {numbers.percent(right[kind])} of {length} bits "
        f"({_seeds(of[kind])})"
        for kind, word in ((max(kinds, key=right.__getitem__), "best"), (min(kinds, key=right.__getitem__), "worst"))
    ]
    return f"By recipe {told[0]}, {told[1]}."


def _seeds(nets: Sequence[Net]) -> str:
    """How many there are, and their alignment: "mean over 3 seeds, one of which diverges; alignments 1.00 to 1.00"."""
    ends = sorted(net.aligned for net in nets if net.has_ends)
    lost = len(nets) - len(ends)
    seeds = "1 seed" if len(nets) == 1 else f"mean over {len(nets)} seeds"
    if not ends:
        return f"{seeds}, diverging"
    diverging = f", {lost} of which {'diverges' if lost == 1 else 'diverge'}" if lost else ""
    return f"{seeds}{diverging}; alignment {significant(ends[0])} to {significant(ends[-1])}"


def _figure(nets: Sequence[Net], length: int) -> Any:
    drawn = [Point(net.kind.replace("_", " "), net.gap, net.harder, note=net.label) for net in nets]
    caption = f"{len(nets)} networks. Alignment: cosine of the ends from the own start and from another sample's end."
    x = Axis("1 − asymptotic alignment (left: the same end from every start)", log=True)
    axes = x, Axis(f"accuracy on {length} bits", percent=True, domain=(0.0, 1.0))
    return cloud("alignment_accuracy", "Alignment and accuracy beyond the training length", caption, drawn, *axes)


def _table(nets: Sequence[Net], length: int) -> AnswerTable:
    return AnswerTable(
        "Every network",
        [
            Column("network", [net.label for net in nets], words=True),
            Column("alignment", [_cosine(net.aligned) for net in nets]),
            Column("chance", [_cosine(net.chance) for net in nets]),
            Column("right in training's budget", [numbers.percent(net.own) for net in nets]),
            Column("in the end", [numbers.percent(net.longer) for net in nets]),
            Column(f"of {length} bits, in the end", [numbers.percent(net.harder) for net in nets]),
        ],
        "Alignment: mean cosine of ends from two starts, on strings of the training length; chance: of two "
        "samples' ends. Then the strings that are right: of the training length in training's budget and in the end, "
        "and of longer ones.",
    )


def _cosine(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


QUESTION = Question("Do path-independent networks gain from more iterations?", answer)
