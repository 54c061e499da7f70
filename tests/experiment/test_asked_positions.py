"""A text asks for its last answer alone: signals, votes and halting beside plain Python over that position."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.datasets.text import Text
from deqrun.experiment.sweep.breadth import solve_starts
from deqrun.experiment.sweep.starts import SweepStart
from deqrun.experiment.sweep.trace import trace
from deqrun.gradients import OneStep
from deqrun.models import DEQ
from deqrun.solvers import Budget, Picard, solve
from tests.experiment.position_cell import PositionCell

BUDGET, B, DEPTHS = Budget(6, 0.0, keep="last"), 5, [0, 2, 6]
STARTS = [SweepStart("normal", split="test", seed=1, scale=3.0, draw=draw) for draw in range(B)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    path.write_text("".join(random.Random(0).choices("abcd", k=4000)), encoding="utf-8")
    return Text(path=str(path), length=8)


@pytest.fixture(scope="module")
def deq(text: Text) -> DEQ:
    """Steep enough that starts end apart."""
    torch.manual_seed(2)
    cell = PositionCell(
        input_shape=text.input_shape, num_classes=text.num_classes, output_shape=text.output_shape, width=8
    )
    with torch.no_grad():
        cell.inner.weight.mul_(4)
    return DEQ(cell, Picard(), BUDGET, OneStep()).eval()


def last_logits(deq: DEQ, text: Text, start: SweepStart) -> list[list[list[float]]]:
    """Of iterates 0 … 6 of every window, the logits of the last position alone, as Python's own numbers."""
    split, found = text.load("test"), []
    with torch.no_grad():
        f = deq.bind(text.encode(split.inputs))

        def keep(k: int, z: Tensor, rows: Tensor) -> None:
            found.append(deq.cell.readout(z)[..., -1].double().tolist())

        solve(f, start.begin(deq.start(f), slice(0, len(split))), budget=BUDGET, observe=keep)
    return found


def log_softmax(logits: list[float]) -> list[float]:
    most = max(logits)
    total = most + math.log(sum(math.exp(value - most) for value in logits))
    return [value - total for value in logits]


def test_signals_are_those_of_the_last_position(deq: DEQ, text: Text) -> None:
    split = text.load("test")
    found = trace(deq, text, split, Picard(), BUDGET, 10, start=STARTS[0], signals=True)
    logits, targets = last_logits(deq, text, STARTS[0]), split.targets[:, -1].tolist()
    assert found.kl is not None
    assert found.entropy is not None
    assert found.stable is not None
    assert 0 < found.correct.mean() < 1
    for i, target in enumerate(targets):
        stood = 0
        answers = [max(range(len(row[i])), key=row[i].__getitem__) for row in logits]
        assert found.correct[:, i].tolist() == [answer == target for answer in answers]
        for k in range(1, len(logits)):
            p, q = log_softmax(logits[k][i]), log_softmax(logits[k - 1][i])
            kl = sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
            entropy = abs(sum(math.exp(a) * a for a in p) - sum(math.exp(b) * b for b in q))
            assert found.kl[k, i] == pytest.approx(kl, rel=1e-3, abs=1e-7)
            assert found.entropy[k, i] == pytest.approx(entropy, rel=1e-3, abs=1e-6)
            stood = stood + 1 if answers[k] == answers[k - 1] else 0
            assert found.stable[k, i] == stood


def test_starts_vote_on_the_last_answer(deq: DEQ, text: Text) -> None:
    split = text.load("test")
    found = solve_starts(deq, text, split, Picard(), BUDGET, 10, STARTS, DEPTHS)
    logits, targets = [last_logits(deq, text, start) for start in STARTS], split.targets[:, -1].tolist()
    disagree = 0
    for place, depth in enumerate(DEPTHS):
        for i, target in enumerate(targets):
            rows = [of[depth][i] for of in logits]
            answers = [max(range(len(row)), key=row.__getitem__) for row in rows]
            disagree += len(set(answers)) > 1
            winner = Counter(answers).most_common(1)[0][0]  # of equally many the first that was met
            assert found.correct["vote"][B - 1, place, i] == (winner == target)
            mean = [sum(math.exp(log_softmax(row)[c]) for row in rows) for c in range(len(rows[0]))]
            assert found.correct["mean"][B - 1, place, i] == (int(np.argmax(mean)) == target)
    assert disagree > 20
