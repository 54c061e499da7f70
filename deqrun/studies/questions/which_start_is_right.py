"""Which of several starts is right: does any rule choose better than chance?

Each run solves its samples from B normal starts for k iterations. The rules put their answers together or choose one of
them (`deqrun.analysis.breadth`), all for the same B·k evaluations: rules by residual, which need one evaluation more of
each start, are read one iterate earlier. Chance is the mean start, and some start's being right a bound that no choice
passes. Rules, and whether the best on validation beats the vote, are one family of claims, paired over samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.sweep.breadth import AGGREGATIONS, BY_RESIDUAL
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.studies.choosing import chosen_of, of_the_chosen
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.context import Context
from deqrun.studies.drawn import SPLITS, drawn, gathered
from deqrun.studies.question import Question
from deqrun.studies.wording import among, percents, point_texts, words


@dataclass(frozen=True, eq=False)
class Chosen:
    """Answers that the rules give for one variant, S seeds, on both splits, all for the same evaluations.

    correct  by split and rule, (S, B, n): entry b − 1 of the first b starts
    singles  by split, (S, B, n) each start by itself
    """

    kind: str
    depth: int
    correct: dict[str, dict[str, NDArray[np.bool_]]]
    singles: dict[str, NDArray[np.bool_]]

    def over_chance(self, rule: str, split: str) -> NDArray[np.float64]:
        """(S, n): right by the rule with all starts, less the mean start."""
        return np.asarray(self.correct[split][rule][:, -1].astype(float) - self.singles[split].mean(axis=1))

    @property
    def best(self) -> list[str]:
        """For each seed the rule of highest accuracy on the other seeds' validation."""
        right = self.correct["validation"]
        return chosen_of(AGGREGATIONS, [right[rule][:, -1].mean(axis=1) for rule in AGGREGATIONS])

    @property
    def gain(self) -> Estimate:
        """Of the best rule over chance, on test."""
        return claim(of_the_chosen(self.best, lambda rule: self.over_chance(rule, "test")), DIFFERENCE)

    @property
    def over_vote(self) -> Estimate:
        """Of the best rule over the vote, on test."""
        right = self.correct["test"]
        best = of_the_chosen(self.best, lambda rule: right[rule][:, -1])
        return claim(best.astype(float) - right["vote"][:, -1], DIFFERENCE)

    @property
    def told_of(self) -> str:
        """The rule that most seeds are told by."""
        return max(self.best, key=self.best.count)

    @property
    def room(self) -> Estimate:
        """Share of samples on which a choice matters: some starts are right, and not all."""
        single = self.singles["test"]
        return claim(single.any(axis=1) & ~single.all(axis=1), SHARE)


def answer(context: Context, *, draws: int, iterations: int, samples: int, tol: float) -> Answer:
    """Start every run's samples. draws: starts; iterations: of each; samples: of a split; tol: to stop."""
    depths = (iterations - 1, iterations)
    found = []
    for kind, own in context.by_kind(drawn, depths, draws, samples, tol).items():
        # At equal compute: the residual of an iterate costs as much as the next iterate.
        correct = {
            split: {rule: gathered(own, split, rule)[:, :, 0 if rule in BY_RESIDUAL else 1] for rule in AGGREGATIONS}
            for split in SPLITS
        }
        singles = {split: gathered(own, split, "singles")[:, :, 1] for split in SPLITS}
        found.append(Chosen(kind, iterations, correct, singles))
    return answer_of(found)


def answer_of(found: Sequence[Chosen]) -> Answer:
    """The answer that these starts give."""
    return Answer(
        conclude(found),
        would_change=(
            "A choice matters only where some starts are right and others are not.",
            "A trained halting head, which may know more of an answer than residual and confidence do.",
            "More starts: a vote needs several right ones, a good judge needs one.",
        ),
        figures=_figures(found),
        tables=[_rules_table(found)],
        numbers={
            one.kind: {"best": one.best, "gain": one.gain, "over_vote": one.over_vote, "room": one.room}
            for one in found
        },
    )


