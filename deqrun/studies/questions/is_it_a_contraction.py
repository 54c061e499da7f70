"""Is ‖∂f/∂z‖ < 1 why it converges?

Banach's theorem would have f converge where ‖J‖₂ < 1 throughout; near a fixed point ρ(J) < 1 is enough, and then plain
iteration shrinks the residual by ρ(J) per step in the long run (Ostrowski's theorem; Ortega & Rheinboldt 1970, 10.1.4).
Measured for every sample at its end state: ρ(J), ‖J‖₂, whether plain iteration arrives, and at which rate.

ρ < 1 as a sign of who arrives is compared with the best constant answer: where all arrive, "all arrive" is hard to
beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.analysis.contraction import Behaviour, behaviour, convergence_rate
from deqrun.analysis.spectrum import spectral_norm, spectral_radius
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim, claim_statistic
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, Rule, cloud
from deqrun.solvers import Anderson, Budget, Picard, solve
from deqrun.studies.concluding import as_family, concluded
from deqrun.studies.context import Context, StudyRun, batch_of, columns
from deqrun.studies.question import Question
from deqrun.studies.wording import percents, words

END_STEPS, END_TOL = 200, 1e-5
"""Anderson's budget for the end states, and the residual at which they are taken: near float32's rounding."""

RATE_WINDOW = 30
"""Steps from which a rate is told: complex pairs of eigenvalues make residuals swing around it."""

MOST = 0.9
"""A share of samples from which on a behaviour is called the rule."""


@dataclass(frozen=True, eq=False)
class Spectra:
    """Of every sample of one variant, S seeds: (S, n) each.

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

    @property
    def name(self) -> str:
        weight = self.kind.removeprefix("weight_")
        if weight == self.kind:
            return words(self.kind)
        return f"Jacobian penalty {weight}" if float(weight) else "no Jacobian penalty"

    @property
    def behaviour(self) -> NDArray[np.uint8]:
        return np.asarray(behaviour(torch.from_numpy(self.radius), torch.from_numpy(self.norm)).numpy())

    def share(self, where: NDArray[np.bool_]) -> Estimate:
        """Share of samples, beside MOST."""
        return claim(where, SHARE, versus=MOST)

    @property
    def settles(self) -> Estimate:
        """Share of samples with ρ(J) < 1 ≤ ‖J‖₂ that plain iteration brings to the tolerance."""
        return self.share((self.behaviour == Behaviour.SETTLES) & self.converged)

    @property
    def contracts(self) -> Estimate:
        """Share of samples with ‖J‖₂ < 1 that plain iteration brings to the tolerance."""
        return self.share((self.behaviour == Behaviour.CONTRACTS) & self.converged)


def answer(context: Context, *, samples: int, steps: int, tol: float) -> Answer:
    """Ask every run. samples: of the test split; steps: of plain iteration; tol: residual that counts as converged."""
    parts = context.by_kind(_measured, samples, steps, tol)
    names = ("radius", "norm", "norm_error", "converged", "rate")
    return answer_of([Spectra(kind, *columns(own, *names)) for kind, own in parts.items()], steps, tol)


def _measured(run: StudyRun, samples: int, steps: int, tol: float) -> dict[str, Any]:
    """Spectra at the end states of one run's test samples, and the course of plain iteration from the own start."""
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
        "radius": radius.value.tolist(),
        "norm": norm.value.tolist(),
        "norm_error": norm.error.tolist(),
        "converged": (residuals <= tol).any(axis=0).tolist(),
        "rate": convergence_rate(residuals, window=RATE_WINDOW).tolist(),
    }


