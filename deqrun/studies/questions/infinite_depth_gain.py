"""What does infinite depth gain over a finite one?

A DEQ beside its explicit baselines (`deqrun train baseline=…`): the same cell applied a fixed number of times and
trained through it, and untied layers narrowed to the DEQ's number of parameters. All are trained alike, without a
Jacobian penalty, and answer the same test samples, so differences are paired. The depth of each family is chosen on
validation, for each seed on the other seeds. Compute is multiply-adds per answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.errors import UserError
from deqrun.experiment.evaluate import evaluate
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, Unit, claim, told_by_name
from deqrun.models import describe
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.report.page_parts import Column
from deqrun.studies.choosing import chosen_without
from deqrun.studies.confounders import confounders
from deqrun.studies.context import Context, StudyRun
from deqrun.studies.question import Question
from deqrun.studies.wording import enumeration, percents, point_texts

FAMILIES = {"none": "DEQ", "tied": "tied", "untied": "untied, as many parameters"}


@dataclass(frozen=True, eq=False)
class Net:
    """One kind of net, S seeds.

    family         none (the DEQ), tied or untied
    layers         of an explicit net; the mean evaluations of the DEQ
    multiply_adds  per answer
    validation     (S,) accuracy on validation
    right          (S, n) right answers on test
    """

    kind: str
    family: str
    layers: float
    parameters: int
    multiply_adds: float
    validation: NDArray[np.float64]
    right: NDArray[np.bool_]

    @property
    def accuracy(self) -> Estimate:
        return claim(self.right, SHARE)

    @property
    def name(self) -> str:
        return "the DEQ" if self.family == "none" else f"{self.layers:.0f} {self.family} layers"


def answer(context: Context) -> Answer:
    """Evaluate every run on the test split."""
    parts = context.each({run.label: partial(_measured, run) for run in context.runs})
    found = []
    for kind in context.kinds:
        runs = context.of_kind(kind)
        found.append(_of_seeds(kind, runs[0], [parts[run.label] for run in runs]))
    return answer_of(found, confounders(context.runs, apart_from=("baseline", "budget")))


def _measured(run: StudyRun) -> dict[str, Any]:
    deq, dataset = run.model()
    batch = run.settings.train.eval_batch_size
    validation, test = (
        evaluate(deq, dataset, dataset.load(split), batch, run.device) for split in ("validation", "test")
    )
    described = describe(deq.cell)
    layers = run.settings.baseline.layers
    spent = (
        float(test.nfe.double().mean()) if layers is None else float(layers)
    )  # the residual is no part of a baseline
    return {
        "layers": spent,
        "parameters": described.parameters,
        "multiply_adds": described.answer_multiply_adds(spent),
        "validation": validation.accuracy,
        "right": test.correct.tolist(),
    }


def _of_seeds(kind: str, run: StudyRun, parts: Sequence[dict[str, Any]]) -> Net:
    layers, cost = (float(np.mean([part[name] for part in parts])) for name in ("layers", "multiply_adds"))
    validation, right = (np.array([part[name] for part in parts]) for name in ("validation", "right"))
    return Net(kind, run.settings.baseline.kind, layers, int(parts[0]["parameters"]), cost, validation, right)


def answer_of(found: Sequence[Net], confounded: Sequence[str] = ()) -> Answer:
    """The answer that these nets give; one of them is the DEQ. confounded: settings that differ among them, too."""
    deq = _deq(found)
    return Answer(
        conclude(found, confounded),
        would_change=(
            "A task that needs more steps than the shallower nets have would set them farther apart.",
            "Longer training: each net had the same few epochs.",
            "Multiply-adds of training are not compared.",
            *[f"Settings that differ, too: {enumeration(confounded)}."][: len(confounded)],
        ),
        figures=_figures(found, deq),
        tables=[_table(found, deq)],
        numbers={
            net.kind: {
                "family": net.family,
                "layers": net.layers,
                "parameters": net.parameters,
                "accuracy": net.accuracy,
                "validation": net.validation,
                "multiply_adds": net.multiply_adds,
                "deq_gains": gain(deq, net),
            }
            for net in found
        },
    )


def _deq(found: Sequence[Net]) -> Net:
    deq = next((net for net in found if net.family == "none"), None)
    if deq is None or len({net.family for net in found}) < 2:
        missing = "the DEQ, a variant without baseline=" if deq is None else "an explicit net, a variant with baseline="
        raise UserError(f"infinite_depth_gain needs {missing}; none has been trained to its end.")
    return deq


def gain(deq: Net, net: Net) -> Estimate:
    """The DEQ's accuracy less the net's, paired over samples and seeds."""
    return claim(deq.right.astype(float) - net.right, DIFFERENCE)


def best(found: Sequence[Net], family: str) -> list[Net]:
    """For each seed the net of a family that is best on the other seeds' validation; of equals the shallower."""
    nets = sorted((net for net in found if net.family == family), key=lambda net: net.layers)
    if not nets:
        return []
    return [nets[place] for place in chosen_without(np.array([net.validation for net in nets]).T)]


