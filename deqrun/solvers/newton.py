"""Newton's method with its linear systems solved by GMRES on exact Jacobian-vector products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.arguments import require_count
from deqrun.solvers.device import wide, widened
from deqrun.solvers.gmres import Krylov, gmres
from deqrun.solvers.line_search import Criterion, backtrack
from deqrun.solvers.linearized_map import LinearizedMap
from deqrun.solvers.solver import Point, Solver, SolverState

FIRST_FORCING, LARGEST_FORCING, SHRINK, SAFEGUARD = 0.5, 0.9, 0.9, 0.1
"""η_0, η_max, γ and the bound of the safeguard, as in Eisenstat & Walker 1996, section 4."""

SUFFICIENT_DECREASE = 1e-4
"""t of the line search, ibid."""

HALVINGS = 20
"""Newton's direction descends, but where I − J is nearly singular it is a million times too long."""


@dataclass(frozen=True)
class NewtonKrylov(Solver["NewtonState", LinearizedMap]):
    """Inexact Newton on g(z) = f(z) − z, matrix-free and each row by itself (Dembo, Eisenstat & Steihaug 1982):

        z_{k+1} = z_k + s_k,    ‖g_k − (I − J_k) s_k‖ <= η_k ‖g_k‖,    J_k = ∂f/∂z at z_k.

    s_k comes from GMRES, whose products J_k v are exact (see `LinearizedMap`) and counted per row in `Solution.jvps`;
    iterate k costs k evaluations besides, as with the other solvers. How accurately the system deserves to be solved
    is for Eisenstat & Walker to say (1996, Choosing the forcing terms in an inexact Newton method, eq. 2.6, choice 2
    with exponent 2):

        η_k = 0.9 (‖g_k‖ / ‖g_{k−1}‖)², but at least 0.9 η²_{k−1} where that exceeds 0.1, at most 0.9; η_0 = 0.5.

    krylov       dimension of the Krylov space, >= 1: so many products at most per step, and one state each in memory.
                 Where it runs out the step is the best one found: ‖g_k − (I − J_k) s_k‖ never exceeds ‖g_k‖.
    plain_steps  >= 0, steps z_{k+1} = f(z_k) before the first Newton step. At z_0 = 0 normalised features have no
                 variance, so ∂f/∂z is in the hundreds and Newton's steps are next to nothing: a trained MDEQ got
                 nowhere from 0, and in 5 steps to 10⁻² from f(0).
    forcing      None: η_k as above; or a constant η in [0, 1). 0 solves to rounding, which is Newton's method proper.
    line_search  whether s_k is halved until ‖g(z_k + λ s_k)‖ <= (1 − 10⁻⁴ λ (1 − η_k)) ‖g_k‖ (ibid., section 2), 20
                 times at most. The trials count in the row's nfe: one each step, and one a halving. Off by default:
                 on trained cells it saved nothing and doubled the evaluations.

    A row whose system gives no step takes the plain one, f(z_k).
    Raises ValueError on other parameters, and in `solve` where f cannot be differentiated twice.
    """

    krylov: int = 10
    plain_steps: int = 1
    forcing: float | None = None
    line_search: bool = False

    def __post_init__(self) -> None:
        require_count("NewtonKrylov krylov", self.krylov, 1)
        require_count("NewtonKrylov plain_steps", self.plain_steps, 0)
        if self.forcing is not None and not 0 <= self.forcing < 1:
            raise ValueError(f"NewtonKrylov forcing must be in [0, 1) or null, got {self.forcing}.")
        if not isinstance(self.line_search, bool):
            raise ValueError(f"NewtonKrylov line_search must be true or false, got {self.line_search!r}.")

    def adapt(self, f: Callable[[Tensor], Tensor], z0: Tensor) -> LinearizedMap:
        return LinearizedMap(f, z0)

    def init(self, z: Tensor) -> NewtonState:
        return NewtonState(z)

    def step(self, state: NewtonState, point: Point[LinearizedMap]) -> Tensor:
        if point.k < self.plain_steps:
            return point.fz
        if not point.f.depends_on_state:
            return self._constant(state, point)
        norm = widened(torch.linalg.vector_norm(point.g, dim=1))
        eta = state.next_forcing(norm) if self.forcing is None else torch.full_like(norm, self.forcing)
        found = self._linear_solve(state, point, eta * norm)
        state.jvps = state.jvps + found.products
        step = found.solution()
        usable = step.isfinite().all(1) & (found.residual < norm)
        direction = torch.where(usable[:, None], step, point.g)
        if self.line_search:
            return self._search(state, point, direction, norm, eta)
        return torch.where(usable[:, None], point.z + direction, point.fz)

    def _linear_solve(self, state: NewtonState, point: Point[LinearizedMap], goal: Tensor) -> Krylov:
        f = point.f
        floor = 10 * torch.finfo(point.g.dtype).eps * torch.linalg.vector_norm(point.g, dim=1)
        goal = torch.maximum(goal, widened(floor)).masked_fill(~point.active, torch.inf)
        return gmres(lambda v: v - f.product(v), point.g, state.basis(point.g, self.krylov), goal)

    def _search(
        self, state: NewtonState, point: Point[LinearizedMap], direction: Tensor, norm: Tensor, eta: Tensor
    ) -> Tensor:
        norm = norm.to(point.g.dtype)
        decrease = SUFFICIENT_DECREASE * (1 - eta).to(norm.dtype) * norm
        criterion = Criterion(norm, decrease, torch.zeros_like(norm))
        found = backtrack(point.f.plain(), point, direction, criterion, HALVINGS)
        state.nfe = state.nfe + 1 + found.extra
        return found.z

    def _constant(self, state: NewtonState, point: Point[LinearizedMap]) -> Tensor:
        """f(z_k), where f's value had no graph: f is constant, or hides how it depends on z."""
        state.nfe = state.nfe + 1
        differs = (point.f(point.fz) != point.fz).any(1) & point.active
        if bool(differs.any()):
            raise ValueError(
                "NewtonKrylov needs the derivative of f, but f's value carries none and yet changes with z (as under "
                "torch.no_grad, after detach, or through numpy); Anderson and Broyden need f(z) alone."
            )
        return point.fz


