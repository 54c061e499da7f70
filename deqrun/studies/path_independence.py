"""Do networks whose answer does not depend on the path gain from more iterations?

Anil et al. 2022 (arXiv 2211.09961) find the asymptotic alignment of a network, the cosine of the ends reached from two
starts, to go with its accuracy on problems harder than in training. Networks of several recipes are trained; of each
the alignment on strings of the training length is set beside the accuracy on longer ones, at many more iterations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from deqrun.analysis.path_independence import alignment, rank_correlation
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, student_interval
from deqrun.report.charts.answers import Axis, Point, cloud
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget, Picard, solve
from deqrun.studies.answering.context import Context, StudyRun, batch_of
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import number, significant

RESAMPLES = 4000


@dataclass(frozen=True)
class Net:
    """One trained network.

    aligned    mean cosine of the ends from its own start and from another sample's end
    chance     the same of the ends of two samples
    own        accuracy at the training length and budget
    harder     accuracy on the longer strings, after many iterations
    """

    label: str
    kind: str
    aligned: float
    chance: float
    own: float
    harder: float

    @property
    def score(self) -> float:
        """Alignment beyond chance: 0 at the chance level, 1 where all starts lead to the same end."""
        return (self.aligned - self.chance) / (1 - self.chance) if self.chance < 1 else np.nan


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
    own = dataset.correct(deq(x)[0], y).double().mean()
    deq, dataset = run.model(length=length, n_train=1, n_validation=1, n_test=samples)
    x, y = batch_of(dataset, "test", samples, run.device)
    with deq.cell.fixed_weights():
        f = deq.bind(x)
        end = solve(f, deq.start(f), solver=Picard(), budget=budget)
    harder = dataset.correct(deq.cell.readout(end.z), y).double().mean()
    return {
        "aligned": float(found.score["swap"].nanmean()), "chance": float(found.chance.nanmean()), "own": float(own),
        "harder": float(harder),
    }  # fmt: skip


def answer_of(nets: Sequence[Net], length: int, iterations: int) -> Answer:
    """The answer that these networks give."""
    usable = [net for net in nets if np.isfinite([net.aligned, net.harder]).all()]
    rho = correlation(usable)
    return Answer(
        sentences=(_goes_with(rho, length), _extremes(usable, length), _recipes(usable, length)),
        would_change=(
            f"Each of the {len(usable)} networks is one point, and networks of one recipe resemble one another, "
            f"which the "
            f"interval over networks does not know. Ends are those after {iterations:,} plain iterations, whether "
            f"or not "
            f"they are fixed points. Where all recipes solve the longer strings, or none does, there is nothing to "
            f"correlate with."
        ),
        figures=[_figure(usable, length)],
        tables=[_table(nets, length)],
        numbers={"nets": list(nets), "rank_correlation": rho},
    )  # fmt: skip


def correlation(nets: Sequence[Net], seed: int = 0) -> MeanInterval:
    """Spearman's correlation of alignment with harder accuracy, and its bootstrap interval over networks."""
    pairs = np.array([[net.aligned, net.harder] for net in nets])
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


def _extremes(nets: Sequence[Net], length: int) -> str:
    """The more aligned half beside the less aligned one."""
    ranked = sorted(nets, key=lambda net: net.aligned)
    half = len(ranked) // 2
    if not half:
        return "There are too few networks to compare."
    low, high = (float(np.mean([net.harder for net in part])) for part in (ranked[:half], ranked[-half:]))
    split = significant(float(np.mean([ranked[half - 1].aligned, ranked[-half].aligned])))
    return (
        f"The more aligned half, above a cosine of about {split}, gets {numbers.percent(high)} of them right, the less "
        f"aligned half {numbers.percent(low)}; chance level is a cosine of "
        f"{significant(float(np.mean([net.chance for net in nets])))}."
    )


def _recipes(nets: Sequence[Net], length: int) -> str:
    """The best and the worst recipe, with Student's interval over their seeds."""
    kinds = list(dict.fromkeys(net.kind for net in nets))
    found = {kind: student_interval([net.harder for net in nets if net.kind == kind]) for kind in kinds}
    if len({found[kind].mean for kind in kinds}) == 1:
        return f"All {len(kinds)} recipes get the same share of {length} bits right."
    best, worst = max(kinds, key=lambda kind: found[kind].mean), min(kinds, key=lambda kind: found[kind].mean)
    aligned = {kind: float(np.mean([net.aligned for net in nets if net.kind == kind])) for kind in kinds}
    return (
        f"By recipe {best.replace('_', ' ')} does best with {numbers.percent(found[best].mean)} of {length} bits "
        f"and an "
        f"alignment of {significant(aligned[best])}, {worst.replace('_', ' ')} worst with "
        f"{numbers.percent(found[worst].mean)} and {significant(aligned[worst])} (means over {found[best].n} seeds)."
    )


def _figure(nets: Sequence[Net], length: int) -> Any:
    drawn = [Point(net.kind.replace("_", " "), net.aligned, net.harder, note=net.label) for net in nets]
    caption = f"Each of {len(nets)} networks. Cosine of the ends from its own start and from another sample's end."
    axes = Axis("asymptotic alignment"), Axis(f"accuracy on {length} bits", percent=True)
    return cloud("alignment_accuracy", "Alignment and accuracy beyond the training length", caption, drawn, *axes)


def _table(nets: Sequence[Net], length: int) -> AnswerTable:
    return AnswerTable(
        "Every network",
        [
            Column("network", [net.label for net in nets], words=True),
            Column("alignment", [f"{net.aligned:.3f}" for net in nets]),
            Column("chance", [f"{net.chance:.3f}" for net in nets]),
            Column("accuracy at training length", [numbers.percent(net.own) for net in nets]),
            Column(f"accuracy on {length} bits", [numbers.percent(net.harder) for net in nets]),
        ],
        "Alignment: mean cosine of ends from two starts, on strings of the training length; chance: of two "
        "samples' ends.",
    )


QUESTION = Question("Do path-independent networks gain from more iterations?", answer)