def conclude(found: Sequence[Chosen]) -> Conclusion:
    """One family: of every variant the best rule of validation over chance, and over the vote."""
    rules = {one.kind: one.told_of for one in found}
    best = {kind: f"{words(kind)}: {rule}" for kind, rule in rules.items()}
    gains, votes = told_together(
        {one.kind: KeyFigure(f"{best[one.kind]} over the mean start", one.gain, "points") for one in found},
        {one.kind: KeyFigure(f"{best[one.kind]} over the vote", one.over_vote, "points") for one in found},
    )
    rooms = {one.kind: KeyFigure(f"{words(one.kind)}: the start decides", one.room) for one in found}
    ordered = sorted(gains, key=lambda kind: -gains[kind].of.mean)
    key = [figures[kind] for figures in (gains, votes, rooms) for kind in ordered]
    return concluded(_verdict(gains, votes, rules), key)


def _verdict(gains: Figures, votes: Figures, rules: dict[str, str]) -> str:
    if too_few(gains, votes):
        return "Not shown: too few seeds for a verdict about the recipes."
    better, worse, judged = those(gains, Told.ABOVE), those(gains, Told.BELOW), those(votes, Told.ABOVE)
    more = f"; it beats the vote in {among(judged, len(gains))}" if judged else ""
    if better:
        word = "Yes" if len(better) == len(gains) else "It depends"
        beating = {rules[kind] for kind, gain in gains.items() if gain.told is Told.ABOVE}
        rule = beating.pop() if len(beating) == 1 else "a rule"
        return f"{word}: {rule} beats the mean start in {among(better, len(gains))}{more}."
    if len(worse) == len(gains):
        return "No: the rule that validation prefers is worse than the mean start in every variant."
    return "Not shown: no rule is told to beat the mean start."


def _figures(found: Sequence[Chosen]) -> list[Any]:
    """Accuracy by the number of starts, of each rule, for every variant."""
    figures = []
    for number, one in enumerate(found):
        seeds, breadth, n = one.singles["test"].shape
        points = [
            Point.of(rule, float(b), claim(one.correct["test"][rule][:, b - 1], SHARE), f"{one.depth} evaluations each")
            for rule in AGGREGATIONS
            for b in range(1, breadth + 1)
        ]
        points += [
            Point.of("some start", float(b), claim(one.singles["test"][:, :b].any(axis=1), SHARE))
            for b in range(1, breadth + 1)
        ]
        caption = (
            f"{words(one.kind).capitalize()}: {one.depth} evaluations of each start, n = {n:,} test samples in each of "
            f"{seeds} seeds; some start: the bound of every choice; 95 % intervals."
        )
        axes = Axis("starts", log=True), Axis("accuracy", percent=True)
        figures.append(curves(f"rules_{number}", "Accuracy by the rule that chooses", caption, points, *axes))
    return figures


def _rules_table(found: Sequence[Chosen]) -> AnswerTable:
    rows = [(one, rule) for one in found for rule in AGGREGATIONS]
    return AnswerTable(
        "Every rule with all starts, on test, at equal compute",
        [
            Column("model", [words(one.kind) for one, _ in rows], words=True),
            Column("rule", [rule for _, rule in rows], words=True),
            Column("accuracy, %", percents(claim(one.correct["test"][rule][:, -1], SHARE) for one, rule in rows)),
            Column(
                "over the mean start, points",
                point_texts(claim(one.over_chance(rule, "test"), DIFFERENCE) for one, rule in rows),
            ),
            Column("some start right, %", percents(claim(one.singles["test"].any(axis=1), SHARE) for one, _ in rows)),
        ],
        "In brackets 95 % intervals, each by itself: of many rows one in 20 leaves 0 out by chance.",
    )


def _check(ask: Mapping[str, Any]) -> str | None:
    """Several draws of an iteration at least: the fault in words."""
    return None if ask["draws"] > 1 and ask["iterations"] > 0 else "ask.draws above 1 and ask.iterations above 0"


QUESTION = Question("Which of several starts is right?", answer, of_any_run=True, check=_check)
