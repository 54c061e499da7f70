"""Whatever a sweep derives from one trajectory equals what separate solves give: every solver, start and rule.

A separate solve knows nothing of the trajectory: it is a `solve` with the budget and tolerance of the cell, and for a
halting rule one solve for every number of iterations, stopped where the rule's formula, written out here, says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.analysis.halting import Recording, stops
from deqrun.datasets import Digits, Split
from deqrun.experiment.precision import in_precision
from deqrun.experiment.sweep.starts import SweepStart
from deqrun.experiment.sweep.trace import cells, trace, trace_parts
from deqrun.gradients import OneStep
from deqrun.models import DEQ, Cell, ConvCell, MonotoneCell
from deqrun.records.trajectory import SIGNALS, Trajectory, TrajectoryKey, joined
from deqrun.solvers import (
    Anderson,
    Broyden,
    Budget,
    Damped,
    ForwardBackward,
    NewtonKrylov,
    PeacemanRachford,
    Picard,
    Secant,
    Solution,
    Solver,
    solve,
)

SOLVERS: dict[str, tuple[str, Solver]] = {
    "picard": ("conv", Picard()),
    "anderson": ("conv", Anderson(memory=3)),
    "damped": ("conv", Damped(patience=1)),
    "broyden": ("conv", Broyden()),
    "secant": ("conv", Secant(memory=4)),
    "newton": ("conv", NewtonKrylov(krylov=4)),
    "forward_backward": ("monotone", ForwardBackward()),
    "peaceman_rachford": ("monotone", PeacemanRachford()),
}
STARTS = ("zeros", "normal", "other")
ITERATIONS, TOLERANCES, T = [0, 2, 5, 9], [1e-1, 1e-3], 9
THRESHOLDS = {"residual": 0.03, "change": 0.05, "kl": 1e-3, "entropy": 1e-2, "stable": 2, "budget": 4}
THRESHOLDS |= {"confidence": 0.16, "margin": 0.02, "acceleration": 0.04}


@pytest.fixture(scope="module")
def split() -> Split:
    test = Digits().load("test")
    return Split(test.inputs[:24], test.targets[:24])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def model(kind: str) -> DEQ:
    """An untrained cell in double precision, so that a batch of another size changes no digit that matters."""
    torch.manual_seed(3)
    shape = {"input_shape": (1, 8, 8), "num_classes": 10}
    cell: Cell = (
        ConvCell(**shape, channels=8, inner_channels=8, groups=4)  # type: ignore[arg-type]
        if kind == "conv"
        else MonotoneCell(**shape, width=24)  # type: ignore[arg-type]
    )
    return in_precision(DEQ(cell, Picard(), Budget(), OneStep()).eval(), "float64")


Case = tuple[DEQ, Solver, SweepStart, Trajectory]


@pytest.fixture(scope="module")
def traced(split: Split) -> Callable[[str, str], Case]:
    """The trajectory of a solver from a start, in batches of 10."""

    @cache
    def make(name: str, kind: str) -> Case:
        (cell, solver), ends = SOLVERS[name], []
        budget = Budget(T, min(TOLERANCES))

        def run(start: SweepStart) -> list[tuple[Trajectory, Tensor | None]]:
            named: dict[str, Any] = {"start": start, "precision": "float64", "signals": SIGNALS, "ends": True}
            return list(trace_parts(model(cell), Digits(), split, solver, budget, 10, **named))

        if kind == "other":
            ends = [states for _, states in run(SweepStart())]
        start = SweepStart(kind, seed=4, solutions=torch.cat(ends) if ends else None)  # type: ignore[arg-type]
        return model(cell), solver, start, joined([part for part, _ in run(start)])

    return make


@torch.no_grad()
def alone(case: Case, split: Split, budget: Budget) -> tuple[Solution, Tensor]:
    """A separate solve of the whole split in one batch, and its logits."""
    deq, solver, start, _ = case
    f = deq.bind(split.inputs.double())
    z0 = start.begin(deq.start(f), slice(0, len(split)))
    solution = solve(f, z0, solver=solver, budget=budget)
    return solution, deq.cell.readout(solution.z)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", SOLVERS)
def test_cells(name: str, start: str, traced: Callable[[str, str], Case], split: Split) -> None:
    case = traced(name, start)
    derived = cells(case[3], ITERATIONS, TOLERANCES, key=TrajectoryKey(name, start, "test", "float64"), keep="best")
    assert [(cell.tol, cell.max_iter) for cell in derived] == list(product(TOLERANCES, ITERATIONS))
    for cell in derived:
        solution, logits = alone(case, split, Budget(cell.max_iter, cell.tol))
        assert cell.accuracy == float((logits.argmax(1) == split.targets).double().mean())
        assert cell.nfe_mean == pytest.approx(float(solution.nfe.double().mean()), rel=1e-12)
        assert cell.jvps_mean == pytest.approx(float(solution.jvps.double().mean()), rel=1e-12)
        assert cell.converged == float(solution.converged.double().mean())
        assert cell.residual_median == pytest.approx(float(np.median(solution.residual)), rel=1e-6)


@pytest.mark.parametrize(("least", "norm"), [(0, "max"), (3, "relative"), (7, "max")])
@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("name", ["picard", "anderson"])
def test_cells_of_a_least_number_of_iterations(name: str, keep: str, least: int, norm: str, split: Split) -> None:
    """No sample stops by a tolerance before min_iter, in a sweep as in a solve; each budget ends it all the same."""
    kind, solver = SOLVERS[name]
    deq, start = model(kind), SweepStart()
    budget = Budget(T, min(TOLERANCES), norm=norm, min_iter=least)
    trajectory = trace(deq, Digits(), split, solver, budget, 10, start=start, precision="float64")
    derived = cells(trajectory, ITERATIONS, TOLERANCES, key=TrajectoryKey(name, "zeros", "test", "float64"), keep=keep)
    for cell in derived:
        own = Budget(cell.max_iter, cell.tol, norm=norm, keep=keep, min_iter=least)
        solution, logits = alone((deq, solver, start, trajectory), split, own)
        assert (solution.steps >= min(least, cell.max_iter)).all()
        assert cell.accuracy == float((logits.argmax(1) == split.targets).double().mean())
        assert cell.nfe_mean == pytest.approx(float(solution.nfe.double().mean()), rel=1e-12)
        assert cell.converged == float(solution.converged.double().mean())
        assert cell.residual_median == pytest.approx(float(np.median(solution.residual)), rel=1e-6)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", SOLVERS)
def test_halting(name: str, start: str, traced: Callable[[str, str], Case], split: Split) -> None:
    case = traced(name, start)
    trajectory = case[3]
    recording = Recording(trajectory.residual, trajectory.nfe, trajectory.correct, trajectory.signals)
    between: set[str] = set()
    separate = [alone(case, split, Budget(k, min(TOLERANCES), keep="last")) for k in range(T + 1)]
    for rule, threshold in THRESHOLDS.items():
        at = stops(recording, rule, threshold)
        expected = [stop_of(rule, threshold, separate, row) for row in range(len(split))]
        assert at.iterate.tolist() == expected, rule
        answers = [int(separate[k][1][row].argmax()) for row, k in enumerate(expected)]
        assert at.correct.tolist() == [a == int(t) for a, t in zip(answers, split.targets, strict=True)]
        between |= {rule} if any(0 < k < T for k in expected) else set()
    assert len(between) >= 4  # else it would be no test of most rules


def bend(separate: list[tuple[Solution, Tensor]], row: int, k: int) -> float:
    """‖z_k − 2 z_{k−1} + z_{k−2}‖ / ‖z_{k−1}‖."""
    if k < 2:
        return float("inf")
    first, before, z = (separate[at][0].z[row].flatten() for at in (k - 2, k - 1, k))
    return float((z - 2 * before + first).norm() / before.norm())


def stop_of(rule: str, threshold: float, separate: list[tuple[Solution, Tensor]], row: int) -> int:
    """The first iterate at which the rule's formula holds, else where the solve itself stopped."""
    last = int(separate[-1][0].steps[row])
    stood = 0
    for k in range(last + 1):
        solution, logits = separate[k]
        p = torch.softmax(logits[row].double(), 0)
        if k:
            z, before = solution.z[row].flatten(), separate[k - 1][0].z[row].flatten()
            q = torch.softmax(separate[k - 1][1][row].double(), 0)
            stood = stood + 1 if int(p.argmax()) == int(q.argmax()) else 0
        inf = float("inf")
        value = {
            "residual": lambda: float(solution.residual[row]),  # noqa: B023
            "change": lambda: float((z - before).norm() / z.norm()) if k else inf,  # noqa: B023
            "kl": lambda: float((p * (p / q).log()).sum()) if k else inf,  # noqa: B023
            "entropy": lambda: abs(float((q * q.log()).sum() - (p * p.log()).sum())) if k else inf,  # noqa: B023
            "stable": lambda: -stood,  # noqa: B023
            "budget": lambda: -k,  # noqa: B023
            "confidence": lambda: -float(p.max()),  # noqa: B023
            "margin": lambda: -float(p.sort().values.diff()[-1]),  # noqa: B023
            "acceleration": lambda: bend(separate, row, k),  # noqa: B023
        }[rule]()
        if value <= (-threshold if rule in ("stable", "budget", "confidence", "margin") else threshold):
            return k
    return last


