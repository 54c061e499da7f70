"""Does acceleration converge where plain iteration cannot?

The weights W of a trained cell f = σ(W z + U x + b) are multiplied with a factor s, which multiplies the part of ∂f/∂z
that the activation leaves alone. The trained model's equilibrium is followed as s grows, by Newton's method in small
steps of s: so each sample has one fixed point whose ρ(∂f/∂z) grows with s, whatever others appear beside it. Where
ρ ≥ 1 plain iteration is repelled by that one, and can settle at another only; Anderson acceleration, which on linear
maps is GMRES in effect (Walker & Ni 2011, theorem 2.2), need not be.
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
from torch import Tensor, nn

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
    "damped picard": Picard(damping=0.5),
    "anderson": Anderson(memory=5),
    "damped anderson": Anderson(memory=5, mixing=0.5),
    "capped anderson": Anderson(memory=5, cap=10.0),
    "broyden": Broyden(),
    "newton": NewtonKrylov(line_search=True),
}
COLOURS = {
    "picard": SOLVER_COLOURS["picard"], "damped picard": "#56B4E9", "anderson": SOLVER_COLOURS["anderson"],
    "damped anderson": "#E69F00", "capped anderson": "#7A5195", "broyden": SOLVER_COLOURS["broyden"],
    "newton": SOLVER_COLOURS["newton"],
}  # fmt: skip
EDGES = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, np.inf)
"""Of the bins of ρ."""

SUBSTEPS, NEWTON_STEPS, NEWTON_KRYLOV = 10, 10, 60
"""Of following an equilibrium: steps between two factors, of Newton's method in each, and products in each of those."""

SAME, JUMP = 0.01, 0.5
"""Relative distance below which two states are the same fixed point; and beyond which a step has left the path."""

FEW = 10
"""Bins with fewer samples are left out of the figure."""


@dataclass(frozen=True, eq=False)
class Solves:
    """All samples at all scales, of all runs: (N,) each.

    scale      that the weights were multiplied with
    radius     ρ at the equilibrium that was followed; NaN where it was lost
    converged  by solver: whether it reached the tolerance, at whichever fixed point
    arrived    by solver: whether it did so at the equilibrium that was followed
    """

    scale: NDArray[np.float64]
    radius: NDArray[np.float64]
    converged: dict[str, NDArray[np.bool_]]
    arrived: dict[str, NDArray[np.bool_]]

    def where(self, chosen: NDArray[np.bool_]) -> Solves:
        converged = {name: one[chosen] for name, one in self.converged.items()}
        arrived = {name: one[chosen] for name, one in self.arrived.items()}
        return Solves(self.scale[chosen], self.radius[chosen], converged, arrived)

    def share(self, solver: str) -> MeanInterval:
        return accuracy_interval(self.converged[solver])

    def share_arrived(self, solver: str) -> MeanInterval:
        return accuracy_interval(self.arrived[solver])


def answer(context: Context, *, samples: int, scales: Sequence[float], steps: int, tol: float) -> Answer:
    """Scale every run's cell. samples: of the test split; steps: at most; tol: residual that counts as converged."""
    parts = []
    for run in context.runs:
        parts.append(context.once(run.label, partial(_measured, run, samples, sorted(scales), steps, tol)))
        context.progress(f"{run.label}: {len(SOLVERS)} solvers at {len(scales)} factors")
    return answer_of(_pooled(parts), steps, tol)


def _measured(run: StudyRun, samples: int, scales: Sequence[float], steps: int, tol: float) -> dict[str, Any]:
    trained, dataset = run.model()
    x, _ = batch_of(dataset, "test", samples, run.device)
    found: dict[str, Any] = {"scale": [], "radius": [], "converged": {}, "arrived": {}}
    followed, reached = None, 0.0
    with torch.no_grad():
        for scale in scales:
            deq = scaled(trained, scale)
            f = deq.bind(x)
            followed = follow(trained, x, followed, reached, scale, tol)
            reached = scale
            found["scale"] += [float(scale)] * len(x)
            found["radius"] += spectral_radius(f, followed).value.tolist()
            for name, solver in SOLVERS.items():
                one = solve(f, deq.start(f), solver=solver, budget=Budget(max_iter=steps, tol=tol))
                off = torch.linalg.vector_norm(one.z - followed, dim=1) / torch.linalg.vector_norm(followed, dim=1)
                found["converged"].setdefault(name, []).extend(one.converged.tolist())
                found["arrived"].setdefault(name, []).extend((one.converged & (off < SAME)).tolist())
    return found


