"""Secant's steps against what is known of Broyden's and Anderson's."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from deqrun.solvers import Anderson, Broyden, Budget, Picard, Secant, Solver, Status, secant, solve
from tests.problems import orthogonal


def symmetric(radius: float, size: int = 200, rows: int = 4) -> tuple[Tensor, Tensor]:
    """(W, b) of W z + b with eigenvalues spread evenly over [−radius, radius], float64."""
    rng = np.random.default_rng(0)
    weights = []
    for _ in range(rows):
        basis = orthogonal(rng, size)
        weights.append((basis * np.linspace(-radius, radius, size)) @ basis.T)
    return torch.as_tensor(np.stack(weights)), torch.as_tensor(rng.standard_normal((rows, size)))


@pytest.mark.parametrize("radius", [0.9, 0.99])
def test_symmetric_maps_within_a_tenth_of_the_chebyshev_bound(radius: float) -> None:
    """No method on the Krylov space gains more than (1 − √(1 − ρ²)) / ρ a step by much (Saad 2003, section 6.11)."""
    W, b = symmetric(radius)
    tol = 1e-8
    solution = solve(
        lambda z: torch.einsum("bij,bj->bi", W, z) + b,
        torch.zeros_like(b),
        solver=Secant(memory=20),
        budget=Budget(max_iter=500, tol=tol),
    )
    bound = math.log(tol) / math.log((1 - math.sqrt(1 - radius**2)) / radius)
    assert (solution.status == Status.CONVERGED).all()
    assert float(solution.steps.double().max()) <= 1.1 * bound


def test_the_first_steps_are_broydens() -> None:
    """Until a forecast has been seen not to rise twice the methods are one."""
    torch.manual_seed(0)
    W, b = torch.randn(3, 6, 6, dtype=torch.float64) / 3, torch.randn(3, 6, dtype=torch.float64)
    f = lambda z: torch.tanh(torch.einsum("bij,bj->bi", W, z) + b)  # noqa: E731
    for steps in (1, 2):
        budget = Budget(max_iter=steps, tol=0.0, keep="last")
        ours, theirs = (solve(f, torch.zeros_like(b), solver=s, budget=budget).z for s in (Secant(), Broyden()))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


# The triangle between two known methods ---------------------------------------------------------------------------


def bent(seed: int = 0, rows: int = 3, size: int = 12) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """(tanh(W z + b), start), float64."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(rows, size, size, generator=generator, dtype=torch.float64) / size**0.5
    b = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return lambda z: torch.tanh(torch.einsum("bij,bj->bi", W, z) + b), torch.zeros_like(b)


