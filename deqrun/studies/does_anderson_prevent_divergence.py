"""Does acceleration converge where plain iteration cannot?

The weights W of a trained cell f = σ(W z + U x + b) are multiplied with a factor s, which multiplies the part of ∂f/∂z
that the activation leaves alone. Where ρ(∂f/∂z) ≥ 1 at a fixed point plain iteration is repelled by it; Anderson
acceleration, which on linear maps is GMRES in effect (Walker & Ni 2011, theorem 2.2), need not be.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deqrun.analysis.spectrum import spectral_radius
from deqrun.models import DEQ
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, mean_interval
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.report.charts.style import SOLVER_COLOURS
from deqrun.report.page_parts import Column
from deqrun.settings import UserError
from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Picard, Solver, solve
from deqrun.studies.answering.context import Context, StudyRun, batch_of
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, points, share

SOLVERS: dict[str, Solver] = {
    "picard": Picard(),
    "picard, damped 0.5": Picard(damping=0.5),
    "anderson": Anderson(memory=5),
    "anderson, damped 0.5": Anderson(memory=5, mixing=0.5),
    "broyden": Broyden(),
    "newton": NewtonKrylov(line_search=True),
}
COLOURS = {
    "picard": SOLVER_COLOURS["picard"], "picard, damped 0.5": "#56B4E9", "anderson": SOLVER_COLOURS["anderson"],
    "anderson, damped 0.5": "#E69F00", "broyden": SOLVER_COLOURS["broyden"], "newton": SOLVER_COLOURS["newton"],
}  # fmt: skip
EDGES = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, np.inf)
"""Of the bins of ρ."""

FEW = 10
"""Bins with fewer samples are left out of the figure."""


@dataclass(frozen=True, eq=False)
class Solves:
    """All samples at all scales, of all runs: (N,) each.

    scale      that the weights were multiplied with
    radius     ρ at the fixed point of lowest residual that any solver found; NaN where none found one
    converged  by solver: whether it reached the tolerance
    """

    scale: NDArray[np.float64]
    radius: NDArray[np.float64]
    converged: dict[str, NDArray[np.bool_]]

    def where(self, chosen: NDArray[np.bool_]) -> Solves:
        return Solves(
            self.scale[chosen], self.radius[chosen], {name: one[chosen] for name, one in self.converged.items()}
        )

    def share(self, solver: str) -> MeanInterval:
        return accuracy_interval(self.converged[solver])


def answer(context: Context, *, samples: int, scales: Sequence[float], steps: int, tol: float) -> Answer:
    """Scale every run's cell. samples: of the test split; steps: at most; tol: residual that counts as converged."""
    parts = []
    for run in context.runs:
        for scale in scales:
            name = f"{run.label}-{scale:g}"
            parts.append(context.once(name, partial(_measured, run, samples, scale, steps, tol)))
            context.progress(f"{run.label}: weights times {scale:g}")
    return answer_of(_pooled(parts), steps, tol)


def _measured(run: StudyRun, samples: int, scale: float, steps: int, tol: float) -> dict[str, Any]:
    deq, dataset = run.model()
    x, _ = batch_of(dataset, "test", samples, run.device)
    deq = scaled(deq, scale)
    with torch.no_grad(), deq.cell.fixed_weights():
        f = deq.bind(x)
        budget = Budget(max_iter=steps, tol=tol)
        found = {name: solve(f, deq.start(f), solver=solver, budget=budget) for name, solver in SOLVERS.items()}
        residual = torch.stack([one.residual for one in found.values()])
        best = residual.argmin(0)
        z = torch.stack([one.z for one in found.values()])[best, torch.arange(len(best))]
        radius = spectral_radius(f, z).value
    radius[(residual.min(0).values > tol).cpu()] = torch.nan
    return {
        "scale": [float(scale)] * len(x), "radius": radius.tolist(),
        "converged": {name: one.converged.tolist() for name, one in found.items()},
    }  # fmt: skip