def as_one(nets: Sequence[Net]) -> Net:
    """The nets that were chosen for the seeds, as one: named and costed as the one that most seeds are told by."""
    most = max(nets, key=lambda net: sum(net is other for other in nets))
    return replace(most, right=np.array([net.right[seed] for seed, net in enumerate(nets)]))


def conclude(found: Sequence[Net], confounded: Sequence[str] = ()) -> Conclusion:
    """One family: the DEQ beside the depth of each family that validation chooses."""
    deq = _deq(found)
    rivals = {family: as_one(nets) for family in ("tied", "untied") if (nets := best(found, family))}
    gains = {family: gain(deq, net) for family, net in rivals.items()}
    sides = told_by_name(gains)
    key = [
        KeyFigure(f"the DEQ over {net.name}, best on validation", gains[family], "points", told=sides[family])
        for family, net in rivals.items()
    ]
    key.append(KeyFigure("accuracy of the DEQ", deq.accuracy))
    for net in rivals.values():
        ratio = deq.multiply_adds / net.multiply_adds
        of = Estimate(ratio, ratio, ratio, len(deq.right[0]), Unit.SAMPLES, len(deq.right))
        key.append(KeyFigure(f"the DEQ's multiply-adds over those of {net.name}", of, "exact", "times"))
    return Conclusion(_verdict(sides, bool(confounded)), tuple(key[:6]), len(gains))


def _verdict(sides: dict[str, Told], confounded: bool) -> str:
    better = [f"{family} layers" for family, side in sides.items() if side is Told.ABOVE]
    worse = [f"{family} layers" for family, side in sides.items() if side is Told.BELOW]
    open_ = [f"{family} layers" for family, side in sides.items() if side is Told.NOT]
    but = "; other settings differ, too" if confounded else ""
    if Told.TOO_FEW in sides.values():
        return "Not shown: too few seeds for a verdict about the recipes."
    if not better and not worse:
        return f"Not shown: the DEQ's accuracy is not told apart from the best {enumeration(open_)}{but}."
    parts = [f"gains over the best {enumeration(better)}"] if better else []
    parts += [f"loses to the best {enumeration(worse)}"] if worse else []
    parts += [f"is not told apart from the best {enumeration(open_)}"] if open_ else []
    word = "It depends" if worse or open_ else "Yes"
    return f"{'No' if worse and not better else word}: the DEQ {enumeration(parts)}{but}."


def _figures(found: Sequence[Net], deq: Net) -> list[Any]:
    depth, cost = [], []
    for net in sorted(found, key=lambda net: net.layers):
        share = net.accuracy
        one = (share.mean, share.low, share.high)
        cost.append(Point(FAMILIES[net.family], net.multiply_adds, *one, note=net.name))
        depth.append(Point(FAMILIES[net.family], net.layers, *one, note=net.name))
    seeds, n = deq.right.shape
    caption = f"Test samples, n = {n:,} in each of {seeds} seeds; bands and bars: 95 % intervals."
    y, rules = Axis("accuracy", percent=True), [Rule("the DEQ", y=deq.accuracy.mean)]
    return [
        curves(
            "accuracy_depth",
            "Accuracy against depth",
            f"{caption} Of the DEQ: its mean evaluations.",
            depth,
            Axis("layers, or evaluations", log=True),
            y,
            rules=rules,
        ),
        curves(
            "accuracy_compute",
            "Accuracy against compute",
            caption,
            cost,
            Axis("multiply-adds of an answer", log=True),
            y,
            rules=rules,
        ),
    ]


def _table(found: Sequence[Net], deq: Net) -> AnswerTable:
    chosen = {net.kind for family in ("tied", "untied") for net in best(found, family)}
    return AnswerTable(
        "The DEQ and its baselines",
        [
            Column("net", [net.name + ("*" if net.kind in chosen else "") for net in found], words=True),
            Column("on validation, %", [f"{100 * net.validation.mean():.1f}" for net in found]),
            Column("on test, %", percents(net.accuracy for net in found)),
            Column("DEQ gains, points", point_texts(gain(deq, net) for net in found)),
            Column("parameters", [f"{net.parameters:,}" for net in found]),
            Column("multiply-adds", [numbers.short_count(net.multiply_adds) for net in found]),
            Column("n", [f"{net.right.shape[1]:,}" for net in found]),
        ],
        "* best of its family on validation, of some seed's other seeds. Gains are paired over the samples. In "
        "brackets 95 % intervals.",
    )


QUESTION = Question("What does infinite depth gain over a finite one?", answer)
