"""Monotone operator equilibrium networks: one equilibrium for every input, whatever the parameters are."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deqrun.arguments import require_at_least, require_image, require_odd, require_pool, require_positive
from deqrun.models.cell import BoundCell, Cell
from deqrun.models.monotone_operators import MonotoneConvolution, MonotoneMatrix, MonotoneOperator
from deqrun.solvers import Constants
from deqrun.solvers.precision import full_precision

__all__ = ["BoundMonotoneCell", "MonotoneAdjoint", "MonotoneCell", "MonotoneConvCell", "MonotoneMap"]

Map = Callable[[Tensor], Tensor]


class MonotoneMap(Cell):
    """f(z; x) = ReLU(W z + U x + b) with W = (1 − m) I − AᵀA + B − Bᵀ, so that I − W ⪰ m I; the base of both cells.

    f has exactly one fixed point for every x and all A, B, U, b (Winston & Kolter 2020, arXiv 2006.08591, Theorem 1 and
    Proposition 1). ‖W‖ may be far above 1, where plain iteration fails; `ForwardBackward` and `PeacemanRachford`
    find it from any start. U x + b is computed once per solve, W once per solve inside `fixed_weights`.

    A subclass sets `encoder` (U and b), the parameters `A` and `B`, and makes W of them in `operator`.
    """

    encoder: nn.Module
    A: nn.Parameter
    B: nn.Parameter

    def __init__(self, *, input_shape: Sequence[int], num_classes: int, m: float) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes)
        self.m = require_positive("m", m)
        self._fixed: MonotoneOperator | None = None

    @abstractmethod
    def operator(self) -> MonotoneOperator:
        """W of the present parameters."""

    def weight(self) -> MonotoneOperator:
        """W, fixed within `fixed_weights`, else computed from the present parameters."""
        if self._fixed is not None:
            return self._fixed
        with full_precision(self.A.device.type):
            return self.operator()

    @contextmanager
    def fixed_weights(self) -> Iterator[None]:
        """Within the context W, and the inverse that a resolvent needs, are computed once.

        Enter it with gradients enabled if any evaluation inside is to reach the parameters.
        """
        before = self._fixed
        try:
            self._fixed = self.weight()
            yield
        finally:
            self._fixed = before

    def bind(self, x: Tensor) -> BoundMonotoneCell:
        """f(·; x) with the parts that splitting solvers need, for one batch x (batch, *input_shape)."""
        return BoundMonotoneCell(self, self.inject(x))

    def inject(self, x: Tensor) -> tuple[Tensor, ...]:
        """(U x + b,) of shape (batch, *state_shape) from inputs x (batch, *input_shape)."""
        return (self.encoder(x),)

    def forward(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """One evaluation f(z; x): (batch, *state_shape) -> (batch, *state_shape)."""
        return F.relu(self.affine(z, injection))

    def affine(self, z: Tensor, injection: tuple[Tensor, ...]) -> Tensor:
        """W z + U x + b, (batch, *state_shape)."""
        (features,) = injection
        return self.weight()(z) + features


class BoundMonotoneCell(BoundCell):
    """f(·; x) of a monotone cell, and its parts: see `deqrun.solvers.SplitMap`."""

    cell: MonotoneMap

    def affine(self, z: Tensor) -> Tensor:
        """W z + U x + b, in z's dtype."""
        return self.cell.affine(z, self.injection).to(z.dtype)

    def resolvent(self, v: Tensor, alpha: float) -> Tensor:
        """(I + alpha (I − W))⁻¹ (v + alpha (U x + b)), without a gradient, in v's dtype."""
        (features,) = self.injection
        given = (v + alpha * features).to(self.cell.A.dtype)
        return self.cell.weight().resolvent(given, alpha).to(v.dtype)

    def prox(self, v: Tensor, alpha: float) -> Tensor:
        """ReLU(v): the projection onto z >= 0, whatever alpha is."""
        return F.relu(v)

    def constants(self) -> Constants:
        """Monotonicity and cocoercivity of I − W."""
        return self.cell.weight().constants()

    def adjoint_at(self, fz: Tensor) -> Callable[[Map, Tensor], MonotoneAdjoint]:
        """The adjoint problem at a state z with f(z) = fz: of its map u ↦ Jᵀu + v and of v, that map with its parts."""
        return partial(MonotoneAdjoint, self.cell.weight(), fz > 0)


