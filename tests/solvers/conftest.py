"""Every solver, and what each promises on every problem.

A new solver joins all tests of this folder by one more entry in SOLVERS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch

from deqrun.solvers import Anderson, Broyden, Damped, NewtonKrylov, Perturbed, Picard, Secant, Solver
from tests.problems import PROBLEMS, Problem
from tests.usual import usual

CIRCLES = "I + damping (W − I) is orthogonal or larger: the distance to the fixed point never shrinks"
CYCLES = "the multiplier at the fixed point, 2 − r, is below −1: it repels, and a cycle attracts"
EXPANDS = "the iteration matrix has an eigenvalue above 1"
NO_THEOREM = "the fixed point isn't attracting in every row, and the window is shorter than the state: no theorem"


@dataclass(frozen=True, eq=False)
class SolverCase:
    """A solver with its parameters, and where it can't or needn't converge (problem name -> reason).

    `evaluations_per_step`: how many evaluations of f a step costs; None where it varies.
    `full_first_step`: iterate 1 is f(z_0) itself, no mixture of it with z_0.
    `skip`: problems that the solver cannot be asked (for instance for want of structure in f).
    """

    name: str
    solver: Solver
    evaluations_per_step: int | None = 1
    full_first_step: bool = True
    fails: Mapping[str, str] = field(default_factory=dict)
    unsure: Mapping[str, str] = field(default_factory=dict)
    skip: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.name


SOLVERS: tuple[SolverCase, ...] = (
    SolverCase(
        "picard",
        Picard(),
        fails={
            "rotation_1.0": CIRCLES,
            "expanding_outliers_1.5": EXPANDS,
            "logistic_3.2": CYCLES,
            "logistic_3.5": CYCLES,
        },
        unsure={"tanh_skew_1.5": "some rows have a spectral radius above 1 at the fixed point, some below"},
    ),
    SolverCase("picard_damped", Picard(damping=0.6), full_first_step=False, fails={"expanding_outliers_1.5": EXPANDS}),
    SolverCase(
        "damped",
        Damped(),
        fails={"expanding_outliers_1.5": EXPANDS},
        unsure={
            "tanh_skew_1.5": "rows come to a step size that contracts at a time of their own, some after the budget"
        },
    ),
    SolverCase("anderson", Anderson(memory=5)),
    SolverCase(
        "anderson_short_mixed",
        Anderson(memory=2, mixing=0.5),
        full_first_step=False,
        unsure={"expanding_outliers_1.5": NO_THEOREM},
    ),
    SolverCase("anderson_deep", Anderson(memory=10)),
    SolverCase("anderson_safeguarded", Anderson(memory=5, reject=10.0, cap=1e6)),
    SolverCase("broyden", Broyden()),
    SolverCase("broyden_short", Broyden(memory=3), unsure={"expanding_outliers_1.5": NO_THEOREM}),
    SolverCase("broyden_deep", Broyden(memory=16)),
    SolverCase("secant", Secant()),
    SolverCase("newton", NewtonKrylov()),
    SolverCase("anderson_perturbed", Perturbed(Anderson(memory=5), damping=0.9, noise=0.0), full_first_step=False),
    SolverCase("newton_exact", NewtonKrylov(krylov=50, plain_steps=0, forcing=0.0)),
)


DEEP = ("anderson_deep", "broyden_deep", "newton_exact")
"""Solvers for the night: each has the steps of another one, with more room."""


@pytest.fixture(scope="session", params=usual(SOLVERS, [case for case in SOLVERS if case.name in DEEP], repr))
def case(request: pytest.FixtureRequest) -> SolverCase:
    case: SolverCase = request.param
    return case


@pytest.fixture(scope="session", params=PROBLEMS, ids=repr)
def problem(request: pytest.FixtureRequest, case: SolverCase) -> Problem:
    problem: Problem = request.param
    if problem.name in case.skip:
        pytest.skip(case.skip[problem.name])
    return problem


@pytest.fixture(scope="session", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    dtype: torch.dtype = request.param
    return dtype


@pytest.fixture(scope="session", params=[1, 3, 8], ids=lambda batch: f"batch{batch}")
def batch(request: pytest.FixtureRequest) -> int:
    batch: int = request.param
    return batch
