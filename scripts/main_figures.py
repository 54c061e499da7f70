"""Four figures of the main job, each a ratio or an equality within this one process.

    python scripts/main_figures.py

1. bytes saved for backward by a training step, at 10 and at 100 solver iterations;
2. the whole sweep's time over one evaluation at the largest budget and smallest tolerance;
3. one evaluation per cell, the usual way, over the sweep;
4. a step of Anderson(5) and of Secant(16) over one bare evaluation of a conv cell (32x16x16, batch 128, 1 thread).

2 and 3 use the demo's MDEQ after a short training (--epochs), per solver; medians of --repeats interleaved runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from bench_timing import interleaved
from torch import Tensor

from deqrun.analysis.cost import saved_for_backward
from deqrun.datasets import Digits, Split
from deqrun.experiment.evaluate import evaluate
from deqrun.experiment.sweep.trace import cells, trace
from deqrun.gradients import Implicit, equilibrium
from deqrun.models import DEQ, BoundCell, ConvCell, MDEQCell
from deqrun.records.trajectory import TrajectoryKey
from deqrun.solvers import Anderson, Budget, Picard, Secant, Solver, solve

ITERATIONS = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
TOLERANCES = [1e-1, 1e-2, 1e-3, 1e-4, 1e-5]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the short training before the sweep")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats; medians are printed")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    saved_bytes()
    model = short_training(arguments.epochs)
    for solver in (Picard(), Anderson(), Secant()):
        sweep_ratios(model, solver, arguments.repeats)
    solver_steps(arguments.repeats)


def saved_bytes() -> None:
    """Count the bytes that autograd keeps between forward and backward pass."""
    x = Digits().load("train").inputs[:64]
    model = mdeq()
    found = []
    for max_iter in (10, 100):
        model.budget = Budget(max_iter=max_iter, tol=0.0)
        with saved_for_backward() as saved:
            logits, solution = model(x)
        found.append(saved.now)
        del logits
        print(f"saved for backward at {max_iter:>3} iterations: {found[-1]:,} bytes ({solution.summary()})")
    print(f"equal: {found[0] == found[1]}\n")


def mdeq() -> DEQ:
    """The demo's model (configs/study/demo.yaml)."""
    cell = MDEQCell(input_shape=(1, 8, 8), num_classes=10, head_channels=(4, 8), final_channels=64, dropout=0.1)
    adjoint = Implicit(Secant(), Budget(max_iter=12, tol=1e-3))
    return DEQ(cell, Secant(), Budget(max_iter=12, tol=1e-3), adjoint)


def short_training(epochs: int) -> DEQ:
    """The demo's model, trained just enough to have equilibria."""
    from deqrun.gradients import jacobian_penalty

    data, model = Digits().load("train"), mdeq()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(data)).split(64):
            with model.cell.fixed_weights():
                f = model.bind(data.inputs[index])
                z, _ = equilibrium(f, model.start(f), solver=model.solver, budget=model.budget, gradient=model.gradient)
                penalty = jacobian_penalty(f, z)
            loss = torch.nn.functional.cross_entropy(model.cell.readout(z), data.targets[index]) + 0.5 * penalty
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model.eval()


def sweep_ratios(model: DEQ, solver: Solver, repeats: int) -> None:
    """The sweep beside one evaluation, and beside one evaluation per cell."""
    dataset = Digits()
    split = dataset.load("test")
    name = type(solver).__name__.lower()
    largest = Budget(max_iter=max(ITERATIONS), tol=min(TOLERANCES))

    def sweep() -> None:
        trajectory = trace(model, dataset, split, solver, largest, len(split))
        cells(trajectory, ITERATIONS, TOLERANCES, key=TrajectoryKey(name, "zeros", "test"), keep="best")

    def once() -> None:
        one_evaluation(model, dataset, split, solver, largest)

    def per_cell() -> None:
        for tol in TOLERANCES:
            for max_iter in ITERATIONS:
                one_evaluation(model, dataset, split, solver, Budget(max_iter=max_iter, tol=tol))

    seconds = interleaved({"sweep": sweep, "once": once}, repeats) | interleaved({"per cell": per_cell}, 3)
    print(f"{name}, seconds: " + ", ".join(f"{label} {value:.3f}" for label, value in seconds.items()))
    print(f"{name}: whole sweep over one evaluation at the largest budget: {seconds['sweep'] / seconds['once']:.2f}")
    print(f"{name}: one evaluation per cell over the sweep: {seconds['per cell'] / seconds['sweep']:.1f}\n")


def one_evaluation(model: DEQ, dataset: Digits, split: Split, solver: Solver, budget: Budget) -> None:
    model.solver, model.budget = solver, budget
    evaluate(model, dataset, split, len(split), torch.device("cpu"))


def evaluate_only(f: Callable[[Tensor], Tensor], z: Tensor, times: int) -> None:
    """f after f: each value is let go when the next is there, as in a solve."""
    for _ in range(times):
        z = f(z)


@torch.no_grad()
def solver_steps(repeats: int) -> None:
    """Solvers with residuals and the best state kept, per step, beside the bare cell."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cell = ConvCell(input_shape=(3, 16, 16), num_classes=10, channels=32, inner_channels=64).eval()
    x = torch.randn(128, 3, 16, 16)
    f, z0, steps = BoundCell(cell, cell.inject(x)), torch.zeros(128, 32, 16, 16), 20
    runs: dict[str, Callable[[], object]] = {"cell": lambda: evaluate_only(f, z0, steps + 1)}
    for name, solver in (("picard", Picard()), ("anderson", Anderson()), ("secant", Secant())):
        runs[name] = lambda solver=solver: solve(f, z0, solver=solver, budget=Budget(max_iter=steps, tol=0.0))  # type: ignore[misc]
    seconds = interleaved(runs, max(repeats, 9))
    torch.set_num_threads(threads)
    print(f"bare cell 32x16x16, batch 128, 1 thread: {1e3 * seconds['cell'] / (steps + 1):.2f} ms")
    for name in ("picard", "anderson", "secant"):
        print(f"{name} step over one bare cell evaluation: {seconds[name] / seconds['cell']:.2f}")


if __name__ == "__main__":
    main()
