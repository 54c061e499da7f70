"""Solves and their gradients on an accelerator: the CPU's numbers, no mixed devices, one look in eight steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import pytest
import torch
from torch import Tensor

from deqrun.gradients import Gradient, Implicit, OneStep, Phantom, Unrolled, equilibrium
from deqrun.models import MonotoneCell
from deqrun.solvers import (
    Anderson,
    Broyden,
    Budget,
    ForwardBackward,
    NewtonKrylov,
    PeacemanRachford,
    Perturbed,
    Picard,
    Solution,
    Solver,
    solve,
)
from deqrun.solvers.device import HOST_CHECK_EVERY, to_host
from deqrun.solvers.loop import Observer
from tests.pretend_device import counted, install, waits, without_float64
from tests.solvers.conftest import SOLVERS

DEVICE = install()
ROWS, WIDTH = 7, 12
CASES: dict[str, Solver] = {case.name: case.solver for case in SOLVERS}
NOISY = {"noise": Perturbed(Picard(), damping=0.95, noise=0.01, seed=3)}
SEARCHES: dict[str, Solver] = {
    "broyden_search": Broyden(line_search=True),
    "newton_search": NewtonKrylov(line_search=True),
}


VARIANTS = ("picard_damped", "anderson_short_mixed", "anderson_deep", "broyden_short", "broyden_deep", "newton_exact")
"""Solvers that another one of the list differs from by a parameter alone."""


def quick(cases: dict[str, Solver], nightly: Sequence[str] = ("newton_exact",)) -> list[Any]:
    """The solvers as parameters of a test, some of them for the night."""
    return [
        pytest.param(solver, id=name, marks=[pytest.mark.nightly] if name in nightly else [])
        for name, solver in cases.items()
    ]


class Layer:
    """f(z) = tanh(z Wᵀ + b), rows of different rates; differentiable by W and b."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    @classmethod
    def on(cls, device: torch.device | str, scale: float = 0.8) -> Self:
        draw = torch.Generator().manual_seed(5)
        weight = torch.randn(WIDTH, WIDTH, generator=draw) * scale / WIDTH**0.5
        bias = torch.linspace(0.0, 3.0, ROWS)[:, None] * torch.randn(ROWS, WIDTH, generator=draw)
        return cls(weight.to(device).requires_grad_(), bias.to(device))

    def __call__(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + self.bias)

    def take(self, rows: Tensor) -> Layer:
        return Layer(self.weight, self.bias.index_select(0, rows))


class Outcome(NamedTuple):
    solution: Solution
    z: Tensor
    gradient: Tensor | None
    waits: int


def run(
    device: torch.device | str,
    solver: Solver,
    budget: Budget,
    gradient: Gradient | None = None,
    observe: Observer | None = None,
) -> Outcome:
    """One solve, and with a gradient a backward pass from ‖z‖², and the waits in them."""
    f, z0 = Layer.on(device), torch.zeros(ROWS, WIDTH, device=device)
    before = waits.total()
    if gradient is None:
        solution = solve(f, z0, solver=solver, budget=budget, observe=observe)
        return Outcome(solution, solution.z.cpu(), None, waits.total() - before - 1)
    z, solution = equilibrium(f, z0, solver=solver, budget=budget, gradient=gradient, observe=observe)
    z.square().sum().backward()
    spent = waits.total() - before
    return Outcome(solution, z.detach().cpu(), f.weight.grad.cpu(), spent if str(device) != "cpu" else 0)


def loops(solution: Solution) -> int:
    """Steps that the loop made, until the host knew that no row went on."""
    return len(solution.residuals) - 1


def allowed(solution: Solution) -> int:
    return math.ceil(loops(solution) / HOST_CHECK_EVERY)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("solver", quick(CASES | NOISY, VARIANTS))
