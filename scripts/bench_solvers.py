"""Solvers and gradients timed beside torchdeq's and the bare cell, in one process and in turns.

    python scripts/bench_solvers.py [--threads 1] [--repeats 9] [--clock cpu] [--allocator kept] [--steps-only]

torchdeq 0.1.0 is optional (`pip install torchdeq==0.1.0`): without it, its columns are left out. Every figure is a
ratio of medians over interleaved repeats in this process; absolute milliseconds are printed for orientation only.
On one thread the clock is the process's own processor time, on more the wall's, unless --clock says otherwise.
Freed memory is kept for the next tensors, as in every deqrun command, unless --allocator default says otherwise: then
each library's blocks are handed back and cleared anew by the system, at a cost that hangs on the heap's state.
"Equal memory": torchdeq counts stored points, deqrun stored differences, so theirs is one more.

Writes bench.json, bench.md and bench.png into --output, and prints the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from bench_accuracy import slow_gradient
from bench_cells import SIZES, Rates, State, resnet_cell, state_cell
from bench_floor import anderson_arithmetic, secant_arithmetic
from bench_report import Row, chart, table
from bench_scipy import scipy_anderson
from bench_timing import CLOCKS, Clock, interleaved, peak_bytes
from torch import Tensor

from deqrun.experiment.allocator import keep_freed_memory
from deqrun.gradients import Gradient, Implicit, OneStep, Unrolled, equilibrium
from deqrun.records.files import write_whole
from deqrun.solvers import Anderson, Broyden, Budget, Picard, Secant, Solver, solve

try:
    import torchdeq
    from torchdeq.solver.anderson import anderson_solver
    from torchdeq.solver.broyden import broyden_solver
except ImportError:
    torchdeq = None

MEMORY_ANDERSON, MEMORY_BROYDEN, STEPS = 5, 8, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--clock", choices=CLOCKS)
    parser.add_argument("--allocator", choices=("kept", "default"), default="kept")
    parser.add_argument("--steps-only", action="store_true", help="measure the cost of a solver step alone")
    parser.add_argument("--output", type=Path, default=Path("outputs/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.allocator == "kept":
        keep_freed_memory()
    torch.manual_seed(0)
    clock = CLOCKS[arguments.clock or ("cpu" if arguments.threads == 1 else "wall")]
    rows = [row for size in SIZES for row in per_step(size, arguments.repeats, clock)]
    if not arguments.steps_only:
        rows += uneven_rows(arguments.repeats, clock)
        rows += training_step(arguments.repeats, clock)
        rows += peak_memory()
        rows += slow_gradient()
    print(table(rows))
    write_whole(arguments.output / "bench.json", json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    write_whole(arguments.output / "bench.md", table(rows) + "\n")
    write_whole(arguments.output / "bench.png", chart(rows))


def per_step(size: str, repeats: int, clock: Clock) -> list[Row]:
    """Cost of a solver step over one evaluation of the bare cell, residuals and best state included."""
    f, z0 = state_cell(size)
    runs: dict[str, Callable[[], object]] = {"cell": lambda: evaluate(f, z0)}
    budget = Budget(max_iter=STEPS, tol=0.0)
    ours: dict[str, Solver] = {
        "picard": Picard(),
        "anderson": Anderson(MEMORY_ANDERSON),
        "broyden": Broyden(memory=MEMORY_BROYDEN),
        "secant": Secant(),
        "secant, memory 10": Secant(memory=10),
        "secant, memory 20": Secant(memory=20),
    }
    for name, solver in ours.items():
        runs[name] = lambda solver=solver: solve(f, z0, solver=solver, budget=budget)  # type: ignore[misc]
    if torchdeq:
        evaluations = STEPS + 1
        runs["torchdeq anderson"] = lambda: anderson_solver(
            f, z0, max_iter=evaluations, tol=0.0, stop_mode="rel", m=MEMORY_ANDERSON + 1
        )
        runs["torchdeq broyden"] = lambda: broyden_solver(
            f, z0, max_iter=STEPS, tol=0.0, stop_mode="rel", LBFGS_thres=MEMORY_BROYDEN
        )
    runs["anderson's arithmetic alone"] = anderson_arithmetic(f, z0, STEPS, MEMORY_ANDERSON)
    runs["secant's arithmetic alone"] = secant_arithmetic(f, z0, STEPS, Secant().memory)
    if size != "large":
        runs["scipy anderson, one problem"] = scipy_anderson(f, z0, STEPS, MEMORY_ANDERSON)
    with torch.no_grad():
        seconds = interleaved(runs, 10 * repeats if size == "small" else repeats, clock)
    per_step_ms = {name: 1e3 * value / (STEPS + 1) for name, value in seconds.items()}
    figure = "per step over the bare cell"
    rows = [Row(figure, f"{size}, {name}", seconds[name] / seconds["cell"], per_step_ms[name]) for name in runs]
    for name in ("anderson", "broyden"):
        if torchdeq:
            ratio = seconds[f"torchdeq {name}"] / seconds[name]
            rows.append(Row("torchdeq over deqrun, per step", f"{size}, {name}", ratio, None))
            added = [seconds[run] - seconds["cell"] for run in (f"torchdeq {name}", name)]
            rows.append(Row("the same, of what a step adds to the cell", f"{size}, {name}", added[0] / added[1], None))
    return rows


def evaluate(f: Callable[[Tensor], Tensor], z0: Tensor) -> None:
    """As many evaluations as a solve of STEPS steps makes, one after the other: the least that any iteration costs.

    Each value is held until the next is there, as in a solve: where all are let go at once, the C library hands large
    blocks back to the system and fetches them anew, and the floor comes out higher than plain iteration.
    """
    z = z0
    for _ in range(STEPS + 1):
        z = f(z)


def uneven_rows(repeats: int, clock: Clock) -> list[Row]:
    """Rows that need 5 to 100 steps: the time over that of all rows taking 100, against mean(stop) / max(stop)."""
    rates = Rates(batch=128, steps=(5, 100), tol=1e-6)
    f, z0 = rates.map, rates.start
    rows = []
    for name, solver in (("picard", Picard()), ("anderson", Anderson(MEMORY_ANDERSON))):
        uneven = solve(f, z0, solver=solver, budget=Budget(max_iter=400, tol=rates.tol))
        longest = int(uneven.steps.max())
        runs: dict[str, Callable[[], object]] = {
            "uneven": lambda solver=solver: solve(f, z0, solver=solver, budget=Budget(400, rates.tol)),  # type: ignore[misc]
            "full": lambda solver=solver, k=longest: solve(f, z0, solver=solver, budget=Budget(k, 0.0)),  # type: ignore[misc]
        }
        seconds = interleaved(runs, max(3, repeats // 3), clock)
        ideal = float(uneven.steps.double().mean()) / longest
        rows.append(
            Row(
                "uneven rows: time over full batch, over the ideal",
                name,
                seconds["uneven"] / seconds["full"] / ideal,
                None,
            )
        )
        rows.append(
            Row("uneven rows: greatest difference to one at a time", name, rates.difference_alone(uneven, solver), None)
        )
    return rows


def training_step(repeats: int, clock: Clock) -> list[Row]:
    """One step (forward, adjoint, update) of a conv cell, state 24x28x28, batch 64, 16 + 16 evaluations."""
    cell = resnet_cell(24, 28)
    x = torch.randn(64, 24, 28, 28)
    optimizer = torch.optim.SGD(cell.parameters(), lr=1e-6)
    runs: dict[str, Callable[[], object]] = {}
    for name, gradient in gradients(16).items():
        runs[name] = lambda gradient=gradient: step_ours(cell, x, gradient, 16, optimizer)  # type: ignore[misc]
    if torchdeq:
        for name, options in (("implicit", {"ift": True}), ("one step", {"grad": 1})):
            deq = torchdeq.get_deq(
                f_solver="anderson",
                b_solver="anderson",
                f_max_iter=16,
                b_max_iter=16,
                f_tol=0.0,
                b_tol=0.0,
                f_stop_mode="rel",
                b_stop_mode="rel",
                m=MEMORY_ANDERSON + 1,
                **options,
            )
            deq.train()
            runs[f"torchdeq {name}"] = lambda deq=deq: step_theirs(deq, cell, x, optimizer)  # type: ignore[misc]
    seconds = interleaved(runs, max(3, repeats // 2), clock)
    rows = [Row("training step", name, seconds[name] / seconds["implicit"], 1e3 * seconds[name]) for name in runs]
    for name in ("implicit", "one step"):
        if torchdeq:
            ratio = seconds[f"torchdeq {name}"] / seconds[name]
            rows.append(Row("torchdeq over deqrun, training step", name, ratio, None))
    rows.append(Row("implicit over unrolled, training step", "", seconds["implicit"] / seconds["unrolled"], None))
    return rows


def gradients(evaluations: int) -> dict[str, Gradient]:
    """16 evaluations forward and 16 backward: a solve of T steps makes T + 1."""
    adjoint = Budget(max_iter=evaluations - 1, tol=0.0)
    return {
        "implicit": Implicit(solver=Anderson(MEMORY_ANDERSON), budget=adjoint),
        "one step": OneStep(),
        "unrolled": Unrolled(evaluations),
    }


def step_ours(cell: State, x: Tensor, gradient: Gradient, evaluations: int, optimizer: torch.optim.Optimizer) -> None:
    z, _ = equilibrium(
        lambda z: cell(z, x),
        torch.zeros_like(x),
        solver=Anderson(MEMORY_ANDERSON),
        budget=Budget(max_iter=evaluations - 1, tol=0.0),
        gradient=gradient,
    )
    optimizer.zero_grad(set_to_none=True)
    z.square().mean().backward()
    optimizer.step()


def step_theirs(deq: torch.nn.Module, cell: State, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
    found, _ = deq(lambda z: cell(z, x), torch.zeros_like(x))
    optimizer.zero_grad(set_to_none=True)
    found[-1].square().mean().backward()
    optimizer.step()


def peak_memory() -> list[Row]:
    """Peak of allocated bytes in a training step, from the profiler's own record of allocations."""
    cell, x = resnet_cell(24, 28), torch.randn(64, 24, 28, 28)
    optimizer = torch.optim.SGD(cell.parameters(), lr=1e-6)
    peaks = {
        evaluations: peak_bytes(lambda n=evaluations: step_ours(cell, x, gradients(n)["implicit"], n, optimizer))  # type: ignore[misc]
        for evaluations in (8, 64)
    }
    rows = [Row("peak allocation, implicit", "64 over 8 evaluations", peaks[64] / peaks[8], None)]
    if torchdeq:
        deq = torchdeq.get_deq(
            ift=True,
            f_solver="anderson",
            b_solver="anderson",
            f_max_iter=64,
            b_max_iter=64,
            f_tol=0.0,
            b_tol=0.0,
            f_stop_mode="rel",
            b_stop_mode="rel",
            m=MEMORY_ANDERSON + 1,
        )
        deq.train()
        theirs = peak_bytes(lambda: step_theirs(deq, cell, x, optimizer))
        rows.append(Row("peak allocation, implicit", "deqrun over torchdeq, 64 evaluations", peaks[64] / theirs, None))
    return rows


if __name__ == "__main__":
    main()
