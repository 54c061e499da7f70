"""What the steps of Anderson and of Secant cannot do without, for the benchmark: bare arithmetic, no bookkeeping."""

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


def secant_arithmetic(f: Callable[[Tensor], Tensor], z0: Tensor, steps: int, memory: int) -> Callable[[], object]:
    """The same of Secant: differences of z, g and f, their lengths, all products in one pass, and one combination.

    Its two small systems, Broyden's and Anderson's, are identities here; as many differences as there are steps so far.
    """
    z = z0.flatten(1)
    ring = History(2 * memory + 3, z)
    for slot in range(2 * memory + 3):
        ring[slot].zero_()
    system = torch.eye(memory, dtype=torch.float64).repeat(len(z), 1, 1)

    def run() -> None:
        last = f(z0).flatten(1)
        for k in range(steps):
            fz = f(z0).flatten(1)
            count, step = min(k + 1, memory), 2 * memory + 1
            newest, now, before = k % memory, 2 * memory + 2 * (k % 2), 2 * memory + 2 * ((k + 1) % 2)
            torch.sub(fz, z, out=ring[now])
            torch.linalg.vector_norm(ring[now], dim=1)
            torch.linalg.vector_norm(fz, dim=1)
            torch.sub(z, last, out=ring[step])
            torch.sub(fz, last, out=ring[2 * newest])
            torch.sub(ring[now], ring[before], out=ring[2 * newest + 1])
            torch.linalg.vector_norm(ring[2 * newest + 1], dim=1)
            right = ring.pair_products(step, now, 2 * count)[1][:, :count].double()
            small = system[:, :count, :count]
            weights = torch.linalg.solve_ex(small, right)[0] + torch.linalg.solve_ex(small.mT, right)[0]
            direction = ring.combination(weights.to(z.dtype), every=2, onto=ring[now])
            torch.linalg.vector_norm(direction, dim=1)
            direction.add_(z)
            last = fz

    return run
