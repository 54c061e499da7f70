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
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deqrun.analysis.spectrum import spectral_radius
from deqrun.errors import UserError
from deqrun.inference import DIFFERENCE, LEAST_SEEDS, SHARE, Estimate, Told, Unit, claim
from deqrun.models import DEQ
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.report.charts.style import SOLVER_COLOURS
from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Picard, Secant, Solver, solve
from deqrun.studies.concluding import as_family, concluded
from deqrun.studies.context import Context, StudyRun, batch_of
from deqrun.studies.question import Question

SOLVERS: dict[str, Solver] = {
    "picard": Picard(),
    "damped picard": Picard(damping=0.5),
    "anderson": Anderson(memory=5),
    "damped anderson": Anderson(memory=5, mixing=0.5),
    "capped anderson": Anderson(memory=5, cap=10.0),
    "broyden": Broyden(),
    "secant": Secant(),
    "newton": NewtonKrylov(line_search=True),
}
COLOURS = SOLVER_COLOURS | {"damped picard": "#56B4E9", "damped anderson": "#E69F00", "capped anderson": "#7A5195"}
EDGES = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, np.inf)
"""Of the bins of ρ."""

SUBSTEPS, NEWTON_STEPS, NEWTON_KRYLOV = 10, 10, 60
"""Of following an equilibrium: steps between two factors, of Newton's method in each, and products in each of those."""

SAME, JUMP = 0.01, 0.5
"""Relative distance below which two states are the same fixed point; and beyond which a step has left the path."""

FEW = 10
"""Bins with fewer entries are left out of the figure."""

MOST = 0.9
"""A share of samples from which on a solver is said to converge."""


@dataclass(frozen=True, eq=False)
class Solves:
    """S seeds' samples at F factors: (S, F, n) each.

    scale      (F,) that the weights were multiplied with
    radius     ρ at the equilibrium that was followed; NaN where it was lost
    converged  by solver: whether it reached the tolerance, at whichever fixed point
    arrived    by solver: whether it did so at the equilibrium that was followed
    """

    scale: NDArray[np.float64]
    radius: NDArray[np.float64]
    converged: dict[str, NDArray[np.bool_]]
    arrived: dict[str, NDArray[np.bool_]]

    @property
    def beyond(self) -> NDArray[np.bool_]:
        """Where plain iteration is repelled: ρ ≥ 1."""
        return self.radius >= 1

    def mean(
        self, values: NDArray[Any], where: NDArray[np.bool_], bounds: tuple[float, float], versus: float = 0.0
    ) -> Estimate | None:
        """Mean of `values` over the entries `where`; a sample is one cluster, at however many factors it enters.

        Seeds without an entry take no part; None: there is no entry at all.
        """
        seeds = np.asarray(where.any(axis=(1, 2)))
        if not seeds.any():
            return None
        chosen = where[seeds]
        weights = chosen.sum(axis=1).astype(float)
        found = claim((values[seeds] * chosen).sum(axis=1), bounds, weights, versus)
        own = np.full(len(seeds), np.nan)
        own[seeds] = found.own or found.mean
        unit = Unit.SEEDS if len(seeds) >= LEAST_SEEDS else found.unit  # though few of them may have an entry
        return replace(found, own=tuple(map(float, own)), unit=unit)

    def share(self, solver: str, where: NDArray[np.bool_], of: str = "converged") -> Estimate:
        """Share of the entries `where` for which the solver converged, or arrived."""
        found = self.mean(getattr(self, of)[solver], where, SHARE, MOST)
        assert found is not None
        return found

    def gain(self, solver: str, of: str = "converged") -> Estimate | None:
        """The solver's share less plain iteration's, where ρ ≥ 1."""
        values = getattr(self, of)
        return self.mean(values[solver].astype(float) - values["picard"], self.beyond, DIFFERENCE)


def answer(context: Context, *, samples: int, scales: Sequence[float], steps: int, tol: float) -> Answer:
    """Scale every run's cell. samples: of the test split; steps: at most; tol: residual that counts as converged."""
    rising = sorted(scales)
    return answer_of(_of_seeds(context.of_runs(_measured, samples, rising, steps, tol), rising), steps, tol)