def follow(trained: DEQ, x: Tensor, begin: Tensor | None, low: float, high: float, tol: float) -> Tensor:
    """The equilibrium of the weights times `high`, followed from `begin`, that of the weights times `low`.

    begin  (batch, width); None: there is none yet, and the way begins at the trained model's own, from its start.
    Rows whose equilibrium is lost on the way, since it has ceased to exist or Newton's method misses it, are NaN.
    """
    newton, budget = NewtonKrylov(krylov=NEWTON_KRYLOV, plain_steps=0), Budget(max_iter=NEWTON_STEPS, tol=tol / 10)
    way = np.linspace(low, high, SUBSTEPS + 1)[1:]
    if begin is None:
        f = trained.bind(x)
        begin = solve(f, trained.start(f), solver=Anderson(), budget=Budget(max_iter=500, tol=tol / 10)).z
        way = np.linspace(1.0, high, SUBSTEPS + 1)
    for scale in way:
        solution = solve(scaled(trained, float(scale)).bind(x), begin, solver=newton, budget=budget)
        moved = torch.linalg.vector_norm(solution.z - begin, dim=1) / torch.linalg.vector_norm(begin, dim=1)
        lost = (solution.residual > tol) | ~(moved < JUMP)
        begin = solution.z.masked_fill(lost[:, None], torch.nan)
    return begin


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

    def by_solver(what: str) -> dict[str, NDArray[np.bool_]]:
        return {name: np.concatenate([part[what][name] for part in parts]).astype(bool) for name in SOLVERS}

    return Solves(column("scale"), column("radius"), by_solver("converged"), by_solver("arrived"))


def answer_of(found: Solves, steps: int, tol: float) -> Answer:
    """The answer that these solves give."""
    beyond = found.where(found.radius >= 1)
    lost = int(np.isnan(found.radius).sum())
    return Answer(
        sentences=(_beyond(beyond), _arrived(beyond), _others(found, beyond)),
        would_change=(
            f"Of {len(found.radius):,} samples at all factors the equilibrium was lost on the way for {lost:,}, which "
            f"are in no bin of ρ and are counted by the factor alone. The state is bounded by tanh: what does not "
            f"converge here wanders or cycles and does not overflow. Anderson's memory is 5, and each solver had "
            f"{steps:,} steps to {numbers.tolerance(tol)}, from 0: a larger memory, more steps or a start nearby can "
            f"bring more samples there, and a state without bounds fewer."
        ),
        figures=_figures(found),
        tables=[_by_radius(found), _by_scale(found)],
        numbers={
            "tol": tol, "scale": found.scale, "radius": found.radius, "converged": found.converged,
            "arrived": found.arrived,
        },
    )  # fmt: skip


def _beyond(beyond: Solves) -> str:
    if not len(beyond.radius):
        return "No equilibrium has ρ ≥ 1 at these factors, so that there is nothing that could be prevented."
    anderson, picard = beyond.share("anderson"), beyond.share("picard")
    gain = mean_interval(beyond.converged["anderson"].astype(float) - beyond.converged["picard"])
    word = "Yes" if anderson.mean > 0.9 else "In part"
    if gain.low <= 0:
        word = "Not detectably" if gain.high > 0 else "No"
    return (
        f"{word}: where ρ ≥ 1 at the model's equilibrium, Anderson converges for {share(anderson)} of the samples and "
        f"plain iteration for {numbers.percent(picard.mean)}, a difference of {points(gain)}."
    )


