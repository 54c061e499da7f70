"""Random numbers of iterations: the laws that training may draw them from."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_budgets", "draw_unclipped"]


def draw_budgets(
    low: int, high: int, law: str, mean: float | None, spread: float, source: torch.Generator, size: int | None = None
) -> Tensor:
    """Numbers of iterations K from low … high, long: (size,), or one number () where size is None.

    uniform   each of low … high as likely; mean and spread play no part
    others    `draw_unclipped`, then clipped to low … high: what lies beyond has the nearest end's place
    source    generator on the host
    """
    shape = () if size is None else (size,)
    if law == "uniform":
        return torch.randint(low, high + 1, shape, generator=source)
    return draw_unclipped(law, (low + high) / 2 if mean is None else mean, spread, source, shape).clamp(low, high)


def draw_unclipped(law: str, mean: float, spread: float, source: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """K = 1 + Poisson(λ) with a random rate λ of mean m = mean − 1, so that E K = mean; long, of this shape.

        law                λ                                              Var K
        poisson_lognormal  exp(N(ln m − σ²/2, σ²)), σ = spread            m + m² (e^{σ²} − 1)
        gamma              Gamma of shape 1/σ², scale m σ², σ = spread    m + m² σ²         (negative binomial)
        exponential        of mean m                                      m + m²            (geometric)

    `poisson_lognormal` with σ = 0.5 is Huginn's (Geiping et al. 2025, arXiv 2502.05171, section 3.3), whose r̄ is m.
    mean at least 1, spread above 0. Rates are in float64.
    """
    m, wide = mean - 1, torch.float64
    if law == "poisson_lognormal":
        rates = m * (spread * torch.randn(shape, generator=source, dtype=wide) - spread**2 / 2).exp()
    elif law == "gamma":
        ones = torch.full(shape, spread**-2, dtype=wide)
        rates = m * spread**2 * torch._standard_gamma(ones, generator=source)
    elif law == "exponential":
        rates = m * torch.empty(shape, dtype=wide).exponential_(generator=source)
    else:
        raise ValueError(f"There is no law {law!r} of budgets; there are exponential, gamma and poisson_lognormal.")
    return 1 + torch.poisson(rates, generator=source).long()
