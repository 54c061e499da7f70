"""Do networks whose answer does not depend on the path gain from more iterations?

Anil et al. 2022 (arXiv 2211.09961) find the asymptotic alignment of a network, the cosine of the ends reached from two
starts, to go with its accuracy on problems harder than in training. Networks of several recipes are trained; of each
recipe the alignment on strings of the training length is set beside the accuracy on longer ones, at many more
iterations. Recipes are the unit: networks of one recipe resemble one another, so each recipe is one point, the mean of
its seeds. A sample whose solve diverges has no end: it counts with a cosine of −1, as the least aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deqrun.analysis.path_independence import alignment
from deqrun.inference import Estimate, Told, of_recipes
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, cloud
from deqrun.solvers import Budget, Picard, solve
from deqrun.studies.concluding import as_family, concluded
from deqrun.studies.context import Context, StudyRun, batch_of
from deqrun.studies.question import Question
from deqrun.studies.wording import words

FINEST = 1e-7
"""Of a float32 state: where cosines are closer to 1, their difference is rounding."""


@dataclass(frozen=True)
class Net:
    """One trained network.

    aligned   mean cosine of the ends from its own start and from another sample's end; −1 of a sample that diverges
    diverged  share of samples with no two ends to compare
    chance    the cosine of the ends of two samples
    own       accuracy at the training length and budget
    longer    accuracy at the training length, after many iterations
    harder    accuracy on the longer strings, after as many
    """

    label: str
    kind: str
    aligned: float
    diverged: float
    chance: float
    own: float
    longer: float
    harder: float

    @property
    def gap(self) -> float:
        """1 − aligned, or FINEST if that is more: 0 says that all starts lead to one end."""
        return float(np.maximum(1 - self.aligned, FINEST))


@dataclass(frozen=True)
class Recipe:
    """The networks of one recipe; alignment is told by log 1 − aligned, on which rounding makes ties."""

    kind: str
    nets: tuple[Net, ...]

    @property
    def gap(self) -> float:
        """Mean of log10(1 − aligned) over the seeds."""
        return float(np.mean([np.log10(net.gap) for net in self.nets]))

    @property
    def harder(self) -> float:
        return float(np.mean([net.harder for net in self.nets]))


def answer(context: Context, *, length: int, samples: int, iterations: int) -> Answer:
    """Ask every network. length: bits of the harder strings; samples: of the test split; iterations: plain ones."""
    parts = context.of_runs(_measured, length, samples, iterations)
    nets = [Net(run.label, run.kind, **part) for run, part in zip(context.runs, parts, strict=True)]
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
    score = found.score["swap"]
    own = dataset.correct(deq(x)[0], y).double().mean()
    deq, dataset = run.model(length=length, n_train=1, n_validation=1, n_test=samples)
    x, y = batch_of(dataset, "test", samples, run.device)
    with deq.cell.fixed_weights():
        f = deq.bind(x)
        end = solve(f, deq.start(f), solver=Picard(), budget=budget)
    harder = dataset.correct(deq.cell.readout(end.z), y).double().mean()
    chance = float(found.chance.nanmean()) if found.chance.isfinite().any() else 0.0
    return {
        "aligned": aligned(score),
        "diverged": float(score.isnan().double().mean()),
        "chance": chance,
        "own": float(own),
        "longer": float(longer),
        "harder": float(harder),
    }


def aligned(score: torch.Tensor) -> float:
    """Mean of the cosines, those that are missing counted as −1."""
    return float(score.nan_to_num(-1.0).mean())


def recipes(nets: Sequence[Net]) -> list[Recipe]:
    """The networks by recipe, in order."""
    kinds = list(dict.fromkeys(net.kind for net in nets))
    return [Recipe(kind, tuple(net for net in nets if net.kind == kind)) for kind in kinds]


def answer_of(nets: Sequence[Net], length: int, iterations: int) -> Answer:
    """The answer that these networks give."""
    return Answer(
        conclude(nets, length),
        would_change=(
            "More recipes, and less alike: these differ in start, depth and gradient alone.",
            f"More iterations: ends are those after {iterations:,} plain ones, whether or not they are fixed points.",
            "A norm inside of the cell: all recipes then reach one end, and nothing is left to correlate.",
        ),
        figures=[_figure(nets, length)],
        tables=[_by_recipe(nets, length), _table(nets, length)],
        numbers={"nets": list(nets), "rank_correlation": correlation(nets)},
    )


def correlation(nets: Sequence[Net]) -> Estimate:
    """Spearman's correlation of alignment with accuracy on the longer strings, over recipes."""
    points = recipes(nets)
    return of_recipes([-one.gap for one in points], [one.harder for one in points], len(nets))


