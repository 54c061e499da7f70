"""Penalties on the spectral norm and on the residual: closed forms of linear maps, and gradients by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deqrun.gradients import jacobian_norms, residual_penalty, spectral_penalty
from deqrun.models import BoundCell
from tests.experiment.linear_model import batch, gradients, loss_at, model, step
from tests.models.cells import build, inputs, states


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_each_row_has_the_largest_singular_value_of_its_own_matrix() -> None:
    """f(z)_i = A_i z_i + b: to 1e-6 of the SVD's value; the gradient is u vᵀ for each A_i."""
    matrices, z = random(5, 4, 4).requires_grad_(), random(5, 4, seed=1)
    norms = jacobian_norms(lambda z: torch.einsum("bij,bj->bi", matrices, z) + 1, z, random(5, 4, seed=2), 300)
    u, s, vt = torch.linalg.svd(matrices.detach())
    assert torch.allclose(norms, s[:, 0], rtol=1e-6)
    (gradient,) = torch.autograd.grad(norms.sum(), matrices)
    assert torch.allclose(gradient, u[:, :, :1] @ vt[:, :1], atol=1e-3)


def test_fewer_steps_give_lower_bounds_that_rise() -> None:
    matrix = random(6, 6)
    norms = [
        float(jacobian_norms(lambda z: z @ matrix.T, random(3, 6), random(3, 6, seed=1), k).min())
        for k in (1, 2, 5, 99)
    ]
    assert norms == sorted(norms)
    assert norms[-1] == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-6)


def test_the_spectral_penalty_is_of_what_is_above_the_target() -> None:
    """diag(0.5, 1.2) and diag(0.5, 0.8): ((1.2 − 0.9)² + 0) / 2, and its derivative by the first matrix alone."""
    scale = torch.tensor([[0.5, 1.2], [0.5, 0.8]], dtype=torch.float64, requires_grad=True)
    penalty = spectral_penalty(lambda z: scale * z, random(2, 2), torch.ones(2, 2, dtype=torch.float64), 0.9, 60)
    assert float(penalty.detach()) == pytest.approx(0.3**2 / 2)
    (gradient,) = torch.autograd.grad(penalty, scale)
    assert torch.allclose(gradient, torch.tensor([[0, 0.3], [0, 0]], dtype=torch.float64), atol=1e-9)


def test_a_constant_map_has_no_norm_and_no_gradient() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    penalty = spectral_penalty(lambda z: weight.expand(len(z), -1), random(2, 3), random(2, 3, seed=1), 0.9)
    assert float(penalty.detach()) == 0


@pytest.mark.parametrize("name", ["trm", "eqr", "conv", "mdeq", "mlp", "transformer"])
def test_the_norm_of_a_cell_is_its_dense_jacobian_s(name: str) -> None:
    """One row's J by autograd, number by number; and the penalty's gradient by finite differences along a direction."""
    cell = build(name)
    x, z, start = inputs(cell, 2), states(cell, 2), random(2, *cell.state_shape, seed=5)
    f = BoundCell(cell, cell.inject(x))
    norms = jacobian_norms(f, z, start, 150)
    for row in range(2):
        alone = BoundCell(cell, tuple(part[row : row + 1] for part in f.injection))
        dense = torch.autograd.functional.jacobian(lambda z: alone(z).flatten(), z[row : row + 1])  # noqa: B023
        assert float(norms[row].detach()) == pytest.approx(
            float(torch.linalg.matrix_norm(dense.reshape(cell.state_size, -1), 2)), rel=5e-3
        )


def test_the_residual_penalty_and_its_gradient_on_a_linear_map() -> None:
    """f(z) = W z + b, r = f(z) − z: mean of ‖r‖²/‖z‖², ∂/∂W = 2/B Σ r zᵀ / ‖z‖², and z has none."""
    weight, b, z = random(4, 4).requires_grad_(), random(4, seed=1), random(3, 4, seed=2).requires_grad_()
    penalty = residual_penalty(lambda z: z @ weight.T + b, z)
    r = (z @ weight.T + b - z).detach()
    sizes = z.detach().square().sum(1)
    assert float(penalty.detach()) == pytest.approx(float((r.square().sum(1) / sizes).mean()))
    gradient, of_z = torch.autograd.grad(penalty, (weight, z), allow_unused=True)
    assert of_z is None
    assert torch.allclose(gradient, 2 / 3 * torch.einsum("bi,bj,b->ij", r, z.detach(), 1 / sizes))


def test_a_step_of_training_adds_them_with_their_weights() -> None:
    """The linear cell's J is W at every state: ‖W‖₂ = 0.7, above a target of 0.4 by 0.3."""
    deq, samples = model(), batch()
    plain = step(deq)
    made = step(deq, spectral_weight=2.0, spectral_target=0.4, spectral_steps=80, jacobian_frequency=1.0)
    assert float((made.objective - plain.objective).detach()) == pytest.approx(2 * 0.3**2, rel=1e-6)
    made = step(deq, fixed_point_weight=3.0)
    z = plain.z.detach()
    f = deq.bind(samples.x)
    expected = 3 * ((f(z) - z).square().sum(1) / z.square().sum(1)).mean()
    assert float((made.objective - plain.objective).detach()) == pytest.approx(float(expected.detach()))
    for mine, its in zip(
        gradients(deq, made.objective), gradients(deq, loss_at(deq, step(deq).z, samples) + expected), strict=True
    ):
        assert torch.allclose(mine, its)


def test_neither_penalty_moves_another_stream() -> None:
    """Starts, budgets and the Jacobian's probes are drawn as without them."""
    options = {"start": "normal", "random_budget": [1, 6], "jacobian_weight": 0.5, "path_noise": 0.1}
    one = step(model(), **options)
    two = step(model(), **options, spectral_weight=1.0, fixed_point_weight=1.0)
    assert torch.equal(one.z, two.z)
    assert (one.penalty is None) == (two.penalty is None)
    assert one.penalty is None or torch.equal(one.penalty, two.penalty)  # type: ignore[arg-type]
