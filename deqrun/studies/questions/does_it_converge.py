"""Does it converge, given far more iterations than it was trained with?

Every test sample is iterated with no tolerance to stop it, in float32 and in float64, plainly and with Anderson
acceleration. Where it has got to is told apart as a fixed point, a cycle, drift, or divergence
(`deqrun.analysis.fates`), and the lowest residual on the way is the tolerance that it could have been asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deqrun.analysis.fates import Fate, fates
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim, claim_median
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts import Figure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.solvers import Anderson, Budget, Picard, Solver, solve
from deqrun.studies.concluding import Figures, concluded, those, told_together
from deqrun.studies.context import Context, StudyRun, batch_of, columns
from deqrun.studies.question import Question
from deqrun.studies.wording import enumeration, percents, words

SOLVERS: dict[str, Solver] = {"picard": Picard(), "anderson": Anderson()}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
WORDS = {Fate.FIXED_POINT: "a fixed point", Fate.CYCLE: "a cycle", Fate.DRIFT: "drift", Fate.DIVERGENCE: "divergence"}
AT_REST = 1e-4
"""Relative distance within which a state has come back."""

CURVE = 60
"""Iterates of a curve, at equal factors."""

MOST = 0.9
"""A share of samples from which on a variant is said to converge."""


@dataclass(frozen=True, eq=False)
class Ends:
    """The samples of one variant with one solver in one dtype, S seeds.

    fate      (S, n) codes of Fate
    lowest    (S, n) lowest residual on the way
    median    (K,) median residual at iterates `at`
    """

    kind: str
    solver: str
    dtype: str
    fate: NDArray[np.int64]
    lowest: NDArray[np.float64]
    at: NDArray[np.int64]
    median: NDArray[np.float64]

    def of(self, fate: Fate) -> Estimate:
        return claim(self.fate == int(fate), SHARE, versus=MOST)

    @property
    def reached(self) -> Estimate:
        """Median over samples of the lowest residual."""
        return claim_median(self.lowest)

    @property
    def reachable(self) -> float:
        """The residual that 95 % of the samples get down to, in the worst seed."""
        return float(np.quantile(self.lowest, 0.95, axis=1, method="inverted_cdf").max())


def answer(context: Context, *, samples: int, iterations: int) -> Answer:
    """Iterate every run's model. samples: of the test split; iterations: of each solver."""
    found = [
        _of_seeds(kind, solver, dtype, own)
        for kind, own in context.by_kind(_measured, samples, iterations).items()
        for solver in SOLVERS
        for dtype in DTYPES
    ]
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
                residual = solution.residuals.double().cpu().numpy()
                found[f"{solver}/{name}"] = {
                    "fate": fates(f, solution, tol=AT_REST).fate.tolist(),
                    "lowest": np.nanmin(residual, axis=0).tolist(),
                    "curve": _curve(residual),
                }
    return found


def _curve(residual: NDArray[np.float64]) -> dict[str, list[float]]:
    """Median residual at up to CURVE iterates; a sample that stopped keeps its last one."""
    known = residual.copy()
    for k in range(1, len(known)):
        known[k] = np.where(np.isnan(known[k]), known[k - 1], known[k])
    at = np.unique(np.geomspace(1, len(known), CURVE).round().astype(int)) - 1
    return {"at": at.tolist(), "median": np.median(known[at], axis=1).tolist()}


def _of_seeds(kind: str, solver: str, dtype: str, parts: Sequence[dict[str, Any]]) -> Ends:
    own = [part[f"{solver}/{dtype}"] for part in parts]
    fate, lowest = columns(own, "fate", "lowest")
    curve = np.median([one["curve"]["median"] for one in own], axis=0)
    return Ends(kind, solver, dtype, fate, lowest, np.asarray(own[0]["curve"]["at"]), curve)