def conclude(nets: Sequence[Net], length: int) -> Conclusion:
    """One claim: the rank correlation over recipes."""
    what = f"rank correlation of alignment with accuracy on {length} bits"
    (rho,) = as_family([KeyFigure(what, correlation(nets), "number")])
    return concluded(_verdict(rho, length), [rho])


def _verdict(rho: KeyFigure, length: int) -> str:
    if not np.isfinite(rho.of.mean):
        return "Not shown: all recipes are equally aligned or equally good, or they are too few."
    if rho.told is Told.ABOVE:
        return f"Yes: recipes whose starts end alike solve more strings of {length} bits, longer than in training."
    if rho.told is Told.BELOW:
        return f"No: recipes whose starts end alike solve fewer strings of {length} bits, longer than in training."
    return f"Not shown: over recipes alignment is not told to go with accuracy on {length} bits."


def _figure(nets: Sequence[Net], length: int) -> Any:
    drawn = [Point("network", net.gap, net.harder, note=net.label) for net in nets]
    drawn += [Point("recipe, mean", 10**one.gap, one.harder, note=words(one.kind)) for one in recipes(nets)]
    caption = (
        f"{len(nets)} networks of {len(recipes(nets))} recipes. Alignment: cosine of the ends from the own start and "
        "from another sample's end; −1 where a solve diverges."
    )
    x = Axis("1 − asymptotic alignment (left: the same end from every start)", log=True)
    axes = x, Axis(f"accuracy on {length} bits", percent=True, domain=(0.0, 1.0))
    return cloud("alignment_accuracy", "Alignment and accuracy beyond the training length", caption, drawn, *axes)


def _by_recipe(nets: Sequence[Net], length: int) -> AnswerTable:
    points = recipes(nets)
    return AnswerTable(
        "Every recipe",
        [
            Column("recipe", [words(one.kind) for one in points], words=True),
            Column("1 − alignment, geometric mean", [numbers.significant(10**one.gap) for one in points]),
            Column(f"of {length} bits, in the end", [numbers.percent(one.harder) for one in points]),
            Column("networks", [f"{len(one.nets)}" for one in points]),
        ],
        "The points of the rank correlation: means over each recipe's seeds.",
    )


def _table(nets: Sequence[Net], length: int) -> AnswerTable:
    return AnswerTable(
        "Every network",
        [
            Column("network", [net.label for net in nets], words=True),
            Column("alignment", [f"{net.aligned:.3f}" for net in nets]),
            Column("diverging", [numbers.percent(net.diverged) for net in nets]),
            Column("chance", [f"{net.chance:.3f}" for net in nets]),
            Column("right in training's budget", [numbers.percent(net.own) for net in nets]),
            Column("in the end", [numbers.percent(net.longer) for net in nets]),
            Column(f"of {length} bits, in the end", [numbers.percent(net.harder) for net in nets]),
        ],
        "Alignment: mean cosine of ends from two starts, on strings of the training length; chance: of two "
        "samples' ends. Right: strings of the training length in training's budget and in the end, and longer ones.",
    )


QUESTION = Question("Do path-independent networks gain from more iterations?", answer, pairs_seeds=False)