class HeadedConv(ConvCell):
    """The convolutional cell with a halting head: a fixed linear map of the state."""

    @property
    def has_halting_head(self) -> bool:
        return True

    def halt_logit(self, z: Tensor) -> Tensor:
        weight = torch.linspace(-1, 1, z[0].numel(), dtype=z.dtype).roll(7).cos() - 0.6
        return z.flatten(1) @ weight


@pytest.mark.parametrize("name", ["picard", "anderson"])
def test_halting_by_the_head(name: str, split: Split) -> None:
    """A sample stops at the first of the separate solves' states whose probability of a wrong answer is low enough."""
    torch.manual_seed(3)
    cell = HeadedConv(input_shape=(1, 8, 8), num_classes=10, channels=8, inner_channels=8, groups=4)
    deq = in_precision(DEQ(cell, Picard(), Budget(), OneStep()).eval(), "float64")
    solver, start, budget = SOLVERS[name][1], SweepStart(), Budget(T, min(TOLERANCES))
    trajectory = trace(deq, Digits(), split, solver, budget, 10, start=start, precision="float64", signals=["head"])
    case: Case = (deq, solver, start, trajectory)
    separate = [alone(case, split, Budget(k, min(TOLERANCES), keep="last")) for k in range(T + 1)]
    doubts = [1 - torch.sigmoid(deq.cell.halt_logit(solution.z)) for solution, _ in separate]  # type: ignore[operator]
    threshold = float(torch.stack(doubts).median())
    recording = Recording(trajectory.residual, trajectory.nfe, trajectory.correct, trajectory.signals)
    at = stops(recording, "head", threshold)
    lasts = separate[-1][0].steps
    expected = [
        next((k for k in range(int(lasts[row])) if float(doubts[k][row]) <= threshold), int(lasts[row]))
        for row in range(len(split))
    ]
    assert at.iterate.tolist() == expected
    assert sum(0 < k < T for k in expected) > 0
    assert trajectory.head is not None
    for k, doubt in enumerate(doubts):
        known = lasts.numpy() >= k
        np.testing.assert_allclose(trajectory.head[k, known], 1 - doubt.numpy()[known], rtol=1e-5)
