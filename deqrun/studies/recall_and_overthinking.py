"""What keeps a recurrent network from overthinking: recall of the input, or the progressive loss?

Bansal, Schwarzschild et al. 2022 (arXiv 2202.05826) find that networks without either lose their answer when they
iterate on, and that with both they keep it and reach longer strings. Accuracy of four recipes, with recall or without,
trained with a progressive loss or without, in several seeds, at every iterate up to many times the training depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.datasets import Split
from deqrun.experiment.sweep import trace
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, mean_interval, student_interval
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.report.page_parts import Column
from deqrun.solvers import Budget, Picard
from deqrun.studies.answering.context import Context, StudyRun
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, points

DRAWN = 80
"""Points of a curve at most."""


@dataclass(frozen=True, eq=False)
class Thought:
    """One recipe on strings of one length, in S seeds.

    depth     iterations in training
    right     (S, T+1, n) right answers at each iterate
    """

    kind: str
    recall: bool
    progressive: bool
    length: int
    depth: int
    right: NDArray[np.bool_]

    @property
    def seeds(self) -> int:
        return len(self.right)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(T+1,) over all seeds."""
        return np.asarray(self.right.mean(axis=(0, 2)))

    @property
    def at_depth(self) -> MeanInterval:
        return _share(self.right[:, self.depth])

    @property
    def at_end(self) -> MeanInterval:
        return _share(self.right[:, -1])

    @property
    def best(self) -> float:
        return float(self.accuracy.max())

    @property
    def overthinking(self) -> int:
        """Seeds whose accuracy at the end is below that at the training depth, by the paired interval of each."""
        lost = self.right[:, self.depth].astype(float) - self.right[:, -1]
        return sum(mean_interval(one).low > 0 for one in lost)

    @property
    def words(self) -> str:
        recall = "recall" if self.recall else "no recall"
        return f"{recall} and a progressive loss" if self.progressive else f"{recall} and a plain loss"


def _share(right: NDArray[np.bool_]) -> MeanInterval:
    """Of right (S, n): Wilson's interval over the strings of one seed, Student's over several seeds."""
    if len(right) == 1:
        return accuracy_interval(right[0])
    found = student_interval(right.mean(axis=1))
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


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
            right = np.stack([_unpacked(part) for part in parts])
            recall = settings.model.parameters.get("recall", True) is not False
            progressive = settings.train.progressive_weight > 0
            found.append(Thought(kind, recall, progressive, length, settings.budget.max_iter, right))
        context.progress(
            f"{kind}: {right.shape[1] - 1} iterations on strings of {' and '.join(map(str, lengths))} bits"
        )
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
    factor = (own[0].right.shape[1] - 1) // max(1, own[0].depth)
    return Answer(
        sentences=(_who_overthinks(own, factor), _which(own), _longer(longer, trained)),
        would_change=(
            f"Networks of one width, trained on strings of {trained} bits with {_count(own[0].seeds)} and asked up to "
            f"{factor} times the training depth; the published ones are wider, deeper and trained longer. How a "
            f"network ends hangs on its seed as much as on its recipe, so that a few seeds can mislead. With a norm "
            f"inside of f, as in study=prefix_sums, states are bounded and recall alone may do."
        ),
        figures=_figures(found),
        tables=[_table(found)],
        numbers={f"{one.kind}-{one.length}": {
            "accuracy": one.accuracy, "at_depth": one.at_depth, "at_end": one.at_end,
            "end_by_seed": one.right[:, -1].mean(axis=1), "overthinking": one.overthinking, "seeds": one.seeds,
        } for one in found},
    )  # fmt: skip


