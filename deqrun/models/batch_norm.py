"""Batch norm whose running statistics forget where they began."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.solvers.device import wide

__all__ = ["BatchNorm2d", "running_share"]


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with unbiased running statistics.

    After n batches PyTorch's running mean is Σ_i m (1 − m)^(n−i) μ_i + (1 − m)^n · 0, and the running variance has
    (1 − m)^n · 1 in it. Where a variance is 0.001 this start still outweighs the batches at n = 60, m = 0.1, and an
    epoch of few batches is validated with activations near 0. Here

        running ← running + s_n (batch − running),   s_n = m / (1 − (1 − m)^n),

    which is Σ_i m (1 − m)^(n−i) μ_i / (1 − (1 − m)^n): Adam's correction (Kingma & Ba 2015, section 3). Training, and
    evaluation with given statistics, are `nn.BatchNorm2d`'s, and so are parameters, buffers and their names.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channels, H, W), and so is the result."""
        if not self.training or self.momentum is None or self.running_mean is None or self.running_var is None:
            return super().forward(x)
        self._check_input_dim(x)
        assert self.num_batches_tracked is not None
        # With momentum 1 these become the batch's own mean and unbiased variance.
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        self.num_batches_tracked.add_(1)
        share = running_share(self.num_batches_tracked, self.momentum).to(mean.dtype)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
        return y


def running_share(batches: Tensor, momentum: float) -> Tensor:
    """s_n (): the weight of the n-th batch in the running statistics. `batches` is n, on its device."""
    return momentum / (1 - torch.pow(1 - momentum, batches.to(wide(batches.device))))