class MonotoneAdjoint:
    """u ↦ Wᵀ D u + v, whose fixed point is the adjoint, with the parts that splitting solvers need.

    D = diag(ReLU′) is the projection onto the coordinates that are `active` (batch, *state_shape). w = D u solves
    w = D (Wᵀ w + v), a monotone problem with Wᵀ for W, D being the proximal operator of the indicator of its range
    (Winston & Kolter 2020, Theorem 2, for any σ). Of the state u = w + y, w is the affine part's argument, and y
    the part that D takes away.

    Arguments
        operator   W
        active     where σ′ = 1
        step       u ↦ Jᵀu + v, as autograd knows it: the map itself
        v          gradient of the loss by z, (batch, *state_shape)
    """

    def __init__(self, operator: MonotoneOperator, active: Tensor, step: Map, v: Tensor) -> None:
        self.operator, self.active, self.step, self.v = operator, active, step, v

    def __call__(self, u: Tensor) -> Tensor:
        """Jᵀu + v."""
        return self.step(u)

    def affine(self, u: Tensor) -> Tensor:
        """Wᵀ D u + v, the map itself."""
        return self.step(u)

    def primal(self, u: Tensor) -> Tensor:
        """w = D u."""
        return torch.where(self.active, u, 0.0)

    def resolvent(self, w: Tensor, alpha: float) -> Tensor:
        """(I + alpha (I − Wᵀ))⁻¹ (w + alpha v)."""
        return self.operator.resolvent(w + alpha * self.v, alpha, transposed=True)

    def prox(self, w: Tensor, alpha: float) -> Tensor:
        """D w, and (I − D) w / alpha for y: at the fixed point (I − D) w is alpha times (I − D) of Wᵀ D u + v."""
        return torch.where(self.active, w, w / alpha)

    def constants(self) -> Constants:
        """Of I − Wᵀ, as of I − W."""
        return self.operator.constants()


class MonotoneCell(MonotoneMap):
    """The fully connected monotone cell; x is flattened, A and B are width × width. The state is a vector: (width,).

    The logits are linear in z*. A and B start uniform in ±1/√width, as in the authors' code: AᵀA then has eigenvalues
    from 0 to 4/3 (Marchenko & Pastur 1967), and the skew B − Bᵀ has norm 2 √(2/3) (Wigner's semicircle).

    Arguments
        input_shape   shape of one sample; any number of dimensions
        num_classes   number of logits
        width         size of the state
        m             strong monotonicity of I − W, above 0: the larger, the faster every solver, and the closer
                      the model is to a single layer, as ‖∂z*/∂(U x + b)‖ <= 1/m

    Raises ValueError for parameters outside these ranges.
    """

    def __init__(self, *, input_shape: Sequence[int], num_classes: int, width: int = 128, m: float = 1.0) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, m=m)
        width = require_at_least("width", width, 1)
        self.state_shape = (width,)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(self.input_shape), width))
        self.A = _uniform(width, width)
        self.B = _uniform(width, width)
        self.classifier = nn.Linear(width, num_classes)

    def operator(self) -> MonotoneMatrix:
        """W (width, width) of the present parameters."""
        return MonotoneMatrix(self.A, self.B, self.m)

    def narrower(self) -> Iterable[dict[str, Any]]:
        """Every width up to its own."""
        return ({"width": width} for width in range(1, self.state_size + 1))

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes) of the state (batch, width)."""
        logits: Tensor = self.classifier(z)
        return logits


class MonotoneConvCell(MonotoneMap):
    """The convolutional monotone cell: U, A and B are periodic convolutions; the state is (channels, height, width).

    Periodic, so that (I + α (I − W))⁻¹ is diagonal in frequency: left and right edge are neighbours, so are top and
    bottom, and a cyclic shift of the image shifts z*.
    The logits are linear in z*, averaged to `pool` x `pool` pixels. A and B start uniform in ±1/√(channels
    kernel_size²), PyTorch's default for a convolution, as in the authors' code.

    Arguments
        input_shape   (channels, height, width) of an image; its sides are at least kernel_size
        num_classes   number of logits
        channels      channels of the state
        kernel_size   odd; of U, A and B. W reaches twice as far
        m             strong monotonicity of I − W, above 0, as in `MonotoneCell`
        pool          sides of the image that the classifier sees; at most the state's

    Raises ValueError for parameters outside these ranges.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_classes: int,
        channels: int = 32,
        kernel_size: int = 3,
        m: float = 1.0,
        pool: int = 4,
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, m=m)
        channels = require_at_least("channels", channels, 1)
        kernel_size = require_odd("kernel_size", kernel_size)
        image_channels, height, width = require_image("input_shape", input_shape, smallest=kernel_size)
        self.state_shape = (channels, height, width)
        self.pool = require_pool(pool, self.state_shape)
        padding = kernel_size // 2
        self.encoder = nn.Conv2d(image_channels, channels, kernel_size, padding=padding, padding_mode="circular")
        self.A = _uniform(channels, channels, kernel_size, kernel_size)
        self.B = _uniform(channels, channels, kernel_size, kernel_size)
        self.classifier = nn.Linear(channels * self.pool**2, num_classes)

    def operator(self) -> MonotoneConvolution:
        """W, a periodic convolution, of the present parameters."""
        return MonotoneConvolution(self.A, self.B, self.m, (self.state_shape[1], self.state_shape[2]))

    def narrower(self) -> Iterable[dict[str, Any]]:
        """Every number of channels up to its own."""
        return ({"channels": channels} for channels in range(1, self.state_shape[0] + 1))

    def readout(self, z: Tensor) -> Tensor:
        """Logits (batch, num_classes) of the state (batch, *state_shape)."""
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(z, self.pool).flatten(1))
        return logits


def _uniform(*shape: int) -> nn.Parameter:
    """Uniform in ±1/√fan_in, the fan-in being all but the first dimension: PyTorch's default for layers."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return nn.Parameter(torch.empty(*shape).uniform_(-bound, bound))