def test_a_solve_is_the_cpus_and_looks_once_in_eight_steps(solver: Solver, keep: str) -> None:
    """Same steps, status, residuals and states; a residual at the tolerance itself may go either way."""
    budget = Budget(40, 1e-5, keep=keep)
    here, there = run("cpu", solver, budget), run(DEVICE, solver, budget)
    torch.testing.assert_close(there.z, here.z, rtol=1e-4, atol=1e-5)
    status, steps, nfe = (getattr(there.solution, name).cpu() for name in ("status", "steps", "nfe"))
    assert status.tolist() == here.solution.status.tolist()
    assert (steps - here.solution.steps).abs().max() <= 1
    assert ((steps != here.solution.steps) | (nfe == here.solution.nfe)).all()
    assert there.waits <= allowed(there.solution)
    assert loops(there.solution) <= int(steps.max()) + HOST_CHECK_EVERY


GRADIENTS: dict[str, Gradient] = {
    "one_step": OneStep(),
    "phantom": Phantom(),
    "phantom_advance": Phantom(advance=True),
    "unrolled": Unrolled(steps=6),
    "unrolled_checkpointed": Unrolled(steps=6, checkpoint=2),
    "unrolled_last": Unrolled(steps=6, last=2),
}


def gradients(solver: Solver) -> dict[str, Gradient]:
    return {"implicit": Implicit(solver=solver, budget=Budget(20, 0.0)), **GRADIENTS}


@pytest.mark.each
@pytest.mark.parametrize("name", ["implicit", *GRADIENTS])
@pytest.mark.parametrize("solver", quick(CASES, VARIANTS))
def test_a_gradient_is_the_cpus(solver: Solver, name: str) -> None:
    """Every solver by every gradient: the same 20 steps on both devices, to rounding."""
    gradient, budget = gradients(solver)[name], Budget(20, 0.0)
    here, there = run("cpu", solver, budget, gradient), run(DEVICE, solver, budget, gradient)
    torch.testing.assert_close(there.z, here.z, rtol=1e-5, atol=1e-5)
    assert relative(there.gradient, here.gradient) < 1e-5
    adjoint = there.solution.adjoint
    assert there.waits <= allowed(there.solution) + (0 if adjoint is None else allowed(adjoint))


def relative(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    return float((found - expected).norm() / expected.norm())


@contextmanager
def nothing() -> Iterator[None]:
    yield


@pytest.mark.parametrize("solver", quick(CASES | SEARCHES, VARIANTS))
def test_without_float64_every_solver_comes_as_far(solver: Solver) -> None:
    """To the same tolerance, in at most a quarter more steps, and to the same gradient."""
    budget = Budget(60, 1e-5)
    gradient = Implicit(solver=solver, budget=budget)
    with_it = run(DEVICE, solver, budget, gradient)
    with without_float64():
        without = run(DEVICE, solver, budget, gradient)
    converged = without.solution.converged.cpu() | ~with_it.solution.converged.cpu()
    assert converged.all()
    assert without.solution.steps.cpu().max() <= 1 + 1.25 * with_it.solution.steps.cpu().max()
    assert relative(without.gradient, with_it.gradient) < 1e-3


@pytest.mark.parametrize("name", GRADIENTS)
def test_without_float64_every_gradient_is_the_same(name: str) -> None:
    with_it = run(DEVICE, Anderson(), Budget(12, 0.0, keep="last"), GRADIENTS[name])
    with without_float64():
        without = run(DEVICE, Anderson(), Budget(12, 0.0, keep="last"), GRADIENTS[name])
    assert relative(without.gradient, with_it.gradient) < 1e-4


@pytest.mark.parametrize("float64", [True, False], ids=["float64", "no_float64"])
@pytest.mark.parametrize("solver", [Picard(), ForwardBackward(), PeacemanRachford()], ids=repr)
def test_splitting_solvers(solver: Solver, float64: bool) -> None:
    """Their step sizes are read once a solve, by one look at a spectrum."""
    outcomes = []
    with nothing() if float64 else without_float64():
        for device in ("cpu", DEVICE):
            torch.manual_seed(0)
            cell = MonotoneCell(input_shape=(4,), num_classes=3, width=10).to(device)
            x = torch.linspace(-1, 1, 5 * 4).reshape(5, 4).to(device)
            adjoint = Implicit(solver=solver, budget=Budget(30, 1e-6))
            with cell.fixed_weights():
                f = cell.bind(x)
                with counted() as found:
                    z, solution = equilibrium(
                        f, cell.initial_state(f.injection), solver=solver, budget=Budget(30, 1e-6), gradient=adjoint
                    )
                    z.square().sum().backward()
            outcomes.append((z.detach().cpu(), cell.A.grad.cpu()))
    assert solution.adjoint is not None
    assert found.total() <= allowed(solution) + allowed(solution.adjoint) + 2
    torch.testing.assert_close(outcomes[1][0], outcomes[0][0], rtol=1e-4, atol=1e-5)
    assert relative(outcomes[1][1], outcomes[0][1]) < 1e-3


def test_rows_have_budgets_of_their_own() -> None:
    """Given as tensors of the host, as drawn in training."""
    limits, tolerances = torch.tensor([3, 9, 20, 1, 0, 30, 17]), torch.logspace(-1, -6, ROWS)
    budget = Budget.per_row(max_iter=limits, tol=tolerances, keep="last")
    here, there = run("cpu", Anderson(), budget), run(DEVICE, Anderson(), budget)
    assert there.solution.steps.cpu().tolist() == here.solution.steps.tolist()
    assert there.solution.status.cpu().tolist() == here.solution.status.tolist()
    torch.testing.assert_close(there.z, here.z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"patience": 2}, {"min_iter": 15}, {"norm": "max"}, {"norm": "absolute"}], ids=str)
