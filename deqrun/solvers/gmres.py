"""GMRES on many independent systems at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.solvers.device import at_hand, wide, widened


@dataclass(frozen=True)
class Krylov:
    """The result of GMRES: Σ_j coefficients_j · basis_j is the solution.

    basis         (rows, krylov + 1, D), orthonormal; defined up to the columns that a row needed
    coefficients  (rows, columns) float64; 0 beyond the columns that a row needed
    residual      (rows,) float64: ‖b − A x‖ of the solution
    products      (rows,) long: products with A spent on the row
    """

    basis: Tensor
    coefficients: Tensor
    residual: Tensor
    products: Tensor

    def solution(self) -> Tensor:
        """x (rows, D)."""
        columns = self.coefficients.shape[1]
        weights = self.coefficients.to(self.basis.dtype)[:, None]
        return torch.bmm(weights, self.basis[:, :columns])[:, 0]


def gmres(apply: Callable[[Tensor], Tensor], b: Tensor, basis: Tensor, goal: Tensor) -> Krylov:
    """Minimise ‖b − A x‖ over the Krylov spaces of (A, b), a dimension at a time (Saad & Schultz 1986).

    Every row of the batch has an A and a b of its own, and stops where its residual is at most `goal` or where its
    space is exhausted. There is no restart: `basis`, work space (rows, krylov + 1, D), bounds the dimension.

    apply  v ↦ A v for (rows, D), each row by itself
    b      (rows, D)
    goal   (rows,) float64, absolute; inf for a row that needs no solution
    """
    process = _Arnoldi(b, basis, goal)
    looks, columns = at_hand(b), basis.shape[1] - 1
    # On an accelerator every column is made that a row may need: a look costs more than products that none wants.
    for column in range(columns if looks else min(columns, b.shape[1])):
        if looks and not bool(process.wanted.any()):
            break
        process.extend(column, apply)
    return process.result()


class _Arnoldi:
    """The growing basis, and the least-squares problem ‖β e₁ − H y‖ kept triangular by Givens rotations.

    turned  (rows, krylov + 1, krylov + 1) float64: the product Ω of all rotations, so that Ω H = R
    upper   (rows, krylov, krylov) float64: R, with a 1 on its diagonal where a row does not use the column
    right   (rows, krylov + 1) float64: β Ω e₁; its entry after the last is the residual, up to sign
    wanted  (rows,) rows that go on
    """

    def __init__(self, b: Tensor, basis: Tensor, goal: Tensor) -> None:
        rows, size, _ = basis.shape
        self.basis, self.goal = basis, goal
        norm = torch.linalg.vector_norm(b, dim=1)
        torch.div(b, torch.where(norm > 0, norm, 1.0)[:, None], out=basis[:, 0])
        self.residual = widened(norm)
        self.wanted = self.residual > goal
        self.products = torch.zeros(rows, dtype=torch.long, device=b.device)
        self.turned = torch.eye(size, dtype=wide(b.device), device=b.device).repeat(rows, 1, 1)
        self.upper = torch.eye(size - 1, dtype=wide(b.device), device=b.device).repeat(rows, 1, 1)
        self.right = torch.zeros(rows, size, dtype=wide(b.device), device=b.device)
        self.right[:, 0] = self.residual
        self.used = torch.zeros_like(self.products)
        self.columns = 0
        self.eps = torch.finfo(b.dtype).eps

    def extend(self, column: int, apply: Callable[[Tensor], Tensor]) -> None:
        """One more dimension for the rows that want it."""
        self.products += self.wanted
        self.columns = column + 1
        v = apply(self.basis[:, column])
        size = widened(torch.linalg.vector_norm(v, dim=1))
        h, length = self._orthogonalise(v, column + 1)
        # What is left of v is rounding: the space is exhausted, and the residual as small as it gets.
        length = torch.where(length > 10 * self.eps * size, length, 0.0)
        torch.div(v, torch.where(length > 0, length, 1.0).to(v.dtype)[:, None], out=self.basis[:, column + 1])
        self._rotate(column, h, length, size)

    def _orthogonalise(self, v: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Take the first `count` basis vectors out of v, in place and twice; (h (rows, count), ‖v‖ (rows,)).

        Classical Gram–Schmidt is two passes over the basis however long it is, and done twice it is as good as any
        (Giraud et al. 2005, The loss of orthogonality in the Gram-Schmidt orthogonalization process).
        """
        basis = self.basis[:, :count]
        total = torch.zeros(len(v), count, dtype=wide(v.device), device=v.device)
        for _ in range(2):
            h = torch.bmm(v[:, None], basis.transpose(1, 2))
            v[:, None].baddbmm_(h, basis, alpha=-1)
            total += h[:, 0]
        return total, widened(torch.linalg.vector_norm(v, dim=1))

    def _rotate(self, column: int, h: Tensor, length: Tensor, size: Tensor) -> None:
        """Make column `column` of R from H's, and find the new residual."""
        count = column + 1
        turned = self.turned[:, :count, :count]
        r = torch.bmm(turned, h[:, :, None])[:, :, 0]
        diagonal = torch.hypot(r[:, -1], length)
        useful = self.wanted & (diagonal > 10 * self.eps * size)
        safe = torch.where(useful, diagonal, 1.0)
        cosine, sine = torch.where(useful, r[:, -1] / safe, 1.0), torch.where(useful, length / safe, 0.0)
        self.upper[:, :column, column] = r[:, :-1].masked_fill(~useful[:, None], 0.0)
        self.upper[:, column, column] = safe
        self.used += useful
        last, following = self.turned[:, column].clone(), self.turned[:, count].clone()
        self.turned[:, column] = cosine[:, None] * last + sine[:, None] * following
        self.turned[:, count] = cosine[:, None] * following - sine[:, None] * last
        value = self.right[:, column].clone()
        self.right[:, column] = cosine * value
        self.right[:, count] = -sine * value
        self.residual = torch.where(useful, self.right[:, count].abs(), self.residual)
        self.wanted = useful & (self.residual > self.goal) & (length > 0)

    def result(self) -> Krylov:
        count = self.columns
        within = torch.arange(count, device=self.used.device) < self.used[:, None]
        right = torch.where(within, self.right[:, :count], 0.0)
        upper = self.upper[:, :count, :count]
        y = torch.linalg.solve_triangular(upper, right[:, :, None], upper=True)[:, :, 0]
        return Krylov(self.basis, y, self.residual, self.products)
