"""What Anderson's step cannot do without, for the benchmark: its arithmetic, with no bookkeeping around it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deqrun.solvers.history import History


def anderson_arithmetic(f: Callable[[Tensor], Tensor], z0: Tensor, steps: int, memory: int) -> Callable[[], object]:
    """f, g and both norms, one new difference each of g and f, their products and one combination of the histories.

    And a solve of each row's small system, which is the identity here: no iterate is used. Nothing is judged, kept,
    recorded or allocated, but by the operations themselves.
    """
    z = z0.flatten(1)
    g, values = History(memory + 2, z), History(memory, z)
    system = torch.eye(memory, dtype=torch.float64).repeat(len(z), 1, 1)

    def run() -> None:
        last = f(z0).flatten(1)
        for k in range(steps):
            fz = f(z0).flatten(1)
            newest, before, now = k % memory, memory + k % 2, memory + (k + 1) % 2
            torch.sub(fz, z, out=g[now])
            torch.linalg.vector_norm(g[now], dim=1)
            torch.linalg.vector_norm(fz, dim=1)
            torch.sub(g[now], g[before], out=g[newest])
            torch.sub(fz, last, out=values[newest])
            right = g.pair_products(newest, now, memory)[1].double()
            values.combination(torch.linalg.solve_ex(system.mT, right)[0].to(z.dtype), onto=fz)
            last = fz

    return run