class NewtonState(SolverState):
    """Work space of GMRES, the forcing term and ‖g‖ of the step before (rows,), and the counts."""

    nfe: Tensor
    jvps: Tensor

    def __init__(self, z: Tensor) -> None:
        self.nfe = torch.zeros(len(z), dtype=torch.long, device=z.device)
        self.jvps = torch.zeros_like(self.nfe)
        self.forcing = torch.full_like(self.nfe, FIRST_FORCING, dtype=wide(z.device))
        self.norm: Tensor | None = None
        self._space: Tensor | None = None

    def basis(self, z: Tensor, krylov: int) -> Tensor:
        """(rows, krylov + 1, D), uninitialised; the same memory at each step."""
        if self._space is None:
            self._space = z.new_empty(len(z), krylov + 1, z.shape[1])
        return self._space[: len(z)]

    def next_forcing(self, norm: Tensor) -> Tensor:
        """η_k (rows,) float64."""
        if self.norm is not None:
            chosen = SHRINK * (norm / self.norm).square()
            before = SHRINK * self.forcing.square()
            chosen = torch.where(before > SAFEGUARD, torch.maximum(chosen, before), chosen)
            self.forcing = chosen.clamp(max=LARGEST_FORCING)
        self.norm = norm
        return self.forcing

    def take(self, rows: Tensor) -> None:
        self.nfe, self.jvps, self.forcing = self.nfe[rows], self.jvps[rows], self.forcing[rows]
        self.norm = None if self.norm is None else self.norm[rows]
