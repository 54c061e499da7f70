"""Rates of geometric residuals, Lipschitz ratios of linear maps, and spectra along the way against dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from deqrun.analysis.contraction import (
    Behaviour,
    behaviour,
    convergence_rate,
    lipschitz_along,
    lipschitz_ratios,
    spectrum_along,
)
from deqrun.models import ConvCell, MLPCell
from deqrun.solvers import Anderson, Budget, Picard, solve
from tests.analysis.maps import BATCH, bound, dense_jacobians, linear, matrices, states
from tests.problems import LinearComplex, LinearSymmetric, Problem, RowRates


@given(st.floats(0.05, 1.5), st.floats(1e-3, 1e3), st.integers(1, 20))
def test_exact_on_geometric_sequences(rate: float, scale: float, window: int) -> None:
    residual = scale * rate ** np.arange(30)[:, None]
    found = convergence_rate(residual, window=window, floor=0.0, least=2)
    assert found[0] == pytest.approx(rate, rel=1e-9)


def test_rounding_floor_stop_and_spikes_change_nothing() -> None:
    clean = 0.5 ** np.arange(40.0)
    floored = np.maximum(clean, 3e-7)
    stopped = np.where(clean < 1e-4, np.nan, clean)
    spiked = clean.copy()
    spiked[17] *= 100
    residual = np.stack([clean, floored, stopped, spiked], axis=1)
    np.testing.assert_allclose(convergence_rate(residual), 0.5, rtol=1e-12)


def test_where_it_cannot_be_told() -> None:
    residual = np.array([[0.1, 1e-9, np.inf, 0.5], [np.nan, 1e-9, np.inf, 0.25], [np.nan, 1e-9, np.inf, 0.125]])
    found = convergence_rate(residual)
    assert np.isnan(found[:3]).all()
    assert found[3] == pytest.approx(0.5)
    assert np.isnan(convergence_rate(residual[:1])).all()


@pytest.mark.parametrize(
    ("problem", "rates", "rtol"),
    [
        (LinearSymmetric(0.5), [0.5] * 8, 0.05),  # −0.45, its second eigenvalue, is still seen after 40 steps
        (LinearComplex(0.9), [0.9] * 8, 0.01),
        (RowRates(), list(RowRates.rates), 0.01),
    ],
    ids=["symmetric", "complex", "own rates"],
)
def test_plain_iteration_converges_at_the_spectral_radius(problem: Problem, rates: list[float], rtol: float) -> None:
    f, z0 = problem.f(8), problem.start(8, torch.float64)
    solution = solve(f, z0, solver=Picard(), budget=Budget(120, 1e-13, norm="absolute"))
    found = convergence_rate(solution.residuals.numpy(), floor=1e-12)
    np.testing.assert_allclose(found, rates, rtol=rtol)


def test_anderson_is_faster_than_the_map_contracts() -> None:
    problem = LinearSymmetric(0.9)
    solution = solve(problem.f(4), problem.start(4, torch.float64), solver=Anderson(), budget=Budget(40, 1e-12))
    assert (convergence_rate(solution.residuals.numpy(), floor=1e-12) < 0.7).all()


def test_ratios_of_a_scaled_orthogonal_map_are_the_scale() -> None:
    f = linear(0.7 * torch.linalg.qr(matrices("gaussian", 6)).Q)
    a, b = states(BATCH, 6), torch.zeros(BATCH, 6, dtype=torch.float64)
    torch.testing.assert_close(lipschitz_ratios(f, a, b), torch.full((BATCH,), 0.7, dtype=torch.float64))
    assert lipschitz_ratios(f, a, a).isnan().all()


def test_ratios_never_exceed_the_norm_and_reach_it_along_the_leading_direction() -> None:
    dense = matrices("non-normal", 8)
    f, norm = linear(dense), torch.linalg.matrix_norm(dense, 2)
    walk = [states(BATCH, 8)]
    for _ in range(10):
        walk.append(f(walk[-1]))
    assert (lipschitz_along(f, walk) <= norm * (1 + 1e-12)).all()
    assert lipschitz_along(f, walk).shape == (10, BATCH)
    leading = torch.linalg.svd(dense).Vh[:, 0]
    torch.testing.assert_close(lipschitz_ratios(f, leading, torch.zeros_like(leading)), norm)


def test_neighbours_are_evaluated_once_and_pairs_are_as_given() -> None:
    f = linear(matrices("gaussian", 5))
    a, b = [states(BATCH, 5) * k for k in (1, 2, 4)], [states(BATCH, 5) ** k for k in (2, 3, 4)]
    calls = []

    def counted(z: Tensor) -> Tensor:
        calls.append(1)
        return f(z)

    torch.testing.assert_close(lipschitz_along(counted, a), torch.stack([lipschitz_ratios(f, a[0], a[1])] * 2))
    assert len(calls) == 3
    torch.testing.assert_close(lipschitz_along(f, a, b)[1], lipschitz_ratios(f, a[1], b[1]))
    with pytest.raises(ValueError, match="needs two states"):
        lipschitz_along(f, a[:1])
    with pytest.raises(ValueError, match="got 3 and 2"):
        lipschitz_along(f, a, b[:2])


@pytest.mark.parametrize(
    "cell",
    [
        MLPCell(input_shape=(3,), num_classes=2, width=12, depth=2, activation="gelu"),
        ConvCell(input_shape=(1, 3, 3), num_classes=2, channels=4, inner_channels=4, groups=2, pool=1),
    ],
    ids=["mlp", "conv"],
)
def test_spectrum_within_one_percent_of_dense_at_the_end_and_along_the_way(cell: MLPCell | ConvCell) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in cell.double().eval().parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 2 / parameter[0].numel() ** 0.5)
    f = bound(cell, 3)
    seen: list[Tensor] = []
    with torch.no_grad():
        end = solve(
            f,
            torch.zeros(3, *cell.state_shape, dtype=torch.float64),
            budget=Budget(12, 0.0, keep="last"),
            observe=lambda k, z, rows: seen.append(z) if k in (0, 1, 4) else None,
        ).z
    along = [*seen, end]
    found = spectrum_along(f, along, radius_iterations=64)
    for at, z in enumerate(along):
        dense = dense_jacobians(f, z)
        radius, norm = torch.linalg.eigvals(dense).abs().amax(1), torch.linalg.matrix_norm(dense, 2)
        torch.testing.assert_close(found.radius[at], radius, rtol=0.01, atol=1e-12)
        torch.testing.assert_close(found.norm[at], norm, rtol=0.01, atol=1e-12)
    assert not torch.allclose(found.norm[0], found.norm[-1], rtol=0.01), "the spectrum depends on the state here"


def test_behaviour_of_maps_of_known_radius_and_norm() -> None:
    """A shear (1/2, 3; 0, 1/2) has radius 1/2 and a norm above 3."""
    kinds = torch.tensor([[[0.5, 0.0], [0.0, 0.2]], [[0.5, 3.0], [0.0, 0.5]], [[1.2, 0.0], [0.0, 0.1]]]).double()
    found = spectrum_along(linear(kinds), [torch.ones(3, 2, dtype=torch.float64)])
    torch.testing.assert_close(found.radius[0], torch.tensor([0.5, 0.5, 1.2]).double(), rtol=1e-6, atol=1e-6)
    codes = behaviour(found.radius, found.norm)
    assert codes.tolist() == [[Behaviour.CONTRACTS, Behaviour.SETTLES, Behaviour.REPELS]]
    broken = behaviour(torch.tensor([torch.nan, 0.5]), torch.tensor([0.5, torch.nan]))
    assert broken.tolist() == [Behaviour.UNKNOWN] * 2
    assert float((codes == Behaviour.SETTLES).double().mean()) == pytest.approx(1 / 3)
    assert len({one.sentence for one in Behaviour}) == 4


def test_senseless_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1 and least at least 2, got 0 and 3"):
        convergence_rate(np.ones((3, 1)), window=0)
