"""Broyden's good method with limited memory, from stored steps alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.arguments import require_count
from deqrun.solvers.device import at_hand, wide, widened
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.history import History
from deqrun.solvers.line_search import Criterion, Found, SearchedMap, backtrack
from deqrun.solvers.solver import Point, Solver, SolverState

LEAST_DENOMINATOR = 0.01
"""Of |s_kᵀ H_k y_k| / ‖s_k‖². With 0.1, as Moré & Trangenstein have it, trained cells needed some more steps."""

SUFFICIENT_DECREASE = 1e-4
"""σ of the line search, as small as is usual (Nocedal & Wright 2006, section 3.1)."""

REMEMBERED_NORMS = 5
"""With 1, the line search took up to a hundred times the evaluations on linear problems that need none; with 10, it
let go a problem that a saturating f makes hard (arctan, tests/solvers/test_broyden.py)."""

HALVINGS = 10
"""A direction that gains nothing at a thousandth of its length is one of a matrix that went wrong."""


@dataclass(frozen=True)
class Broyden(Solver["BroydenState", FlatMap]):
    """Broyden's "good" quasi-Newton method on g(z) = f(z) − z, each row by itself (Broyden 1965, method 1).

    With H_k ≈ (∂g/∂z)⁻¹, H_0 = −I, and y_k = g_{k+1} − g_k,

        d_k = −H_k g_k,    s_k = λ_k d_k,    z_{k+1} = z_k + s_k,
        H_{k+1} = H_k + (s_k − H_k y_k) s_kᵀ H_k / (s_kᵀ H_k y_k),

    so iterate 1 is f(z_0). By Sherman–Morrison −H_{k+1} is a product of I + (d_{j+1} + (λ_j − 1) d_j) d_jᵀ / ‖d_j‖²,
    in which only the directions occur: one buffer, not two (Kelley 1995, Iterative Methods for Linear and Nonlinear
    Equations, section 7.3, where λ = 1). Their products with g, one pass over the buffer, give all coefficients by a
    triangular system in float64; a second pass adds the directions up.

    memory       updates kept, >= 0, a state in memory each; 0 is Picard iteration. When they are full all are
                 forgotten, and the next step is the plain one. To overwrite the oldest instead takes two vectors an
                 update and twice the passes, else the secant condition is lost: on trained MLP, convolutional and
                 MDEQ cells that saved less than 5 % of the steps at equal updates, and at equal memory took more.
    line_search  False: λ_k = 1. True: the first of 1, ½, ¼, … with

                     ‖g(z_k + λ d_k)‖ <= max(‖g_{k−4}‖, …, ‖g_k‖) + ‖g_k‖ / (k + 1)² − 10⁻⁴ ‖λ d_k‖² / ‖g_0‖,

                 Li & Fukushima 2000 (A derivative-free line search and global convergence of Broyden-like method for
                 nonlinear equations), freed of z's unit by ‖g_0‖ and, as in Grippo, Lampariello & Lucidi 1986, of
                 the demand to fall at every step, which Broyden's iterates seldom do. At most 10 halvings; a row that
                 none helps forgets its updates. The first trial is the loop's own evaluation, each further one counts
                 in the row's nfe. For maps on which λ = 1 fails; elsewhere it takes a few evaluations more.

    Where |s_kᵀ H_k y_k| < 0.01 ‖s_k‖² the update is made in part, to come out at 0.01, so that nothing is divided by
    zero (Powell 1970; Moré & Trangenstein 1976, On the global convergence of Broyden's method).
    Raises ValueError on other parameters.
    """

    memory: int = 8
    line_search: bool = False

    def __post_init__(self) -> None:
        require_count("Broyden memory", self.memory, 0)
        if not isinstance(self.line_search, bool):
            raise ValueError(f"Broyden line_search must be true or false, got {self.line_search!r}.")

    def adapt(self, f: Callable[[Tensor], Tensor], z0: Tensor) -> FlatMap:
        return SearchedMap(f, z0) if self.line_search else FlatMap(f, z0)

    def init(self, z: Tensor) -> BroydenState:
        return BroydenState(z, self.memory, self.line_search)

    def step(self, state: BroydenState, point: Point[FlatMap]) -> Tensor:
        norm = torch.linalg.vector_norm(point.g, dim=1) if self.line_search else None
        direction = state.next_direction(point.g)
        if norm is not None:
            return self._search(state, point, norm, direction)
        # In g's memory, which nobody needs any more: memory fresh from the system costs more than the addition.
        return point.fz if state.count == 1 else torch.add(point.z, direction, out=point.g)

    def _search(self, state: BroydenState, point: Point[FlatMap], norm: Tensor, direction: Tensor) -> Tensor:
        """Iterate k+1 by the line search; its f is left with the map for the loop to ask for."""
        size = torch.linalg.vector_norm(direction, dim=1)
        first, highest = state.note_norm(norm)
        decrease = SUFFICIENT_DECREASE * size * (size / first)
        criterion = Criterion(highest + norm / (point.k + 1) ** 2, torch.zeros_like(norm), decrease)
        assert isinstance(point.f, SearchedMap)
        found = backtrack(point.f, point, direction, criterion, HALVINGS)
        state.note_search(found)
        point.f.remember(found.z, found.fz)
        return found.z


class BroydenState(SolverState):
    """The directions since the last restart, and their products with one another.

    directions  slot j holds d_j. The one after the last is used at once and never again.
    gram        (rows, memory + 1, memory + 1) float64; d_i · d_j
    length      (rows, memory + 1) float64; λ_j
    inverse     (rows, memory + 1) float64; 1/‖d_j‖², 0 where update j is skipped
    system      (rows, memory + 1, memory + 1) float64, unit lower triangular; see `_coefficients`
    norms       (rows, up to REMEMBERED_NORMS); ‖g‖ at the latest iterates, for the line search
    count       directions at hand
    searched    whether λ_j may be other than 1
    """

    def __init__(self, z: Tensor, memory: int, line_search: bool) -> None:
        rows = len(z)
        self.memory = memory
        self.directions = History(memory, z)
        self.gram = torch.zeros(rows, memory + 1, memory + 1, dtype=wide(z.device), device=z.device)
        self.system = torch.zeros_like(self.gram)
        self.inverse = torch.zeros(rows, memory + 1, dtype=wide(z.device), device=z.device)
        self.length = torch.ones_like(self.inverse)
        self.count = 0
        self.searched = line_search
        self.first_norm: Tensor | None = None
        self.norms: Tensor | None = None
        if line_search:
            self.nfe = torch.zeros(rows, dtype=torch.long, device=z.device)

    def next_direction(self, g: Tensor) -> Tensor:
        """d_k = −H_k g_k (rows, D), to be read at once. Overwrites g."""
        if self.count > self.memory:
            self.count = 0
        count = self.count
        self.count += 1
        self.length[:, count] = 1
        direction = self.directions[count] if count < self.memory else g
        if count:
            along = widened(self.directions.products(g, count))
            weights, scale = self._weights(along)
            if weights.shape[1]:
                first = count - weights.shape[1]
                self.directions.combination(weights.to(g.dtype), first, onto=g, in_place=True)
            torch.mul(g, scale.to(g.dtype), out=direction)
            if count < self.memory or self.searched:
                self._enter_products(along, weights, scale)
        elif self.memory:
            direction.copy_(g)
        if count < self.memory or self.searched:
            self.gram[:, count, count] = widened(torch.linalg.vector_norm(direction, dim=1)).square_()
        return direction

    def _enter_products(self, along: Tensor, weights: Tensor, scale: Tensor) -> None:
        """Products of the newest direction with the others, from its parts: no pass over the buffer."""
        count = along.shape[1]
        weighed = self.gram[:, count - weights.shape[1] : count, :count]
        row = torch.baddbmm(along[:, None], weights[:, None], weighed)[:, 0].mul_(scale)
        self.gram[:, count, :count] = row
        self.gram[:, :count, count] = row

    def _weights(self, along: Tensor) -> tuple[Tensor, Tensor]:
        """(w, scale (rows, 1)) of d_k = scale · (g + Σ_j w_j d_j), from d_j · g in `along` (rows, count).

        w is of the latest of the directions: of all, or, where every λ is 1, of all but the first, whose w would be 0.
        """
        self._enter_update(along.shape[1] - 1)
        c, scale = self._coefficients(along)
        if not self.searched:
            return c[:, :-1], scale
        weights = c * (self.length[:, : c.shape[1]] - 1)
        weights[:, 1:] += c[:, :-1]
        return weights, scale

    def _enter_update(self, at: int) -> None:
        """Row `at` of the system, which belongs to the newest direction."""
        row = self.gram[:, at]
        squared = row[:, at]
        self.inverse[:, at] = torch.where(squared > 0, 1 / squared, 0.0)
        following = row[:, 1 : at + 1]
        if self.searched:
            following = following + (self.length[:, :at] - 1) * row[:, :at]
        self.system[:, at, :at] = following * -self.inverse[:, at, None]

    def _coefficients(self, along: Tensor) -> tuple[Tensor, Tensor]:
        """(c (rows, count), 1/(1 − c_last) (rows, 1)).

        Applying the factors to g one after the other, c_j = d_j · h_j / ‖d_j‖² with h_0 = g and
        h_{j+1} = h_j + c_j (d_{j+1} + (λ_j − 1) d_j): forward substitution. The last factor holds d_k itself, and
        solving for it divides by 1 − c_last, which a partial update keeps off 0. Where the size of a coefficient says
        that it is nothing but rounding, all are 0.
        """
        count = along.shape[1]
        system, inverse = self.system[:, :count, :count], self.inverse[:, :count]
        right = (along * inverse)[:, :, None]
        c = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)[:, :, 0]
        exact = 1 - c[:, -1:]
        limit = 0.1 / torch.finfo(self.directions.vectors.dtype).eps
        if at_hand(c) and len(c) and float(exact.abs().min()) >= LEAST_DENOMINATOR:
            least, most = (float(value) for value in torch.aminmax(c))
            if -limit < least and most < limit:  # false for NaN, too
                return c, 1 / exact
        return self._safe(c, exact, limit)

    def _safe(self, c: Tensor, exact: Tensor, limit: float) -> tuple[Tensor, Tensor]:
        """The same, updates made in part or not at all where they have to be; the system takes note."""
        count = c.shape[1]
        least = torch.where(exact < 0, -LEAST_DENOMINATOR, LEAST_DENOMINATOR)
        denominator = torch.where(exact.abs() < LEAST_DENOMINATOR, least, exact)
        share = torch.where(exact == denominator, 1.0, (1 - denominator) / c[:, -1:])
        share = torch.where(c.abs().amax(1, keepdim=True) < limit, share, 0.0)
        self.inverse[:, count - 1 : count].mul_(share)
        self.system[:, count - 1, :count].mul_(share)
        c = torch.where(share == 0, 0.0, c)
        c[:, -1:] *= share
        return c, 1 / (1 - c[:, -1:])

    def note_norm(self, norm: Tensor) -> tuple[Tensor, Tensor]:
        """‖g_0‖ and the largest ‖g‖ of late, (rows,) each; `norm` is ‖g‖ of this iterate."""
        latest = norm[:, None]
        if self.norms is not None:
            latest = torch.cat([self.norms[:, 1 - REMEMBERED_NORMS :], latest], dim=1)
        self.norms = latest
        self.first_norm = norm if self.first_norm is None else self.first_norm
        return self.first_norm, latest.amax(1)

    def note_search(self, found: Found) -> None:
        """Take in λ_k; rows in which no λ would do forget their updates, and d_k, which makes the next step plain."""
        assert self.nfe is not None
        self.nfe = self.nfe + found.extra
        self.length[:, self.count - 1] = found.length
        self.inverse.masked_fill_(found.failed[:, None], 0.0)
        self.system.masked_fill_(found.failed[:, None, None], 0.0)
        self.gram[:, self.count - 1, self.count - 1].masked_fill_(found.failed, 0.0)

    def take(self, rows: Tensor) -> None:
        self.directions.take(rows)
        for name in ("gram", "length", "inverse", "system", "first_norm", "norms", "nfe"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, value[rows])