def answer_of(found: Sequence[Ends], iterations: int) -> Answer:
    """The answer that these ends give."""
    return Answer(
        conclude(found, iterations),
        would_change=(
            f"More than {iterations:,} iterations: samples that still drift may settle later.",
            f"Another distance: a state has come back within {numbers.tolerance(AT_REST)} of itself, relatively.",
            "Longer cycles: cycles of up to 16 states are looked for.",
            "Training that keeps ‖J‖ down, which changes where samples end.",
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={
            "ends": [
                {
                    "variant": one.kind,
                    "solver": one.solver,
                    "dtype": one.dtype,
                    "n": one.fate.shape[1],
                    "fates": {fate.name.lower(): one.of(fate) for fate in Fate},
                    "lowest": one.lowest,
                    "reached_by_95_percent": one.reachable,
                }
                for one in found
            ]
        },
    )


def conclude(found: Sequence[Ends], iterations: int) -> Conclusion:
    """One family: of each variant the share at a fixed point, and Anderson's change of it."""
    by = {(one.kind, one.solver): one for one in found if one.dtype == "float32"}
    ends, changes = {}, {}
    for kind in dict.fromkeys(one.kind for one in found):
        plain, fast = by[kind, "picard"], by[kind, "anderson"]
        at_rest = f"{words(kind)}: at a fixed point after {iterations:,} plain iterations"
        ends[kind] = KeyFigure(at_rest, plain.of(Fate.FIXED_POINT))
        change = f"{words(kind)}: change of that share by Anderson"
        changes[kind] = KeyFigure(change, _change(plain, fast), "points")
    ends, changes = told_together(ends, changes)
    return concluded(_verdict(ends), [*ends.values(), *changes.values()])


def _change(plain: Ends, fast: Ends) -> Estimate:
    at_rest = int(Fate.FIXED_POINT)
    return claim((fast.fate == at_rest).astype(float) - (plain.fate == at_rest), DIFFERENCE)


def _verdict(ends: Figures) -> str:
    yes, no = those(ends, Told.ABOVE), those(ends, Told.BELOW)
    if len(yes) == len(ends):
        return "Yes: over nine samples in ten end at a fixed point in every variant."
    if len(no) == len(ends):
        return "No: under nine samples in ten end at a fixed point in every variant."
    if yes or no:
        parts = [f"over nine samples in ten end at a fixed point with {enumeration(yes)}"] if yes else []
        parts += [f"fewer do with {enumeration(no)}"] if no else []
        return f"It depends: {', '.join(parts)}."
    if len(those(ends, Told.TOO_FEW)) == len(ends):
        return "Not shown: too few seeds for a Yes or a No about the recipe."
    return "Not shown: whether nine samples in ten end at a fixed point is not told."


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
            seeds, n = own[0].fate.shape
            caption = (
                f"Variant {words(kind)}: median over n = {n:,} test samples and {seeds} seeds; nothing stops a solve."
            )
            title = "Residual against iterations, far beyond the training budget"
            axes = Axis("iteration", log=True), Axis("residual", log=True)
            figures.append(curves(f"residual_{kind}", title, caption, points, *axes))
    return figures


def _table(found: Sequence[Ends]) -> AnswerTable:
    return AnswerTable(
        "Where samples end",
        [
            Column("variant", [words(one.kind) for one in found], words=True),
            Column("solver", [one.solver for one in found], words=True),
            Column("dtype", [one.dtype for one in found], words=True),
            *(Column(f"{WORDS[fate]}, %", percents(one.of(fate) for one in found)) for fate in Fate),
            Column("lowest residual, median", [numbers.significant(one.reached.mean, 2) for one in found]),
            Column("for 95 %", [numbers.significant(one.reachable, 2) for one in found]),
            Column("n", [f"{one.fate.shape[1]:,}" for one in found]),
        ],
        "In brackets 95 % intervals. For 95 %: the residual that so many samples get down to, in the worst seed.",
    )


QUESTION = Question("Does it converge, given far more iterations than in training?", answer, of_any_run=True)
