"""Is ‖∂f/∂z‖ < 1 why it converges?

Banach's theorem would have f converge where ‖J‖₂ < 1 throughout; near a fixed point ρ(J) < 1 is enough, and then plain
iteration shrinks the residual by ρ(J) per step in the long run (Ostrowski's theorem; Ortega & Rheinboldt 1970, 10.1.4).
Measured for every sample at its end state: ρ(J), ‖J‖₂, whether plain iteration arrives, and at which rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.analysis.contraction import Behaviour, behaviour, convergence_rate
from deqrun.analysis.spectrum import spectral_norm, spectral_radius
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, median_interval
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, Rule, cloud
from deqrun.report.page_parts import Column
from deqrun.solvers import Anderson, Budget, Picard, solve
from deqrun.studies.answering.context import Context, StudyRun, batch_of
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import number, share, significant

END_STEPS, END_TOL = 200, 1e-5
"""What Anderson may spend on the end states, and the residual at which they are taken: near float32's rounding."""

RATE_WINDOW = 30
"""Steps from which a rate is told: complex pairs of eigenvalues make residuals swing around it."""


@dataclass(frozen=True, eq=False)
class Spectra:
    """Of every sample of one variant, its runs pooled: (n,) each.

    radius, norm   ρ(J) and ‖J‖₂ at the end state
    norm_error     the error indicator of the norm, which is an estimate from below
    converged      whether plain iteration reached the tolerance
    rate           factor per step by which its residual fell in the end; NaN where it can't be told
    """

    kind: str
    radius: NDArray[np.float64]
    norm: NDArray[np.float64]
    norm_error: NDArray[np.float64]
    converged: NDArray[np.bool_]
    rate: NDArray[np.float64]
    runs: int = field(default=1, kw_only=True)

    @property
    def behaviour(self) -> NDArray[np.uint8]:
        return np.asarray(behaviour(torch.from_numpy(self.radius), torch.from_numpy(self.norm)).numpy())

    @property
    def contracts(self) -> MeanInterval:
        """Share of samples with ‖J‖₂ < 1."""
        return accuracy_interval(self.behaviour == Behaviour.CONTRACTS, self.runs)

    @property
    def settles(self) -> MeanInterval:
        """Share of samples with ρ(J) < 1 ≤ ‖J‖₂."""
        return accuracy_interval(self.behaviour == Behaviour.SETTLES, self.runs)

    @property
    def attracts(self) -> MeanInterval:
        """Share of samples with ρ(J) < 1."""
        return accuracy_interval(self.radius < 1, self.runs)

    @property
    def arrives(self) -> MeanInterval:
        """Share of samples that plain iteration brings to the tolerance."""
        return accuracy_interval(self.converged, self.runs)

    @property
    def agreement(self) -> MeanInterval:
        """Share of samples of which ρ(J) < 1 says rightly whether plain iteration arrives."""
        return accuracy_interval((self.radius < 1) == self.converged, self.runs)


def answer(context: Context, *, samples: int, steps: int, tol: float) -> Answer:
    """Ask every run. samples: of the test split; steps: of plain iteration; tol: residual that counts as converged."""
    found = []
    for kind in context.kinds:
        parts = [context.once(run.label, partial(_measured, run, samples, steps, tol)) for run in context.of_kind(kind)]
        found.append(_pooled(kind, parts))
        context.progress(f"{kind}: ρ and ‖J‖ of {len(found[-1].radius)} end states")
    return answer_of(found, steps, tol)


def _measured(run: StudyRun, samples: int, steps: int, tol: float) -> dict[str, Any]:
    """Spectra at the end states of one run's test samples, and what plain iteration does from the model's own start."""
    deq, dataset = run.model()
    x, _ = batch_of(dataset, "test", samples, run.device)
    with torch.no_grad(), deq.cell.fixed_weights():
        f = deq.bind(x)
        z0 = deq.start(f)
        end = solve(f, z0, solver=Anderson(), budget=Budget(max_iter=END_STEPS, tol=END_TOL))
        plain = solve(f, z0, solver=Picard(), budget=Budget(max_iter=steps, tol=min(tol, END_TOL)))
        radius, norm = spectral_radius(f, end.z), spectral_norm(f, end.z)
    residuals = plain.residuals.cpu().numpy()
    return {
        "radius": radius.value.tolist(), "norm": norm.value.tolist(), "norm_error": norm.error.tolist(),
        "converged": (residuals <= tol).any(axis=0).tolist(),
        "rate": convergence_rate(residuals, window=RATE_WINDOW).tolist(),
    }  # fmt: skip


