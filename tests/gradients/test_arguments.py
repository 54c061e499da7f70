"""Wrong parameters fail where they are given, with one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.analysis.gradient_audit import audit
from deqrun.gradients import Gradient, Implicit, OneStep, Phantom, Unrolled, equilibrium
from deqrun.solvers import Anderson, Budget, Picard

W = torch.eye(2, dtype=torch.float64).mul(0.5).requires_grad_()
Z0 = torch.zeros(3, 2, dtype=torch.float64)


def f(z: Tensor) -> Tensor:
    return z @ W.T + 1


def audited(**changes: Any) -> object:
    given: dict[str, Any] = {"parameters": [W], "gradients": {"one": OneStep()}, "loss": torch.sum} | changes
    return audit(f, Z0, given.pop("loss"), given.pop("parameters"), **given)


VALUES: list[tuple[Callable[[], object], str]] = [
    *(
        (lambda n=n: Phantom(steps=n), f"Phantom steps must be a whole number >= 1, got {n!r}")
        for n in (0, -1, 2.0, True)
    ),
    *(
        (lambda d=d: Phantom(damping=d), "Phantom damping must be a number in")
        for d in (0, -0.1, 2.1, float("nan"), "1")
    ),
    *((lambda n=n: Unrolled(steps=n), f"Unrolled steps must be a whole number >= 1, got {n!r}") for n in (0, -3, 1.5)),
    *((lambda d=d: Unrolled(damping=d), "Unrolled damping must be a number in") for d in (0, 3, None)),
    *((lambda n=n: Unrolled(checkpoint=n), "Unrolled checkpoint must be a whole number >= 0") for n in (-1, 0.5, None)),
    *((lambda n=n: Unrolled(last=n), "Unrolled last must be a whole number >= 1") for n in (0, -2)),
    (lambda: Unrolled(steps=3, last=4), "Unrolled last must be at most steps=3, got 4"),
    (lambda: audited(gradients={}), "at least one gradient"),
    (lambda: audited(directions=0), "audit directions must be a whole number >= 1, got 0"),
    (lambda: audited(parameters=[]), "at least one tensor"),
    (lambda: audited(parameters=[W * 2]), "leaf tensors that require a gradient"),
    (lambda: audited(parameters=[Z0]), "leaf tensors that require a gradient"),
]

TYPES: list[tuple[Callable[[], object], str]] = [
    (lambda: Implicit(solver="anderson"), "Implicit solver must be a Solver or None, got str 'anderson'"),  # type: ignore[arg-type]
    (lambda: Implicit(solver=Anderson), r"must be a Solver or None, got the class Anderson; write Anderson\(\)"),  # type: ignore[arg-type]
    (lambda: Implicit(budget=100), "Implicit budget must be a Budget or None, got int 100"),  # type: ignore[arg-type]
    (lambda: Implicit(Budget()), "Implicit solver must be a Solver or None, got Budget"),  # type: ignore[arg-type]
    (lambda: Implicit(start=0.0), "Implicit start must be a Tensor or None, got float 0.0"),  # type: ignore[arg-type]
    (lambda: equilibrium(f, Z0, gradient="implicit"), "gradient must be a Gradient or None, got str 'implicit'"),  # type: ignore[arg-type]
    (lambda: equilibrium(f, Z0, gradient=OneStep), r"the class OneStep; write OneStep\(\)"),  # type: ignore[arg-type]
    (lambda: equilibrium(f, Z0, solver=Implicit()), "equilibrium solver must be a Solver or None, got Implicit"),  # type: ignore[arg-type]
    (lambda: equilibrium(f, Z0, budget=Picard()), "equilibrium budget must be a Budget or None, got Picard"),  # type: ignore[arg-type]
    (lambda: audited(gradients=[OneStep()]), "audit gradients must be a mapping"),
    (lambda: audited(gradients={"one": "one_step"}), r"gradients\['one'\] must be a Gradient, got str"),
    (lambda: audited(precise=1e-9), "audit precise must be a Budget or None, got float"),
]


@pytest.mark.parametrize(("call", "sentence"), VALUES)
def test_values(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("call", "sentence"), TYPES)
def test_types(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        call()


@pytest.mark.parametrize("gradient", [Implicit(), OneStep(), Phantom(), Unrolled(steps=3)])
def test_no_rows_are_no_problem(gradient: Gradient) -> None:
    z, solution = equilibrium(f, torch.zeros(0, 2, dtype=torch.float64), gradient=gradient)
    z.sum().backward()
    assert z.shape == (0, 2)
    assert solution.nfe.shape == (0,)
