"""What keeps a recurrent network from overthinking: recall of the input, or the progressive loss?

Bansal, Schwarzschild et al. 2022 (arXiv 2202.05826) find that networks without either lose their answer when they
iterate on, and that with both they keep it and reach longer strings. Accuracy of four recipes, with recall or without,
trained with a progressive loss or without, in several seeds, at every iterate up to many times the training depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.sweep.trace import trace
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, claim
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Rule, curves
from deqrun.solvers import Budget, Picard
from deqrun.studies.choosing import of_the_chosen
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.context import Context, StudyRun, columns, first_of
from deqrun.studies.courses import bands, course_points, courses, packed_course
from deqrun.studies.question import Question
from deqrun.studies.wording import enumeration, percents, point_texts

ALONE = "recall alone over the progressive loss alone"
"""The claim that compares the two effects."""


@dataclass(frozen=True, eq=False)
class Thought:
    """One recipe on strings of one length, in S seeds.

    depth  iterations in training
    best   (S,) the iterate that is best on validation
    right  (S, T+1, n) right answers on test at each iterate
    """

    kind: str
    recall: bool
    progressive: bool
    length: int
    depth: int
    best: NDArray[np.int64]
    right: NDArray[np.bool_]

    def at(self, t: int) -> Estimate:
        return claim(self.right[:, t], SHARE)

    @property
    def at_best(self) -> Estimate:
        """Accuracy at the iterate that each seed's validation chose."""
        return claim(of_the_chosen(self.best, lambda best: self.right[:, best]), SHARE)

    @property
    def lost(self) -> Estimate:
        """Accuracy at the training depth less accuracy at the end, paired."""
        return claim(self.right[:, self.depth].astype(float) - self.right[:, -1], DIFFERENCE)

    @property
    def words(self) -> str:
        loss = "progressive loss" if self.progressive else "plain loss"
        return f"{'recall' if self.recall else 'no recall'}, {loss}"


def answer(context: Context, *, beyond: int, lengths: Sequence[int], samples: int) -> Answer:
    """Iterate every network. beyond: times its training depth; lengths: of the strings; samples: of each length."""
    parts = context.each(
        {
            f"{run.label}-{length}": partial(_measured, run, length, beyond, samples)
            for run in context.runs
            for length in lengths
        }
    )
    found = []
    for kind in context.kinds:
        runs = context.of_kind(kind)
        settings = runs[0].settings
        recall = settings.model.parameters.get("recall", True) is not False
        progressive = settings.train.progressive_weight > 0
        for length in lengths:
            own = [parts[f"{run.label}-{length}"] for run in runs]
            (best,) = columns(own, "best")
            found.append(Thought(kind, recall, progressive, length, settings.budget.max_iter, best, courses(own)))
    return answer_of(found)


def _measured(run: StudyRun, length: int, beyond: int, samples: int) -> dict[str, Any]:
    deq, dataset = run.model(length=length)
    budget = Budget(max_iter=beyond * run.settings.budget.max_iter, tol=0.0)
    right = {}
    for split in ("validation", "test"):
        some = first_of(dataset.load(split), samples)
        right[split] = trace(deq, dataset, some, Picard(), budget, run.settings.sweep.batch_size).correct
    return {"best": int(right["validation"].mean(axis=1).argmax()), **packed_course(right["test"])}


