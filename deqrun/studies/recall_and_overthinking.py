"""What keeps a recurrent network from overthinking: recall of the input, or the progressive loss?

Bansal, Schwarzschild et al. 2022 (arXiv 2202.05826) find that networks without either lose their answer when they
iterate on, and that with both they keep it and reach longer strings. Accuracy of four networks, with recall or without,
trained with a progressive loss or without, at every iterate up to many times the training depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.datasets import Split
from deqrun.experiment.sweep import trace
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, mean_interval
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget, Picard
from deqrun.studies.answering.context import Context, StudyRun
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, points, share

DRAWN = 80
"""Points of a curve at most."""


@dataclass(frozen=True, eq=False)
class Thought:
    """One recipe on strings of one length, its runs pooled.

    depth     iterations in training
    right     (T+1, n) right answers at each iterate
    """

    kind: str
    recall: bool
    progressive: bool
    length: int
    depth: int
    right: NDArray[np.bool_]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        return np.asarray(self.right.mean(axis=1))

    @property
    def at_depth(self) -> MeanInterval:
        return accuracy_interval(self.right[self.depth])

    @property
    def at_end(self) -> MeanInterval:
        return accuracy_interval(self.right[-1])

    @property
    def best(self) -> float:
        return float(self.accuracy.max())

    @property
    def lost(self) -> MeanInterval:
        """Accuracy at the training depth less that at the end, paired."""
        return mean_interval(self.right[self.depth].astype(float) - self.right[-1])

    @property
    def words(self) -> str:
        recall = "recall" if self.recall else "no recall"
        return f"{recall} and a progressive loss" if self.progressive else f"{recall} and a plain loss"


def answer(context: Context, *, beyond: int, lengths: Sequence[int], samples: int) -> Answer:
    """Iterate every network. beyond: times its training depth; lengths: of the strings; samples: of each length."""
    found = []
    for kind in context.kinds:
        runs = context.of_kind(kind)
        for length in lengths:
            parts = [
                context.once(f"{run.label}-{length}", partial(_measured, run, length, beyond, samples)) for run in runs
            ]
            settings = runs[0].settings
            right = np.concatenate([_unpacked(part) for part in parts], axis=1)
            recall = settings.model.parameters.get("recall", True) is not False
            progressive = settings.train.progressive_weight > 0
            found.append(Thought(kind, recall, progressive, length, settings.budget.max_iter, right))
        context.progress(f"{kind}: {len(right) - 1} iterations on strings of {' and '.join(map(str, lengths))} bits")
    return answer_of(found)


def _measured(run: StudyRun, length: int, beyond: int, samples: int) -> dict[str, Any]:
    deq, dataset = run.model(length=length)
    budget = Budget(max_iter=beyond * run.settings.budget.max_iter, tol=0.0)
    data = dataset.load("test")
    some = Split(data.inputs[:samples], data.targets[:samples])  # generated in random order
    found = trace(deq, dataset, some, Picard(), budget, run.settings.sweep.batch_size)
    return {"iterates": len(found.correct), "right": np.packbits(found.correct, axis=0).tolist()}


def _unpacked(part: dict[str, Any]) -> NDArray[np.bool_]:
    return np.unpackbits(np.asarray(part["right"], dtype=np.uint8), axis=0, count=part["iterates"]).astype(bool)


def answer_of(found: Sequence[Thought]) -> Answer:
    """The answer that these networks give; the first length is that of training."""
    trained = min(one.length for one in found)
    own = [one for one in found if one.length == trained]
    longer = [one for one in found if one.length == max(other.length for other in found)]
    factor = (len(own[0].right) - 1) // max(1, own[0].depth)
    return Answer(
        sentences=(_who_overthinks(own, factor), _which(own), _longer(longer, trained)),
        would_change=(
            f"Networks of one width, trained on strings of {trained} bits with one seed for each of "
            f"{own[0].right.shape[1]:,} answers or several pooled, asked up to {factor} times the training depth; the "
            f"published ones are wider, deeper and trained longer. With a norm inside of f, as in study=prefix_sums, "
            f"states are bounded and recall alone may do."
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={f"{one.kind}-{one.length}": {
            "accuracy": one.accuracy, "at_depth": one.at_depth, "at_end": one.at_end, "lost": one.lost,
        } for one in found},
    )  # fmt: skip


def _who_overthinks(own: Sequence[Thought], factor: int) -> str:
    losing, keeping = [one for one in own if one.lost.low > 0], [one for one in own if one.lost.low <= 0]

    def named(group: Sequence[Thought]) -> str:
        return enumeration([f"{one.words} ({numbers.percent(one.at_depth.mean)} to {numbers.percent(one.at_end.mean)})"
                            for one in group])  # fmt: skip

    if not losing:
        return f"None overthinks: at {factor} times the training depth accuracy is kept with {named(keeping)}."
    if not keeping:
        return f"All overthink: at {factor} times the training depth accuracy falls with {named(losing)}."
    return (
        f"At {factor} times the training depth accuracy falls with {named(losing)}, and is kept with {named(keeping)}."
    )


def _which(own: Sequence[Thought]) -> str:
    """What recall and the progressive loss each save of the loss, by the mean over the other."""
    parts = []
    for word, has in (("recall", lambda one: one.recall), ("the progressive loss", lambda one: one.progressive)):
        without, with_ = [one for one in own if not has(one)], [one for one in own if has(one)]
        if not without or not with_:
            continue
        pairs = [(a, b) for a in without for b in with_ if _differ_only(a, b, word)]
        if not pairs:
            continue
        kept = np.concatenate([b.right[-1].astype(float) - a.right[-1] for a, b in pairs])
        parts.append((word, mean_interval(kept)))
    if not parts:
        return "Which of the two keeps it can't be told from these networks."
    texts = [f"{word} is worth {points(kept)}" for word, kept in parts]
    best = max(parts, key=lambda part: part[1].mean)
    first = f"{best[0]} does more" if len(parts) > 1 and best[1].low > 0 else "neither is shown to do more"
    return f"Of the two {first}: of the accuracy at the end {enumeration(texts)}."


def _differ_only(a: Thought, b: Thought, word: str) -> bool:
    same = a.progressive == b.progressive if word == "recall" else a.recall == b.recall
    return same and a.right.shape == b.right.shape


def _longer(longer: Sequence[Thought], trained: int) -> str:
    length = longer[0].length
    if length == trained:
        return "Longer strings were not asked."
    best = max(longer, key=lambda one: one.at_end.mean)
    parts = [f"{one.words} {numbers.percent(one.at_end.mean)}" for one in longer if one is not best]
    others = f", against {enumeration(parts)}" if parts else ""
    return f"On strings of {length} bits {best.words} ends at {share(best.at_end)}{others}."


def _figures(found: Sequence[Thought]) -> list[Any]:
    figures = []
    for length in sorted({one.length for one in found}):
        own = [one for one in found if one.length == length]
        drawn = [Point(one.words, float(t), *_bounds(one, int(t))) for one in own for t in _places(one)]
        caption = f"Strings of {length} bits, n = {own[0].right.shape[1]:,}; bands: Wilson's 95 % intervals."
        rules = [Rule(f"training depth {own[0].depth}", x=float(own[0].depth))]
        axes = Axis("iterate", log=True), Axis("strings right at every position", percent=True, domain=(0.0, 1.0))
        title = f"Accuracy at every iterate, {length} bits"
        figures.append(curves(f"accuracy_{length}", title, caption, drawn, *axes, rules=rules))
    return figures


def _places(one: Thought) -> NDArray[np.float64]:
    return np.unique(np.geomspace(1, len(one.right) - 1, DRAWN).round())


def _bounds(one: Thought, t: int) -> tuple[float, float, float]:
    found = accuracy_interval(one.right[t])
    return found.mean, found.low, found.high


def _table(found: Sequence[Thought]) -> AnswerTable:
    def interval(value: MeanInterval) -> str:
        return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"

    return AnswerTable(
        "Accuracy at the training depth and beyond",
        [
            Column("network", [one.words for one in found], words=True),
            Column("bits", [f"{one.length}" for one in found]),
            Column("at training depth, %", [interval(one.at_depth) for one in found]),
            Column("highest, %", [f"{100 * one.best:.1f}" for one in found]),
            Column("at the end, %", [interval(one.at_end) for one in found]),
            Column("lost, points", [interval(one.lost) for one in found]),
            Column("n", [f"{one.right.shape[1]:,}" for one in found]),
        ],
        "Lost: from the training depth to the end, paired. In brackets 95 % intervals over the strings.",
    )


QUESTION = Question("What keeps a recurrent network from overthinking?", answer)
