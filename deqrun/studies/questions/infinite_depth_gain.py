"""What does infinite depth gain over a finite one?

A DEQ beside its explicit baselines (`deqrun train baseline=…`): the same cell applied a fixed number of times and
trained through it, and untied layers narrowed to the DEQ's number of parameters. All are trained alike, without a
Jacobian penalty, and answer the same test samples, so differences are paired. The depth of each family is chosen on
validation, for each seed on the other seeds. Compute is multiply-adds per answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.errors import UserError
from deqrun.experiment.evaluate import evaluate
from deqrun.inference import DIFFERENCE, SHARE, Estimate, Told, Unit, claim
from deqrun.models import describe
from deqrun.report import numbers
from deqrun.report.answer import Answer, AnswerTable, Column, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, Rule, curves
from deqrun.studies.choosing import chosen_of, of_the_chosen
from deqrun.studies.concluding import Figures, concluded, those, told_together, too_few
from deqrun.studies.confounders import confounders
from deqrun.studies.context import Context, StudyRun, columns
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
    parts = context.by_kind(_measured)
    found = [_of_seeds(kind, context.of_kind(kind)[0], own) for kind, own in parts.items()]
    return answer_of(found, confounders(context.runs, apart_from=("baseline", "budget")))


def _measured(run: StudyRun) -> dict[str, Any]:
    deq, dataset = run.model()
    batch = run.settings.train.eval_batch_size
    validation, test = (
        evaluate(deq, dataset, dataset.load(split), batch, run.device) for split in ("validation", "test")
    )
    described = describe(deq.cell)
    layers = run.settings.baseline.layers
    # The residual is no part of a baseline.
    spent = float(test.nfe.double().mean()) if layers is None else float(layers)
    return {
        "layers": spent,
        "parameters": described.parameters,
        "multiply_adds": described.answer_multiply_adds(spent),
        "validation": validation.accuracy,
        "right": test.correct.tolist(),
    }


def _of_seeds(kind: str, run: StudyRun, parts: Sequence[dict[str, Any]]) -> Net:
    layers, cost, validation, right = columns(parts, "layers", "multiply_adds", "validation", "right")
    kind_of, parameters = run.settings.baseline.kind, int(parts[0]["parameters"])
    return Net(kind, kind_of, float(layers.mean()), parameters, float(cost.mean()), validation, right)


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
    return chosen_of(nets, [net.validation for net in nets]) if nets else []


def as_one(nets: Sequence[Net]) -> Net:
    """The nets that were chosen for the seeds, as one: named and costed as the one that most seeds are told by."""
    most = max(nets, key=lambda net: sum(net is other for other in nets))
    return replace(most, right=of_the_chosen(nets, lambda net: net.right))


def conclude(found: Sequence[Net], confounded: Sequence[str] = ()) -> Conclusion:
    """One family: the DEQ beside the depth of each family that validation chooses."""
    deq = _deq(found)
    rivals = {family: as_one(nets) for family in ("tied", "untied") if (nets := best(found, family))}
    (gains,) = told_together(
        {
            f"{family} layers": KeyFigure(f"the DEQ over {net.name}, best on validation", gain(deq, net), "points")
            for family, net in rivals.items()
        }
    )
    key = [*gains.values(), KeyFigure("accuracy of the DEQ", deq.accuracy)]
    for net in rivals.values():
        ratio = deq.multiply_adds / net.multiply_adds
        of = Estimate(ratio, ratio, ratio, len(deq.right[0]), Unit.SAMPLES, len(deq.right))
        key.append(KeyFigure(f"the DEQ's multiply-adds over those of {net.name}", of, "exact", "times"))
    return concluded(_verdict(gains, bool(confounded)), key)


def _verdict(gains: Figures, confounded: bool) -> str:
    if too_few(gains):
        return "Not shown: too few seeds for a verdict about the recipes."
    better, worse, open_ = (those(gains, side) for side in (Told.ABOVE, Told.BELOW, Told.NOT))
    but = "; other settings differ, too" if confounded else ""
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
        cost.append(Point.of(FAMILIES[net.family], net.multiply_adds, share, note=net.name))
        depth.append(Point.of(FAMILIES[net.family], net.layers, share, note=net.name))
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
