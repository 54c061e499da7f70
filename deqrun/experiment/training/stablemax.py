"""StableMax: a softmax of the logarithms of scores that grow linearly and not exponentially."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_scores"]


def log_scores(logits: Tensor) -> Tensor:
    """ln s(x) of each logit: ln(1 + x) for x >= 0, −ln(1 − x) for x < 0; in float32 or wider, of the same shape.

        s(x) = x + 1 for x >= 0,  1 / (1 − x) for x < 0;    StableMax(x)_c = s(x_c) / Σ_j s(x_j) = softmax(ln s(x))_c

    So a cross-entropy of `log_scores` is the cross-entropy of StableMax. Computed as ±log1p(|x|), exact to rounding:
    no score over- or underflows. Its slope, 1 / (1 + |x|), is 1 at 0 from both sides. Source: Prieto et al. 2025
    (arXiv 2501.04697, eq. 5), and the code of HRM and TRM.
    """
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.where(x >= 0, x.clamp(min=0).log1p(), -(-x).clamp(min=0).log1p())