def _count(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _who_overthinks(own: Sequence[Thought], factor: int) -> str:
    parts = []
    for one in own:
        of = "" if one.seeds == 1 else f" in {one.overthinking} of {one.seeds} seeds"
        change = f"({numbers.percent(one.at_depth.mean)} to {numbers.percent(one.at_end.mean)})"
        parts.append((one.overthinking, f"{one.words}{of} {change}"))
    falling, keeping = [text for lost, text in parts if lost], [text for lost, text in parts if not lost]
    at = f"at {factor} times the training depth accuracy"
    if not falling:
        return f"None overthinks: {at} is kept with {enumeration(keeping)}."
    if all(one.overthinking == one.seeds for one in own):
        return f"All overthink: {at} falls with {enumeration(falling)}."
    kept = f", and is kept with {enumeration(keeping)}" if keeping else ""
    return f"It depends on {'recipe and seed' if own[0].seeds > 1 else 'the recipe'}: {at} falls with " + (
        f"{enumeration(falling)}{kept}."
    )


def _which(own: Sequence[Thought]) -> str:
    """What recall and the progressive loss are each worth at the end, in the mean over the other."""
    parts = []
    for word, has in (("recall", lambda one: one.recall), ("the progressive loss", lambda one: one.progressive)):
        without, with_ = [one for one in own if not has(one)], [one for one in own if has(one)]
        pairs = [(a, b) for a in without for b in with_ if _differ_only(a, b, word)]
        if pairs:
            gain = np.mean([b.right[:, -1].astype(float) - a.right[:, -1] for a, b in pairs], axis=0)  # (S, n)
            several = len(gain) > 1
            parts.append((word, student_interval(gain.mean(axis=1)) if several else mean_interval(gain[0]), several))
    if not parts:
        return "Which of the two keeps it can't be told from these networks."
    texts = [f"{word} is worth {points(gain, 'seeds' if several else '')}" for word, gain, several in parts]
    best = max(parts, key=lambda part: part[1].mean)
    first = f"{best[0]} does more" if len(parts) > 1 and best[1].low > 0 else "neither is shown to do anything"
    return f"Of the two {first}: of the accuracy at the end {enumeration(texts)}."


def _differ_only(a: Thought, b: Thought, word: str) -> bool:
    same = a.progressive == b.progressive if word == "recall" else a.recall == b.recall
    return same and a.right.shape == b.right.shape


def _longer(longer: Sequence[Thought], trained: int) -> str:
    length = longer[0].length
    if length == trained:
        return "Longer strings were not asked."
    ranked = sorted(longer, key=lambda one: -one.best)
    parts = [f"{one.words} {numbers.percent(one.best)} and {numbers.percent(one.at_end.mean)}" for one in ranked]
    return f"Of strings of {length} bits are right, at the best iterate and at the end: with {'; with '.join(parts)}."


def _figures(found: Sequence[Thought]) -> list[Any]:
    figures = []
    for length in sorted({one.length for one in found}):
        own = [one for one in found if one.length == length]
        drawn = [Point(one.words, float(t), *_bounds(one, int(t))) for one in own for t in _places(one)]
        n, seeds = own[0].right.shape[2], own[0].seeds
        bands = "Wilson's 95 % intervals" if seeds == 1 else f"from the worst to the best of {seeds} seeds"
        caption = f"Strings of {length} bits, n = {n:,} in each network; bands: {bands}."
        rules = [Rule(f"training depth {own[0].depth}", x=float(own[0].depth))]
        axes = Axis("iterate", log=True), Axis("strings right at every position", percent=True, domain=(0.0, 1.0))
        title = f"Accuracy at every iterate, {length} bits"
        figures.append(curves(f"accuracy_{length}", title, caption, drawn, *axes, rules=rules))
    return figures


def _places(one: Thought) -> NDArray[np.float64]:
    return np.unique(np.geomspace(1, one.right.shape[1] - 1, DRAWN).round())


def _bounds(one: Thought, t: int) -> tuple[float, float, float]:
    if one.seeds == 1:
        found = accuracy_interval(one.right[0, t])
        return found.mean, found.low, found.high
    by_seed = one.right[:, t].mean(axis=1)
    return float(by_seed.mean()), float(by_seed.min()), float(by_seed.max())


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
            Column("overthink", [f"{one.overthinking} of {one.seeds}" for one in found]),
            Column("n", [f"{one.right.shape[2]:,}" for one in found]),
        ],
        "Overthink: seeds whose accuracy falls from the training depth to the end, by a paired 95 % interval over "
        "their n strings. In brackets 95 % intervals: Student's over the seeds, or Wilson's where there is one.",
    )


QUESTION = Question("What keeps a recurrent network from overthinking?", answer)