def _pooled(kind: str, parts: Sequence[dict[str, Any]]) -> Spectra:
    columns = [np.concatenate([np.asarray(part[name]) for part in parts])
               for name in ("radius", "norm", "norm_error", "converged", "rate")]  # fmt: skip
    return Spectra(kind, *columns, runs=len(parts))


def answer_of(found: Sequence[Spectra], steps: int, tol: float) -> Answer:
    """The answer that these spectra give."""
    every = Spectra("all", *(np.concatenate([getattr(one, name) for one in found])
                             for name in ("radius", "norm", "norm_error", "converged", "rate")),
                    runs=sum(one.runs for one in found) if found[0].runs > 1 else 1)  # fmt: skip
    undecided = int(np.sum((every.norm < 1) & (every.norm + every.norm_error >= 1)))
    return Answer(
        sentences=(_reason(every, tol), _variants(found), _rate(every)),
        would_change=(
            f"The norm is the Euclidean one, at the end states of the test samples only: wherever ρ < 1 some other "
            f"norm of J is below 1, and farther out J may be anything. Plain iteration was given {steps:,} steps to a "
            f"residual of {numbers.tolerance(tol)}; more steps would let more samples arrive. Of {undecided} samples "
            f"‖J‖ < 1 is not certain, since the norm is estimated from below. Other models, data and longer training "
            f"may answer otherwise; ρ < 1 and arriving can also part where the start is far from the end state."
        ),
        figures=_figures(found, every),
        tables=[_table(found)],
        numbers={one.kind: {
            "n": len(one.radius), "radius": one.radius, "norm": one.norm, "converged": one.converged, "rate": one.rate,
            "share_norm_below_1": one.contracts, "share_radius_below_1": one.attracts,
            "share_radius_below_1_norm_not": one.settles, "share_converged": one.arrives,
        } for one in found},
    )  # fmt: skip


def _reason(every: Spectra, tol: float) -> str:
    """Is ‖J‖ < 1 why it converges: yes, no, in part, or nothing converges."""
    goal = numbers.tolerance(tol)
    if not every.converged.any():
        return f"Nothing to explain: plain iteration brings none of {len(every.radius):,} samples to {goal}."
    inside = accuracy_interval(every.behaviour[every.converged] == Behaviour.CONTRACTS)
    if inside.mean > 0.9:
        return (
            f"Yes: plain iteration arrives for {share(every.arrives)} of the samples, and of these ‖J‖ < 1 holds at "
            f"the fixed point for {share(inside)}."
        )
    word = "No" if inside.mean < 0.1 else "Only in part"
    return (
        f"{word}: plain iteration arrives for {share(every.arrives)} of the samples, and of these ‖J‖ < 1 holds at the "
        f"fixed point for {share(inside)}; {_radius_holds(every)}."
    )


def _radius_holds(every: Spectra) -> str:
    """Whether ρ < 1 does better as a reason."""
    right, norm_right = every.agreement, accuracy_interval((every.norm < 1) == every.converged)
    if right.mean > 0.9:
        return f"what holds there is ρ < 1, which says rightly for {share(right)} whether they arrive"
    better = "better than" if right.mean > norm_right.mean else "no better than"
    return (
        f"ρ < 1 says rightly for {share(right)} whether they arrive, {better} ‖J‖ < 1 with "
        f"{numbers.percent(norm_right.mean)}"
    )


def _variants(found: Sequence[Spectra]) -> str:
    parts = [
        f"{_words(one.kind)} the median ρ is {significant(float(np.median(one.radius)))} and the median ‖J‖ "
        f"{significant(float(np.median(one.norm)))}, with ρ < 1 ≤ ‖J‖ for {share(one.settles)}"
        for one in found
    ]
    text = ", ".join(parts[:-1]) + (", and " if len(parts) > 1 else "") + parts[-1]
    return text[0].upper() + text[1:] + "."