def answer_of(found: Sequence[Thought]) -> Answer:
    """The answer that these networks give; the shortest length is the training's."""
    shortest = min(one.length for one in found)
    own = [one for one in found if one.length == shortest]
    factor = (own[0].right.shape[1] - 1) // max(1, own[0].depth)
    return Answer(
        conclude(found),
        would_change=(
            "Width and length of training: the published networks have 400 channels and 150 epochs (recall_protocol).",
            f"More seeds: how a network ends, {factor} times its training depth on, hangs on its seed, too.",
            "A norm inside of f, as in study=prefix_sums: states are then bounded, and recall alone may do.",
            "Equal parameters: recall adds the weights that read the input again.",
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={
            f"{one.kind}-{one.length}": {
                "accuracy": one.right.mean(axis=(0, 2)),
                "at_depth": one.at(one.depth),
                "at_best": one.at_best,
                "at_end": one.at(-1),
                "end_by_seed": one.right[:, -1].mean(axis=1),
                "lost": one.lost,
            }
            for one in found
        },
    )


def effects(own: Sequence[Thought]) -> dict[str, Estimate]:
    """The effects of recall and of the progressive loss at the end, in the mean over the other, and the larger one."""
    gains = {}
    for word, has in (("recall", lambda one: one.recall), ("progressive loss", lambda one: one.progressive)):
        pairs = [(a, b) for a in own for b in own if has(b) and not has(a) and _differ_only(a, b, word)]
        if pairs:
            gains[word] = np.mean([b.right[:, -1].astype(float) - a.right[:, -1] for a, b in pairs], axis=0)  # (S, n)
    found = {word: claim(gain, DIFFERENCE) for word, gain in gains.items()}
    if len(gains) == 2:
        # The two differ by (recall alone) less (progressive loss alone): all that they share cancels.
        found[ALONE] = claim(gains["recall"] - gains["progressive loss"], DIFFERENCE)
    return found


def _differ_only(a: Thought, b: Thought, word: str) -> bool:
    same = a.progressive == b.progressive if word == "recall" else a.recall == b.recall
    return same and a.right.shape == b.right.shape


def conclude(found: Sequence[Thought]) -> Conclusion:
    """One family: each recipe's loss by going on, both effects, and their difference, at the training length."""
    trained = min(one.length for one in found)
    own = [one for one in found if one.length == trained]
    lost, worth = told_together(
        {one.words: KeyFigure(f"{one.words}: lost by going on", one.lost, "points") for one in own},
        {
            word: KeyFigure(word if word == ALONE else f"worth of {word} at the end", one, "points")
            for word, one in effects(own).items()
        },
    )
    ordered = sorted(lost.values(), key=lambda figure: -figure.of.mean)
    return concluded(_verdict(lost, worth), [*worth.values(), *ordered])


def _verdict(lost: Figures, worth: Figures) -> str:
    if too_few(lost, worth):
        return "Not shown: too few seeds for a verdict about the recipes."
    alone = {word: figure for word, figure in worth.items() if word != ALONE}
    helps, harms = those(alone, Told.ABOVE), those(alone, Told.BELOW)
    overthink = f"{len(those(lost, Told.ABOVE))} of {len(lost)} recipes are told to overthink"
    if harms:
        return f"{enumeration(harms).capitalize()} harms accuracy at the end; {overthink}."
    if not helps:
        return f"Not shown: neither recall nor the progressive loss is told to help at the end; {overthink}."
    which = enumeration(helps).capitalize()
    more = {Told.ABOVE: ", recall more than the loss", Told.BELOW: ", the loss more than recall"}
    compared = more.get(worth[ALONE].told or Told.NOT, "") if ALONE in worth else ""
    return f"{which} {'keeps' if len(helps) == 1 else 'keep'} accuracy at the end{compared}; {overthink}."


def _figures(found: Sequence[Thought]) -> list[Any]:
    figures = []
    for length in sorted({one.length for one in found}):
        own = [one for one in found if one.length == length]
        drawn = [point for one in own for point in course_points(one.words, one.right)]
        seeds, _, n = own[0].right.shape
        caption = f"Strings of {length} bits, n = {n:,} in each network; mean, and bands {bands(seeds)}."
        rules = [Rule(f"training depth {own[0].depth}", x=float(own[0].depth))]
        axes = Axis("iterate", log=True), Axis("strings right at every position", percent=True, domain=(0.0, 1.0))
        title = f"Accuracy at every iterate, {length} bits"
        figures.append(curves(f"accuracy_{length}", title, caption, drawn, *axes, rules=rules))
    return figures


def _table(found: Sequence[Thought]) -> AnswerTable:
    return AnswerTable(
        "Accuracy at the training depth and beyond",
        [
            Column("network", [one.words for one in found], words=True),
            Column("bits", [f"{one.length}" for one in found]),
            Column("at training depth, %", percents(one.at(one.depth) for one in found)),
            Column("at the best iterate, %", percents(one.at_best for one in found)),
            Column("at the end, %", percents(one.at(-1) for one in found)),
            Column("lost from depth to end, points", point_texts(one.lost for one in found)),
            Column("n", [f"{one.right.shape[2]:,}" for one in found]),
        ],
        "The best iterate is chosen on validation, in each seed by itself. In brackets 95 % intervals.",
    )


QUESTION = Question("What keeps a recurrent network from overthinking?", answer)
