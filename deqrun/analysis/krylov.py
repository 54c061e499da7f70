"""Krylov bases of many small problems at once: Arnoldi for eigenvalues, Golub-Kahan-Lanczos for singular values.

Row i of every tensor belongs to problem i. A row whose Krylov space is exhausted goes on with zero vectors, which
add zeros to its small matrix; a row that is not finite stays so and ends as NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["arnoldi", "bidiagonal", "leading_singular_value", "normalise", "ritz_pairs"]

Product = Callable[[Tensor], Tensor]


def normalise(w_BD: Tensor, scale_B: Tensor) -> tuple[Tensor, Tensor]:
    """(‖w‖, w / ‖w‖) per row; (0, 0) where ‖w‖ is no more than rounding beside `scale_B`."""
    norm_B = torch.linalg.vector_norm(w_BD, dim=1)
    vanished_B = norm_B <= 10 * torch.finfo(norm_B.dtype).eps * scale_B
    norm_B = norm_B.masked_fill(vanished_B, 0.0)
    unit_BD = w_BD / norm_B.masked_fill(vanished_B, 1.0)[:, None]
    return norm_B, unit_BD.masked_fill(vanished_B[:, None], 0.0)


def _project_out(basis_BMD: Tensor, w_BD: Tensor) -> tuple[Tensor, Tensor]:
    """(coefficients (batch, M), w less its part in the basis): Gram-Schmidt twice, which is enough (Parlett 1980)."""
    total_BM = torch.zeros_like(basis_BMD[:, :, 0])
    for _ in range(2):
        part_BM = torch.bmm(basis_BMD, w_BD[:, :, None])[:, :, 0]
        w_BD = w_BD - torch.bmm(part_BM[:, None, :], basis_BMD)[:, 0, :]
        total_BM = total_BM + part_BM
    return total_BM, w_BD


def arnoldi(product: Product, start_BD: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """A V_M = V_M H + h v_{M+1} e_Mᵀ with orthonormal V: (V (batch, M, D), H with h below, (batch, M+1, M)).

    product    w ↦ A w for every row, (batch, D) -> (batch, D)
    start_BD   where the Krylov space begins
    dimension  M <= D

    Source: Arnoldi 1951; Saad, Numerical Methods for Large Eigenvalue Problems (2nd ed. 2011), chapter 6, with
    reorthogonalisation.
    """
    batch, size = start_BD.shape
    basis_BMD = start_BD.new_zeros(batch, dimension, size)
    hessenberg = start_BD.new_zeros(batch, dimension + 1, dimension)
    _, v_BD = normalise(start_BD, start_BD.new_zeros(batch))
    for j in range(dimension):
        basis_BMD[:, j] = v_BD
        w_BD = product(v_BD)
        scale_B = torch.linalg.vector_norm(w_BD, dim=1)
        hessenberg[:, : j + 1, j], w_BD = _project_out(basis_BMD[:, : j + 1], w_BD)
        hessenberg[:, j + 1, j], v_BD = normalise(w_BD, scale_B)
    return basis_BMD, hessenberg


def ritz_pairs(hessenberg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues θ of H by decreasing magnitude, their residuals ‖A x − θ x‖ = h |e_Mᵀ y|, and the y.

    hessenberg  (batch, M+1, M) as `arnoldi` returns it

    Returns θ (batch, M) complex, residuals (batch, M), y (batch, M, M) in columns of length 1, in double precision
    on the CPU; NaN in rows that are not finite. (Saad 2011, chapter 6.)
    """
    small = hessenberg.cpu().double()
    finite_B = small.isfinite().flatten(1).all(dim=1)
    values_BM, vectors_BMM = torch.linalg.eig(small[:, :-1].masked_fill(~finite_B[:, None, None], 0.0))
    order_BM = values_BM.abs().argsort(dim=1, descending=True, stable=True)
    values_BM = values_BM.gather(1, order_BM)
    vectors_BMM = vectors_BMM.gather(2, order_BM[:, None, :].expand_as(vectors_BMM))
    residuals_BM = small[:, -1, -1, None] * vectors_BMM[:, -1].abs()
    broken_B1 = ~finite_B[:, None]
    return values_BM.masked_fill(broken_B1, torch.nan), residuals_BM.masked_fill(broken_B1, torch.nan), vectors_BMM


def bidiagonal(forward: Product, transposed: Product, start_BD: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    """A V = U C and Aᵀ U = V Cᵀ + β v_{M+1} e_Mᵀ: (C (batch, M, M) upper bidiagonal, β (batch,)).

    forward, transposed  v ↦ A v and u ↦ Aᵀ u for every row
    start_BD             v_1, up to its length
    dimension            M <= D

    Only V is kept and orthogonalised against, which keeps U orthogonal, too (Simon & Zha 2000, SIAM J. Sci. Comput.
    21(6)). Source: Golub & Kahan 1965, SIAM J. Numer. Anal. 2(2), bidiagonalisation by Lanczos's recurrence.
    """
    batch, size = start_BD.shape
    basis_BMD = start_BD.new_zeros(batch, dimension, size)
    small = start_BD.new_zeros(batch, dimension, dimension)
    _, v_BD = normalise(start_BD, start_BD.new_zeros(batch))
    u_BD, beta_B = torch.zeros_like(v_BD), start_BD.new_zeros(batch)
    for j in range(dimension):
        basis_BMD[:, j] = v_BD
        w_BD = forward(v_BD)
        scale_B = torch.linalg.vector_norm(w_BD, dim=1)
        small[:, j, j], u_BD = normalise(w_BD - beta_B[:, None] * u_BD, scale_B)
        w_BD = transposed(u_BD)
        scale_B = torch.linalg.vector_norm(w_BD, dim=1)
        beta_B, v_BD = normalise(_project_out(basis_BMD[:, : j + 1], w_BD)[1], scale_B)
        if j + 1 < dimension:
            small[:, j, j + 1] = beta_B
    return small, beta_B


def leading_singular_value(small: Tensor, beta_B: Tensor) -> tuple[Tensor, Tensor]:
    """The largest singular value σ of C, and its residual β |e_Mᵀ p| with p its left singular vector.

    σ never exceeds ‖A‖₂, and some singular value of A is within the residual of σ. Double precision, on the CPU; NaN
    in rows that are not finite.
    """
    small, beta_B = small.cpu().double(), beta_B.cpu().double()
    finite_B = small.isfinite().flatten(1).all(dim=1) & beta_B.isfinite()
    left_BMM, sigma_BM, _ = torch.linalg.svd(small.masked_fill(~finite_B[:, None, None], 0.0))
    residual_B = beta_B * left_BMM[:, -1, 0].abs()
    return sigma_BM[:, 0].masked_fill(~finite_B, torch.nan), residual_B.masked_fill(~finite_B, torch.nan)