def scaled(deq: DEQ, scale: float) -> DEQ:
    """A copy whose cell's weights between states are multiplied with `scale`.

    Raises UserError where a norm inside of the cell would undo that, or the cell has no such layers.
    """
    changed = copy.deepcopy(deq)
    layers = getattr(changed.cell, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(isinstance(layer, nn.Linear) for layer in layers):
        raise UserError(
            f"does_anderson_prevent_divergence scales the layers of model=mlp, and {type(changed.cell).__name__} has "
            "none of them; choose model=mlp."
        )
    with torch.no_grad():
        for layer in layers:
            layer.weight.mul_(scale)  # type: ignore[operator]
    return changed


def _pooled(parts: Sequence[dict[str, Any]]) -> Solves:
    def column(name: str) -> NDArray[np.float64]:
        return np.concatenate([np.asarray(part[name], dtype=float) for part in parts])

    converged = {name: np.concatenate([part["converged"][name] for part in parts]).astype(bool) for name in SOLVERS}
    return Solves(column("scale"), column("radius"), converged)


def answer_of(found: Solves, steps: int, tol: float) -> Answer:
    """The answer that these solves give."""
    beyond = found.where(found.radius >= 1)
    unknown = int(np.isnan(found.radius).sum())
    return Answer(
        sentences=(_beyond(found, beyond), _how_far(found), _others(beyond)),
        would_change=(
            f"The radius is taken at a fixed point that some solver found, so samples of which none found one, "
            f"{unknown:,} of {len(found.radius):,}, are in no bin of ρ and are counted by the factor alone. The state "
            f"is bounded by tanh: what does not converge here wanders or cycles and does not overflow. Anderson's memory "
            f"is 5, and each solver had {steps:,} steps to {numbers.tolerance(tol)}: a larger memory, more steps or a "
            f"line search can bring more samples there, and a state without bounds fewer."
        ),
        figures=_figures(found),
        tables=[_by_radius(found), _by_scale(found)],
        numbers={"tol": tol, "scale": found.scale, "radius": found.radius, "converged": found.converged},
    )  # fmt: skip


def _beyond(found: Solves, beyond: Solves) -> str:
    if not len(beyond.radius):
        return "No fixed point with ρ ≥ 1 was found at these factors, so that there is nothing that could be prevented."
    anderson, picard = beyond.share("anderson"), beyond.share("picard")
    gain = mean_interval(beyond.converged["anderson"].astype(float) - beyond.converged["picard"])
    better = gain.low > 0
    word = "No" if not better else "Yes" if anderson.mean > 0.9 else "In part"
    return (
        f"{word}: where ρ ≥ 1 at the fixed point, Anderson converges for {share(anderson)} of the samples and plain "
        f"iteration for {numbers.percent(picard.mean)}, a difference of {points(gain)}."
    )


def _how_far(found: Solves) -> str:
    """The largest bin of ρ in which Anderson still converges for half of the samples."""
    bins = [(low, high, cut) for low, high, cut in _bins(found) if low >= 1 and len(cut.radius) >= FEW]
    good = [(low, high, cut) for low, high, cut in bins if cut.share("anderson").mean >= 0.5]
    if not bins:
        return f"Too few samples have a ρ of 1 or more to say how far that goes (fewer than {FEW} in each bin)."
    if not good:
        low, high, cut = bins[0]
        found_there = share(cut.share("anderson"))
        return f"It does not go far: already for {_range(low, high)} Anderson converges for {found_there} only."
    low, high, cut = good[-1]
    last = ", the largest that were found" if (low, high) == bins[-1][:2] else ""
    return (
        f"It converges for at least half of the samples up to the bin of {_range(low, high)}{last}, with "
        f"{share(cut.share('anderson'))} there."
    )


def _others(beyond: Solves) -> str:
    if not len(beyond.radius):
        return "The other solvers then have nothing to show either."
    ranked = sorted(SOLVERS, key=lambda name: -beyond.share(name).mean)
    parts = [
        f"{name} {numbers.percent(beyond.share(name).mean)}" for name in ranked if name not in ("picard", "anderson")
    ]
    best = ranked[0]
    first = "Anderson is the best of all" if best == "anderson" else f"{best.capitalize()} does best"
    return f"{first} where ρ ≥ 1: there the others converge for {enumeration(parts)} of the samples."


def _bins(found: Solves) -> list[tuple[float, float, Solves]]:
    return [(low, high, found.where((found.radius >= low) & (found.radius < high))) for low, high in pairwise(EDGES)]


def _range(low: float, high: float) -> str:
    return f"ρ ≥ {low:g}" if np.isinf(high) else f"ρ from {low:g} to {high:g}"


def _figures(found: Solves) -> list[Figure]:
    by_radius, by_scale = [], []
    for solver in SOLVERS:
        for _, _, cut in _bins(found):
            if len(cut.radius) >= FEW:
                one, middle = cut.share(solver), float(np.median(cut.radius))
                by_radius.append(Point(solver, middle, one.mean, one.low, one.high, f"n = {one.n}"))
        for scale in np.unique(found.scale):
            one = found.where(found.scale == scale).share(solver)
            by_scale.append(Point(solver, float(scale), one.mean, one.low, one.high, f"n = {one.n}"))
    y = Axis("share of samples that converge", percent=True, domain=(0.0, 1.0))
    return [
        curves("converged_radius", "Samples that converge, against the spectral radius",
               "Each point a bin of ρ at the fixed point that was found, at its median; bands: 95 % intervals.",
               by_radius, Axis("spectral radius ρ of ∂f/∂z"), y, rules=[Rule("ρ = 1", x=1.0)], colours=COLOURS),
        curves("converged_scale", "Samples that converge, against the factor on the weights",
               "All samples, also those of which no solver found a fixed point; bands: Wilson's 95 % intervals.",
               by_scale, Axis("factor on the weights"), y, colours=COLOURS),
    ]  # fmt: skip


def _by_radius(found: Solves) -> AnswerTable:
    rows = [(_range(low, high), cut) for low, high, cut in _bins(found) if len(cut.radius)]
    rows.append(("no fixed point found", found.where(np.isnan(found.radius))))
    return _shares("Converged, by spectral radius", "ρ", [row for row in rows if len(row[1].radius)])


def _by_scale(found: Solves) -> AnswerTable:
    rows = [(f"{scale:g}", found.where(found.scale == scale)) for scale in np.unique(found.scale)]
    return _shares("Converged, by the factor on the weights", "factor", rows)


def _shares(title: str, heading: str, rows: Sequence[tuple[str, Solves]]) -> AnswerTable:
    columns = [Column(heading, [text for text, _ in rows], words=True)]
    for solver in SOLVERS:
        shares = [cut.share(solver) for _, cut in rows]
        texts = [f"{100 * one.mean:.0f} [{100 * one.low:.0f}, {100 * one.high:.0f}]" for one in shares]
        columns.append(Column(f"{solver}, %", texts))
    return AnswerTable(
        title,
        [*columns, Column("n", [f"{len(cut.radius):,}" for _, cut in rows])],
        "In brackets Wilson's 95 % intervals.",
    )


QUESTION = Question("Does acceleration converge where plain iteration cannot?", answer, of_any_run=True)
