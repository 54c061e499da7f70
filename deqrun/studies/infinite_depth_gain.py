"""What does infinite depth gain over a finite one?

A DEQ beside its explicit peers (`deqrun train peer=…`): the same cell applied a fixed number of times and trained
through it, and untied layers narrowed to the DEQ's number of parameters. All answer the same test samples, so that
differences are paired; compute is multiply-adds per answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.experiment.evaluate import evaluate
from deqrun.models import describe
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable
from deqrun.report.bootstrap import MeanInterval, accuracy_interval, mean_interval
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.report.page_parts import Column
from deqrun.studies.answering.context import Context, StudyRun
from deqrun.studies.answering.question import Question
from deqrun.studies.answering.wording import enumeration, points, share

FAMILIES = {"none": "DEQ", "tied": "tied", "untied": "untied, as many parameters"}


@dataclass(frozen=True, eq=False)
class Net:
    """One kind of net, its runs pooled.

    family         none (the DEQ), tied or untied
    layers         of an explicit net; the mean evaluations of the DEQ
    multiply_adds  per answer
    right          (n,) right answers on test
    """

    kind: str
    family: str
    layers: float
    parameters: int
    multiply_adds: float
    right: NDArray[np.bool_]
    runs: int = 1

    @property
    def accuracy(self) -> MeanInterval:
        return accuracy_interval(self.right, self.runs)

    @property
    def name(self) -> str:
        return "the DEQ" if self.family == "none" else f"{self.layers:.0f} {self.family} layers"


def answer(context: Context) -> Answer:
    """Evaluate every run on the test split."""
    found = []
    for kind in context.kinds:
        runs = context.of_kind(kind)
        parts = [context.once(run.label, partial(_measured, run)) for run in runs]
        found.append(_pooled(kind, runs[0], parts))
        context.progress(f"{kind}: {numbers.percent(found[-1].accuracy.mean)}")
    return answer_of(found)


def _measured(run: StudyRun) -> dict[str, Any]:
    deq, dataset = run.model()
    batch = run.settings.train.eval_batch_size
    found = evaluate(deq, dataset, dataset.load("test"), batch, run.device)
    described = describe(deq.cell)
    layers = run.settings.peer.layers
    spent = float(found.nfe.double().mean()) if layers is None else float(layers)  # the residual is no part of a peer
    return {
        "layers": spent, "parameters": described.parameters, "multiply_adds": described.answer_multiply_adds(spent),
        "right": found.correct.tolist(),
    }  # fmt: skip


def _pooled(kind: str, run: StudyRun, parts: Sequence[dict[str, Any]]) -> Net:
    right = np.concatenate([part["right"] for part in parts]).astype(bool)
    layers, cost = (float(np.mean([part[name] for part in parts])) for name in ("layers", "multiply_adds"))
    return Net(kind, run.settings.peer.kind, layers, int(parts[0]["parameters"]), cost, right, len(parts))


def answer_of(found: Sequence[Net]) -> Answer:
    """The answer that these nets give; one of them is the DEQ."""
    deq = next(net for net in found if net.family == "none")
    return Answer(
        sentences=(_against(deq, found, "tied"), _against(deq, found, "untied"), _compute(deq, found)),
        would_change=(
            f"One cell on one data set with n = {len(deq.right):,} answers, where differences of less than about a "
            f"point are not told from none, and one length of training for all. The best net of a family is that on "
            f"these very answers, and its lead so a little too large. A task that needs more steps than the "
            f"shallower nets have would set them farther apart; multiply-adds of training are not compared."
        ),
        figures=_figures(found, deq),
        tables=[_table(found, deq)],
        numbers={net.kind: {
            "family": net.family, "layers": net.layers, "parameters": net.parameters, "accuracy": net.accuracy,
            "multiply_adds": net.multiply_adds, "deq_gains": _gain(deq, net),
        } for net in found},
    )  # fmt: skip


def _gain(deq: Net, net: Net) -> MeanInterval:
    """The DEQ's accuracy less the net's, paired over samples and seeds."""
    return mean_interval(deq.right.astype(float) - net.right, runs=deq.runs)


def _against(deq: Net, found: Sequence[Net], family: str) -> str:
    nets = [net for net in found if net.family == family]
    if not nets:
        return f"No {family} net was trained."
    best = max(nets, key=lambda net: net.accuracy.mean)
    gain = _gain(deq, best)
    verdict = "is better than" if gain.low > 0 else "is worse than" if gain.high < 0 else "is not told apart from"
    behind = [net.name for net in nets if _gain(deq, net).low > 0]
    more = f"; it is better than {enumeration(behind)}" if behind and gain.low <= 0 else ""
    return (
        f"With {share(deq.accuracy)} right the DEQ {verdict} the best {family} net, {best.name}: {points(gain)}{more}."
    )


def _compute(deq: Net, found: Sequence[Net]) -> str:
    """The cheapest net that the DEQ is not shown to beat, and what it costs beside the DEQ."""
    equal = [net for net in found if net.family != "none" and _gain(deq, net).low <= 0]
    if not equal:
        return "No explicit net comes up to it at any cost."
    cheapest = min(equal, key=lambda net: net.multiply_adds)
    ratio = deq.multiply_adds / cheapest.multiply_adds
    return (
        f"The cheapest that it is not shown to beat, {cheapest.name} with {numbers.percent(cheapest.accuracy.mean)}, "
        f"answers with {numbers.short_count(cheapest.multiply_adds)} multiply-adds, the DEQ with {ratio:.1f} times "
        f"as many, "
        f"in {deq.layers:.1f} evaluations."
    )


def _figures(found: Sequence[Net], deq: Net) -> list[Any]:
    depth, cost = [], []
    for net in sorted(found, key=lambda net: net.layers):
        one = (net.accuracy.mean, net.accuracy.low, net.accuracy.high)
        cost.append(Point(FAMILIES[net.family], net.multiply_adds, *one, note=net.name))
        depth.append(Point(FAMILIES[net.family], net.layers, *one, note=net.name))
    caption = f"Test samples, n = {len(deq.right):,}; bands and bars: 95 % intervals."
    y, rules = Axis("accuracy", percent=True), [Rule("the DEQ", y=deq.accuracy.mean)]
    return [
        curves("accuracy_depth", "Accuracy against depth", f"{caption} Of the DEQ: its mean evaluations.", depth,
               Axis("layers, or evaluations", log=True), y, rules=rules),
        curves("accuracy_compute", "Accuracy against compute", caption, cost,
               Axis("multiply-adds of an answer", log=True), y, rules=rules),
    ]  # fmt: skip


def _table(found: Sequence[Net], deq: Net) -> AnswerTable:
    gains = [_gain(deq, net) for net in found]
    shares = [net.accuracy for net in found]
    return AnswerTable(
        "The DEQ and its peers",
        [
            Column("net", [net.name for net in found], words=True),
            Column("accuracy, %", [f"{100 * s.mean:.1f} [{100 * s.low:.1f}, {100 * s.high:.1f}]" for s in shares]),
            Column("DEQ gains, points", [f"{100 * g.mean:.1f} [{100 * g.low:.1f}, {100 * g.high:.1f}]" for g in gains]),
            Column("parameters", [f"{net.parameters:,}" for net in found]),
            Column("multiply-adds", [numbers.short_count(net.multiply_adds) for net in found]),
            Column("n", [f"{len(net.right):,}" for net in found]),
        ],
        "Gains are paired over the samples. In brackets 95 % intervals.",
    )


QUESTION = Question("What does infinite depth gain over a finite one?", answer)
