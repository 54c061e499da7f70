"""Fixed-point problems that know their answer.

Every problem z = f(z) here carries its fixed point in closed form, or from a dense float64 Newton iteration
that shares nothing with the solvers under test. Row i of a problem is the same problem in every batch, and no
two rows are alike. Sums over the state run row by row: a row's f(z) has the same bits in any company.
"""

from __future__ import annotations

import functools
import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

#: The fixed point of the cosine (the Dottie number), OEIS A003957.
DOTTIE = 0.739085133215160641655312087673873404


def matvec(weight: Tensor, z: Tensor) -> Tensor:
    """Row-wise (batch, m, n) x (batch, n) -> (batch, m), without BLAS, whose rounding may know the batch."""
    return (weight * z.unsqueeze(-2)).sum(-1)


def residual_of(f_z: Tensor, z: Tensor, norm: str = "relative") -> Tensor:
    """‖f(z) − z‖₂ / ‖f(z)‖₂ per row, in float64; inf where not finite; 0 where f(z) = z."""
    f_z, z = f_z.double().flatten(1), z.double().flatten(1)
    distance = torch.linalg.vector_norm(f_z - z, dim=1)
    if norm == "relative":
        distance = distance / (torch.linalg.vector_norm(f_z, dim=1) + torch.finfo(torch.float64).tiny)
    return torch.nan_to_num(distance, nan=math.inf, posinf=math.inf)


@dataclass(frozen=True)
class RowMap:
    """A map whose rows each have data of their own; `calls` lists the batch size of every evaluation."""

    function: Callable[..., Tensor]
    parameters: tuple[Tensor, ...]
    calls: list[int] = field(default_factory=list)

    def __call__(self, z: Tensor) -> Tensor:
        self.calls.append(z.shape[0])
        return self.function(z, *(parameter.to(z.dtype) for parameter in self.parameters))

    def take(self, rows: Tensor) -> RowMap:
        return RowMap(self.function, tuple(parameter[rows] for parameter in self.parameters), self.calls)

    def whole(self) -> Callable[[Tensor], Tensor]:
        """The same map without `take`: the solver must then evaluate every row every time."""
        return lambda z: self(z)


@dataclass
class Trajectory:
    """An `observe` callback that keeps every iterate it is shown, and the rows it was shown for."""

    states: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)

    def __call__(self, k: int, z: Tensor, rows: Tensor) -> None:
        assert k == len(self.states), f"observe was called for iterate {k} after {len(self.states)} calls"
        assert z.shape[0] == rows.shape[0]
        self.states.append(z.detach().clone())
        self.rows.append(rows.detach().clone())

    def iterate(self, k: int, row: int) -> Tensor:
        """Iterate k of one row of the original batch; the row must have been active at k."""
        (position,) = (self.rows[k] == row).nonzero().flatten().tolist()
        return self.states[k][position]


class Problem(ABC):
    """A family of fixed-point problems, one per row."""

    name: str
    max_iter: int = 500
    tol_float32: float = 1e-5
    tol_float64: float = 1e-10

    @abstractmethod
    def function(self, z: Tensor, *parameters: Tensor) -> Tensor:
        """f(z) for a batch, the parameters stacked along the batch."""

    @abstractmethod
    def parameters(self, row: int) -> tuple[Array, ...]:
        """The data of one row."""

    @abstractmethod
    def start_of(self, row: int) -> Array:
        """z_0 of one row."""

    def fixed_point_of(self, row: int) -> Array:
        """z* of one row; by Newton's method unless a problem knows better."""
        return newton(self.f_of(row), self.start_of(row))

    def f_of(self, row: int) -> Callable[[Tensor], Tensor]:
        """f of one row alone, on a state without the batch dimension, in float64."""
        parameters = [torch.as_tensor(parameter)[None] for parameter in self.parameters(row)]
        return lambda z: self.function(z[None], *parameters)[0]

    def solvable(self, batch: int) -> Tensor:
        """(batch,) bool: the rows that have a fixed point at all."""
        return torch.ones(batch, dtype=torch.bool)

    def rng(self, row: int) -> np.random.Generator:
        return np.random.default_rng([zlib.crc32(self.name.encode()), row])

    def tol(self, dtype: torch.dtype) -> float:
        """A tolerance that the dtype reaches with room to spare."""
        return self.tol_float64 if dtype == torch.float64 else self.tol_float32

    def f(self, batch: int) -> RowMap:
        stacked = zip(*(self.parameters(row) for row in range(batch)), strict=True)
        return RowMap(self.function, tuple(torch.as_tensor(np.stack(rows)) for rows in stacked))

    def start(self, batch: int, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.stack([self.start_of(row) for row in range(batch)])).to(dtype)

    def fixed_point(self, batch: int, dtype: torch.dtype) -> Tensor:
        return torch.as_tensor(np.stack([_fixed_point(self, row) for row in range(batch)])).to(dtype)

    def jacobian(self, row: int) -> Array:
        """∂f/∂z at the fixed point of one row."""
        z_star = torch.as_tensor(_fixed_point(self, row))
        return torch.func.jacrev(self.f_of(row))(z_star).detach().numpy()

    def stability(self, batch: int) -> Tensor:
        """(batch,) ‖(I − ∂f/∂z)⁻¹‖₂ at the fixed point: how much larger an error can be than f(z) − z."""
        return torch.tensor([_stability(self, row) for row in range(batch)], dtype=torch.float64)

    def __repr__(self) -> str:
        return self.name


