"""Does perplexity go on falling with more loops than in training, stay, or rise?

A looped language model answers after any number of loops. Models trained at a random depth are asked beside models
trained at a fixed one, from one loop to many times the training depth. The loss is in nats per token, the mean over
the positions of a window, and its exponential is the perplexity. Parcae (arXiv 2604.12946) describes the loss against
loops T by L(T) = L∞ + a exp(−T / τ); the fit is shown with its error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from deqrun.experiment.sweep.trace import trace_parts
from deqrun.inference import Estimate, Told, claim
from deqrun.records.trajectory import joined
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.solvers import Budget, Picard
from deqrun.studies.concluding import concluded, told_together
from deqrun.studies.context import Context, StudyRun, columns, some_of
from deqrun.studies.question import Question
from deqrun.studies.wording import amounts, enumeration, words

FLAT = 0.05
"""Nats, 5 % of perplexity: perplexity stays where the whole interval of its change lies within ± so much.

By each 95 % interval itself, which says so wrongly once in 40 times at most: of two variants, once in 20.
"""


@dataclass(frozen=True, eq=False)
class Looped:
    """One recipe, S seeds asked the same n windows of text.

    depth  loops in training (the mean, of a random depth)
    loops  (L,) ascending
    best   (S,) places in `loops` of the lowest loss on validation
    loss   (S, L, n) nats per token on test
    """

    kind: str
    depth: int
    loops: tuple[int, ...]
    best: NDArray[np.int64]
    loss: NDArray[np.float64]

    @property
    def trained(self) -> int:
        """Place of the most loops that training's depth allows."""
        return max(place for place, loops in enumerate(self.loops) if loops <= self.depth or place == 0)

    def at(self, place: int) -> Estimate:
        """Loss after loops[place]."""
        return claim(self.loss[:, place])

    @property
    def beyond(self) -> NDArray[np.float64]:
        """(S, n) loss after the most loops less the loss at the training depth."""
        return self.loss[:, -1] - self.loss[:, self.trained]

    @property
    def mean(self) -> NDArray[np.float64]:
        """(L,) over seeds and windows."""
        curve: NDArray[np.float64] = self.loss.mean(axis=(0, 2))
        return curve


@dataclass(frozen=True)
class Fit:
    """L(T) = floor + gain · exp(−T / rate), and its errors: the root mean square and the largest, in nats."""

    floor: float
    gain: float
    rate: float
    error: float
    largest: float


def answer(context: Context, *, loops: Sequence[int], samples: int) -> Answer:
    """Ask every model. loops: numbers of iterations, ascending; samples: windows of the test split."""
    found = []
    for kind, own in context.by_kind(_measured, loops, samples).items():
        best, loss = columns(own, "best", "loss")
        found.append(Looped(kind, _depth(context.of_kind(kind)[0]), tuple(loops), best, loss))
    return answer_of(found)


def _depth(run: StudyRun) -> int:
    """Iterations of training; the mean of a random depth, before it is cut to its range."""
    train = run.settings.train
    if train.random_budget is None:
        return run.settings.solve_iterations
    return round(train.random_budget_mean or sum(train.random_budget) / 2)


def _measured(run: StudyRun, loops: Sequence[int], samples: int) -> dict[str, Any]:
    deq, dataset = run.model()
    budget = Budget(max_iter=max(loops), tol=0.0, keep="last")
    found = {}
    for split in ("validation", "test"):
        some = some_of(dataset.load(split), samples)
        parts = trace_parts(deq, dataset, some, Picard(), budget, run.settings.sweep.batch_size, loss=True)
        trajectory = joined([part for part, _ in parts])
        assert trajectory.loss is not None
        # Logits that are not finite say nothing: they count as a uniform guess.
        found[split] = np.nan_to_num(trajectory.loss[list(loops)], nan=math.log(dataset.num_classes))
    return {"best": int(found["validation"].mean(axis=1).argmin()), "loss": found["test"].tolist()}


