"""How far each gradient mode is from the truth, at one point, and its cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deqrun.analysis.gradient_reference import AuditReference, Problem, Truth, measure_reference
from deqrun.arguments import require_count, require_instance
from deqrun.gradients.equilibrium import equilibrium
from deqrun.gradients.gradient import Gradient, Map
from deqrun.gradients.tally import counted
from deqrun.solvers import Budget, Solver, solve
from deqrun.solvers.device import mark, seconds_between


@dataclass(frozen=True)
class AuditRow:
    """One gradient mode beside the reference g, over all parameters as one vector.

    cosine                ⟨h, g⟩ / (‖h‖ ‖g‖) of the mode's gradient h; 1 is the right direction, NaN if h = 0 or g = 0
    relative_error        ‖h − g‖ / ‖g‖
    state_error           ‖z − z*‖ / ‖z*‖ of the state that the loss saw: large if this is another fixed point
    forward_evaluations   of f in the forward pass, per row of the batch, the gradient's own included
    backward_evaluations  of f in the backward pass, where checkpointing evaluates it again
    products              vector-Jacobian products through f in the backward pass, per row
    residual              of that state, the largest over rows
    adjoint_residual      of the adjoint, the largest over rows; None for modes without one
    seconds               one forward and one backward pass; no part of equality
    """

    name: str
    cosine: float
    relative_error: float
    state_error: float
    forward_evaluations: float
    backward_evaluations: float
    products: float
    residual: float
    adjoint_residual: float | None
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class GradientAudit:
    """The result of `audit`: the reference, how far to trust it, and a row per gradient mode."""

    reference: AuditReference
    rows: tuple[AuditRow, ...]

    def row(self, name: str) -> AuditRow:
        """The mode of that name. Raises KeyError."""
        return {row.name: row for row in self.rows}[name]

    def table(self) -> str:
        """The rows as aligned text under the sentence about the reference."""
        head = ("gradient", "cosine", "error", "state error", "evaluations", "again", "products", "adjoint residual")
        body = [_cells(row) for row in self.rows]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in (head, *body)
        ]
        return "\n".join([self.reference.sentence, *(line.rstrip() for line in lines)])


def _cells(row: AuditRow) -> tuple[str, ...]:
    adjoint = "" if row.adjoint_residual is None else f"{row.adjoint_residual:.1e}"
    evaluations = (f"{row.forward_evaluations:.1f}", f"{row.backward_evaluations:.1f}", f"{row.products:.1f}")
    errors = (f"{row.cosine:.6f}", f"{row.relative_error:.1e}", f"{row.state_error:.1e}")
    return (row.name, *errors, *evaluations, adjoint)


def audit(
    f: Map,
    z0: Tensor,
    loss: Callable[[Tensor], Tensor],
    parameters: Iterable[Tensor],
    *,
    gradients: Mapping[str, Gradient],
    solver: Solver | None = None,
    budget: Budget | None = None,
    precise: Budget | None = None,
    directions: int = 8,
    generator: torch.Generator | None = None,
) -> GradientAudit:
    """Compare gradient modes with the implicit gradient solved to the last digits, and that with finite differences.

    With z*(θ) = f(z*(θ); θ) and L(θ) = loss(z*(θ)), the reference is g = dL/dθ by `Implicit`, forward and adjoint
    solve within `precise`. f may have several fixed points: the forward solve begins where the one within `budget`
    ended, so that z* is the one that training sees. g is checked along random unit directions d by central
    differences of L itself,

        (L(θ + h d) − L(θ − h d)) / 2h   beside   ⟨g, d⟩,

    every solve of them beginning at z*.

    Each mode then gives its own h at the equilibrium that `solver` finds within `budget`, as training would: its error
    belongs to the mode and the solve together.

    f           (batch, …) -> (batch, …). All that depends on the parameters must happen inside: what was computed from
                them before is not seen to move with them.
    z0          (batch, …) start.
    loss        z -> scalar.
    parameters  leaf tensors that require a gradient; the modes are compared on them alone.
    gradients   the modes by name.
    solver      of the forward solve, and of the reference's; None: Picard().
    budget      of the forward solve of every mode; None: Budget().
    precise     of the reference; None: 5000 steps to a residual of 1e-12 in float64, of 1e-6 in float32.
    directions  of the finite differences, >= 1.
    generator   of the directions; None: one seeded with 0. The same seed gives the same audit, seconds aside.

    The reference is taken in float64, on copies of f and loss, where `copy.deepcopy` copies all that they compute
    with: modules, and objects that hold modules and tensors. A closure cannot be copied; then the reference has z0's
    dtype, and the parameters are moved in place for the differences and put back. `reference.dtype` says which it was.

    Raises TypeError where an argument is something else, ValueError on parameters that are no leaves or none at all,
    and on no gradients or no directions.
    """
    parameters = list(parameters)
    _check(parameters, gradients, directions)
    require_instance("audit precise", precise, Budget)
    problem = Problem(f, loss, parameters, z0)
    z = solve(f, z0, solver=solver, budget=budget).z.to(z0.dtype)
    reference, truth = measure_reference(problem, z, solver, precise, directions, generator)
    rows = [_row(name, gradient, problem, solver, budget, truth) for name, gradient in gradients.items()]
    return GradientAudit(reference, tuple(rows))


def _check(parameters: list[Tensor], gradients: Mapping[str, Gradient], directions: int) -> None:
    if not isinstance(gradients, Mapping):
        raise TypeError(f"audit gradients must be a mapping from names to gradients, got {type(gradients).__name__}.")
    for name, gradient in gradients.items():
        if not isinstance(gradient, Gradient):
            raise TypeError(
                f"audit gradients[{name!r}] must be a Gradient, got {type(gradient).__name__} {gradient!r}."
            )
    if not gradients:
        raise ValueError("audit gradients must name at least one gradient, got none.")
    require_count("audit directions", directions, 1)
    if not parameters:
        raise ValueError("audit parameters must be at least one tensor, got none.")
    if not all(isinstance(p, Tensor) and p.is_leaf and p.requires_grad for p in parameters):
        raise ValueError("audit parameters must be leaf tensors that require a gradient; others don't move f.")


def _row(
    name: str, gradient: Gradient, problem: Problem, solver: Solver | None, budget: Budget | None, truth: Truth
) -> AuditRow:
    f, tally = counted(problem.f)
    began = mark(problem.z0.device)
    with torch.enable_grad():
        z, solution = equilibrium(f, problem.z0, solver=solver, budget=budget, gradient=gradient)
        value = problem.loss(z)
    forward, tally.evaluations, tally.products = tally.evaluations, 0, 0
    found = problem.gradient_of(value).double()
    seconds = seconds_between(began, mark(problem.z0.device))
    batch = max(1, len(problem.z0))
    adjoint, exact = solution.adjoint, truth.gradient
    return AuditRow(
        name=name,
        cosine=float(found @ exact / (found.norm() * exact.norm())),
        relative_error=float((found - exact).norm() / exact.norm()),
        state_error=float((z.detach().double() - truth.z).norm() / truth.z.norm()),
        forward_evaluations=forward / batch,
        backward_evaluations=tally.evaluations / batch,
        products=tally.products / batch,
        residual=float(solution.residual.max()),
        adjoint_residual=None if adjoint is None else float(adjoint.residual.max()),
        seconds=seconds,
    )