@functools.cache
def _fixed_point(problem: Problem, row: int) -> Array:
    return problem.fixed_point_of(row)


@functools.cache
def _stability(problem: Problem, row: int) -> float:
    if not bool(problem.solvable(row + 1)[row]):
        return math.inf
    jacobian = problem.jacobian(row)
    return float(np.linalg.norm(np.linalg.inv(np.eye(len(jacobian)) - jacobian), 2))


def newton(f: Callable[[Tensor], Tensor], start: Array, max_iter: int = 50) -> Array:
    """The root of f(z) − z by Newton's method with the exact Jacobian and a dense solve, float64."""
    z = np.asarray(start, dtype=np.float64)
    for _ in range(max_iter):
        state = torch.as_tensor(z)
        defect = f(state).numpy() - z
        jacobian = torch.func.jacrev(f)(state).numpy()
        z = z + np.linalg.solve(np.eye(len(z)) - jacobian, defect)
        if np.linalg.norm(defect) <= 1e-15 * np.linalg.norm(z):
            break
    return z


def orthogonal(rng: np.random.Generator, size: int) -> Array:
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def rotation(angle: float) -> Array:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def block_diagonal(blocks: list[Array]) -> Array:
    size = sum(len(block) for block in blocks)
    matrix, at = np.zeros((size, size)), 0
    for block in blocks:
        matrix[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return matrix


class Affine(Problem):
    """f(z) = W z + b, so z* = (I − W)⁻¹ b; each row draws its own W and b."""

    size: int = 6

    @abstractmethod
    def weight(self, row: int) -> Array:
        """W of one row."""

    def function(self, z: Tensor, *parameters: Tensor) -> Tensor:
        weight, bias = parameters
        return matvec(weight, z) + bias

    def bias(self, row: int) -> Array:
        return self.rng(1000 + row).standard_normal(self.size)

    def parameters(self, row: int) -> tuple[Array, ...]:
        return self.weight(row), self.bias(row)

    def start_of(self, row: int) -> Array:
        return np.zeros(self.size)

    def fixed_point_of(self, row: int) -> Array:
        return np.asarray(np.linalg.solve(np.eye(self.size) - self.weight(row), self.bias(row)), np.float64)


class LinearSymmetric(Affine):
    """W symmetric with a real spectrum of the given radius."""

    def __init__(self, radius: float) -> None:
        self.name, self.radius = f"linear_symmetric_{radius}", radius
        if radius > 0.95:  # Picard gains 1 % a step here: less accuracy keeps the run short
            self.max_iter, self.tol_float32, self.tol_float64 = 2000, 1e-4, 1e-6

    def weight(self, row: int) -> Array:
        basis = orthogonal(self.rng(row), self.size)
        return (basis * (self.radius * np.array([1.0, -0.9, 0.6, -0.4, 0.2, 0.05]))) @ basis.T


class LinearComplex(Affine):
    """W normal with complex eigenvalues: three planes, each turned and shrunk."""

    def __init__(self, radius: float) -> None:
        self.name, self.radius = f"linear_complex_{radius}", radius

    def weight(self, row: int) -> Array:
        rng = self.rng(row)
        basis = orthogonal(rng, self.size)
        turns = zip((1.0, 0.8, 0.5), rng.uniform(0.5, 2.5, 3), strict=True)
        return basis @ block_diagonal([self.radius * size * rotation(angle) for size, angle in turns]) @ basis.T


class LinearNonNormal(LinearComplex):
    """The same spectrum behind a strong upper triangle: ‖W^k‖ grows before it falls."""

    def __init__(self, radius: float) -> None:
        self.name, self.radius = f"linear_non_normal_{radius}", radius

    def weight(self, row: int) -> Array:
        rng = self.rng(row)
        basis, above = orthogonal(rng, self.size), np.triu(rng.standard_normal((self.size, self.size)), 2)
        turns = zip((1.0, 0.8, 0.5), rng.uniform(0.5, 2.5, 3), strict=True)
        blocks = block_diagonal([self.radius * size * rotation(angle) for size, angle in turns])
        return basis @ (blocks + above) @ basis.T


class Rotation(Affine):
    """A turn of the plane about a known point, shrunk by `scale`; at 1 plain iteration circles for ever."""

    size = 2

    def __init__(self, scale: float) -> None:
        self.name, self.scale = f"rotation_{scale}", scale
        self.max_iter = 600 if scale < 1 else 400

    def weight(self, row: int) -> Array:
        return self.scale * rotation(1.0 + 0.15 * row)


class ExpandingOutliers(Affine):
    """ρ(W) = 1.5 from two outlying eigenvalues, the rest well inside the unit circle."""

    name = "expanding_outliers_1.5"
    max_iter = 150

    def weight(self, row: int) -> Array:
        basis = orthogonal(self.rng(row), self.size)
        return (basis * np.array([1.5, -1.3, 0.3, -0.2, 0.1, 0.05])) @ basis.T


class RowRates(Problem):
    """f(z) = r z + b with a rate r for every row, so the rows stop at different steps; z* = b / (1 − r)."""

    name = "row_rates"
    rates = (0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9)

    def function(self, z: Tensor, *parameters: Tensor) -> Tensor:
        rate, bias = parameters
        return rate * z + bias

    def parameters(self, row: int) -> tuple[Array, ...]:
        return np.array([self.rates[row % 8]]), self.rng(row).standard_normal(4)

    def start_of(self, row: int) -> Array:
        return np.zeros(4)

    def fixed_point_of(self, row: int) -> Array:
        rate, bias = self.parameters(row)
        return bias / (1 - rate)


class TanhNetwork(Problem):
    """f(z) = tanh(W z + U x + b). With W symmetric and ‖W‖ = gain < 1 it contracts; `skew` makes it turn.

    With W = 0.3 (symmetric, norm <= 1) + gain S, S skew, I − W is strongly monotone, so the fixed point is
    unique (Winston & Kolter, Monotone operator equilibrium networks, NeurIPS 2020) although ‖W‖ > 1.
    """

    size = 8

    def __init__(self, gain: float, skew: bool = False) -> None:
        self.name, self.gain, self.skew = f"tanh_{'skew' if skew else 'symmetric'}_{gain}", gain, skew

    def function(self, z: Tensor, *parameters: Tensor) -> Tensor:
        weight, inlet, x, bias = parameters
        return torch.tanh(matvec(weight, z) + matvec(inlet, x) + bias)

    def weight(self, row: int) -> Array:
        basis = orthogonal(self.rng(row), self.size)
        symmetric = (basis * np.linspace(-1.0, 1.0, self.size)) @ basis.T
        if not self.skew:
            return self.gain * symmetric
        turn = block_diagonal([size * rotation(math.pi / 2) for size in (1.0, 0.7, 0.4, 0.1)])
        return 0.3 * symmetric + self.gain * basis @ turn @ basis.T

    def parameters(self, row: int) -> tuple[Array, ...]:
        rng = self.rng(1000 + row)
        inlet, x, bias = (rng.standard_normal((self.size, 3)), rng.standard_normal(3), rng.standard_normal(self.size))
        return self.weight(row), 0.3 * inlet, x, 0.1 * bias

    def start_of(self, row: int) -> Array:
        return np.zeros(self.size)


class Chandrasekhar(Problem):
    """The H-equation of radiative transfer, H(μ) = 1 / (1 − c/2 ∫₀¹ μ H(ν) / (μ + ν) dν), midpoint rule.

    Kelley, Iterative Methods for Linear and Nonlinear Equations (SIAM 1995), chapter 5, discretises it so.
    Row i has albedo c (1 − 0.02 i).
    """

    size = 50

    def __init__(self, albedo: float) -> None:
        self.name, self.albedo = f"chandrasekhar_{albedo}", albedo
        node = (np.arange(self.size) + 0.5) / self.size
        self.kernel = torch.as_tensor(node[:, None] / (node[:, None] + node[None, :]) / (2 * self.size))

    def function(self, z: Tensor, *parameters: Tensor) -> Tensor:
        (albedo,) = parameters
        return 1 / (1 - albedo * matvec(self.kernel.to(z.dtype), z))

    def parameters(self, row: int) -> tuple[Array, ...]:
        return (np.array([self.albedo * (1 - 0.02 * row)]),)

    def start_of(self, row: int) -> Array:
        return np.ones(self.size)


class Cosine(Problem):
    """f(z) = cos z, whose only fixed point is the Dottie number; the rows differ by their start."""

    name = "cosine"

    def function(self, z: Tensor, *parameters: Tensor) -> Tensor:
        return torch.cos(z)

    def parameters(self, row: int) -> tuple[Array, ...]:
        return (np.zeros(1),)

    def start_of(self, row: int) -> Array:
        return np.array([0.3 * row])

    def fixed_point_of(self, row: int) -> Array:
        return np.array([DOTTIE])


class Logistic(Problem):
    """f(z) = r z (1 − z), z* = 1 − 1/r: plain iteration ends in a cycle, of 2 at r = 3.2, of 4 at 3.5."""

    max_iter = 150

    def __init__(self, rate: float) -> None:
        self.name, self.rate = f"logistic_{rate}", rate

    def function(self, z: Tensor, *parameters: Tensor) -> Tensor:
        (rate,) = parameters
        return rate * z * (1 - z)

    def parameters(self, row: int) -> tuple[Array, ...]:
        return (np.array([self.rate]),)

    def start_of(self, row: int) -> Array:
        return np.array([0.45 + 0.03 * row])

    def fixed_point_of(self, row: int) -> Array:
        return np.array([1 - 1 / self.rate])


class NaNRow(Problem):
    """f(z) = z / 2 + b, but row 1 answers NaN once its state leaves the start; z* = 2 b for the others."""

    name = "nan_row"

    def function(self, z: Tensor, *parameters: Tensor) -> Tensor:
        bias, broken = parameters
        left = z.abs().amax(dim=1, keepdim=True) > 0.1
        return torch.where((broken > 0) & left, torch.full_like(z, math.nan), 0.5 * z + bias)

    def parameters(self, row: int) -> tuple[Array, ...]:
        return 1 + self.rng(row).random(5), np.array([float(row == 1)])

    def start_of(self, row: int) -> Array:
        return np.zeros(5)

    def fixed_point_of(self, row: int) -> Array:
        return np.full(5, math.nan) if row == 1 else 2 * self.parameters(row)[0]

    def solvable(self, batch: int) -> Tensor:
        return torch.arange(batch) != 1


PROBLEMS: tuple[Problem, ...] = (
    LinearSymmetric(0.5),
    LinearSymmetric(0.9),
    LinearSymmetric(0.99),
    LinearComplex(0.9),
    LinearNonNormal(0.8),
    Rotation(0.95),
    Rotation(1.0),
    ExpandingOutliers(),
    RowRates(),
    TanhNetwork(0.5),
    TanhNetwork(0.9),
    TanhNetwork(1.5, skew=True),
    Chandrasekhar(0.9),
    Chandrasekhar(0.99),
    Cosine(),
    Logistic(3.2),
    Logistic(3.5),
    NaNRow(),
)
