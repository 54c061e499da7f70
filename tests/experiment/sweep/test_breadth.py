"""Depth × breadth in a sweep, beside one separate solve per start and depth, put together in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.datasets import Split
from deqrun.datasets.prefix_sums import PrefixSums
from deqrun.experiment.sweep import grid as sweep_grid
from deqrun.experiment.sweep.breadth import Starts, breadth_rows, solve_starts
from deqrun.experiment.sweep.starts import SweepStart
from deqrun.experiment.sweep.trace import trace
from deqrun.gradients import OneStep
from deqrun.models import DEQ
from deqrun.records.trajectory import TrajectoryKey
from deqrun.settings import Settings
from deqrun.solvers import Budget, Picard, Solution, solve
from tests.experiment.position_cell import PositionCell
from tests.experiment.sweep.test_sweep_grid import everything, sequences

DEPTHS, B, N = [0, 1, 3, 7], 5, 20
DATA = PrefixSums(length=7, n_train=1, n_validation=1, n_test=N)


@pytest.fixture(scope="module")
def deq() -> DEQ:
    """Steep enough that starts end apart."""
    torch.manual_seed(2)
    cell = PositionCell(input_shape=DATA.input_shape, num_classes=2, output_shape=DATA.output_shape)
    with torch.no_grad():
        cell.inner.weight.mul_(4)
    return DEQ(cell, Picard(), Budget(), OneStep()).eval()


@pytest.fixture(scope="module")
def test() -> Split:
    return DATA.load("test")


BUDGET, BEGIN = Budget(max(DEPTHS), 1e-2), [SweepStart("normal", seed=6, draw=draw) for draw in range(B)]


@pytest.fixture(scope="module")
def starts(deq: DEQ, test: Split) -> Starts:
    return solve_starts(deq, DATA, test, Picard(), BUDGET, 8, BEGIN, DEPTHS)


@pytest.fixture(scope="module")
def alone(deq: DEQ, test: Split) -> list[list[tuple[Solution, Tensor]]]:
    """Of each start and depth a solve of its own to that depth, and its logits."""
    with torch.no_grad():
        f = deq.bind(DATA.encode(test.inputs))
        budgets = [Budget(depth, BUDGET.tol, keep="last") for depth in DEPTHS]
        solved = [
            [solve(f, start.begin(deq.start(f), slice(0, N)), solver=Picard(), budget=budget) for budget in budgets]
            for start in BEGIN
        ]
        return [[(solution, deq.cell.readout(solution.z)) for solution in of] for of in solved]


def test_singles_are_solves_of_their_own(
    starts: Starts, alone: list[list[tuple[Solution, Tensor]]], test: Split
) -> None:
    for b in range(B):
        for place, (solution, logits) in enumerate(alone[b]):
            assert starts.singles[b, place].tolist() == DATA.correct(logits, test.targets).tolist()
            assert starts.spent["residual"][b, DEPTHS[place]] == int(solution.nfe.sum())
            assert (starts.nfe[b, place] + starts.running[b, place]).sum() <= int(solution.nfe.sum())
    assert len({tuple(single.ravel()) for single in starts.singles}) > 1  # the starts do not all agree


@pytest.mark.parametrize("breadth", range(1, B + 1))
def test_aggregations_are_those_of_plain_python(
    breadth: int, starts: Starts, alone: list[list[tuple[Solution, Tensor]]], test: Split
) -> None:
    for place in range(len(DEPTHS)):
        logits = [alone[b][place][1] for b in range(breadth)]
        mean = sum(torch.softmax(of, 1) for of in logits)
        assert starts.correct["mean"][breadth - 1, place].tolist() == DATA.correct(mean, test.targets).tolist()  # type: ignore[arg-type]
        for i in range(N):
            answers = [tuple(of[i].argmax(0).tolist()) for of in logits]
            target = tuple(test.targets[i].tolist())
            winner = Counter(answers).most_common(1)[0][0]  # of equally many the first that was met
            assert starts.correct["vote"][breadth - 1, place, i] == (winner == target)
            means = [tail(alone[b][place][0].residuals[:, i]) for b in range(breadth)]
            assert starts.correct["residual"][breadth - 1, place, i] == (answers[int(np.argmin(means))] == target)
            best = [answers[b] for b in sorted(range(breadth), key=means.__getitem__)[: (breadth + 1) // 2]]
            assert starts.correct["top"][breadth - 1, place, i] == (Counter(best).most_common(1)[0][0] == target)
            sure = [float(torch.softmax(of[i], 0).amax(0).mean()) for of in logits]
            assert starts.correct["confident"][breadth - 1, place, i] == (answers[int(np.argmax(sure))] == target)


class HeadedCell(PositionCell):
    """Its head trusts a state by its first number, which has to do with nothing."""

    @property
    def has_halting_head(self) -> bool:
        return True

    def halt_logit(self, z: Tensor) -> Tensor:
        return z.flatten(1)[:, 0]


def test_a_halting_head_chooses_the_draw_that_it_trusts_most(deq: DEQ, test: Split) -> None:
    """Beside it every other way is as without a head."""
    torch.manual_seed(2)
    cell = HeadedCell(input_shape=DATA.input_shape, num_classes=2, output_shape=DATA.output_shape)
    cell.load_state_dict(deq.cell.state_dict())
    headed = DEQ(cell, Picard(), Budget(), OneStep()).eval()
    with_head = solve_starts(headed, DATA, test, Picard(), BUDGET, 8, BEGIN, DEPTHS, head=True)
    without = solve_starts(deq, DATA, test, Picard(), BUDGET, 8, BEGIN, DEPTHS)
    assert with_head.correct.keys() - without.correct.keys() == {"head"}
    for name, correct in without.correct.items():
        assert np.array_equal(with_head.correct[name], correct)
    with torch.no_grad():
        f = deq.bind(DATA.encode(test.inputs))
        for place, depth in enumerate(DEPTHS):
            budget = Budget(depth, BUDGET.tol, keep="last")
            solved = [solve(f, one.begin(deq.start(f), slice(0, N)), solver=Picard(), budget=budget).z for one in BEGIN]
            trust = torch.stack([z.flatten(1)[:, 0] for z in solved])
            right = torch.stack([DATA.correct(deq.cell.readout(z), test.targets) for z in solved])
            for breadth in range(1, B + 1):
                best = trust[:breadth].argmax(0)
                assert with_head.correct["head"][breadth - 1, place].tolist() == right[best, torch.arange(N)].tolist()


def tail(residuals: Tensor) -> float:
    known = residuals[~residuals.isnan()]
    return float(known[-3:].double().mean())


def test_the_batch_size_bears_on_nothing(deq: DEQ, test: Split, starts: Starts) -> None:
    again = solve_starts(deq, DATA, test, Picard(), BUDGET, N, BEGIN, DEPTHS)
    for name, correct in starts.correct.items():
        assert np.array_equal(again.correct[name], correct)


def test_one_start_is_the_normal_start(deq: DEQ, test: Split, starts: Starts) -> None:
    trajectory = trace(deq, DATA, test, Picard(), BUDGET, 8, start=BEGIN[0])
    at = np.minimum(np.array(DEPTHS)[:, None], trajectory.last())
    right = np.take_along_axis(trajectory.correct, at, axis=0)
    for correct in starts.correct.values():
        assert np.array_equal(correct[0], right)


def test_rows(starts: Starts) -> None:
    rows = breadth_rows(starts, [1, 5], DEPTHS, TrajectoryKey("picard", "breadth", "test", "float32", 5))
    assert len(rows) == 2 * 5 * len(DEPTHS)
    (row,) = (r for r in rows if (r.breadth, r.max_iter, r.aggregation) == (5, 3, "vote"))
    single = starts.singles[:, 2].mean(axis=1)
    assert row.accuracy == starts.correct["vote"][4, 2].mean()
    assert (row.starts_least, row.starts_most) == (single.min(), single.max())
    assert row.starts_deviation == pytest.approx(single.std(ddof=1))
    assert row.some_right == starts.singles[:, 2].any(axis=0).mean()
    assert (row.n, row.difficulty) == (N, 5)
    right = starts.singles[:, 2].sum(axis=0)
    for breadth in (1, 5):
        (at,) = (r for r in rows if (r.breadth, r.max_iter, r.aggregation) == (breadth, 3, "vote"))
        misses = [math.comb(5 - int(c), breadth) / math.comb(5, breadth) for c in right]
        assert at.pass_at == pytest.approx(1 - sum(misses) / N, abs=1e-12)
    assert math.isnan(row.gain)  # no single start has gone 15 steps
    assert row.nfe_mean <= 5 * 3  # a row that its tolerance stopped before paid less
    for row in rows:
        own = starts.evaluations(row.aggregation, row.breadth, DEPTHS.index(row.max_iter))
        assert own.mean() == pytest.approx(row.nfe_mean, rel=1e-12)


def test_the_gain_is_on_one_start_of_as_many_steps(starts: Starts) -> None:
    """Three starts of one step against the mean of those after three, in plain Python."""
    rows = breadth_rows(starts, [1, 3], DEPTHS, TrajectoryKey("picard", "breadth", "test", "float32", 5))
    (row,) = (r for r in rows if (r.breadth, r.max_iter, r.aggregation) == (3, 1, "vote"))
    several = starts.correct["vote"][2, DEPTHS.index(1)]
    alone = [[float(starts.singles[b, DEPTHS.index(3), i]) for i in range(N)] for b in range(3)]
    gains = [float(several[i]) - sum(one[i] for one in alone) / 3 for i in range(N)]
    assert row.gain == pytest.approx(sum(gains) / N)
    assert row.gain_low <= row.gain <= row.gain_high
    assert all(math.isnan(row.gain) for row in rows if row.breadth == 1)


def test_a_sweep_solves_the_largest_breadth_once(
    settings_of: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, calls, real = sequences(settings_of, "sweep.breadth=[4,1,2]"), [], sweep_grid.solve_starts

    def counted(*arguments: object, **named: object) -> Starts:
        calls.append(len(arguments[6]))  # type: ignore[arg-type]
        return real(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep_grid, "solve_starts", counted)
    rows = everything(settings, tmp_path).rows["breadth"]
    told = [repr(row) for row in rows]  # in which NaN is NaN
    assert calls == [4, 4]  # validation and test
    assert {row.breadth for row in rows} == {1, 2, 4}
    assert len(rows) == 2 * 3 * 5 * 4  # splits, breadths, aggregations, iterations
    assert [repr(row) for row in everything(settings, tmp_path).rows["breadth"]] == told
    assert calls == [4, 4]  # taken from the parts
