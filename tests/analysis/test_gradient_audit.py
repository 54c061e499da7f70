"""The audit, on maps whose gradients and whose errors have closed forms."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deqrun.analysis.gradient_audit import GradientAudit, audit
from deqrun.gradients import Gradient, Implicit, OneStep, Phantom, Unrolled
from deqrun.solvers import Anderson, Budget, Picard

EXACT = Budget(max_iter=500, tol=1e-13)
RATE = 0.6


class Linear(nn.Module):
    """f(z) = rate · z + b, whose dz*/db is 1 / (1 − rate)."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        draw = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.bias = nn.Parameter(draw.to(dtype))

    def forward(self, z: Tensor) -> Tensor:
        return RATE * z + self.bias


class Tanh(nn.Module):
    """f(z) = tanh(W z + b)."""

    def __init__(self, dtype: torch.dtype = torch.float64, gain: float = 0.7) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        weight = torch.randn(5, 5, generator=draw, dtype=torch.float64)
        self.weight = nn.Parameter((gain * weight / torch.linalg.matrix_norm(weight, 2)).to(dtype))
        self.bias = nn.Parameter(torch.randn(6, 5, generator=draw, dtype=torch.float64).to(dtype))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + self.bias)


def cube(z: Tensor) -> Tensor:
    return z.pow(3).sum()


def of(f: nn.Module, gradients: dict[str, Gradient], **changes: Any) -> GradientAudit:
    bias = next(p for name, p in f.named_parameters() if name == "bias")
    given: dict[str, Any] = {"solver": Picard(), "budget": EXACT} | changes
    return audit(f, torch.zeros_like(bias), cube, f.parameters(), gradients=gradients, **given)


def test_of_a_linear_map_the_errors_are_known() -> None:
    """With J = ρ I every mode's gradient is a multiple of the exact one, 1 / (1 − ρ): OneStep 1, Phantom
    (1 − (λρ + 1 − λ)^K) / (1 − ρ), Unrolled's last K steps (1 − ρ^K) / (1 − ρ). All have cosine 1."""
    gradients: dict[str, Gradient] = {
        "implicit": Implicit(Picard(), EXACT),
        "one_step": OneStep(),
        "phantom": Phantom(steps=5, damping=0.5),
        "unrolled": Unrolled(steps=200),
        "truncated": Unrolled(steps=200, last=4),
    }
    found = of(Linear(), gradients)
    errors = {
        "implicit": 0.0,
        "one_step": RATE,
        "phantom": (0.5 * RATE + 0.5) ** 5,
        "unrolled": 0.0,
        "truncated": RATE**4,
    }
    assert [row.name for row in found.rows] == list(gradients)
    for row in found.rows:
        assert row.relative_error == pytest.approx(errors[row.name], rel=1e-8, abs=1e-11)
        assert row.cosine == pytest.approx(1.0, abs=1e-12)
        assert found.row(row.name) is row


def test_the_reference_is_the_closed_form() -> None:
    """L = Σ z*³ with z* = b / (1 − ρ): ‖g‖ = ‖3 z*²‖ / (1 − ρ)."""
    f = Linear()
    reference = of(f, {"one": OneStep()}).reference
    z = f.bias.detach() / (1 - RATE)
    assert reference.norm == pytest.approx(float((3 * z**2 / (1 - RATE)).norm()), rel=1e-11)
    assert reference.converged
    assert reference.residual <= 1e-12
    assert reference.adjoint_residual <= 1e-12


@pytest.mark.parametrize("solver", [Picard(), Anderson()], ids=["picard", "anderson"])
def test_the_reference_agrees_with_finite_differences(solver: Any) -> None:
    reference = of(Tanh(), {"one": OneStep()}, solver=solver, directions=5).reference
    assert len(reference.differences) == len(reference.derivatives) == 5
    assert reference.difference_error <= 1e-6
    for difference, derivative in zip(reference.differences, reference.derivatives, strict=True):
        assert difference == pytest.approx(derivative, rel=1e-4, abs=1e-6 * reference.norm)


