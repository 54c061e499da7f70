"""StableMax against its formula in double precision: values, slopes, and a step of training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deqrun.experiment.training.stablemax import log_scores
from tests.experiment.linear_model import batch, gradients, model, step


def scores(x: Tensor) -> Tensor:
    """s(x) as the paper has it, in float64."""
    x = x.double()
    return torch.where(x >= 0, x + 1, 1 / (1 - x.clamp(max=0)))


def logits(scale: float) -> Tensor:
    return scale * torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0, 1e6, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_are_the_formula_s(scale: float, dtype: torch.dtype) -> None:
    x = logits(scale).to(dtype)
    p = scores(x) / scores(x).sum(1, keepdim=True)
    found = torch.log_softmax(log_scores(x), 1)
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), p.log(), rtol=tolerance, atol=tolerance)


def test_the_order_of_the_classes_is_the_logits() -> None:
    x = logits(3.0)
    assert torch.equal(log_scores(x).argsort(1), x.argsort(1))


def test_slopes_are_one_over_one_plus_the_size() -> None:
    x = torch.tensor([-1e30, -3.0, -1e-9, -0.0, 0.0, 1e-9, 3.0, 1e30], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_scores(x).sum(), x)
    torch.testing.assert_close(slope, 1 / (1 + x.detach().abs()))


def test_sixteen_bits_are_widened() -> None:
    assert log_scores(torch.tensor([6e4], dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize("changes", [{}, {"corrections": 2}])
def test_a_step_of_training_has_the_loss_and_the_gradient_of_the_formula(changes: dict[str, int]) -> None:
    """−ln(s_y / Σ s) at the end and, with corrections, at two iterates; gradients by autograd of the formula."""
    deq, samples = model(), batch()
    made = step(deq, loss="stablemax", **changes)
    f, z, total = deq.bind(samples.x), torch.zeros_like(samples.x), torch.zeros((), dtype=torch.float64)
    plain = step(deq, loss="stablemax")
    for _ in range(8):
        z = f(z)
    s = scores(deq.cell.readout(z))
    total = -(s.gather(1, samples.y[:, None])[:, 0] / s.sum(1)).log().mean()
    assert float(made.loss) == pytest.approx(float(total.detach()), rel=1e-12)
    for mine, its in zip(gradients(deq, plain.objective), gradients(deq, total), strict=True):
        torch.testing.assert_close(mine, its)
    if changes:
        assert float(made.objective.detach()) > float(plain.objective.detach())