def test_options_of_a_budget(options: dict[str, Any]) -> None:
    budget = Budget(30, 1e-5, **options)
    here, there = run("cpu", Picard(), budget), run(DEVICE, Picard(), budget)
    assert there.solution.steps.cpu().tolist() == here.solution.steps.tolist()
    assert there.solution.status.cpu().tolist() == here.solution.status.tolist()


@pytest.mark.parametrize("power", [-100, 0, 100])
@pytest.mark.parametrize("float64", [True, False], ids=["float64", "no_float64"])
def test_no_scale_is_lost(power: int, float64: bool) -> None:
    """f scaled by 2^±100, of which squares leave float32: the steps of f itself."""
    scale = 2.0**power

    def found(device: torch.device | str) -> Solution:
        f = Layer.on(device)
        return solve(lambda z: f(z / scale) * scale, torch.zeros(ROWS, WIDTH, device=device), solver=Anderson())

    with nothing() if float64 else without_float64():
        there = found(DEVICE)
    assert there.steps.cpu().tolist() == found("cpu").steps.tolist()
    assert there.converged.cpu().all()


def test_rows_that_are_lost_diverge_alone() -> None:
    def f(z: Tensor) -> Tensor:
        rates = torch.tensor([0.5, 40.0, 0.2]).to(z.device)[:, None]
        return rates * z + 1

    for device in ("cpu", DEVICE):
        found = solve(f, torch.zeros(3, 4, device=device), solver=Picard(), budget=Budget(30, 1e-4))
        assert found.diverged.tolist() == [False, True, False]
        assert found.converged.tolist() == [True, False, True]


@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=repr)
def test_an_observer_sees_rows_as_they_stopped(solver: Solver) -> None:
    """The rows of the CPU, and with them those that have stopped since the last look, unchanged."""
    seen: dict[str, list[Tensor]] = {"cpu": [], "pretend": []}

    def watching(name: str) -> Observer:
        state = torch.zeros(ROWS, WIDTH)

        def observe(k: int, z: Tensor, rows: Tensor) -> None:
            assert k == len(seen[name])
            z, rows = to_host([z, rows])
            state[rows] = z
            seen[name].append(state.clone())

        return observe

    budget = Budget(30, 1e-4)
    here = run("cpu", solver, budget, observe=watching("cpu")).solution
    run(DEVICE, solver, budget, observe=watching("pretend"))
    assert here.steps.min() + 3 < here.steps.max()
    assert len(seen["pretend"]) >= len(seen["cpu"])
    for k, (found, expected) in enumerate(zip(seen["pretend"], seen["cpu"], strict=False)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=f"iterate {k}")
    torch.testing.assert_close(seen["pretend"][-1], seen["cpu"][-1], rtol=1e-4, atol=1e-5)
