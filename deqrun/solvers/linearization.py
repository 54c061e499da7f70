"""Products with the Jacobian of one recorded evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Linearization"]


class Linearization:
    """J = ∂f/∂z at `root`, from value = f(root) with its graph; every product runs on that one graph.

    Jᵀu is the graph's backward pass. u ↦ Jᵀu is recorded once, and being linear in u its own derivative along v is J v
    ("double backward"): f is not evaluated again, and maps without forward-mode formulas work, too. Where the value
    does not depend on root both products are 0.

    root   any shape, requiring a gradient
    value  any shape
    """

    def __init__(self, root: Tensor, value: Tensor) -> None:
        self.root, self.value = root, value
        self._transposed: tuple[Tensor, Tensor | None] | None = None  # u, and Jᵀu with its graph

    @property
    def depends_on_state(self) -> bool:
        """Whether root is in the value's graph: not so for a constant map."""
        return self._recorded()[1] is not None

    def vjp(self, u: Tensor) -> Tensor:
        """Jᵀu: value's shape -> root's shape."""
        found = self._pulled_back(u, record=False)
        return torch.zeros_like(self.root) if found is None else found

    def jvp(self, v: Tensor) -> Tensor:
        """J v: root's shape -> value's shape. Raises RuntimeError where f has no second derivative."""
        u, back = self._recorded()
        if back is None or not back.requires_grad:
            return torch.zeros_like(u)
        (product,) = torch.autograd.grad(back, u, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(u) if product is None else product

    def _recorded(self) -> tuple[Tensor, Tensor | None]:
        if self._transposed is None:
            with torch.enable_grad():
                u = torch.zeros_like(self.value, requires_grad=True)
                self._transposed = u, self._pulled_back(u, record=True)
        return self._transposed

    def _pulled_back(self, u: Tensor, record: bool) -> Tensor | None:
        if not self.value.requires_grad:
            return None
        return torch.autograd.grad(self.value, self.root, u, retain_graph=True, create_graph=record, allow_unused=True)[
            0
        ]