@pytest.mark.parametrize("side", [1, -1])
def test_of_several_fixed_points_it_is_the_one_that_the_solve_finds(side: int) -> None:
    """f = tanh(3 z + b), b = 0.1, has a stable one on each side: dz*/db = (1 − z*²) / (1 − 3 (1 − z*²)) at either."""

    class Bistable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.full((1, 1), 0.1, dtype=torch.float64))

        def forward(self, z: Tensor) -> Tensor:
            return torch.tanh(3 * z + self.bias)

    f, z0 = Bistable(), torch.full((1, 1), 0.5 * side, dtype=torch.float64)
    z = float(side)
    for _ in range(100):
        z = math.tanh(3 * z + 0.1)
    found = audit(f, z0, torch.sum, f.parameters(), gradients={"one_step": OneStep()}, budget=Budget(8, 0.0))
    slope = 1 - z**2
    assert found.reference.norm == pytest.approx(slope / (1 - 3 * slope), rel=1e-9)
    assert found.reference.difference_error <= 1e-5
    assert found.rows[0].state_error <= 1e-6


def test_the_state_that_a_mode_ends_in_is_compared_too() -> None:
    """From 0, K steps of ρ z + b end at (1 − ρ^K) z*."""
    found = of(Linear(), {str(steps): Unrolled(steps=steps) for steps in (3, 10)})
    for steps, row in zip((3, 10), found.rows, strict=True):
        assert row.state_error == pytest.approx(RATE**steps, rel=1e-9)
        assert row.residual == pytest.approx(RATE**steps * (1 - RATE) / (1 - RATE ** (steps + 1)), rel=1e-9)


def test_a_wrong_gradient_does_not_pass_the_differences() -> None:
    """f that hides its dependence on b from autograd: differences see it, the implicit gradient does not."""

    class Hiding(Linear):
        def forward(self, z: Tensor) -> Tensor:
            return RATE * z + self.bias.detach() + 0.5 * self.bias

    assert of(Hiding(), {"one": OneStep()}).reference.difference_error == pytest.approx(2.0, rel=1e-5)


def test_an_adjoint_solved_less_is_worse_and_says_so() -> None:
    """Picard's adjoint after n products is the truncated series: relative error ρ^{n+1}; its residual known, too."""
    gradients: dict[str, Gradient] = {str(n): Implicit(Picard(), Budget(n, 0.0, keep="last")) for n in (0, 3, 10)}
    found = of(Linear(), gradients)
    for n, row in zip((0, 3, 10), found.rows, strict=True):
        assert row.relative_error == pytest.approx(RATE ** (n + 1), rel=1e-9)
        exact = RATE ** (n + 1) * (1 - RATE) / (1 - RATE ** (n + 2))
        assert row.adjoint_residual == pytest.approx(exact, rel=1e-9)
    assert found.rows[0].products == 0 + 1 + 1  # its residual, and the pass to the weights


def test_evaluations_and_products_are_counted_per_row() -> None:
    gradients: dict[str, Gradient] = {
        "implicit": Implicit(Picard(), Budget(7, 0.0)),
        "one_step": OneStep(),
        "phantom": Phantom(steps=3),
        "unrolled": Unrolled(steps=8),
        "checkpointed": Unrolled(steps=8, checkpoint=3),
    }
    found = of(Tanh(), gradients, budget=Budget(12, 0.0))
    counts = {row.name: (row.forward_evaluations, row.backward_evaluations, row.products) for row in found.rows}
    assert counts == {
        "implicit": (13 + 1, 0, 7 + 1 + 1),
        "one_step": (13 + 1, 0, 1),
        "phantom": (13 + 3, 0, 3),
        "unrolled": (8 + 1, 0, 8),
        "checkpointed": (8 + 1, 8, 8),
    }
    assert found.row("one_step").adjoint_residual is None
    assert found.row("checkpointed").relative_error == pytest.approx(found.row("unrolled").relative_error, rel=1e-9)


def test_the_same_seed_gives_the_same_audit() -> None:
    gradients: dict[str, Gradient] = {"implicit": Implicit(), "phantom": Phantom()}
    first, again = (of(Tanh(), gradients) for _ in range(2))
    assert first == again
    seeded = [of(Tanh(), gradients, generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert seeded[0] == seeded[1]
    assert seeded[0].reference.derivatives != seeded[2].reference.derivatives
    assert seeded[0].rows == seeded[2].rows


def test_the_global_generator_and_the_map_are_left_alone() -> None:
    f = Tanh(torch.float32)
    before, state = copy.deepcopy(f.state_dict()), torch.random.get_rng_state()
    of(f, {"one": OneStep()})
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in f.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in f.parameters())


def test_a_float32_module_is_compared_with_float64() -> None:
    """So the error of float32 itself is seen: some units of 1e-7, where a float32 reference could not tell."""
    gradients: dict[str, Gradient] = {"implicit": Implicit(Anderson(), Budget(200, 1e-7)), "one_step": OneStep()}
    budget = Budget(200, 1e-7)
    single, double = (of(Tanh(dtype), gradients, budget=budget) for dtype in (torch.float32, torch.float64))
    assert single.reference.dtype == torch.float64
    assert single.reference.difference_error <= 1e-6
    assert 1e-9 < single.row("implicit").relative_error < 1e-5
    assert single.row("one_step").relative_error == pytest.approx(double.row("one_step").relative_error, rel=1e-5)


class Half(Tanh):
    """Takes b from a function, which a copy does not see into: the copy would go on computing with the original's b."""

    def __init__(self) -> None:
        super().__init__(torch.float32)
        bias = self.bias
        self.hidden = lambda: bias

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + self.hidden())


