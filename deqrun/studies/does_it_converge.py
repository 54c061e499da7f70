"""Does it converge, given far more iterations than it was trained with?

Every test sample is iterated with no tolerance to stop it, in float32 and in float64, plainly and with Anderson
acceleration. Where it has got to is told apart as a fixed point, a cycle, drift, or divergence
(`deqrun.analysis.fates`), and the lowest residual on the way is the tolerance that it could have been asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.analysis.fates import Fate, fates
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, median_interval
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.report.page_parts import Column
from deqrun.solvers import Anderson, Budget, Picard, Solver, solve
from deqrun.studies.answering.context import Context, StudyRun, batch_of
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, share, significant

SOLVERS: dict[str, Solver] = {"picard": Picard(), "anderson": Anderson()}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
WORDS = {
    Fate.FIXED_POINT: "a fixed point", Fate.CYCLE: "a cycle", Fate.DRIFT: "drift", Fate.DIVERGENCE: "divergence",
}  # fmt: skip
AT_REST = 1e-4
"""Relative distance within which a state has come back."""

CURVE = 60
"""Iterates of a curve, at equal factors."""


@dataclass(frozen=True, eq=False)
class Ends:
    """The samples of one variant with one solver in one dtype, its runs pooled.

    fate      (n,) codes of Fate
    period    (n,) 1 at a fixed point, p on a cycle of p states, 0 otherwise
    lowest    (n,) lowest residual on the way
    median    (K,) median residual at iterates `at`
    """

    kind: str
    solver: str
    dtype: str
    fate: NDArray[np.int64]
    period: NDArray[np.int64]
    lowest: NDArray[np.float64]
    at: NDArray[np.int64]
    median: NDArray[np.float64]
    runs: int = 1

    def of(self, fate: Fate) -> MeanInterval:
        return accuracy_interval(self.fate == int(fate), self.runs)

    @property
    def reached(self) -> MeanInterval:
        """Median of the lowest residual."""
        return median_interval(self.lowest)

    @property
    def reachable(self) -> float:
        """The residual that 95 % of the samples get down to."""
        return float(np.quantile(self.lowest, 0.95, method="inverted_cdf"))


def answer(context: Context, *, samples: int, iterations: int) -> Answer:
    """Iterate every run's model. samples: of the test split; iterations: of each solver."""
    found = []
    for kind in context.kinds:
        parts = []
        for run in context.of_kind(kind):
            parts.append(context.once(run.label, partial(_measured, run, samples, iterations)))
            context.progress(f"{run.label}: {iterations:,} iterations in {' and '.join(DTYPES)}")
        found += [_pooled(kind, solver, dtype, parts) for solver in SOLVERS for dtype in DTYPES]
    return answer_of(found, iterations)


def _measured(run: StudyRun, samples: int, iterations: int) -> dict[str, Any]:
    deq, dataset = run.model()
    x, _ = batch_of(dataset, "test", samples, run.device)
    found: dict[str, Any] = {}
    budget = Budget(max_iter=iterations, tol=0.0, keep="last")
    for name, dtype in DTYPES.items():
        deq = deq.to(dtype)
        with torch.no_grad(), deq.cell.fixed_weights():
            f = deq.bind(x.to(dtype))
            for solver in SOLVERS:
                solution = solve(f, deq.start(f), solver=SOLVERS[solver], budget=budget)
                ends = fates(f, solution, tol=AT_REST)
                residual = solution.residuals.double().cpu().numpy()
                found[f"{solver}/{name}"] = {
                    "fate": ends.fate.tolist(), "period": ends.period.tolist(),
                    "lowest": np.nanmin(residual, axis=0).tolist(), "curve": _curve(residual),
                }  # fmt: skip
    return found


def _curve(residual: NDArray[np.float64]) -> dict[str, list[float]]:
    """Median residual at up to CURVE iterates; a sample that stopped keeps its last one."""
    known = residual.copy()
    for k in range(1, len(known)):
        known[k] = np.where(np.isnan(known[k]), known[k - 1], known[k])
    at = np.unique(np.geomspace(1, len(known), CURVE).round().astype(int)) - 1
    return {"at": at.tolist(), "median": np.median(known[at], axis=1).tolist()}


def _pooled(kind: str, solver: str, dtype: str, parts: Sequence[dict[str, Any]]) -> Ends:
    own = [part[f"{solver}/{dtype}"] for part in parts]
    fate, period, lowest = (np.concatenate([np.asarray(one[name]) for one in own])
                            for name in ("fate", "period", "lowest"))  # fmt: skip
    curve = np.median([one["curve"]["median"] for one in own], axis=0)
    return Ends(kind, solver, dtype, fate, period, lowest, np.asarray(own[0]["curve"]["at"]), curve, len(own))