def answer_of(found: Sequence[Spectra], steps: int, tol: float) -> Answer:
    """The answer that these spectra give."""
    undecided = sum(int(np.sum((one.norm < 1) & (one.norm + one.norm_error >= 1))) for one in found)
    return Answer(
        conclude(found),
        would_change=(
            "The norm is the Euclidean one: wherever ρ < 1, some other norm of J is below 1.",
            "J is taken at the end states only; farther out it may be anything.",
            f"More than {steps:,} steps would let more samples reach {numbers.tolerance(tol)}.",
            f"The norm is estimated from below; for {undecided:,} samples ‖J‖ < 1 is not certain.",
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={
            one.kind: {
                "n": one.radius.shape[1],
                "radius": one.radius,
                "norm": one.norm,
                "converged": one.converged,
                "rate": one.rate,
                "share_contracting": one.contracts,
                "share_settling": one.settles,
                "radius_over_constant": over_constant([one]),
            }
            for one in found
        },
    )


def conclude(found: Sequence[Spectra]) -> Conclusion:
    """One family: of each variant the shares that arrive with ‖J‖ < 1 and without; ρ < 1 beside a constant answer."""
    family = as_family(
        [
            *(KeyFigure(f"{one.name}: arrive with ρ < 1 ≤ ‖J‖", one.settles) for one in found),
            *(KeyFigure(f"{one.name}: arrive with ‖J‖ < 1", one.contracts) for one in found),
            KeyFigure("ρ < 1 foretells arriving, over a constant answer", over_constant(found), "points"),
        ]
    )
    settling, contracting, foretells = family[: len(found)], family[len(found) : -1], family[-1]
    settle, contract = ([figure.told for figure in figures] for figures in (settling, contracting))
    # Those that carry the verdict first: whichever behaviour is the rule.
    key = [*settling, foretells, *contracting]
    if Told.ABOVE in contract and Told.ABOVE not in settle:
        key = [*contracting, foretells, *settling]
    if len(found) == 1:
        key.append(KeyFigure("the rate's distance from ρ, median", _off(found[0]), "number"))
    return concluded(_verdict(settle, contract, foretells.told), key)


def _verdict(settle: Sequence[Told | None], contract: Sequence[Told | None], classifier: Told | None) -> str:
    if all(side is Told.ABOVE for side in settle):
        more = "foretells" if classifier is Told.ABOVE else "is not shown to foretell"
        return f"No: over nine samples in ten arrive although ‖J‖ ≥ 1 at their end; ρ < 1 {more} who arrives."
    if all(side is Told.ABOVE for side in contract):
        return "Yes: over nine samples in ten arrive, and ‖J‖ < 1 at their end."
    if Told.ABOVE in settle and Told.ABOVE in contract:
        return "It depends on the training: some variants contract at their ends, others arrive although ‖J‖ ≥ 1."
    if Told.ABOVE in settle or Told.ABOVE in contract:
        return "It depends on the training: not every variant's samples arrive in one way."
    if Told.TOO_FEW in settle:
        return "Not shown: too few seeds for a Yes or a No about the recipe."
    return "Not shown: no behaviour is the rule for nine samples in ten."


def over_constant(found: Sequence[Spectra]) -> Estimate:
    """Share for which ρ < 1 says rightly whether they arrive, less the share for the best constant answer.

    A sample is one cluster: its mean over the variants that are asked about it.
    """
    seeds = min(len(one.radius) for one in found)
    attracts, arrives = (
        np.stack([values[:seeds] for values in column])
        for column in ([one.radius < 1 for one in found], [one.converged for one in found])
    )
    constant = arrives if arrives.mean() >= 0.5 else ~arrives
    return claim(((attracts == arrives).astype(float) - constant).mean(axis=0), DIFFERENCE)


def _off(found: Spectra) -> Estimate:
    """Median of |rate − ρ| over the samples whose rate is told."""

    def middles(drawn: NDArray[np.float64]) -> NDArray[np.float64]:
        known = np.asarray(np.isfinite(drawn).any(axis=-1))
        return np.where(known, np.nanmedian(np.where(known[..., None], drawn, 0.0), axis=-1), np.nan)

    return claim_statistic(middles, np.where(found.radius < 1, np.abs(found.rate - found.radius), np.nan))


def _figures(found: Sequence[Spectra]) -> list[Figure]:
    seeds, n = found[0].radius.shape
    points = [
        Point(one.name, float(r), float(s), note="arrives" if c else "does not arrive")
        for one in found
        for r, s, c in zip(one.radius.flat, one.norm.flat, one.converged.flat, strict=True)
        if np.isfinite(r) and np.isfinite(s)
    ]
    rates = [
        Point(one.name, float(r), float(q))
        for one in found
        for r, q in zip(one.radius.flat, one.rate.flat, strict=True)
        if np.isfinite(q) and np.isfinite(r)
    ]
    caption = (
        f"Test samples, n = {n:,} in each of {seeds} seeds. Right of the vertical line plain iteration is repelled; "
        "above the horizontal one some error grows at first."
    )
    radius, norm = Axis("spectral radius ρ(J)"), Axis("spectral norm ‖J‖")
    rules = [Rule("ρ = 1", x=1.0), Rule("‖J‖ = 1", y=1.0)]
    title = "Spectral radius and norm of ∂f/∂z at every end state"
    figures = [cloud("radius_norm", title, caption, points, radius, norm, rules=rules)]
    if len(rates) > 1:
        figures.append(
            cloud(
                "rate_radius",
                "The rate of plain iteration against the spectral radius",
                "Factor by which the residual falls per step in the end, where it can be told. Dashed: equality.",
                rates,
                Axis("spectral radius ρ(J)"),
                Axis("factor per step"),
                diagonal=True,
            )
        )
    return figures


def _table(found: Sequence[Spectra]) -> AnswerTable:
    def quantiles(values: Sequence[NDArray[np.float64]]) -> list[str]:
        return [" – ".join(numbers.significant(float(q)) for q in np.nanquantile(v, [0.05, 0.5, 0.95])) for v in values]

    off = [_off(one) for one in found]
    return AnswerTable(
        "Shares of the samples",
        [
            Column("variant", [one.name for one in found], words=True),
            Column("ρ < 1, %", percents(one.share(one.radius < 1) for one in found)),
            Column("‖J‖ < 1, %", percents(one.share(one.norm < 1) for one in found)),
            Column("arrives, %", percents(one.share(one.converged) for one in found)),
            Column("ρ: 5, 50, 95 %", quantiles([one.radius for one in found])),
            Column("‖J‖: 5, 50, 95 %", quantiles([one.norm for one in found])),
            Column("|rate − ρ|, median", [numbers.significant(one.mean, 2) for one in off]),
            Column("n", [f"{one.radius.shape[1]:,}" for one in found]),
        ],
        "In brackets 95 % intervals. n: samples, the same in each seed.",
    )


QUESTION = Question("Is ‖∂f/∂z‖ < 1 why it converges?", answer, of_any_run=True)
