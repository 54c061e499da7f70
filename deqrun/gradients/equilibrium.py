"""`equilibrium`: solve for z* = f(z*), and give the answer a gradient."""

from __future__ import annotations

from torch import Tensor

from deqrun.arguments import require_instance
from deqrun.gradients.gradient import Gradient, Map
from deqrun.gradients.implicit import Implicit
from deqrun.solvers import Budget, Solution, Solver
from deqrun.solvers.loop import Observer


def equilibrium(
    f: Map,
    z0: Tensor,
    *,
    solver: Solver | None = None,
    budget: Budget | None = None,
    gradient: Gradient | None = None,
    observe: Observer | None = None,
) -> tuple[Tensor, Solution]:
    """Solve z = f(z) from z0 and return (z, solution), z carrying a gradient to every tensor that f closes over.

    f, z0, solver, budget, observe as in `deqrun.solvers.solve`. gradient defaults to `Implicit()`.
    z has z0's shape and dtype, and the value of solution.z. The start gets no gradient: the equilibrium does not
    depend on it. (`Unrolled` is no equilibrium: its z does, and has one.)

    Evaluations of f are accounted for where they happen, per row:

        solution.nfe           those that found z and told its residual, as without a gradient
        the gradient itself    recorded at z, on top: Implicit 1, OneStep 1, Phantom its steps, Unrolled 0 (and Phantom,
                               where it goes on to the end of its steps: they are in solution.nfe)
        solution.adjoint.nfe   vector-Jacobian products of Implicit's adjoint, once a backward pass has run, beside
                               adjoint.jvps where its solver takes more; each mode then goes once through every
                               recorded evaluation, to the weights

    Raises TypeError where solver, budget or gradient is something else, and as `solve` does.
    """
    require_instance("equilibrium solver", solver, Solver)
    require_instance("equilibrium budget", budget, Budget)
    require_instance("equilibrium gradient", gradient, Gradient)
    return (gradient or Implicit()).run(f, z0, solver, budget, observe)