class Past(Tanh):
    """Holds a tensor that autograd has a history of, which torch refuses to copy."""

    def __init__(self) -> None:
        super().__init__(torch.float32)
        self.scale = self.weight.detach().requires_grad_().sum() * 0 + 1

    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z) * self.scale


def weighted(z: Tensor) -> Tensor:
    """A loss that holds a float32 weight, and so takes no float64 state."""
    return (z @ torch.ones(5, 1)).square().sum()


@pytest.mark.parametrize(
    ("module", "closure", "loss"),
    [
        (Tanh(torch.float32), True, cube),
        (Half(), False, cube),
        (Past(), False, cube),
        (Tanh(torch.float32), False, weighted),
    ],
    ids=["a closure", "half a closure", "a tensor with a history", "a loss with a weight"],
)
def test_what_cannot_be_copied_is_compared_in_its_own_dtype(module: Tanh, closure: bool, loss: Any) -> None:
    """The parameters are moved in place for the differences, and are back to the bit."""
    before = copy.deepcopy(dict(module.named_parameters()))
    found = audit(
        (lambda z: module(z)) if closure else module,
        torch.zeros(6, 5),
        loss,
        module.parameters(),
        gradients={"implicit": Implicit(Anderson(), Budget(200, 1e-6))},
        budget=Budget(200, 1e-6),
    )
    assert found.reference.dtype == torch.float32
    assert found.reference.converged
    assert found.reference.difference_error <= 2e-2
    assert found.rows[0].relative_error <= 1e-4
    assert all(torch.equal(before[name], tensor) for name, tensor in module.named_parameters())


def test_a_loss_that_is_a_module_is_copied_too() -> None:
    torch.manual_seed(0)
    f, readout = Tanh(torch.float32), nn.Linear(5, 2)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.readout = readout

        def forward(self, z: Tensor) -> Tensor:
            return self.readout(z).square().sum()

    parameters = [*f.parameters(), *readout.parameters()]
    gradients: dict[str, Gradient] = {"implicit": Implicit(Anderson(), Budget(200, 1e-6))}
    found = audit(f, torch.zeros(6, 5), Loss(), parameters, gradients=gradients, budget=Budget(200, 1e-6))
    assert found.reference.dtype == torch.float64
    assert found.reference.difference_error <= 1e-6
    assert found.rows[0].relative_error <= 1e-5


def test_a_reference_that_did_not_converge_says_so() -> None:
    """Too small a budget, and a map of spectral radius above 1 with plain iteration."""
    assert not of(Tanh(), {"one": OneStep()}, precise=Budget(3, 1e-12)).reference.converged
    found = of(Tanh(), {"one": OneStep()}, precise=Budget(3, 1e-12))
    assert "NOT converged" in found.table().splitlines()[0]


def test_a_mode_that_gives_nothing_has_no_direction() -> None:
    """Zero steps reach no weight: relative error 1, no cosine."""
    row = of(Tanh(), {"none": Unrolled()}, budget=Budget(0)).rows[0]
    assert row.relative_error == 1.0
    assert math.isnan(row.cosine)


def test_the_table_has_a_line_per_gradient() -> None:
    found = of(Linear(), {"one_step": OneStep(), "implicit": Implicit(Picard(), EXACT)})
    reference, head, one_step, implicit = found.table().splitlines()
    assert "float64, converged" in reference
    columns = ["gradient", "cosine", "error", "state error", "evaluations", "again", "products", "adjoint residual"]
    assert re.split("  +", head) == columns
    assert one_step.split()[:3] == ["one_step", "1.000000", f"{RATE:.1e}"]
    assert len(implicit.split()) == len(one_step.split()) + 1
