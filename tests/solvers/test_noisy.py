"""Noise in proportion to the state: against loops written by hand, and the invariances that it must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Noisy, Picard, Secant, Solver, solve
from tests.solvers.test_perturbed import Affine, affine, zeros

Draw = Callable[[int, Tensor], Tensor]


def drawn(rows: int = 6) -> Draw:
    """ε of each row and iterate from a seed of its own."""

    def epsilon(k: int, z: Tensor) -> Tensor:
        sources = [torch.Generator().manual_seed(1000 * k + row) for row in range(rows)]
        return torch.stack([torch.randn(z.shape[1], generator=each, dtype=z.dtype) for each in sources])

    return epsilon


ALL: list[Solver[Any, Any]] = [Picard(), Picard(0.7), Anderson(memory=3), Broyden(), Secant(), NewtonKrylov()]


def test_a_loop_written_by_hand() -> None:
    f, level, z = affine(), 0.3, zeros()
    solution = solve(f, z, solver=Noisy(Picard(), level, drawn()), budget=Budget(5, 0.0, keep="last"))
    for k in range(5):
        value = f(z)
        z = value + level * value.square().mean(1, keepdim=True).sqrt() * drawn()(k, z)
    torch.testing.assert_close(solution.z, z)


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_without_noise_every_solver_is_as_it_is_to_the_last_bit(solver: Solver[Any, Any]) -> None:
    plain, noisy = (
        solve(affine(), zeros(), solver=each, budget=Budget(20, 1e-8)) for each in (solver, Noisy(solver, 0.0, drawn()))
    )
    assert torch.equal(plain.z, noisy.z)
    assert torch.equal(plain.nfe, noisy.nfe) or isinstance(solver, NewtonKrylov)  # its search spares an evaluation
    assert torch.equal(plain.residuals.nan_to_num(-1), noisy.residuals.nan_to_num(-1))


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_a_row_is_shaken_alike_whether_others_stop_or_not(solver: Solver[Any, Any]) -> None:
    """Rows whose own budget ends early leave the batch; the others go on as they would."""
    f, shaken = affine(), Noisy(solver, 0.05, drawn())
    whole = solve(f, zeros(), solver=shaken, budget=Budget(12, 0.0, keep="last"))
    ends = torch.tensor([12, 2, 12, 3, 1, 12])
    some = solve(f, zeros(), solver=shaken, budget=Budget(12, 0.0, keep="last", row_max_iter=ends))
    torch.testing.assert_close(some.z[ends == 12], whole.z[ends == 12], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", [Picard(), Anderson(memory=3), Secant()], ids=str)
@pytest.mark.parametrize("scale", [2.0**-90, 2.0**40])
def test_the_scale_of_a_problem_bears_on_nothing(solver: Solver[Any, Any], scale: float) -> None:
    """y ↦ f(s y) / s has the iterates of f over s, noise included."""
    f = affine()
    scaled = Affine(f.weight, f.bias / scale)
    own, other = (
        solve(each, zeros(), solver=Noisy(solver, 0.1, drawn()), budget=Budget(8, 0.0, keep="last"))
        for each in (f, scaled)
    )
    torch.testing.assert_close(other.z * scale, own.z)
    torch.testing.assert_close(other.residuals, own.residuals)


def test_noise_has_the_size_that_it_says() -> None:
    """Of a map that keeps a state of root mean square 3, one step adds noise of standard deviation 3 · 0.1."""
    start = 3 * torch.sign(torch.randn(4, 10_000, generator=torch.Generator().manual_seed(1)))
    budget = Budget(1, 0.0, keep="last", min_iter=1)
    moved = solve(lambda z: 1 * z, start, solver=Noisy(Picard(), 0.1, drawn(4)), budget=budget).z - start
    assert moved.std(1).tolist() == pytest.approx([0.3] * 4, rel=0.03)


def test_another_level_is_refused() -> None:
    for level in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="level must be a finite number"):
            Noisy(Picard(), level, drawn())