def _rate(every: Spectra) -> str:
    known = np.isfinite(every.rate) & (every.radius < 1)
    if known.sum() < 6:
        return "How fast plain iteration converges could be told of too few samples to compare it with ρ."
    off = median_interval(np.abs(every.rate[known] - every.radius[known]))
    against_norm = median_interval(np.abs(every.rate[known] - every.norm[known]))
    if off.mean < against_norm.mean:
        return (
            f"ρ also says how fast: the residual's factor per step differs from ρ by {number(off)} in the median, "
            f"and from ‖J‖ by {significant(against_norm.mean)}."
        )
    return (
        f"How fast it goes ρ does not say here: the residual's factor per step differs from ρ by {number(off)} in the "
        f"median, and from ‖J‖ by {significant(against_norm.mean)}."
    )


def _words(kind: str) -> str:
    if kind.startswith("weight_"):
        weight = kind.removeprefix("weight_")
        return f"with a Jacobian penalty of weight {weight}" if float(weight) else "without a Jacobian penalty"
    return f"in {kind}"


def _figures(found: Sequence[Spectra], every: Spectra) -> list[Figure]:
    n = sum(len(one.radius) for one in found)
    points = [
        Point(_words(one.kind), float(r), float(s), note="arrives" if c else "does not arrive")
        for one in found
        for r, s, c in zip(one.radius, one.norm, one.converged, strict=True)
        if np.isfinite(r) and np.isfinite(s)
    ]
    rates = [
        Point(_words(one.kind), float(r), float(q))
        for one in found
        for r, q in zip(one.radius, one.rate, strict=True)
        if np.isfinite(q) and np.isfinite(r)
    ]
    caption = (
        f"Test samples, n = {n:,}. Right of the vertical line plain iteration is repelled; above the horizontal one "
        "some error grows at first."
    )
    radius, norm = Axis("spectral radius ρ(J)"), Axis("spectral norm ‖J‖")
    rules = [Rule("ρ = 1", x=1.0), Rule("‖J‖ = 1", y=1.0)]
    title = "Spectral radius and norm of ∂f/∂z at every end state"
    figures = [cloud("radius_norm", title, caption, points, radius, norm, rules=rules)]
    if len(rates) > 1:
        figures.append(
            cloud(
                "rate_radius", "The rate of plain iteration against the spectral radius",
                "Factor by which the residual falls per step in the end, where it can be told. Dashed: equality.",
                rates, Axis("spectral radius ρ(J)"), Axis("factor per step"), diagonal=True,
            )
        )  # fmt: skip
    return figures


def _table(found: Sequence[Spectra]) -> AnswerTable:
    def percents(values: Sequence[MeanInterval]) -> list[str]:
        return [f"{100 * v.mean:.1f} [{100 * v.low:.1f}, {100 * v.high:.1f}]" for v in values]

    def quantiles(values: Sequence[NDArray[np.float64]]) -> list[str]:
        return [" – ".join(significant(float(q)) for q in np.nanquantile(v, [0.05, 0.5, 0.95])) for v in values]

    return AnswerTable(
        "Shares of the samples",
        [
            Column("variant", [one.kind for one in found], words=True),
            Column("ρ < 1, %", percents([one.attracts for one in found])),
            Column("‖J‖ < 1, %", percents([one.contracts for one in found])),
            Column("ρ < 1 ≤ ‖J‖, %", percents([one.settles for one in found])),
            Column("arrives, %", percents([one.arrives for one in found])),
            Column("ρ: 5, 50, 95 %", quantiles([one.radius for one in found])),
            Column("‖J‖: 5, 50, 95 %", quantiles([one.norm for one in found])),
            Column("n", [f"{len(one.radius):,}" for one in found]),
        ],
        "In brackets 95 % intervals over the samples, and over the seeds where there are several.",
    )  # fmt: skip


QUESTION = Question("Is ‖∂f/∂z‖ < 1 why it converges?", answer, of_any_run=True)
