"""deqrun's batch norm is PyTorch's, except that its running statistics are averages of the batches alone."""

import pytest
import torch
from torch import Tensor, nn

from deqrun.models.batch_norm import BatchNorm2d


def batches(number: int, scale: float = 1.0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [3 + scale * k * torch.randn(5, 4, 3, 2, generator=draw, dtype=torch.float64) for k in range(1, number + 1)]


@pytest.mark.parametrize("number", [1, 2, 7, 60])
@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_running_statistics_are_the_weighted_mean_of_the_batches(number: int, momentum: float) -> None:
    norm, seen = BatchNorm2d(4, momentum=momentum).double().train(), batches(number)
    for batch in seen:
        norm(batch)
    weights = torch.tensor([momentum * (1 - momentum) ** (number - 1 - i) for i in range(number)], dtype=torch.float64)
    weights /= weights.sum()
    means = torch.stack([batch.mean((0, 2, 3)) for batch in seen])
    variances = torch.stack([batch.transpose(0, 1).reshape(4, -1).var(1) for batch in seen])
    assert torch.allclose(norm.running_mean, weights @ means, rtol=1e-6)
    assert torch.allclose(norm.running_var, weights @ variances, rtol=1e-6)


def test_after_one_batch_of_small_variance_evaluation_is_training() -> None:
    """PyTorch's running variance is near 0.9 there, and its answers near 0."""
    norm, plain = BatchNorm2d(4, eps=1e-12).double(), nn.BatchNorm2d(4, eps=1e-12).double()
    (batch,) = batches(1, scale=0.01)
    trained = norm.train()(batch)
    unbiased = (1 - 1 / 30) ** 0.5  # 30 numbers a channel
    assert torch.allclose(norm.eval()(batch), trained * unbiased, rtol=1e-5, atol=1e-5)
    plain.train()(batch)
    assert plain.eval()(batch).std() < 0.02 < 0.9 < trained.std()


@pytest.mark.parametrize("affine", [True, False])
def test_training_and_evaluation_are_pytorchs_to_the_bit(affine: bool) -> None:
    """Outputs and gradients, and evaluation with equal statistics; state dicts fit both ways."""
    ours, theirs = BatchNorm2d(4, affine=affine).double(), nn.BatchNorm2d(4, affine=affine).double()
    for batch in batches(3):
        found = []
        for norm in (ours.train(), theirs.train()):
            x = batch.clone().requires_grad_()
            y = norm(x)
            (slope,) = torch.autograd.grad(y.pow(3).sum(), x)
            found.append((y, slope))
        assert all(map(torch.equal, *found))
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours.eval()(batch), theirs.eval()(batch))
    theirs.load_state_dict(ours.state_dict())


def test_without_momentum_it_is_pytorchs_cumulative_average() -> None:
    ours, theirs = BatchNorm2d(4, momentum=None).double().train(), nn.BatchNorm2d(4, momentum=None).double().train()
    for batch in batches(3):
        ours(batch), theirs(batch)
    assert torch.equal(ours.running_var, theirs.running_var)
