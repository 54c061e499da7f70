"""How right the implicit gradient is on a slow cell, beside torchdeq's default, for the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from bench_report import Row
from torch import Tensor

from deqrun.gradients import Implicit, equilibrium
from deqrun.solvers import Anderson, Budget, Picard

try:
    import torchdeq
except ImportError:
    torchdeq = None

RADIUS, TOL = 0.99, 1e-10


class SlowCell:
    """f(z) = tanh(W z + b) of 6 numbers, float64, ∂f/∂z at z* of spectral radius 0.99 in row 0 and less in others.

    z* is chosen, and b = atanh z* − W z* follows.
    """

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        basis = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))[0]
        weight = (basis * torch.linspace(0.2, 1.0, 6, dtype=torch.float64)) @ basis.T
        signs = torch.randn(3, 6, generator=generator, dtype=torch.float64).sign()
        z = torch.tensor([[0.3], [0.5], [0.6]], dtype=torch.float64) * signs
        radius = torch.linalg.eigvals((1 - z[0] ** 2)[:, None] * weight).abs().max()
        weight = weight * RADIUS / radius
        self.start = 0.9 * z
        self.bias = (torch.atanh(z) - z @ weight.T).requires_grad_()
        self.weight = weight.requires_grad_()

    def __call__(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.T + self.bias)

    def gradient_at(self, z: Tensor) -> Sequence[Tensor]:
        """Of Σ z³ by the parameters."""
        return torch.autograd.grad(z.pow(3).sum(), (self.weight, self.bias))


def slow_gradient() -> list[Row]:
    """Relative error of the gradient of Σ z³ against 3500 unrolled steps (0.99^3500 = 5e-16)."""
    f = SlowCell()
    unrolled = f.start
    for _ in range(3500):
        unrolled = f(unrolled)
    exact = f.gradient_at(unrolled)
    figure, budget = f"gradient's error, slow float64 cell, tolerance {TOL:g}", Budget(max_iter=4000, tol=TOL)
    rows = []
    for name, solver in (("anderson", Anderson()), ("picard", Picard())):
        z, _ = equilibrium(f, f.start, solver=solver, budget=budget, gradient=Implicit(solver, budget))
        rows.append(Row(figure, name, relative_error(f.gradient_at(z), exact), None))
    if torchdeq:
        options = {"f_tol": TOL, "b_tol": TOL, "f_max_iter": 4000, "b_max_iter": 4000, "f_stop_mode": "rel"}
        for name, chosen in (("its defaults", {}), ("anderson, the same budget", {"f_solver": "anderson", **options})):
            deq = torchdeq.get_deq(ift=True, **chosen)
            deq.train()
            found, _ = deq(f, f.start)
            rows.append(Row(figure, f"torchdeq, {name}", relative_error(f.gradient_at(found[-1]), exact), None))
    return rows


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """‖found − exact‖ / ‖exact‖ over all tensors as one vector."""
    h, g = (torch.cat([tensor.flatten() for tensor in tensors]) for tensors in (found, exact))
    return float((h - g).norm() / g.norm())
