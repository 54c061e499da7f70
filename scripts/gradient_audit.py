"""How far each gradient mode is from the truth, on a small trained cell, and what it costs.

    python scripts/gradient_audit.py

A cell f(z; x) = tanh(W z + U x + b) of 64 numbers is trained on the digits with implicit gradients, once per seed.
Before and after, every mode is audited on one batch of the training samples with the loss that is trained on. Prints a
table for each: medians over seeds (lowest to highest).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deqrun.analysis.gradient_audit import AuditRow, GradientAudit, audit
from deqrun.datasets import Digits
from deqrun.gradients import Gradient, Implicit, OneStep, Phantom, Unrolled, equilibrium
from deqrun.models import MLPCell
from deqrun.solvers import Anderson, Budget, solve

FORWARD = Budget(max_iter=100, tol=1e-4)
PRECISE = Budget(max_iter=2000, tol=1e-12)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
GRADIENTS: dict[str, Gradient] = {
    **{f"implicit, tol {tol:g}": Implicit(Anderson(), Budget(max_iter=200, tol=tol)) for tol in TOLERANCES},
    "one step": OneStep(),
    "phantom, 5 steps of 0.5": Phantom(steps=5, damping=0.5),
    "phantom, 20 steps of 0.5": Phantom(steps=20, damping=0.5),
    "phantom, 5 steps of 1": Phantom(steps=5, damping=1.0),
    "phantom, 20 steps of 1": Phantom(steps=20, damping=1.0),
    "unrolled, 12 steps": Unrolled(steps=12),
    "unrolled, 50 steps": Unrolled(steps=50),
    "unrolled, 50 steps, last 5": Unrolled(steps=50, last=5),
    "unrolled, 50 steps, checkpoint 7": Unrolled(steps=50, checkpoint=7),
}


class Bound(nn.Module):
    """f(·; x): everything that depends on the parameters happens inside, so that the audit can move them."""

    x: Tensor

    def __init__(self, cell: MLPCell, x: Tensor) -> None:
        super().__init__()
        self.cell = cell
        self.register_buffer("x", x)

    def forward(self, z: Tensor) -> Tensor:
        return self.cell(z, self.cell.inject(self.x))


class Loss(nn.Module):
    """Cross-entropy of the cell's read-out."""

    targets: Tensor

    def __init__(self, cell: MLPCell, targets: Tensor) -> None:
        super().__init__()
        self.cell = cell
        self.register_buffer("targets", targets)

    def forward(self, z: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.cell.readout(z), self.targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="cells trained, with seeds 0, 1, …")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of their training")
    parser.add_argument("--batch", type=int, default=64, help="samples that the gradients are taken on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for epochs in (0, arguments.epochs):
        audits, radii, unconverged = [], [], []
        for seed in range(arguments.seeds):
            f, loss = problem(trained(seed, epochs), arguments.batch)
            radii.append(spectral_radius(f))
            unconverged.append(int((~solve(f, start(f), solver=Anderson(), budget=FORWARD).converged).sum()))
            audits.append(audited(f, loss))
        print(f"### after {epochs} epochs: {arguments.seeds} seeds, {arguments.batch} samples\n")
        print(f"spectral radius of the median sample: {interval(radii, '.2f')}")
        print(f"samples whose forward solve did not reach its tolerance, by seed: {unconverged}")
        report(audits)


def trained(seed: int, epochs: int) -> MLPCell:
    """A cell trained on the digits by AdamW, with implicit gradients."""
    torch.manual_seed(seed)
    data, cell = Digits().load("train"), MLPCell(input_shape=(1, 8, 8), num_classes=10, width=64)
    optimizer = torch.optim.AdamW(cell.parameters(), lr=2e-3)
    gradient = Implicit(Anderson(), Budget(max_iter=50, tol=1e-3))
    for _ in range(epochs):
        for index in torch.randperm(len(data)).split(64):
            f, loss = Bound(cell, data.inputs[index]), Loss(cell, data.targets[index])
            z0 = torch.zeros(len(index), *cell.state_shape)
            z, _ = equilibrium(f, z0, solver=Anderson(), budget=FORWARD, gradient=gradient)
            optimizer.zero_grad()
            loss(z).backward()
            optimizer.step()
    return cell


def problem(cell: MLPCell, batch: int) -> tuple[Bound, Loss]:
    data = Digits().load("train")
    return Bound(cell, data.inputs[:batch]), Loss(cell, data.targets[:batch])


def start(f: Bound) -> Tensor:
    return torch.zeros(len(f.x), *f.cell.state_shape)


@torch.no_grad()
def spectral_radius(f: Bound) -> float:
    """Of ∂f/∂z = diag(1 − z*²) W at the equilibrium, the median over samples."""
    z = solve(f, start(f), solver=Anderson(), budget=Budget(max_iter=500, tol=1e-6)).z
    jacobians = (1 - z**2)[:, :, None] * f.cell.get_parameter("layers.0.weight")
    return float(torch.linalg.eigvals(jacobians).abs().amax(1).median())


def audited(f: Bound, loss: Loss) -> GradientAudit:
    parameters = [p for name, p in f.cell.named_parameters() if not name.startswith("classifier")]
    return audit(f, start(f), loss, parameters, gradients=GRADIENTS, solver=Anderson(), budget=FORWARD, precise=PRECISE)


def report(audits: Sequence[GradientAudit]) -> None:
    """The references, and a table in Markdown."""
    references = [found.reference for found in audits]
    print(
        f"references converged: {sum(r.converged for r in references)} of {len(references)}, in {references[0].dtype}"
    )
    print(f"off finite differences by at most {max(r.difference_error for r in references):.1e}\n")
    print("| gradient | cosine | relative error | state error | evaluations, again | products | adjoint residual |")
    print("|---|---|---|---|---|---|---|")
    for name in GRADIENTS:
        print(line(name, [found.row(name) for found in audits]))
    print()


def line(name: str, rows: Sequence[AuditRow]) -> str:
    adjoint = [row.adjoint_residual for row in rows if row.adjoint_residual is not None]
    cells = [
        name,
        interval([row.cosine for row in rows], ".4f"),
        interval([row.relative_error for row in rows], ".1e"),
        interval([row.state_error for row in rows], ".0e"),
        f"{middle(rows, 'forward_evaluations')}, {middle(rows, 'backward_evaluations')}",
        middle(rows, "products"),
        f"{max(adjoint):.0e}" if adjoint else "",
    ]
    return "| " + " | ".join(cells) + " |"


def interval(values: Sequence[float], form: str) -> str:
    """'median (lowest to highest)'."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def middle(rows: Sequence[AuditRow], name: str) -> str:
    """The median of one of their counts."""
    return f"{statistics.median(getattr(row, name) for row in rows):.0f}"


if __name__ == "__main__":
    main()
