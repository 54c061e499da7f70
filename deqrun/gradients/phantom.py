"""The phantom gradient: a few damped steps from the equilibrium, differentiated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deqrun.arguments import require_count, require_damping
from deqrun.gradients.account import Account
from deqrun.gradients.gradient import Gradient, Map, forget_casts, recording, relax, state_dtype, substitute
from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.loop import Observer


@dataclass(frozen=True)
class Phantom(Gradient):
    """dL/dθ ≈ ∂L/∂z · ∂y_K/∂θ with y_0 = z* held constant and y_{k+1} = λ f(y_k; θ) + (1 − λ) y_k, λ = damping.

    The unrolled form of Geng, Zhang, Bai, Wang & Lin 2021 (On training implicit models, arXiv 2111.05177). At the
    equilibrium it is the implicit gradient with (I − J)⁻¹ replaced by a truncated damped Neumann series,

        λ Σ_{k<K} (λ J + (1 − λ) I)^k,

    which tends to it as K grows where that matrix has a spectral radius below 1; damping < 1 reaches maps whose J has
    eigenvalues far left of −1. `Phantom(steps=1, damping=1)` is `OneStep`.

    steps    K >= 1; memory grows with it, not with the solver's iterations.
    damping  λ in (0, 2]; 1 is undamped.
    advance  False: the value returned is solution.z, y_0. True: it is y_K, as in the authors' own code.

    The two values agree at the equilibrium. Away from it, where a solve was cut short, the loss at y_0 with the slope
    of y_K is no loss's gradient, while the loss at y_K has exactly K steps' gradient (truncated back-propagation).

    Without `advance` the K recorded evaluations come on top of solution.nfe, which counts the solve. With it they are
    in it, and one more that tells y_K's residual: solution then speaks of y_K, iterates and residuals continued from
    the solve's. The backward pass evaluates nothing.

    Raises ValueError on other parameters. Without `advance` differentiating the gradient again raises RuntimeError.
    """

    steps: int = 5
    damping: float = 0.5
    advance: bool = False

    def __post_init__(self) -> None:
        require_count("Phantom steps", self.steps, 1)
        require_damping("Phantom damping", self.damping)
        if not isinstance(self.advance, bool):
            raise ValueError(f"Phantom advance must be true or false, got {self.advance!r}.")

    def run(
        self, f: Map, z0: Tensor, solver: Solver | None, budget: Budget | None, observe: Observer | None = None
    ) -> tuple[Tensor, Solution]:
        if not self.advance:
            return super().run(f, z0, solver, budget, observe)
        budget = budget or Budget()
        solution = solve(f, z0, solver=solver, budget=budget, observe=observe)
        account = Account(budget)
        forget_casts()
        y = self._steps(f, solution.z.to(z0.dtype), account)
        with torch.no_grad():
            account.note(self.steps, y, f(y.to(z0.dtype)))
        return y.to(z0.dtype), account.after(solution, y)

    def attach(self, f: Map, z: Tensor, solution: Solution) -> Tensor:
        with recording():
            y = self._steps(f, z).to(z.dtype)
            return y if self.advance else substitute(y, z, "phantom")

    def _steps(self, f: Map, z: Tensor, account: Account | None = None) -> Tensor:
        """y_K from y_0 = z, in the state's dtype."""
        y = z.detach().to(state_dtype(z))
        for k in range(self.steps):
            fy = f(y.to(z.dtype))
            if account is not None:
                account.note(k, y, fy)
            y = relax(y, fy, self.damping)
        return y
