"""Which ideas for a solver that loses few rows gained anything: Secant and its variants on the hard cells.

    python scripts/solver_ideas.py [--half even|odd|all] [--cells outputs/hard_cells]

The problems, the budget and the meaning of a pair are those of `scripts/hard_cells.py`. Each line is Secant with one
thing changed, or a method on its own. The script prints in Markdown how many pairs it loses of those that some solver
of `hard_cells.py` solves, and of those that plain iteration solves, and the median over problems of its median
evaluations over the best other solver's. On chaotic maps (tanh times 8 and 10, mazes) the pairs that are lost change
with every rounding, by about five: smaller differences say nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from hard_cells import SOLVERS, Scores, hard_problems, score
from torch import Tensor

from deqrun.solvers import Anderson, Broyden, Damped, Point, Secant, Solver, secant
from deqrun.solvers.flat_map import FlatMap
from deqrun.solvers.secant import SecantState


@dataclass(frozen=True)
class Tuned(Secant):
    """Secant with other constants: those of its module, set anew for each solve."""

    cap: float = secant.CAP
    near: float = secant.NEAR
    trust: float = secant.TRUST
    falling: int = secant.FALLING

    def init(self, z: Tensor) -> SecantState:
        secant.CAP, secant.NEAR, secant.TRUST, secant.FALLING = self.cap, self.near, self.trust, self.falling
        return super().init(z)


class ForgettingState(SecantState):
    """lowest (rows,) residual so far; since (rows,) steps that did not bring it below 0.9 of that."""

    def __init__(self, z: Tensor, memory: int) -> None:
        super().__init__(z, memory)
        self.lowest = torch.full_like(self.last_norm, torch.inf)
        self.since = torch.zeros_like(self.falling)

    def take(self, rows: Tensor) -> None:
        super().take(rows)
        self.lowest, self.since = self.lowest[rows], self.since[rows]


@dataclass(frozen=True)
class Forgetting(Tuned):
    """Forgets a row's differences after `patience` idle steps, and takes a plain step, damped."""

    patience: int = 20
    damping: float = 0.5

    def init(self, z: Tensor) -> SecantState:
        super().init(z)
        return ForgettingState(z, self.memory)

    def step(self, state: SecantState, point: Point[FlatMap]) -> Tensor:
        assert isinstance(state, ForgettingState)
        residual = point.residual.double()
        progressed = residual < 0.9 * state.lowest
        since = torch.where(progressed, 0, state.since + 1)
        stuck = since >= self.patience
        state.lowest = torch.where(progressed | stuck, residual, state.lowest)
        state.since = since.masked_fill(stuck, 0)
        state.gram = state.gram.masked_fill(stuck[:, None, None], 0.0)
        state.falling = state.falling.masked_fill(stuck, 0)
        plain = torch.add(point.z, point.g, alpha=self.damping)
        return torch.where(stuck[:, None], plain, super().step(state, point))


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


IDEAS: dict[str, Solver] = {
    "Secant(20), as it is": Tuned(),
    "Broyden alone, restarted after 20 steps": Broyden(memory=20),
    "Broyden alone, sliding window": Tuned(trust=-1.0, falling=10**6),
    "memory 10": Tuned(memory=10),
    "memory 30": Tuned(memory=30),
    "Broyden steps of at most 3 plain steps": Tuned(cap=3.0),
    "of at most 5": Tuned(cap=5.0),
    "of at most 30": Tuned(cap=30.0),
    "not bounded": Tuned(cap=1e9),
    "bounded until ‖g‖ = 0.001 ‖f‖": Tuned(near=0.001),
    "Anderson after 3 forecasts": Tuned(falling=3),
    "Anderson after 4 forecasts": Tuned(falling=4),
    "Anderson given up at 1.5 times the forecast": Tuned(trust=1.5),
    "steps taken back where ‖g‖ doubled": Rejecting(),
    "where ‖g‖ grew tenfold": Rejecting(factor=10.0),
    "where ‖g‖ grew thirtyfold": Rejecting(factor=30.0),
    "steps of at most ‖f‖ / 4": Bounded(radius=0.25),
    "steps of at most ‖f‖": Bounded(),
    "memory forgotten after 10 idle steps": Forgetting(patience=10),
    "after 20": Forgetting(),
    "after 20, then a whole plain step": Forgetting(damping=1.0),
    "Anderson(5) that takes steps back": Anderson(reject=2.0),
    "Anderson(5), capped and ridged": Anderson(cap=3.0, ridge=0.1),
    "damping by patience": Damped(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=Path("outputs/hard_cells"), help="runs of the trained cells")
    parser.add_argument("--half", choices=("all", "even", "odd"), default="even", help="samples by index")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    problems = [problem.half(arguments.half) for problem in hard_problems(arguments.cells)]
    with torch.no_grad():
        known, tried = score(problems, SOLVERS), score(problems, IDEAS)
    some, plain = np.isfinite(known.fastest), np.isfinite(known.pairs("Picard"))
    print(f"| idea | lost of {some.sum():,} that some solver solves | of {plain.sum():,} that Picard solves | ratio |")
    print("|---|---:|---:|---:|")
    others = {name: found for name, found in known.of.items() if name != "Secant(20)"}
    for name in IDEAS:
        lost = ~np.isfinite(tried.pairs(name))
        ratios = list(Scores({**others, name: tried.of[name]}).median_ratios(name).values())
        print(f"| {name} | {lost[some].sum()} | {lost[plain].sum()} | {np.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
