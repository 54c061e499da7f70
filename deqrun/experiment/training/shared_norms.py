"""Batch norms over the whole batch where several ranks have its rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from deqrun.experiment.ranks import add_up
from deqrun.models.batch_norm import BatchNorm2d, running_share
from deqrun.models.rows import size_of_batch, weight_of_part

__all__ = ["SharedBatchNorm", "with_shared_norms"]


class _SumOverRanks(torch.autograd.Function):
    """Σ_r x_r, at every rank. Of a loss that is summed over ranks, ∂L/∂x_r = Σ_r' ∂L_r'/∂(Σ_r x_r)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        add_up([total])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum_over_ranks(gradients[0])


def _sum_over_ranks(x: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(x)
    return total


class SharedBatchNorm(_BatchNorm):
    """Batch norm whose mean and variance are over the rows of all ranks in training.

        y = (x − μ) / √(σ² + ε) · γ + β,   μ and σ² over samples and places of the whole batch

    Parameters, buffers and their names are `nn.BatchNorm`'s, and so are numbers in evaluation. With `unbiased` the
    running statistics are `deqrun.models.batch_norm`'s. `nn.SyncBatchNorm` is for GPUs alone. A rank whose rows belong
    to another rank, too (`weight_of_part`), adds nothing to μ and σ².
    """

    unbiased = False

    def _check_input_dim(self, x: Tensor) -> None:
        """Any number of places."""

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channels, *places), and so is the result."""
        if not self.training:
            return super().forward(x)
        weight, axes = weight_of_part(), [0, *range(2, x.dim())]
        shape = (1, -1, *[1] * (x.dim() - 2))
        # The mean first and then the variance around it: a difference of squares would lose digits.
        count = size_of_batch(len(x)) * x[0, 0].numel()
        if count == 1:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
        mean = _sum_over_ranks(weight * x.sum(axes)) / count
        centred = x - mean.view(shape)
        variance = _sum_over_ranks(weight * centred.square().sum(axes)) / count
        self._note(mean.detach(), variance.detach() * (count / (count - 1)))
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Take mean and unbiased variance into the running ones."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share: float | Tensor
        if self.momentum is None:
            share = 1.0 / float(self.num_batches_tracked)
        elif self.unbiased:
            share = running_share(self.num_batches_tracked, self.momentum).to(self.running_mean.dtype)
        else:
            share = self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


def with_shared_norms(model: nn.Module) -> None:
    """Replace every batch norm within a model by a shared one, which has the same parameters and buffers."""
    for parent in list(model.modules()):
        for name, part in parent.named_children():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
                shared = SharedBatchNorm(
                    part.num_features, part.eps, part.momentum, part.affine, part.track_running_stats
                ).train(part.training)
                shared.unbiased = isinstance(part, BatchNorm2d)
                shared.weight, shared.bias = part.weight, part.bias
                shared.running_mean, shared.running_var = part.running_mean, part.running_var
                shared.num_batches_tracked = part.num_batches_tracked
                setattr(parent, name, shared)
