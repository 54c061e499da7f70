"""How a loss at the equilibrium reaches the weights: implicit, one-step, phantom, unrolled; and how far each is off.

>>> import torch
>>> from deqrun.gradients import Implicit, equilibrium
>>> b = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
>>> z, solution = equilibrium(lambda z: 0.5 * z + b, torch.zeros_like(b), gradient=Implicit())
>>> z.sum().backward()
>>> round(b.grad.item(), 4)  # z* = b / (1 − 0.5)
2.0
"""

from deqrun.gradients.equilibrium import equilibrium
from deqrun.gradients.gradient import Gradient
from deqrun.gradients.implicit import Implicit
from deqrun.gradients.jacobian import jacobian_norms, jacobian_penalty, residual_penalty, spectral_penalty
from deqrun.gradients.one_step import OneStep
from deqrun.gradients.phantom import Phantom
from deqrun.gradients.unrolled import Unrolled

__all__ = [
    "Gradient",
    "Implicit",
    "OneStep",
    "Phantom",
    "Unrolled",
    "equilibrium",
    "jacobian_norms",
    "jacobian_penalty",
    "residual_penalty",
    "spectral_penalty",
]
