"""How a map moves small errors of a state: spectral radius, spectral norm and Frobenius norm of its Jacobian, per row.

f is (batch, …) -> (batch, …) with independent rows, and J = ∂f/∂z at z is one D×D matrix per row. J is never formed:
each probe is so many products with it, of which the result keeps count. Near a fixed point plain iteration shrinks an
error by the factor ρ(J) per step in the long run, and by no worse than ‖J‖₂ in one step; √(mean of squares) over
directions is ‖J‖_F / √D.

Results are float64 tensors on the CPU. A row whose products are not finite is NaN, and changes no other row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.analysis.krylov import arnoldi, bidiagonal, leading_singular_value, normalise, ritz_pairs
from deqrun.analysis.products import Jacobian, Map
from deqrun.solvers.device import widened
from deqrun.solvers.precision import full_precision

__all__ = ["Estimate", "SpectralRadius", "jacobian_frobenius", "spectral_norm", "spectral_radius"]

METHODS = ("arnoldi", "growth")


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number per row, how far it is to be trusted, and its cost.

    value   (batch,) the estimate
    error   (batch,) its error indicator, in the units of `value`; its meaning is said where it is computed
    nfe     evaluations of f spent on each row
    jvps    products Jv spent on each row
    vjps    products Jᵀu spent on each row
    """

    value: Tensor
    error: Tensor
    nfe: int
    jvps: int
    vjps: int


@dataclass(frozen=True, eq=False)
class SpectralRadius(Estimate):
    """The largest |eigenvalue|, and the eigenvalue approximations that it was read from.

    ritz        (batch, R) complex128: Ritz values by decreasing magnitude, of a conjugate pair the one above the real
                axis first; R = 0 for method 'growth', which sees magnitudes only
    ritz_error  (batch, R) their residuals ‖Jᵀx − θx‖₂, ‖x‖₂ = 1
    """

    ritz: Tensor
    ritz_error: Tensor


def jacobian_frobenius(f: Map, z: Tensor, *, probes: int = 16, generator: torch.Generator | None = None) -> Estimate:
    """‖J‖_F = √E‖Jᵀε‖² with the mean over `probes` vectors ε of independent signs ±1, drawn anew for every row.

    The mean is unbiased for ‖J‖_F²; its root is low by about error² / (2 value). `error` is the standard error: that
    of the mean, over 2 value. Signs have a smaller variance than normal numbers do.

    probes     >= 2; each costs one vjp
    generator  of the signs; None: one of its own, seeded with 0, so that probing leaves the run's numbers alone

    Raises ValueError for fewer probes. Source: Hutchinson 1989, Commun. Stat. Simul. Comput. 18(3); for the Jacobian
    of an equilibrium model Bai, Koltun & Kolter 2021 (arXiv 2106.14342).
    """
    _require_at_least("probes", probes, 2, "the standard error needs two")
    jacobian, generator = Jacobian(f, z), _seeded(generator)
    with full_precision(z.device.type):
        squares = [widened(jacobian.vjp(_signs(jacobian, generator))).square().sum(1) for _ in range(probes)]
    squares_PB = torch.stack(squares).cpu().double()
    mean_B = squares_PB.mean(dim=0)
    variance_B = (squares_PB - mean_B).square().sum(dim=0) / (probes - 1)
    value_B = mean_B.sqrt()
    error_B = (variance_B / probes).sqrt() / (2 * value_B).masked_fill(value_B == 0, 1.0)
    broken_B = ~(value_B.isfinite() & error_B.isfinite())
    return Estimate(
        value_B.masked_fill(broken_B, torch.nan), error_B.masked_fill(broken_B, torch.nan), **_spent(jacobian)
    )