def test_with_the_whole_triangle_it_is_broydens_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the window holds, without Anderson's steps and without a bound (Byrd, Nocedal & Schnabel 1994, th. 6.2)."""
    for name, value in (("APART", 1), ("FELL", 0.0), ("CAP", math.inf)):
        monkeypatch.setattr(secant, name, value)
    f, start = bent()
    for steps in (3, 6, 12):
        budget = Budget(max_iter=steps, tol=0.0, keep="last")
        ours, theirs = (solve(f, start, solver=s, budget=budget).z for s in (Secant(memory=20), Broyden(memory=20)))
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_without_the_triangle_a_linear_map_takes_its_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every secant equation holds then, and n of them are the map: solved after n + 2 evaluations at most."""
    monkeypatch.setattr(secant, "APART", math.inf)
    monkeypatch.setattr(secant, "FELL", 0.0)
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(4, 6, 6, generator=generator, dtype=torch.float64) / 3
    b = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    f = lambda z: torch.einsum("bij,bj->bi", W, z) + b  # noqa: E731
    solution = solve(f, torch.zeros_like(b), solver=Secant(), budget=Budget(max_iter=30, tol=1e-8))
    assert (solution.status == Status.CONVERGED).all()
    assert int(solution.nfe.max()) <= 6 + 2
    torch.testing.assert_close(solution.z, torch.linalg.solve(torch.eye(6) - W, b), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [0.3, 1.0, 4.0])
def test_products_without_a_pass_are_the_products(dtype: torch.dtype, gain: float) -> None:
    """They follow from the products with g_k and g_{k−1}; here all are taken anew, before and beyond a full window."""
    states: list[secant.SecantState] = []

    class Seen(Secant):
        def init(self, z: Tensor) -> secant.SecantState:
            states.append(super().init(z))
            return states[-1]

    W = gain * torch.randn(3, 40, 40, generator=torch.Generator().manual_seed(1), dtype=dtype) / 40**0.5
    b = torch.ones(3, 40, dtype=dtype)
    for steps in (4, 6, 17):
        f = lambda z: torch.tanh(torch.einsum("bij,bj->bi", W, z) + b)  # noqa: E731
        solve(f, torch.zeros_like(b), solver=Seen(memory=6), budget=Budget(max_iter=steps, tol=0.0))
        state = states[-1]
        df, dg = (state.ring.vectors[first : 2 * state.count : 2].double() for first in (0, 1))
        dz, count = df - dg, state.count
        age = ((state.pushed - 2) - torch.arange(count)) % 6
        newer = (age[:, None] <= age).double()
        # Rounding lets some rows stand still: differences without a length have no direction.
        moved = torch.stack([torch.linalg.vector_norm(v, dim=2).T > 1e-12 for v in (dz, dg, df)]).all(0)
        moves = moved[:, :, None] & moved[:, None]
        s, y = (torch.nn.functional.normalize(v, dim=2, eps=1e-300) for v in (dz, dg))
        other = (1 - torch.eye(count)).double()  # the diagonal of yy has the ridge
        for found, one, two, only in (
            (state.yy, y, y, other),
            (state.sy, s, dg, torch.ones_like(newer)),
            (state.su, s, df, newer),
        ):
            expected = torch.einsum("ird,jrd->rij", one, two)
            error = (found[:, :count, :count] - expected).abs() / torch.linalg.vector_norm(two, dim=2).T[:, None]
            assert float((error * only)[moves].max()) < 1e3 * torch.finfo(dtype).eps


@pytest.mark.parametrize("memory", [1, 3, 10])
def test_the_triangle_follows_the_ages_as_slots_are_used_again(memory: int) -> None:
    """min(1, age/8) of the column less that of the row where the row is newer: ages told one difference at a time."""
    state = secant.SecantState(torch.zeros(1, 4), memory)
    born: dict[int, int] = {}
    for difference in range(3 * memory + 2):
        born[difference % memory] = difference
        state.pushed = difference + 2
        found = state._newer(state.count)
        for row, column in product(range(state.count), repeat=2):
            assert found[row, column] == min(1.0, max(0, born[row] - born[column]) / secant.APART)


# A step into a place where f is not defined ------------------------------------------------------------------------


def logarithm(z: Tensor) -> Tensor:
    """c log(2 + 4 z) − 1, not defined for z <= −1/2; c differs from row to row."""
    c = torch.linspace(1.2, 2.2, len(z), dtype=z.dtype)[:, None]
    return c * torch.log(2 + 4 * z) - 1


@pytest.mark.parametrize("solver", [Anderson(reject=2.0), Secant()], ids=["anderson", "secant"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_accelerated_step_out_of_the_domain_is_taken_back(solver: Solver, dtype: torch.dtype) -> None:
    """Plain iteration never leaves the domain, and converges in every row: so does the solver that goes back."""
    start = torch.linspace(0.5, 3.5, 64, dtype=dtype)[:, None]
    budget = Budget(max_iter=100, tol=1e-5)
    plain = solve(logarithm, start, solver=Picard(), budget=budget)
    textbook = solve(logarithm, start, solver=Anderson(), budget=budget)
    ours = solve(logarithm, start, solver=solver, budget=budget)
    assert (plain.status == Status.CONVERGED).all()
    assert (textbook.status == Status.DIVERGED).any()
    assert (ours.status == Status.CONVERGED).all()
    torch.testing.assert_close(logarithm(ours.z), ours.z, rtol=1e-4, atol=1e-5)  # of two fixed points, whichever


@pytest.mark.parametrize("solver", [Anderson(reject=2.0), Secant()], ids=["anderson", "secant"])
def test_a_plain_step_out_of_the_domain_is_divergence(solver: Solver) -> None:
    """From −0.49 the plain step itself leads to log of a negative number: there is nothing to go back to."""
    start = torch.tensor([[-0.49], [1.0]])
    solution = solve(logarithm, start, solver=solver, budget=Budget(max_iter=50, tol=1e-5))
    assert solution.status.tolist() == [Status.DIVERGED, Status.CONVERGED]
    assert int(solution.steps[0]) == 1


def test_a_row_that_is_never_defined_again_diverges_at_the_second_loss() -> None:
    """f is lost for good from its fifth call on: one step back, one plain step, and the row is called diverged."""
    calls = 0

    def f(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.cos(z) if calls <= 4 else torch.full_like(z, torch.nan)

    solution = solve(f, torch.zeros(1, 1), solver=Secant(), budget=Budget(max_iter=50, tol=1e-9))
    assert solution.status.tolist() == [Status.DIVERGED]
    assert int(solution.steps[0]) == 5


@pytest.mark.parametrize("solver", [Anderson(), Anderson(reject=2.0), Broyden(), Secant()], ids=repr)
def test_kin_analytic(solver: Solver) -> None:
    """The fixed point (1/2, 1, −π/6) of SUNDIALS' kinAnalytic_fp (KINSOL examples)."""

    def f(v: Tensor) -> Tensor:
        x, y, w = v.unbind(1)
        return torch.stack(
            [
                torch.cos((y - 1) * w) / 3 + 1 / 6,
                torch.sqrt(x * x + torch.sin(w) + 1.06) / 9 + 0.9,
                -torch.exp(-x * (y - 1)) / 20 - (10 * math.pi - 3) / 60,
            ],
            1,
        )

    start = torch.tensor([[0.1, 0.1, -0.1]], dtype=torch.float64)
    solution = solve(f, start, solver=solver, budget=Budget(max_iter=50, tol=1e-10))
    expected = torch.tensor([[0.5, 1.0, -math.pi / 6]], dtype=torch.float64)
    torch.testing.assert_close(solution.z, expected, rtol=0, atol=1e-8)


