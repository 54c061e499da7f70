"""Does the answer depend on where thinking starts? Asymptotic alignment of fixed points reached from several starts.

A map is path independent on a sample if every start leads to the same end. Anil et al. 2022 (arXiv 2211.09961) found
networks that are so to be the ones that gain from more computation at test time, and measure it by the asymptotic
alignment (AA) score: solve each sample from its own start, solve it again from the end of another sample's solve, and
take the cosine of the two ends. 1: the same direction whatever the start. What it would be for ends that have nothing
to do with each other's sample is the chance level, and is far above 0 for states that share a mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.device import widened

__all__ = ["STARTS", "Alignment", "alignment", "cosine", "derangement"]

STARTS = ("swap", "noise", "zero")
"""Second starts: the end of another sample's solve, normal numbers of the ends' own scale, and zero."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Per sample, float64 on the CPU; NaN where one of the two solves diverged, or ended at 0, which has no direction.

    score     of each second start (batch,): cosine of the end reached from it with the end reached from the first
    chance    (batch,) cosine of the sample's end with the end of the sample it was swapped with
    residual  of each start, "own" being the first, (batch,): how far its end is from being a fixed point
    end       (batch, …) the ends reached from the first start, on their device
    """

    score: dict[str, Tensor]
    chance: Tensor
    residual: dict[str, Tensor]
    end: Tensor = field(repr=False)


def alignment(
    f: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    solver: Solver | None = None,
    budget: Budget | None = None,
    starts: tuple[str, ...] = STARTS,
    generator: torch.Generator | None = None,
) -> Alignment:
    """The asymptotic alignment of every sample of a batch, from each of `starts`.

    f          a map (batch, …) -> (batch, …) as for `deqrun.solvers.solve`, as are solver and budget
    start      (batch, …) the first start, such as zeros or the cell's own initial state
    starts     some of "swap", the AA score; "noise", from ε with ‖ε‖ about the norm of the sample's end (zeros, where
               the end is not finite); "zero", from zeros: 1 by definition where the first start is zero itself
    generator  of the derangement and the noise, on the CPU; None: one of its own, seeded with 0

    Where there is no other sample to swap with, in a batch of one, or its solve diverged, the swap score and chance
    are NaN. The budget should be large: a score
    compares the states that the solves reached, and says nothing of fixed points where `residual` is large.
    Raises ValueError for another start.
    """
    unknown = [name for name in starts if name not in STARTS]
    if unknown:
        raise ValueError(f"There is no start {unknown[0]!r}; there are {', '.join(STARTS)}.")
    draw = torch.Generator().manual_seed(0) if generator is None else generator
    own = solve(f, start, solver=solver, budget=budget)
    end, lost = own.z.to(start.dtype), _lost(own)
    other = derangement(len(start), draw).to(end.device)
    begin = {
        "swap": end[other].nan_to_num(0.0, 0.0, 0.0),
        "noise": _noise_like(end, draw),
        "zero": end.new_zeros(end.shape),
    }
    alone = (lost[other] if len(start) > 1 else torch.ones_like(lost)).cpu()  # nobody's end to start from
    score, residual = {}, {"own": own.residual.double().cpu()}
    for name in starts:
        again = solve(f, begin[name], solver=solver, budget=budget)
        score[name] = cosine(end, again.z).masked_fill((lost | _lost(again)).cpu(), torch.nan)
        residual[name] = again.residual.double().cpu()
    if "swap" in score:
        score["swap"] = score["swap"].masked_fill(alone, torch.nan)
    chance = cosine(end, end[other]).masked_fill(lost.cpu() | alone, torch.nan)
    return Alignment(score, chance, residual, end)


def _lost(solution: Solution) -> Tensor:
    """(batch,) bool: the solve has no end, since it diverged."""
    return solution.diverged | ~solution.z.flatten(1).isfinite().all(1)


def _noise_like(end: Tensor, draw: torch.Generator) -> Tensor:
    """Normal numbers, per row of the root mean square of its end."""
    scale = widened(end.flatten(1)).square().mean(1).sqrt().to(end.dtype).nan_to_num(0.0, 0.0, 0.0)
    noise = torch.randn(end.shape, generator=draw).to(end)
    return noise * scale.view(-1, *[1] * (end.dim() - 1))


def derangement(n: int, generator: torch.Generator | None = None) -> Tensor:
    """A permutation of 0 … n − 1 that leaves no place as it is, (n,) long: a cycle through all, each as likely.

    n = 1 has none, and gives [0].
    """
    order = torch.randperm(n, generator=generator)
    places = torch.empty_like(order)
    places[order] = order.roll(-1)
    return places


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ / (‖a‖ ‖b‖) of each row of (batch, …): (batch,) float64 on the CPU; NaN where a norm is 0 or not finite.

    Rows are scaled by their largest entry first, so that no square over- or underflows.
    """
    rows = [_unit(x.flatten(1).double().cpu()) for x in (a, b)]
    return (rows[0] * rows[1]).sum(1).clamp(-1, 1)


def _unit(x_BD: Tensor) -> Tensor:
    x_BD = x_BD / x_BD.abs().amax(1, keepdim=True)  # 0/0 and inf/inf are NaN, and stay it
    return x_BD / torch.linalg.vector_norm(x_BD, dim=1, keepdim=True)