def spectral_radius(
    f: Map,
    z: Tensor,
    *,
    iterations: int = 60,
    method: str = "arnoldi",
    leading: int = 6,
    generator: torch.Generator | None = None,
) -> SpectralRadius:
    """ρ(J), the largest |eigenvalue| of J, by products with Jᵀ, which has the same eigenvalues and is cheaper.

    method 'arnoldi'  the largest |Ritz value| in the Krylov space of `iterations` vectors, or of D if that is fewer;
                      memory is iterations × the state. `error` is the Ritz pair's residual h |e_Mᵀ y| = ‖Jᵀx − θx‖₂:
                      θ is an eigenvalue of a matrix so far from J. Where J is far from normal, an eigenvalue of J
                      itself may be farther from θ than that.
    method 'growth'   (‖(Jᵀ)ᴷv‖ / ‖(Jᵀ)ᴸv‖)^(1/(K−L)) with K = iterations and L = K/2; memory is two states. Converges
                      for complex pairs too, where a Rayleigh quotient does not, but like 1/K. `error` is the
                      difference between the rates of the two halves of those steps: not a bound.

    Each iteration costs one vjp; the default suffices 'arnoldi' for 1 % on a trained MDEQ
    (`scripts/jacobian_probes.py`). All rows start from the same random vector, so that a row's answer does not depend
    on its company.

    leading    R, how many Ritz values to return at most
    generator  of the start; None: one of its own, seeded with 0

    Raises ValueError for another method, for iterations < 1 ('growth': < 4), or for leading < 1.
    Source: Arnoldi 1951; Saad, Numerical Methods for Large Eigenvalue Problems (2nd ed. 2011), chapter 6.
    """
    if method not in METHODS:
        raise ValueError(f"method must be 'arnoldi' or 'growth', got {method!r}.")
    _require_at_least("iterations", iterations, 1 if method == "arnoldi" else 4, f"for method {method!r}")
    _require_at_least("leading", leading, 1, "the largest is the answer")
    jacobian = Jacobian(f, z)
    start_BD = _start(jacobian, _seeded(generator))
    with full_precision(z.device.type):
        if method == "growth":
            return _growth(jacobian, start_BD, iterations)
        _, hessenberg = arnoldi(jacobian.vjp, start_BD, min(iterations, jacobian.size))
    ritz_BM, residual_BM, _ = ritz_pairs(hessenberg)
    return SpectralRadius(
        ritz_BM[:, 0].abs(),
        residual_BM[:, 0],
        **_spent(jacobian),
        ritz=ritz_BM[:, :leading],
        ritz_error=residual_BM[:, :leading],
    )


def spectral_norm(f: Map, z: Tensor, *, iterations: int = 20, generator: torch.Generator | None = None) -> Estimate:
    """‖J‖₂, the largest singular value of J, by Golub-Kahan-Lanczos bidiagonalisation.

    The value never exceeds ‖J‖₂ (but for rounding) and grows with the iterations. `error` is the residual
    ‖Jᵀp − σq‖₂ of the leading singular triplet, where Jq = σp: some singular value of J is so close to σ. Where it is
    the largest, σ is closer still, by about error² over the distance to the next.

    iterations  at most; D if that is fewer. Each costs one jvp and one vjp, as one of power iteration on JᵀJ does,
                and gets much farther (`scripts/jacobian_probes.py`). Memory is iterations × the state.
    generator   of the start, the same for all rows; None: one of its own, seeded with 0

    Raises ValueError for iterations < 1. Source: Golub & Kahan 1965, SIAM J. Numer. Anal. 2(2).
    """
    _require_at_least("iterations", iterations, 1, "each is one product with J and one with its transpose")
    jacobian = Jacobian(f, z)
    start_BD = _start(jacobian, _seeded(generator))
    with full_precision(z.device.type):
        small, beta_B = bidiagonal(jacobian.jvp, jacobian.vjp, start_BD, min(iterations, jacobian.size))
    value_B, error_B = leading_singular_value(small, beta_B)
    return Estimate(value_B, error_B, **_spent(jacobian))


def _growth(jacobian: Jacobian, v_BD: Tensor, iterations: int) -> SpectralRadius:
    logs, none = [], v_BD.new_zeros(jacobian.batch)
    for _ in range(iterations):
        norm_B, v_BD = normalise(jacobian.vjp(v_BD), none)
        logs.append(norm_B.cpu().double().log())
    tail_KB = torch.stack(logs[iterations // 2 :])
    half = len(tail_KB) // 2
    early_B, late_B, value_B = (part.mean(dim=0).exp() for part in (tail_KB[:half], tail_KB[half:], tail_KB))
    broken_B = ~value_B.isfinite()
    return SpectralRadius(
        value_B.masked_fill(broken_B, torch.nan),
        (late_B - early_B).abs().masked_fill(broken_B, torch.nan),
        **_spent(jacobian),
        ritz=torch.zeros(jacobian.batch, 0, dtype=torch.complex128),
        ritz_error=torch.zeros(jacobian.batch, 0, dtype=torch.float64),
    )


def _spent(jacobian: Jacobian) -> dict[str, int]:
    return {"nfe": jacobian.nfe, "jvps": jacobian.jvps, "vjps": jacobian.vjps}


def _seeded(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator().manual_seed(0) if generator is None else generator


def _start(jacobian: Jacobian, generator: torch.Generator) -> Tensor:
    """One normal vector for all rows, (batch, D)."""
    start = torch.randn(1, jacobian.size, generator=generator, dtype=jacobian.dtype, device=generator.device)
    return start.to(jacobian.device).expand(jacobian.batch, -1)


def _signs(jacobian: Jacobian, generator: torch.Generator) -> Tensor:
    shape = (jacobian.batch, jacobian.size)
    bits = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    return (2 * bits - 1).to(jacobian.device, jacobian.dtype)


def _require_at_least(name: str, value: object, lowest: int, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ValueError(f"{name} must be a whole number >= {lowest} ({why}), got {value!r}.")