def fitted(loops: Sequence[int], loss: NDArray[np.float64]) -> Fit:
    """The saturating exponential of least squares, its rate between a tenth and ten times the range of loops."""
    t, low, high = np.asarray(loops, dtype=np.float64), float(loss.min()), float(loss[0])

    def gaps(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        floor, gain, log_rate = parameters
        return np.asarray(floor + gain * np.exp(-t / np.exp(log_rate)) - loss)

    bounds = [-np.inf, -np.inf, math.log(0.1)], [np.inf, np.inf, math.log(10 * float(t.max()))]
    tried = [
        least_squares(gaps, [low, high - low, math.log(rate)], bounds=bounds)
        for rate in np.geomspace(0.5, float(t.max()), 6)
    ]
    best = min(tried, key=lambda one: one.cost)
    errors = np.abs(best.fun)
    floor, gain, log_rate = map(float, best.x)
    return Fit(floor, gain, math.exp(log_rate), float(np.sqrt(np.mean(errors**2))), float(errors.max()))


def answer_of(found: Sequence[Looped]) -> Answer:
    """The answer that these models give."""
    fits = {one.kind: fitted(one.loops, one.mean) for one in found}
    return Answer(
        conclude(found),
        would_change=(
            f"Another bound than {FLAT:g} nats, 5 % of perplexity, within which perplexity is said to stay.",
            "A larger model and more text: these are small, and trained for minutes.",
            "Windows of one text are alike; another text may end otherwise.",
            "A fixed number of loops in training that is larger, or a wider range of random ones.",
        ),
        figures=[_figure(found)],
        tables=[_table(found), _fits(fits)],
        numbers={
            one.kind: {
                "loops": list(one.loops),
                "loss": one.mean,
                "beyond": claim(one.beyond),
                "best_loops": [one.loops[place] for place in one.best],
                "fit": fits[one.kind],
            }
            for one in found
        },
    )


def conclude(found: Sequence[Looped]) -> Conclusion:
    """One family: each recipe's change beyond its depth, and the difference of the first two recipes."""
    changes, losses, compared = {}, [], {}
    for one in found:
        trained = one.loops[one.trained]
        change = f"{words(one.kind)}: change of the loss from {trained} to {one.loops[-1]} loops"
        changes[one.kind] = KeyFigure(change, claim(one.beyond), "number", "nats")
        loss = f"{words(one.kind)}: loss after {trained} loops"
        losses.append(KeyFigure(loss, one.at(one.trained), "number", "nats"))
    if len(found) == 2 and found[0].beyond.shape == found[1].beyond.shape:
        what = f"{words(found[1].kind)} less {words(found[0].kind)}: that change"
        compared[what] = KeyFigure(what, claim(found[1].beyond - found[0].beyond), "number", "nats")
    changes, compared = told_together(changes, compared)
    outcomes = {kind: _outcome(change) for kind, change in changes.items()}
    return concluded(_verdict(outcomes), [*changes.values(), *compared.values(), *losses])


def _outcome(change: KeyFigure) -> str:
    if change.of.low >= -FLAT and change.of.high <= FLAT:
        return "stays" if change.of.decides else "few"
    return {Told.ABOVE: "rises", Told.BELOW: "falls", Told.TOO_FEW: "few"}.get(change.told or Told.NOT, "open")


def _verdict(outcomes: dict[str, str]) -> str:
    if "few" in outcomes.values():
        return "Not shown: too few seeds for a verdict about the recipes."
    kinds = {
        outcome: [words(kind) for kind, own in outcomes.items() if own == outcome]
        for outcome in ("falls", "stays", "rises", "open")
    }
    told = {outcome: names for outcome, names in kinds.items() if names}
    if list(told) == ["open"]:
        return "Not shown: perplexity beyond the training depth is told to move in no variant, nor to stay."
    if len(told) == 1:
        (outcome,) = told
        start = {
            "falls": "Yes: perplexity falls",
            "stays": "No: perplexity stays within 5 %",
            "rises": "No: perplexity rises",
        }
        where = "in every variant" if len(outcomes) > 1 else "in this model"
        return f"{start[outcome]} beyond the training depth {where}."
    if set(told) == {"stays", "open"}:
        stays, rest = (enumeration(told[outcome]) for outcome in ("stays", "open"))
        return f"Not shown: perplexity stays within 5 % beyond the training depth for {stays}; {rest} is not told."
    verbs = {"falls": "falls", "stays": "stays within 5 %", "rises": "rises"}
    said = [f"{verb} for {enumeration(told[outcome])}" for outcome, verb in verbs.items() if outcome in told]
    rest = f"; {enumeration(told['open'])} is not told" if "open" in told else ""
    return f"It depends on the training: beyond its depth perplexity {enumeration(said)}{rest}."


def _figure(found: Sequence[Looped]) -> Any:
    drawn = [
        Point(words(one.kind), float(loops), one.mean[place], *_ends(one.at(place)), note=_perplexity(one.mean[place]))
        for one in found
        for place, loops in enumerate(one.loops)
    ]
    rules = [Rule(f"depth {depth}", x=float(depth)) for depth in sorted({one.depth for one in found})]
    seeds, _, n = found[0].loss.shape
    caption = f"{seeds} seed{'s' * (seeds > 1)}, n = {n:,} windows; loss in nats per token, bands 95 % intervals."
    axes = Axis("loops at test time", log=True), Axis("test loss (nats per token)")
    return curves("loss_loops", "Loss against loops", caption, drawn, *axes, rules=rules)


def _ends(one: Estimate) -> tuple[float, float]:
    return one.low, one.high


def _perplexity(loss: float) -> str:
    return f"perplexity {numbers.significant(math.exp(loss))}"


def _table(found: Sequence[Looped]) -> AnswerTable:
    rows = [(one, place) for one in found for place in range(len(one.loops))]
    losses = [one.at(place) for one, place in rows]
    return AnswerTable(
        "Loss and perplexity at every number of loops",
        [
            Column("variant", [words(one.kind) for one, _ in rows], words=True),
            Column("loops", [f"{one.loops[place]:,}" for one, place in rows]),
            Column("loss, nats per token", amounts(losses)),
            Column("perplexity", [numbers.significant(math.exp(loss.mean)) for loss in losses]),
            Column("seeds with their best here", [f"{int((one.best == place).sum())}" for one, place in rows]),
        ],
        "In brackets 95 % intervals. The best number of loops is chosen on validation, in each seed by itself.",
    )


def _fits(fits: dict[str, Fit]) -> AnswerTable:
    cut = numbers.significant
    return AnswerTable(
        "The saturating exponential L(T) = L∞ + a exp(−T / τ)",
        [
            Column("variant", [words(kind) for kind in fits], words=True),
            Column("L∞, nats", [cut(fit.floor) for fit in fits.values()]),
            Column("a, nats", [cut(fit.gain) for fit in fits.values()]),
            Column("τ, loops", [cut(fit.rate) for fit in fits.values()]),
            Column("root mean square error", [cut(fit.error) for fit in fits.values()]),
            Column("largest error", [cut(fit.largest) for fit in fits.values()]),
        ],
        "Fitted by least squares to the mean over seeds and windows. It falls throughout: where loss rises again, its "
        "error says so.",
    )


QUESTION = Question("Does perplexity fall with more loops than in training?", answer, of_any_run=True)
