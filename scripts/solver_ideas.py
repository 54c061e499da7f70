"""Which ideas for a solver that loses few rows gained anything: Secant and its variants on the hard cells.

    python scripts/solver_ideas.py [--half even|odd|all] [--starts 3] [--only NAME …] [--cells outputs/hard_cells]

Problems, budget and pairs are the ones of `scripts/hard_cells.py`. Each line is Secant(20) with one thing changed, or a
method on its own. The script prints in Markdown

1. how many pairs the idea loses of the pairs that some other solver of `hard_cells.py` solves,
2. and of the pairs that plain iteration solves;
3. how many pairs it solves that no other solver solves;
4. the mean evaluations of a pair, 201 where it is unsolved;
5. the median over problems of its median evaluations over the best other solver's.

On chaotic maps (tanh times 8 and 10, mazes) rounding decides which pairs are lost. So each idea is asked --starts
times: first as it is, then with f multiplied, number by number, by 1 + 1e-7 N(0, 1) of the seeds 1, 2, …. A figure is
the mean over these, and ± their standard deviation. The reference stays the unperturbed solves.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hard_cells import BUDGET, SOLVERS, HardProblem, Scores, hard_problems, score
from torch import Tensor

from deqrun.solvers import Anderson, Broyden, Point, Secant, Solver, secant
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.secant import SecantState


@dataclass(frozen=True)
class Tuned(Secant):
    """Secant(20) with other constants: its module's, set anew for each solve."""

    memory: int = 20
    cap: float = secant.CAP
    near: float = secant.NEAR
    trust: float = secant.TRUST
    fell: float = secant.FELL
    falling: int = secant.FALLING
    apart: float = secant.APART

    def init(self, z: Tensor) -> SecantState:
        secant.CAP, secant.NEAR, secant.TRUST, secant.APART = self.cap, self.near, self.trust, self.apart
        secant.FELL, secant.FALLING = self.fell, self.falling
        return super().init(z)


class WanderingState(SecantState):
    """lowest (rows,) residual so far; since (rows,) steps that did not bring it below 0.9 of that; left (rows,) plain
    steps still to take."""

    def __init__(self, z: Tensor, memory: int) -> None:
        super().__init__(z, memory)
        self.lowest = torch.full_like(self.last_norm, torch.inf)
        self.since, self.left = torch.zeros_like(self.falling), torch.zeros_like(self.falling)

    def take(self, rows: Tensor) -> None:
        super().take(rows)
        self.lowest, self.since, self.left = self.lowest[rows], self.since[rows], self.left[rows]


@dataclass(frozen=True)
class Wandering(Tuned):
    """After `patience` idle steps takes `steps` steps of plain iteration, damped, and forgets what was before."""

    patience: int = 20
    steps: int = 1
    damping: float = 1.0

    def init(self, z: Tensor) -> SecantState:
        super().init(z)
        return WanderingState(z, self.memory)

    def step(self, state: SecantState, point: Point[FlatMap]) -> Tensor:
        assert isinstance(state, WanderingState)
        residual = point.residual.double()
        progressed = residual < 0.9 * state.lowest
        since = torch.where(progressed, 0, state.since + 1)
        stuck = (since >= self.patience) & (state.left == 0)
        state.lowest = torch.where(progressed | stuck, residual, state.lowest)
        state.since = since.masked_fill(stuck, 0)
        state.left = torch.where(stuck, self.steps, state.left)
        for products in (state.su, state.sy, state.yy):
            products.masked_fill_(stuck[:, None, None], 0.0)
        state.falling = state.falling.masked_fill(stuck, 0)
        accelerated = super().step(state, point)
        plain = (state.left > 0)[:, None]
        state.left = (state.left - 1).clamp(min=0)
        return torch.where(plain, torch.add(point.z, point.g, alpha=self.damping), accelerated)


@dataclass(frozen=True)
class Rejecting(Tuned):
    """Takes an accelerated step back after which ‖g‖ has grown by more than `factor`."""

    factor: float = 2.0

    def step(self, state: SecantState, point: Point[FlatMap]) -> Tensor:
        if state.pushed:
            norm = torch.linalg.vector_norm(point.g, dim=1).double()
            grown = (norm > self.factor * state.last_norm) & state.accelerated
            if bool(grown.any()):
                state.undone = grown if state.undone is None else state.undone | grown
        return super().step(state, point)


@dataclass(frozen=True)
class Bounded(Tuned):
    """No Broyden step is longer than `radius` times ‖f(z)‖."""

    radius: float = 1.0

    def step(self, state: SecantState, point: Point[FlatMap]) -> Tensor:
        step = super().step(state, point) - point.z
        size = torch.linalg.vector_norm(step, dim=1)
        most = self.radius * torch.linalg.vector_norm(point.fz, dim=1)
        return point.z + step * torch.where((size > most) & ~state.linear, most / size, 1.0)[:, None]


class GuardedState(SecantState):
    """Where Anderson's step is not trusted, it is ridged, and the plain step where Σ|γ| exceeds 3."""

    def broyden(self) -> Tensor:
        count = self.count
        matrix = self.yy[:, :count, :count].clone()
        matrix.diagonal(dim1=1, dim2=2).fill_(1.1)
        scale = self.of_y[:, :count]
        gamma = torch.linalg.solve_ex(matrix, scale * self.right_y)[0] * scale
        return gamma.masked_fill(gamma.abs().sum(1, keepdim=True) > 3, 0.0)