def _measured(run: StudyRun, samples: int, scales: Sequence[float], steps: int, tol: float) -> dict[str, Any]:
    trained, dataset = run.model()
    x, _ = batch_of(dataset, "test", samples, run.device)
    found: dict[str, Any] = {"radius": [], "converged": {}, "arrived": {}}
    followed, reached = None, 0.0
    with torch.no_grad():
        for scale in scales:
            deq = scaled(trained, scale)
            f = deq.bind(x)
            followed = follow(trained, x, followed, reached, scale, tol)
            reached = scale
            found["radius"] += spectral_radius(f, followed).value.tolist()
            for name, solver in SOLVERS.items():
                one = solve(f, deq.start(f), solver=solver, budget=Budget(max_iter=steps, tol=tol))
                off = torch.linalg.vector_norm(one.z - followed, dim=1) / torch.linalg.vector_norm(followed, dim=1)
                found["converged"].setdefault(name, []).extend(one.converged.tolist())
                found["arrived"].setdefault(name, []).extend((one.converged & (off < SAME)).tolist())
    return found


def follow(trained: DEQ, x: Tensor, begin: Tensor | None, low: float, high: float, tol: float) -> Tensor:
    """The equilibrium of the weights times `high`, followed from `begin`, the one at the weights times `low`.

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


def _of_seeds(parts: Sequence[dict[str, Any]], scales: Sequence[float]) -> Solves:
    def table(values: Sequence[Any], kind: type) -> NDArray[Any]:
        return np.array(values, dtype=float).reshape(len(parts), len(scales), -1).astype(kind)

    def by_solver(of: str) -> dict[str, NDArray[np.bool_]]:
        return {name: table([part[of][name] for part in parts], bool) for name in SOLVERS}

    radius = table([part["radius"] for part in parts], float)
    return Solves(np.array(scales, dtype=float), radius, by_solver("converged"), by_solver("arrived"))


def answer_of(found: Solves, steps: int, tol: float) -> Answer:
    """The answer that these solves give."""
    lost = int(np.isnan(found.radius).sum())
    return Answer(
        conclude(found),
        would_change=(
            f"Equilibria lost on the way: {lost:,} of {found.radius.size:,} entries are in no bin of ρ.",
            "A state without bounds: here tanh keeps it in, and a solve wanders or cycles instead of overflowing.",
            f"More than {steps:,} steps to {numbers.tolerance(tol)}, a larger memory than 5, or a start nearby.",
        ),
        figures=_figures(found),
        tables=[_by_radius(found), _by_scale(found)],
        numbers={
            "tol": tol,
            "scale": found.scale,
            "radius": found.radius,
            "converged": found.converged,
            "arrived": found.arrived,
        },
    )


def conclude(found: Solves) -> Conclusion:
    """One family, where ρ ≥ 1: Anderson's and Secant's gains over plain iteration, and Anderson's share."""
    gain, arrived, secant = found.gain("anderson"), found.gain("anderson", "arrived"), found.gain("secant")
    if gain is None or arrived is None or secant is None:
        nothing = claim(np.zeros(found.radius.shape[::2]), SHARE)
        none = (KeyFigure("entries with ρ ≥ 1", nothing),)
        return Conclusion("Nothing to prevent: no equilibrium has ρ ≥ 1 at these factors.", none)
    family = as_family(
        [
            KeyFigure("Anderson over plain iteration: converge", gain, "points"),
            KeyFigure("Anderson over plain iteration: arrive where followed", arrived, "points"),
            KeyFigure("Secant over plain iteration: converge", secant, "points"),
            KeyFigure("Anderson converges", found.share("anderson", found.beyond)),
        ]
    )
    shares = [
        KeyFigure("plain iteration converges", found.share("picard", found.beyond)),
        KeyFigure("Secant converges", found.share("secant", found.beyond)),
    ]
    return concluded(_verdict(family[0].told, family[1].told, family[3].told), [*family, *shares])


