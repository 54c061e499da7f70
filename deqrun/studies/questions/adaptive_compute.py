"""What does it save to stop each sample by itself?

Every halting rule of `deqrun.analysis.halting` over one trajectory for each split. Of each rule, and of the fixed
budget, validation chooses the cheapest threshold that keeps accuracy within one standard error of the best, and then
the cheapest rule; test tells its savings over the fixed budget, sample by sample. The oracle, which stops at
the first right answer, is the bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.analysis.halting import Recording, stops
from deqrun.experiment.build import build_solver
from deqrun.experiment.sweep.halting import halting_rows
from deqrun.experiment.sweep.trace import trace
from deqrun.inference import DIFFERENCE, Estimate, Told, claim
from deqrun.records.halting_rules import BOUNDS, RULES
from deqrun.records.rows import HaltingRow
from deqrun.records.trajectory import TrajectoryKey
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure, plain
from deqrun.report.charts.answers import Axis, Point, Rule, Value, curves, values
from deqrun.solvers import Budget
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.context import Context, StudyRun, columns
from deqrun.studies.question import Question
from deqrun.studies.wording import amounts, enumeration, point_texts, words

REACHABLE = 1e-5
"""Tolerance of the recorded solves: a sample that is there changes no more."""


@dataclass(frozen=True, eq=False)
class Halted:
    """The test samples of one variant, S seeds, under the rule that validation chose in each.

    rules   (S,) names of the rules; budget, where none reaches the accuracy
    fixed   (S, n) evaluations of the fixed budget that validation chose
    spent   (S, n) evaluations of the rule
    gained  (S, n) of −1, 0, 1: right with the rule less right with the fixed budget
    oracle  (S, n) evaluations to the first right answer
    most    evaluations that a sample can take
    rows    of the first seed: every rule at every threshold, on test
    """

    kind: str
    rules: tuple[str, ...]
    fixed: NDArray[np.float64]
    spent: NDArray[np.float64]
    gained: NDArray[np.float64]
    oracle: NDArray[np.float64]
    most: int
    rows: Sequence[HaltingRow]

    @property
    def saved(self) -> Estimate:
        return claim(self.fixed - self.spent, (-self.most, self.most))

    @property
    def accuracy(self) -> Estimate:
        return claim(self.gained, DIFFERENCE)

    def mean(self, evaluations: NDArray[np.float64]) -> Estimate:
        return claim(evaluations, (0.0, float(self.most)))

    @property
    def name(self) -> str:
        return words(self.kind)


def answer(context: Context, *, iterations: int) -> Answer:
    """Halt every run's samples. iterations: of its own solver at most."""
    found = []
    for kind, own in context.by_kind(_measured, iterations).items():
        fixed, spent, gained, oracle = columns(own, "fixed", "spent", "gained", "oracle", dtype=np.float64)
        rules, rows = tuple(part["rule"] for part in own), [_row(row) for row in own[0]["rows"]]
        found.append(Halted(kind, rules, fixed, spent, gained, oracle, iterations + 1, rows))
    return answer_of(found, iterations)


def _row(content: dict[str, Any]) -> HaltingRow:
    """A row as JSON holds it: numbers that are not finite are null."""
    known = {key: value for key, value in content.items() if value is not None or key == "difficulty"}
    return HaltingRow(**{"threshold": math.nan, **known})


def _measured(run: StudyRun, iterations: int) -> dict[str, Any]:
    deq, dataset = run.model()
    budget, batch = Budget(max_iter=iterations, tol=REACHABLE), run.settings.sweep.batch_size
    solver = build_solver(run.settings)
    validation, test = (
        trace(deq, dataset, dataset.load(split), solver, budget, batch, signals=True)
        for split in ("validation", "test")
    )
    rows = halting_rows(TrajectoryKey("own", "zeros", "test"), validation, test, [*RULES, *BOUNDS])
    chosen = {row.rule: row for row in rows if row.split == "validation" and row.chosen}
    budgets = [row for row in rows if row.split == "validation" and row.rule == "budget"]
    fixed = chosen.get("budget") or max(budgets, key=lambda row: (row.accuracy, -row.nfe_mean))
    rules = [row for name, row in chosen.items() if name in RULES]
    best = min(rules, key=lambda row: (row.nfe_mean, -row.accuracy), default=fixed)  # the budget where none is as good

    recording = Recording(test.residual, test.nfe, test.correct, test.signals)
    at_fixed = stops(recording, "budget", fixed.threshold)
    at_rule = stops(recording, best.rule, best.threshold)
    return {
        "rows": plain([row for row in rows if row.split == "test"]),
        "rule": best.rule,
        "fixed": at_fixed.nfe.tolist(),
        "spent": at_rule.nfe.tolist(),
        "gained": (at_rule.correct.astype(int) - at_fixed.correct).tolist(),
        "oracle": stops(recording, "oracle").nfe.tolist(),
    }