@dataclass(frozen=True)
class Guarded(Tuned):
    """Anderson's step where its forecasts hold, else a ridged and capped one."""

    def init(self, z: Tensor) -> SecantState:
        super().init(z)
        return GuardedState(z, self.memory)


IDEAS: dict[str, Solver] = {
    "Secant(20)": Tuned(),
    "as it was: Broyden's triangle in full, Anderson while ρ does not rise": Tuned(apart=1.0, fell=1.0),
    "Broyden's triangle in full": Tuned(apart=1.0),
    "no triangle (type I)": Tuned(apart=1e9),
    "the triangle in full from 4 steps on": Tuned(apart=4.0),
    "from 16 steps on": Tuned(apart=16.0),
    "Anderson while ρ does not rise": Tuned(fell=1.0),
    "while ρ falls by a tenth": Tuned(fell=0.9),
    "while ρ falls by 0.3": Tuned(fell=0.7),
    "no Anderson steps": Tuned(trust=-1.0, falling=10**6),
    "Broyden(20), restarted when full": Broyden(memory=20),
    "memory 5": Tuned(memory=5),
    "memory 8": Tuned(memory=8),
    "memory 10": Tuned(memory=10),
    "memory 16, the default": Tuned(memory=16),
    "memory 30": Tuned(memory=30),
    "Broyden steps of at most 3 plain steps": Tuned(cap=3.0),
    "not bounded": Tuned(cap=1e9),
    "steps taken back where ‖g‖ grew tenfold": Rejecting(factor=10.0),
    "steps of at most ‖f‖": Bounded(),
    "after 20 idle steps forget, and one plain step": Wandering(),
    "after 30 idle steps 40 plain steps": Wandering(patience=30, steps=40),
    "after 50 idle steps 50 plain steps": Wandering(patience=50, steps=50),
    "after 50 idle steps 50 plain steps, damping 0.5": Wandering(patience=50, steps=50, damping=0.5),
    "Anderson(5), capped and ridged where its forecasts fail": Guarded(memory=5),
    "Anderson(5), capped and ridged": Anderson(cap=3.0, ridge=0.1),
}


@dataclass(frozen=True)
class Multiplied:
    """f, its value multiplied by `by` (rows, …)."""

    f: Callable[[Tensor], Tensor]
    by: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return self.f(z) * self.by

    def take(self, rows: Tensor) -> Multiplied:
        return Multiplied(self.f.take(rows), self.by[rows])  # type: ignore[attr-defined]


def perturbed(problem: HardProblem, seed: int) -> HardProblem:
    """The problem with another rounding; seed 0: the problem itself."""
    if seed == 0:
        return problem
    noise = torch.randn(problem.z0.shape, generator=torch.Generator().manual_seed(seed))
    return HardProblem(problem.name, Multiplied(problem.f, 1 + 1e-7 * noise), problem.z0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=Path("outputs/hard_cells"), help="runs of the trained cells")
    parser.add_argument("--half", choices=("all", "even", "odd"), default="even", help="samples by index")
    parser.add_argument("--starts", type=int, default=3, help="roundings to ask each idea with")
    parser.add_argument("--only", nargs="*", default=[], help="ideas whose name contains one of these")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    problems = [problem.half(arguments.half) for problem in hard_problems(arguments.cells)]
    ideas = {name: idea for name, idea in IDEAS.items() if not arguments.only or any(p in name for p in arguments.only)}
    with torch.no_grad():
        others = score(problems, {name: solver for name, solver in SOLVERS.items() if not name.startswith("Secant")})
        some, plain = np.isfinite(others.fastest), np.isfinite(others.pairs("Picard"))
        print(
            f"| idea | lost of {some.sum():,} that some other solver solves | of {plain.sum():,} that Picard solves",
            end="",
        )
        print(
            " | solved by no other | mean evaluations | over the best other |\n|---|---:|---:|---:|---:|---:|",
            flush=True,
        )
        always: dict[str, int] = {}
        for name, idea in ideas.items():
            found, every = [], some.copy()
            for seed in range(arguments.starts):
                tried = score([perturbed(problem, seed) for problem in problems], {name: idea})
                evaluations = tried.pairs(name)
                lost = ~np.isfinite(evaluations)
                every &= lost
                ratios = list(Scores({**others.of, name: tried.of[name]}).median_ratios(name).values())
                spent = np.minimum(evaluations, BUDGET.max_iter + 1).mean()
                found.append([lost[some].sum(), lost[plain].sum(), (~lost[~some]).sum(), spent, np.median(ratios)])
            mean, spread = np.mean(found, axis=0), np.std(found, axis=0)
            counts = " | ".join(f"{mean[i]:.1f} ± {spread[i]:.1f}" for i in range(3))
            print(f"| {name} | {counts} | {mean[3]:.1f} | {mean[4]:.2f} |", flush=True)
            always[name] = int(every.sum())
        print(f"\nLost with each of {arguments.starts} roundings: {always}")


if __name__ == "__main__":
    main()