def _arrived(beyond: Solves) -> str:
    if not len(beyond.radius):
        return "Both arrive where they did before."
    anderson, picard = beyond.share_arrived("anderson"), beyond.share_arrived("picard")
    return (
        f"At that very equilibrium Anderson arrives for {share(anderson)} and plain iteration for "
        f"{numbers.percent(picard.mean)}; where they converge otherwise it is at a fixed point that appeared beside it."
    )


def _others(found: Solves, beyond: Solves) -> str:
    if not len(beyond.radius):
        return "The other solvers then have nothing to show either."
    ranked = sorted(SOLVERS, key=lambda name: -beyond.share(name).mean)
    parts = [f"{name} {numbers.percent(beyond.share(name).mean)}" for name in ranked]
    return f"By solver they converge where ρ ≥ 1 for {enumeration(parts)} of the samples; {_how_far(found)}."


def _how_far(found: Solves) -> str:
    """The largest bin of ρ in which Anderson still converges for half of the samples."""
    bins = [(low, high, cut) for low, high, cut in _bins(found) if low >= 1 and len(cut.radius) >= FEW]
    good = [(low, high) for low, high, cut in bins if cut.share("anderson").mean >= 0.5]
    if not bins:
        return f"too few have such a ρ to say how far Anderson goes (fewer than {FEW} in each bin)"
    if not good:
        return f"Anderson does so for less than half of them already with {_range(*bins[0][:2])}"
    last = ", the largest there are" if good[-1] == bins[-1][:2] else ""
    return f"Anderson does so for at least half of them up to {_range(*good[-1])}{last}"


def _bins(found: Solves) -> list[tuple[float, float, Solves]]:
    return [(low, high, found.where((found.radius >= low) & (found.radius < high))) for low, high in pairwise(EDGES)]


def _range(low: float, high: float) -> str:
    return f"ρ ≥ {low:g}" if np.isinf(high) else f"ρ from {low:g} to {high:g}"


def _figures(found: Solves) -> list[Figure]:
    by_radius, arrived, by_scale = [], [], []
    for solver in SOLVERS:
        for _, _, cut in _bins(found):
            if len(cut.radius) >= FEW:
                one, middle = cut.share(solver), float(np.median(cut.radius))
                by_radius.append(Point(solver, middle, one.mean, one.low, one.high, f"n = {one.n}"))
                one = cut.share_arrived(solver)
                arrived.append(Point(solver, middle, one.mean, one.low, one.high, f"n = {one.n}"))
        for scale in np.unique(found.scale):
            one = found.where(found.scale == scale).share(solver)
            by_scale.append(Point(solver, float(scale), one.mean, one.low, one.high, f"n = {one.n}"))
    y = Axis("share of samples that converge", percent=True, domain=(0.0, 1.0))
    return [
        curves("converged_radius", "Samples that converge, against the spectral radius",
               "At whichever fixed point. Each point a bin of ρ at the model's equilibrium; bands: 95 % intervals.",
               by_radius, Axis("spectral radius ρ of ∂f/∂z"), y, rules=[Rule("ρ = 1", x=1.0)], colours=COLOURS),
        curves("arrived_radius", "Samples that arrive at the model's equilibrium, against its spectral radius",
               "The rest doesn't converge, or does at another fixed point. Bands: 95 % intervals.",
               arrived, Axis("spectral radius ρ of ∂f/∂z"), y, rules=[Rule("ρ = 1", x=1.0)], colours=COLOURS),
        curves("converged_scale", "Samples that converge, against the factor on the weights",
               "All samples, also those whose equilibrium was lost; bands: Wilson's 95 % intervals.",
               by_scale, Axis("factor on the weights"), y, colours=COLOURS),
    ]  # fmt: skip


def _by_radius(found: Solves) -> AnswerTable:
    rows = [(_range(low, high), cut) for low, high, cut in _bins(found) if len(cut.radius)]
    rows.append(("lost", found.where(np.isnan(found.radius))))
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
