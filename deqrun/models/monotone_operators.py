"""The affine part of a monotone model: W = (1 − m) I − AᵀA + B − Bᵀ, its resolvent, and how monotone I − W is.

⟨v, (I − W) v⟩ = m ‖v‖² + ‖A v‖² for any matrices A and B, as ⟨v, (B − Bᵀ) v⟩ = 0: so I − W ⪰ m I, and every W with that
property has this form (Winston & Kolter 2020, arXiv 2006.08591, Proposition 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from deqrun.solvers import Constants
from deqrun.solvers.device import has_float64
from deqrun.solvers.precision import full_precision

__all__ = ["MonotoneConvolution", "MonotoneMatrix", "MonotoneOperator"]


class MonotoneOperator(ABC):
    """W of one set of parameters, for a whole solve: its products carry a gradient, its resolvent none.

    m is the guaranteed monotonicity of I − W, above 0. Expensive parts are computed when first asked for, and kept.
    """

    def __init__(self, m: float) -> None:
        self.m = m
        self._inverse: tuple[float, Tensor] | None = None
        self._constants: Constants | None = None

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """W z of each row, (batch, *state_shape)."""

    @abstractmethod
    def symbol(self) -> Tensor:
        """W as independent square blocks (blocks, n, n), real or complex, in a unitary basis; without a gradient."""

    @abstractmethod
    def product(self, blocks: Tensor, v: Tensor) -> Tensor:
        """`blocks` (blocks, n, n), in the symbol's basis, applied to each row of v (batch, *state_shape)."""

    @torch.no_grad()
    def resolvent(self, v: Tensor, alpha: float, transposed: bool = False) -> Tensor:
        """(I + alpha (I − W))⁻¹ v of each row, or with Wᵀ for W; alpha > 0.

        Formed, not factorised, as its condition number is at most (1 + alpha L) / (1 + alpha m), L = ‖I − W‖₂.
        """
        with full_precision(v.device.type):
            if self._inverse is None or self._inverse[0] != alpha:
                symbol = self.symbol()
                self._inverse = (alpha, torch.linalg.inv_ex((1 + alpha) * _identity(symbol) - alpha * symbol)[0])
            inverse = self._inverse[1]
            return self.product(inverse.mH if transposed else inverse, v)

    @torch.no_grad()
    def constants(self) -> Constants:
        """m, and the cocoercivity of M = I − W: the least eigenvalue of the symmetric part of M⁻¹. The same for Mᵀ.

        With w = M v, ⟨v, M v⟩ >= β ‖M v‖² for every v says ⟨w, M⁻¹ w⟩ >= β ‖w‖² for every w. β is at least m / ‖M‖².
        """
        if self._constants is None:
            symbol = self.symbol()
            symbol = symbol if has_float64(symbol.device) else symbol.cpu()
            symbol = symbol.to(torch.promote_types(symbol.dtype, torch.float64))  # M⁻¹ is as large as 1 / m
            with full_precision(symbol.device.type):
                inverse = torch.linalg.inv_ex(_identity(symbol) - symbol)[0]
                self._constants = Constants(self.m, float(torch.linalg.eigvalsh((inverse + inverse.mH) / 2).min()))
        return self._constants


class MonotoneMatrix(MonotoneOperator):
    """W from matrices A and B (n, n); states are (batch, n)."""

    def __init__(self, A: Tensor, B: Tensor, m: float) -> None:
        super().__init__(m)
        self.weight = (1 - m) * _identity(A) - A.mT @ A + B - B.mT

    def __call__(self, z: Tensor) -> Tensor:
        return F.linear(z, self.weight)

    def symbol(self) -> Tensor:
        return self.weight.detach()[None]

    def product(self, blocks: Tensor, v: Tensor) -> Tensor:
        return F.linear(v, blocks[0])


class MonotoneConvolution(MonotoneOperator):
    """W from periodic convolutions A and B (c, c, k, k), k odd, on images (batch, c, height, width) with sides >= k.

    W is the periodic convolution whose kernel is (1 − m) δ − A ⋆ A + B − Bᵀ, (2k − 1) pixels a side, A ⋆ A being the
    autocorrelation of A: one convolution evaluates it. The discrete Fourier transform makes it one c × c matrix per
    frequency, so an inverse is the inverse of these matrices (Winston & Kolter 2020).
    """

    def __init__(self, A: Tensor, B: Tensor, m: float, sides: tuple[int, int]) -> None:
        super().__init__(m)
        self.sides, self.reach = sides, A.shape[-1] - 1
        self._A, self._B = A.detach(), B.detach()
        # (AᵀA)[i, j, s] = Σ_o Σ_d A[o, i, d] A[o, j, d + s]: a convolution of A's kernels with A's kernels.
        gram = F.conv2d(A.transpose(0, 1), A.transpose(0, 1), padding=self.reach).transpose(0, 1)
        skew = F.pad(B - B.transpose(0, 1).flip(2, 3), (self.reach // 2,) * 4)
        identity = torch.zeros_like(gram)
        identity[:, :, self.reach, self.reach] = torch.eye(len(A), dtype=A.dtype, device=A.device)
        self.kernel = (1 - m) * identity - gram + skew

    def __call__(self, z: Tensor) -> Tensor:
        return F.conv2d(F.pad(z, (self.reach,) * 4, mode="circular"), self.kernel)

    def symbol(self) -> Tensor:
        A, B = self._transform(self._A), self._transform(self._B)
        return (1 - self.m) * _identity(A) - A.mH @ A + B - B.mH

    def product(self, blocks: Tensor, v: Tensor) -> Tensor:
        frequencies = torch.fft.rfft2(v)
        products = frequencies.flatten(2).permute(2, 0, 1) @ blocks.mT
        return torch.fft.irfft2(products.permute(1, 2, 0).reshape(frequencies.shape), s=self.sides)

    def _transform(self, kernel: Tensor) -> Tensor:
        """(frequencies, c, c) of the correlation Σ_d kernel[:, :, d] z(p + d), d = 0 at the kernel's centre."""
        height, width = self.sides
        size, half = kernel.shape[-1], self.reach // 2
        image = F.pad(kernel, (0, width - size, 0, height - size)).roll((-half, -half), (2, 3))
        return torch.fft.rfft2(image).conj().flatten(2).permute(2, 0, 1)


def _identity(like: Tensor) -> Tensor:
    """The identity of the size, dtype and device of square matrices (…, n, n)."""
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