def _verdict(gain: Told | None, arrived: Told | None, most: Told | None) -> str:
    if gain is Told.ABOVE and most is Told.ABOVE:
        return "Yes: where ρ ≥ 1 Anderson converges for over nine samples in ten, more than plain iteration."
    if gain is Told.ABOVE:
        return "In part: where ρ ≥ 1 Anderson converges for more samples than plain iteration, and not for all."
    if gain is Told.BELOW:
        return "No: where ρ ≥ 1 Anderson converges for fewer samples than plain iteration."
    if gain is Told.TOO_FEW:
        return "Not shown: too few seeds for a verdict about the recipe."
    if arrived is Told.ABOVE:
        return (
            "In part: Anderson reaches equilibria that repel plain iteration; that it converges more often is not told."
        )
    return "Not shown: where ρ ≥ 1 Anderson is not told to converge for more samples than plain iteration."


def _bins(found: Solves) -> list[tuple[float, float, NDArray[np.bool_]]]:
    return [(low, high, (found.radius >= low) & (found.radius < high)) for low, high in pairwise(EDGES)]


def _range(low: float, high: float) -> str:
    return f"ρ ≥ {low:g}" if np.isinf(high) else f"ρ from {low:g} to {high:g}"


def _figures(found: Solves) -> list[Figure]:
    by_radius: list[Point] = []
    arrived: list[Point] = []
    by_scale: list[Point] = []
    for solver in SOLVERS:
        for _, _, cut in _bins(found):
            if cut.sum() >= FEW:
                middle = float(np.median(found.radius[cut]))
                for points, of in ((by_radius, "converged"), (arrived, "arrived")):
                    one = found.share(solver, cut, of)
                    points.append(Point.of(solver, middle, one, f"n = {one.n}"))
        for place, scale in enumerate(found.scale):
            one = found.share(solver, _at(found, place))
            by_scale.append(Point.of(solver, float(scale), one, f"n = {one.n}"))
    y = Axis("share of samples that converge", percent=True, domain=(0.0, 1.0))
    return [
        curves(
            "converged_radius",
            "Samples that converge, against the spectral radius",
            "At whichever fixed point. Each point a bin of ρ at the model's equilibrium; bands: 95 % intervals.",
            by_radius,
            Axis("spectral radius ρ of ∂f/∂z"),
            y,
            rules=[Rule("ρ = 1", x=1.0)],
            colours=COLOURS,
        ),
        curves(
            "arrived_radius",
            "Samples that arrive at the model's equilibrium, against its spectral radius",
            "The rest doesn't converge, or does at another fixed point. Bands: 95 % intervals.",
            arrived,
            Axis("spectral radius ρ of ∂f/∂z"),
            y,
            rules=[Rule("ρ = 1", x=1.0)],
            colours=COLOURS,
        ),
        curves(
            "converged_scale",
            "Samples that converge, against the factor on the weights",
            "All samples, also those whose equilibrium was lost; bands: 95 % intervals.",
            by_scale,
            Axis("factor on the weights"),
            y,
            colours=COLOURS,
        ),
    ]


def _at(found: Solves, place: int) -> NDArray[np.bool_]:
    """All entries of one factor."""
    where = np.zeros(found.radius.shape, dtype=bool)
    where[:, place] = True
    return where


def _by_radius(found: Solves) -> AnswerTable:
    rows = [(_range(low, high), cut) for low, high, cut in _bins(found)] + [("lost", np.isnan(found.radius))]
    return _shares(found, "Converged, by spectral radius", "ρ", [(text, cut) for text, cut in rows if cut.any()])


def _by_scale(found: Solves) -> AnswerTable:
    rows = [(f"{scale:g}", _at(found, place)) for place, scale in enumerate(found.scale)]
    return _shares(found, "Converged, by the factor on the weights", "factor", rows)


def _shares(found: Solves, title: str, heading: str, rows: Sequence[tuple[str, NDArray[np.bool_]]]) -> AnswerTable:
    columns = [Column(heading, [text for text, _ in rows], words=True)]
    for solver in SOLVERS:
        shares = [found.share(solver, cut) for _, cut in rows]
        texts = [f"{100 * one.mean:.0f} [{100 * one.low:.0f}, {100 * one.high:.0f}]" for one in shares]
        columns.append(Column(f"{solver}, %", texts))
    return AnswerTable(
        title,
        [*columns, Column("entries", [f"{int(cut.sum()):,}" for _, cut in rows])],
        "In brackets 95 % intervals, a sample counted as one cluster. Entries: samples at factors, of all seeds.",
    )


QUESTION = Question("Does acceleration converge where plain iteration cannot?", answer, of_any_run=True)