# Room for more differences is taken when they come ----------------------------------------------------------------


class Contraction:
    """tanh(W z + b) of rows of its own, with `take`, so that rows that have stopped leave the batch."""

    def __init__(self, W: Tensor, b: Tensor) -> None:
        self.W, self.b = W, b

    def __call__(self, z: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("bij,bj->bi", self.W, z) + self.b)

    def take(self, rows: Tensor) -> Contraction:
        return Contraction(self.W[rows], self.b[rows])


@pytest.mark.parametrize("room", [1, 2, 3, 10])
@pytest.mark.parametrize("size", [2, 12, 70])
def test_room_that_is_taken_late_changes_no_step(monkeypatch: pytest.MonkeyPatch, room: int, size: int) -> None:
    """Rows stop on the way, and the window wraps after 14 steps: the same steps with room for all from the start."""
    generator = torch.Generator().manual_seed(0)
    gain = torch.linspace(0.2, 1.5, 8, dtype=torch.float64)[:, None, None]
    W = gain * torch.randn(8, size, size, generator=generator, dtype=torch.float64) / size**0.5
    f = Contraction(W, torch.randn(8, size, generator=generator, dtype=torch.float64))
    start = torch.zeros(8, size, dtype=torch.float64)
    solutions = []
    for first in (room, 14):
        monkeypatch.setattr(secant, "ROOM", first)
        solutions.append(solve(f, start, solver=Secant(memory=14), budget=Budget(max_iter=25, tol=1e-7)))
    late, full = solutions
    assert torch.equal(late.steps, full.steps)
    torch.testing.assert_close(late.residuals, full.residuals, rtol=1e-5, atol=1e-12, equal_nan=True)
    torch.testing.assert_close(late.z, full.z, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("memory", "steps", "differences"), [(20, 10, 10), (20, 11, 20), (20, 30, 20), (13, 11, 13)])
def test_room_is_for_the_differences_that_there_are(memory: int, steps: int, differences: int) -> None:
    states: list[secant.SecantState] = []

    class Seen(Secant):
        def init(self, z: Tensor) -> secant.SecantState:
            states.append(super().init(z))
            return states[-1]

    f, start = bent(size=500)
    # The last iterate asks for no step, so its difference is not taken.
    solve(f, start, solver=Seen(memory=memory), budget=Budget(max_iter=steps + 1, tol=0.0))
    assert len(states[-1].ring.vectors) == 2 * differences + 3