def answer_of(found: Sequence[Ends], iterations: int) -> Answer:
    """The answer that these ends give."""
    return Answer(
        sentences=(_fates(found, iterations), _acceleration(found), _dtypes(found)),
        would_change=(
            f"Fates are told after {iterations:,} iterations from the model's own start: what still drifts may settle "
            f"later. A state counts as come back within {numbers.tolerance(AT_REST)} of itself, relatively, and cycles "
            f"of up to 16 states are looked for. A residual that one dtype cannot get below is the rounding of one "
            f"evaluation, and so follows from the cell and its size; training that keeps ‖J‖ down changes the fates."
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={"ends": [{
            "variant": one.kind, "solver": one.solver, "dtype": one.dtype, "n": len(one.fate),
            "fates": {fate.name.lower(): one.of(fate) for fate in Fate}, "lowest": one.lowest,
            "reached_by_95_percent": one.reachable,
        } for one in found]},
    )  # fmt: skip


def _fates(found: Sequence[Ends], iterations: int) -> str:
    plain = [one for one in found if (one.solver, one.dtype) == ("picard", "float32")]
    shares = [one.of(Fate.FIXED_POINT) for one in plain]
    word = (
        "Yes" if min(s.mean for s in shares) >= 0.99 else "No" if max(s.mean for s in shares) < 0.01 else "Not always"
    )
    parts = []
    for one, rest in zip(plain, shares, strict=True):
        others = [f"{WORDS[fate]} for {numbers.percent(one.of(fate).mean)}"
                  for fate in Fate if fate != Fate.FIXED_POINT and one.of(fate).mean > 0]  # fmt: skip
        parts.append(f"for {share(rest)} of {one.kind}'s samples" + (f" ({enumeration(others)})" if others else ""))
    return f"{word}: {iterations:,} plain iterations in float32 end at a fixed point {enumeration(parts)}."


def _acceleration(found: Sequence[Ends]) -> str:
    """What Anderson changes about the fates."""
    by = {(one.kind, one.solver, one.dtype): one for one in found}
    kinds = list(dict.fromkeys(one.kind for one in found))
    gains = []
    for kind in kinds:
        plain, fast = (by[kind, solver, "float32"].of(Fate.FIXED_POINT).mean for solver in SOLVERS)
        if abs(fast - plain) > 0.005:
            gains.append(f"{kind} from {numbers.percent(plain)} to {numbers.percent(fast)}")
    if not gains:
        return "Anderson acceleration ends at a fixed point for as many samples."
    return f"With Anderson acceleration that share goes for {enumeration(gains)}."


def _dtypes(found: Sequence[Ends]) -> str:
    """The tolerance that can be asked of each dtype, where samples come to rest."""
    parts = []
    for dtype in DTYPES:
        settled = [one for one in found if one.dtype == dtype and one.of(Fate.FIXED_POINT).mean >= 0.95]
        if settled:
            worst = max(settled, key=lambda one: one.reachable)
            best = min(settled, key=lambda one: one.reached.mean)
            parts.append(
                f"{dtype} reaches a residual of {significant(best.reached.mean, 2)} in the median sample at best, and "
                f"in the least exact of these solves {significant(worst.reachable, 2)} for 95 % of the samples"
            )
    if not parts:
        return "No solve brings 95 % of its samples to rest, so that no tolerance can be asked of them."
    return f"Where at least 95 % of the samples come to rest, {'; '.join(parts)}."


def _figures(found: Sequence[Ends]) -> list[Figure]:
    figures = []
    for kind in dict.fromkeys(one.kind for one in found):
        own = [one for one in found if one.kind == kind]
        points = [
            Point(f"{one.solver}, {one.dtype}", float(k), float(r), note=one.kind)
            for one in own
            for k, r in zip(one.at, one.median, strict=True)
            if k > 0 and r > 0 and np.isfinite(r)
        ]
        if points:
            caption = (
                f"Variant {kind}: median over n = {len(own[0].fate):,} test samples, with nothing to stop the solves."
            )
            title = "Residual against iterations, far beyond the training budget"
            axes = Axis("iteration", log=True), Axis("residual", log=True)
            figures.append(curves(f"residual_{kind}", title, caption, points, *axes))
    return figures


def _table(found: Sequence[Ends]) -> AnswerTable:
    def percent(fate: Fate) -> list[str]:
        shares = [one.of(fate) for one in found]
        return [f"{100 * one.mean:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]" for one in shares]

    return AnswerTable(
        "Where samples end",
        [
            Column("variant", [one.kind for one in found], words=True),
            Column("solver", [one.solver for one in found], words=True),
            Column("dtype", [one.dtype for one in found], words=True),
            *(Column(f"{WORDS[fate]}, %", percent(fate)) for fate in Fate),
            Column("lowest residual, median", [significant(one.reached.mean, 2) for one in found]),
            Column("for 95 %", [significant(one.reachable, 2) for one in found]),
            Column("n", [f"{len(one.fate):,}" for one in found]),
        ],
        "In brackets 95 % intervals over the samples, and over the seeds where there are several.",
    )  # fmt: skip


QUESTION = Question("Does it converge, given far more iterations than in training?", answer, of_any_run=True)
