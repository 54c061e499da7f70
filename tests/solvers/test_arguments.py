"""Requests that make no sense are refused in one sentence; odd ones that do make sense are answered."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.solvers import Anderson, Budget, Picard, Solution, Status, solve
from tests.solvers.conftest import SOLVERS, SolverCase

EVERY_SOLVER = pytest.mark.parametrize("any_solver", SOLVERS, ids=repr)


def refusal(request: Callable[[], object], names: str) -> None:
    """The request fails with one line that names what was wrong."""
    with pytest.raises((ValueError, TypeError), match=f"(?i){names}") as caught:
        request()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).split()) >= 5, "say what was given and what is allowed"


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_iter": -1},
        {"max_iter": 5, "tol": -1e-3},
        {"max_iter": 5, "tol": math.nan},
        {"max_iter": 5, "norm": "l1"},
        {"max_iter": 5, "keep": "first"},
        {"max_iter": 5, "patience": -1},
    ],
    ids=lambda arguments: "_".join(map(str, list(arguments.items())[-1])),
)
def test_budgets_that_make_no_sense(arguments: dict[str, Any]) -> None:
    refusal(lambda: Budget(**arguments), names=list(arguments)[-1])


@pytest.mark.parametrize("damping", [0.0, -0.5, 2.1, math.nan, math.inf])
def test_damping_outside_its_range(damping: float) -> None:
    refusal(lambda: Picard(damping=damping), names="damping")


@pytest.mark.parametrize(
    ("name", "value"),
    [("memory", -1), ("mixing", 0.0), ("mixing", -1.0), ("mixing", math.nan), ("ridge", -1e-8), ("ridge", math.nan)],
)
def test_anderson_parameters_outside_their_range(name: str, value: float) -> None:
    refusal(lambda: Anderson(**{name: value}), names=name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "z0", [torch.zeros(3, 2, dtype=torch.long), torch.zeros(3, 2, dtype=torch.bool), torch.tensor(1.0)], ids=repr
)
@EVERY_SOLVER
def test_starts_that_are_no_batch_of_real_states(any_solver: SolverCase, z0: Tensor) -> None:
    refusal(lambda: solve(lambda z: 0.5 * z, z0, solver=any_solver.solver, budget=Budget(max_iter=5)), names="z0|start")


@pytest.mark.parametrize(
    "change",
    [
        lambda z: torch.cat([z, z], dim=1),
        lambda z: z[:, :1],
        lambda z: z.sum(dim=1),
        lambda z: z[:1],
        lambda z: z[:, None],
    ],
    ids=["wider", "narrower", "flatter", "fewer_rows", "deeper"],
)
@EVERY_SOLVER
def test_maps_that_change_the_shape(any_solver: SolverCase, change: Callable[[Tensor], Tensor]) -> None:
    """Broadcasting would hide most of these."""
    refusal(lambda: solve(change, torch.ones(3, 4), solver=any_solver.solver, budget=Budget(max_iter=5)), names="shape")


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.complex64])
@EVERY_SOLVER
def test_maps_that_change_the_kind_of_number(any_solver: SolverCase, kind: torch.dtype) -> None:
    refusal(
        lambda: solve(
            lambda z: (0.5 * z).to(kind), torch.ones(3, 4), solver=any_solver.solver, budget=Budget(max_iter=5)
        ),
        names="dtype|float|real",
    )


@pytest.mark.parametrize("max_iter", [0, 1, 5])
@EVERY_SOLVER
def test_an_empty_batch_has_an_empty_answer(any_solver: SolverCase, max_iter: int) -> None:
    solution = solve(
        lambda z: 0.5 * z + 1, torch.zeros(0, 4), solver=any_solver.solver, budget=Budget(max_iter=max_iter)
    )
    assert solution.z.shape == (0, 4)
    for per_row in (solution.residual, solution.steps, solution.kept, solution.nfe, solution.status):
        assert per_row.shape == (0,)
    assert solution.residuals.shape[1] == solution.nfes.shape[1] == 0


@EVERY_SOLVER
def test_a_state_without_numbers_is_solved(any_solver: SolverCase) -> None:
    """(batch, 0): nothing differs from f of it, so the start is the answer."""
    solution = solve(lambda z: z + 1, torch.zeros(3, 0), solver=any_solver.solver, budget=Budget(max_iter=5))
    assert solution.z.shape == (3, 0)
    assert solution.status.tolist() == [Status.CONVERGED] * 3


@pytest.mark.parametrize("start", [0.0, 3.0])
@pytest.mark.parametrize("constant", [0.0, 2.0, 2.0**-40, 1e20])
@pytest.mark.parametrize("any_solver", [case for case in SOLVERS if case.full_first_step], ids=repr)
def test_a_constant_map_ends_where_it_points(any_solver: SolverCase, constant: float, start: float) -> None:
    """f(z) = c with a full first step: z_1 = c, residual 0. A start that is already there takes none."""
    solution = solve(
        lambda z: torch.full_like(z, constant),
        torch.full((2, 3), start, dtype=torch.float64),
        solver=any_solver.solver,
        budget=Budget(max_iter=5, tol=1e-12),
    )
    assert solution.steps.tolist() == [int(start != constant)] * 2
    assert solution.status.tolist() == [Status.CONVERGED] * 2
    assert solution.residual.tolist() == [0.0, 0.0]
    assert torch.equal(solution.z, torch.full((2, 3), constant, dtype=torch.float64))


@pytest.mark.parametrize("tol", [0.0, 1e-6])
@EVERY_SOLVER
def test_the_identity_is_solved_before_it_starts(any_solver: SolverCase, tol: float) -> None:
    """Every point is fixed: residual 0 <= tol at iterate 0, at tol = 0 too, and at the origin (0 / 0)."""
    z0 = torch.tensor([[1.0, -2.0], [0.0, 0.0], [1e-30, 1e30]], dtype=torch.float64)
    solution = solve(lambda z: z, z0, solver=any_solver.solver, budget=Budget(max_iter=5, tol=tol))
    assert solution.steps.tolist() == solution.kept.tolist() == [0, 0, 0]
    assert solution.residual.tolist() == [0.0, 0.0, 0.0]
    assert solution.status.tolist() == [Status.CONVERGED] * 3
    assert torch.equal(solution.z, z0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@EVERY_SOLVER
def test_a_map_that_is_never_finite(any_solver: SolverCase, value: float) -> None:
    """The start is the only finite state there is: it is returned, with an infinite residual."""
    z0 = torch.ones(2, 3)
    solution = solve(lambda z: torch.full_like(z, value), z0, solver=any_solver.solver, budget=Budget(max_iter=5))
    assert solution.status.tolist() == [Status.DIVERGED] * 2
    assert solution.steps.tolist() == [0, 0]
    assert solution.residual.tolist() == [math.inf, math.inf]
    assert torch.equal(solution.z, z0)


@EVERY_SOLVER
def test_an_infinite_state_is_no_fixed_point(any_solver: SolverCase) -> None:
    """inf − inf is not 0: f(inf) = inf must not pass for converged."""
    solution = solve(lambda z: z + 1, torch.full((1, 2), math.inf), solver=any_solver.solver, budget=Budget(max_iter=5))
    assert solution.status.tolist() == [Status.DIVERGED]
    assert solution.residual.tolist() == [math.inf]


def answer_unless_refused(f: Callable[[Tensor], Tensor], any_solver: SolverCase) -> Solution | None:
    """The solution, or None where the solver noticed that f overwrites what it must not, and said so."""
    z0 = torch.tensor([[0.0, 0.5, 1.0], [2.0, -1.0, 0.3]], dtype=torch.float64)
    try:
        return solve(f, z0, solver=any_solver.solver, budget=Budget(max_iter=50, tol=1e-10))
    except ValueError:
        return None


@pytest.mark.parametrize("target", ["input", "buffer"])
@EVERY_SOLVER
def test_a_map_that_overwrites_is_refused_or_answered_rightly(any_solver: SolverCase, target: str) -> None:
    """f writes its answer into its own argument, or into one buffer for all calls: never silently wrong."""
    buffer = torch.empty(2, 3, dtype=torch.float64)

    def overwriting(z: Tensor) -> Tensor:
        return torch.add(0.9 * torch.cos(z), 0.1, out=z if target == "input" else buffer)

    answer = answer_unless_refused(overwriting, any_solver)
    expected = answer_unless_refused(lambda z: 0.9 * torch.cos(z) + 0.1, any_solver)
    assert expected is not None
    if answer is not None:
        assert torch.equal(answer.steps, expected.steps)
        torch.testing.assert_close(answer.z, expected.z, rtol=1e-13, atol=0)
        torch.testing.assert_close(answer.residuals, expected.residuals, rtol=1e-6, atol=1e-14, equal_nan=True)