def answer_of(found: Sequence[Halted], iterations: int) -> Answer:
    """The answer that these samples give."""
    return Answer(
        conclude(found),
        would_change=(
            "Samples that all need the same number of steps leave nothing to save.",
            "Another count: rules that read the answer out at every iterate pay in multiply-adds, not in evaluations.",
            f"Longer trajectories than {iterations} iterations, or more validation samples to choose thresholds on.",
        ),
        figures=_figures(found),
        tables=[_table(found), *[_thresholds(one) for one in found]],
        numbers={
            one.kind: {
                "rules": one.rules,
                "saved": one.saved,
                "gained": one.accuracy,
                "fixed": one.mean(one.fixed),
                "spent": one.mean(one.spent),
                "oracle": one.mean(one.oracle),
            }
            for one in found
        },
    )


def conclude(found: Sequence[Halted]) -> Conclusion:
    """One family: evaluations saved and accuracy gained of every variant. A saving counts if no accuracy is lost."""
    saved, accuracy = told_together(
        {one.kind: KeyFigure(f"{one.name}: evaluations saved a sample", one.saved, "number") for one in found},
        {one.kind: KeyFigure(f"{one.name}: change of accuracy", one.accuracy, "points") for one in found},
    )
    fixed = [KeyFigure(f"{one.name}: evaluations of the fixed budget", one.mean(one.fixed), "number") for one in found]
    return concluded(_verdict(saved, accuracy), [*saved.values(), *accuracy.values(), *fixed])


def _named(one: Halted) -> str:
    return enumeration(list(dict.fromkeys(one.rules)))


def _verdict(saved: Figures, accuracy: Figures) -> str:
    if too_few(saved, accuracy):
        return "Not shown: too few seeds for a verdict about the recipes."
    saving, losing = those(saved, Told.ABOVE), those(accuracy, Told.BELOW)
    good = [name for name in saving if name not in losing]
    cost = f"; accuracy falls on {enumeration(losing)}" if losing else ""
    if good:
        word = "Yes" if len(good) == len(saved) else "It depends"
        return f"{word}: stopping each sample by itself saves evaluations on {enumeration(good)}{cost}."
    if len(those(saved, Told.BELOW)) == len(saved):
        return f"No: the rules cost more than the fixed budget{cost}."
    return f"Not shown: no rule is told to save evaluations at equal accuracy{cost}."


def _figures(found: Sequence[Halted]) -> list[Any]:
    rows = [Value.of(one.name, one.saved, note=_named(one)) for one in found]
    caption = "The rule that validation chose, over the cheapest fixed budget of equal accuracy; 95 % intervals."
    axis = Axis("evaluations saved a sample")
    title = "Evaluations that stopping by itself saves"
    figures = [values("saved", title, caption, rows, axis, rules=[Rule("nothing", x=0.0)])]
    for place, one in enumerate(found):
        drawn = [
            Point(rule, row.nfe_mean, row.accuracy)
            for rule in (*RULES, "budget")
            for row in sorted((r for r in one.rows if r.rule == rule), key=lambda r: r.nfe_mean)
        ]
        title = f"Accuracy against evaluations, {one.name}"
        axes = Axis("mean evaluations"), Axis("accuracy", percent=True)
        oracle = next((row for row in one.rows if row.rule == "oracle"), None)
        marked = [] if oracle is None else [Rule("oracle", x=oracle.nfe_mean)]
        caption = f"Test samples of the first seed, n = {one.fixed.shape[1]:,}; every threshold."
        figures.append(curves(f"frontier_{place}", title, caption, drawn, *axes, rules=marked))
    return figures


def _table(found: Sequence[Halted]) -> AnswerTable:
    return AnswerTable(
        "The rule that validation chose, on test",
        [
            Column("model", [one.name for one in found], words=True),
            Column("rules, by seed", [", ".join(one.rules) for one in found], words=True),
            Column("fixed budget, evaluations", amounts(one.mean(one.fixed) for one in found)),
            Column("the rule", amounts(one.mean(one.spent) for one in found)),
            Column("saved", amounts(one.saved for one in found)),
            Column("accuracy gained, points", point_texts(one.accuracy for one in found)),
            Column("oracle", amounts(one.mean(one.oracle) for one in found)),
            Column("n", [f"{one.fixed.shape[1]:,}" for one in found]),
        ],
        "Mean evaluations a sample. The oracle stops at the first right answer, as no rule can. In brackets 95 % "
        "intervals.",
    )


def _thresholds(one: Halted) -> AnswerTable:
    rows = [
        row for rule in (*RULES, *BOUNDS) for row in one.rows if row.rule == rule and (row.chosen or rule == "oracle")
    ]
    return AnswerTable(
        f"Every rule on {one.name}, first seed, on test",
        [
            Column("rule", [row.rule for row in rows], words=True),
            Column("threshold", [numbers.tolerance(row.threshold) for row in rows]),
            Column(
                "accuracy, %",
                [f"{100 * r.accuracy:.1f} [{100 * r.accuracy_low:.1f}, {100 * r.accuracy_high:.1f}]" for r in rows],
            ),
            Column("evaluations", [numbers.mean(row.nfe_mean) for row in rows]),
            Column("95 %", [numbers.mean(row.nfe_p95) for row in rows]),
        ],
        "Thresholds chosen on validation. Evaluations: mean, and 95 % quantile.",
    )


QUESTION = Question("What does it save to stop each sample by itself?", answer, of_any_run=True)
