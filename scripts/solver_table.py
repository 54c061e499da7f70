"""Which solver needs how many evaluations: on problems with known answers, and on cells trained by deqrun.

    python scripts/solver_table.py [--output outputs/solver_table] [--skip-training]

Prints three tables in Markdown (docs/solvers.md holds them):

1. problems of tests/problems.py, float64, 8 rows, to their tolerance: median evaluations (Jacobian products apart),
   and rows that did not converge within the budget;
2. Anderson(20) and Secant(20) on symmetric linear maps against the Chebyshev bound, and a linear map of radius 1.5
   with outliers;
3. trained cells on 256 test samples (digits, strings of 16 bits, mazes of 9x9, sequences of 70 symbols), to 1e-4 within
   150 steps: median evaluations and unconverged rows, per solver.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from deqrun.experiment.build import build_dataset, build_deq
from deqrun.experiment.checkpoint import load_checkpoint
from deqrun.models import DEQ
from deqrun.settings import read_settings
from deqrun.solvers import Anderson, Broyden, Budget, NewtonKrylov, Picard, Secant, Solution, Solver, solve
from tests.problems import PROBLEMS

SOLVERS: dict[str, Solver] = {
    "Picard": Picard(),
    "Picard, damping 0.5": Picard(damping=0.5),
    "Picard, damping 1.3": Picard(damping=1.3),
    "Anderson(2)": Anderson(memory=2),
    "Anderson(5)": Anderson(),
    "Anderson(5), start 0.1": Anderson(start=0.1),
    "Anderson(5), reject 10": Anderson(reject=10.0),
    "Anderson(5), reject 2": Anderson(reject=2.0),
    "Anderson(5), mixing 0.5": Anderson(mixing=0.5),
    "Anderson(10)": Anderson(memory=10),
    "Anderson(20)": Anderson(memory=20),
    "Secant(10)": Secant(memory=10),
    "Secant(16)": Secant(),
    "Secant(20)": Secant(memory=20),
    "Broyden": Broyden(),
    "Broyden, line search": Broyden(line_search=True),
    "Newton–Krylov": NewtonKrylov(),
}
ANDERSON = ("solver=anderson", "solver@gradient.solver=anderson")
LONG_SOLVES = ("train.epochs=8", "train.unrolled_warmup_steps=0")
"""Every step of the training solves for the fixed point."""
CELLS: dict[str, list[str]] = {
    "mdeq": ["study=demo", *LONG_SOLVES, *ANDERSON],
    "mdeq, no penalty": ["study=demo", *LONG_SOLVES, "train.jacobian_weight=0", *ANDERSON],
    "conv": ["model=conv", "train.epochs=8", "train.jacobian_weight=0.5", *ANDERSON],
    "conv, no penalty": ["model=conv", "train.epochs=8", "train.jacobian_weight=0", *ANDERSON],
    "mlp, no penalty": ["model=mlp", "train.epochs=15", "train.jacobian_weight=0", "optimizer.lr=3e-3", *ANDERSON],
    "recall, prefix sums": ["study=prefix_sums", "train.epochs=12"],
    "recall, mazes": ["study=mazes", "train.epochs=4"],
    "transformer, copy memory": ["study=copy_memory"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/solver_table"))
    parser.add_argument("--skip-training", action="store_true", help="tables 1 and 2 only")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    known_problems()
    against_theory()
    if not arguments.skip_training:
        trained_cells(arguments.output)


def known_problems() -> None:
    names = [problem.name for problem in PROBLEMS]
    table: dict[str, list[str]] = {}
    for label, solver in SOLVERS.items():
        cells = []
        for problem in PROBLEMS:
            budget = Budget(max_iter=problem.max_iter, tol=problem.tol(torch.float64))
            rows = problem.solvable(8)
            found = solve(problem.f(8), problem.start(8, torch.float64), solver=solver, budget=budget)
            cells.append(_cell(found, rows))
        table[label] = cells
    print("| problem | " + " | ".join(table) + " |\n|---" * 1 + "|---:" * len(table) + "|")
    for i, name in enumerate(names):
        print(f"| {name} | " + " | ".join(cells[i] for cells in table.values()) + " |")
    print()


def _cell(found: Solution, rows: Tensor | slice = slice(None)) -> str:
    """Median evaluations (+ median Jacobian products) of the converged rows, and how many did not converge."""
    done = found.converged[rows]
    failed = int((~done).sum())
    if failed == len(done):
        return f"– ({failed} of {len(done)})"
    nfe, jvps = (float(column[rows][done].double().median()) for column in (found.nfe, found.jvps))
    text = f"{nfe:.0f}" + (f" + {jvps:.0f} J" if jvps else "")
    return text + (f" ({failed} of {len(done)})" if failed else "")


def against_theory() -> None:
    print("| linear map, 200-d, float64, to 1e-8, 4 rows | solver | steps | over Chebyshev |\n|---|---|---|---:|")
    symmetric_maps("Anderson(20)", Anderson(memory=20))
    outliers = torch.cat([torch.tensor([1.5, -1.5, 1.3]), torch.linspace(-0.5, 0.5, 197)]).double()
    for label, solver in (("Picard", Picard()), ("Anderson(10)", Anderson(memory=10))):
        found = _solve_symmetric(outliers, solver, 500)
        print(f"| radius 1.5 with outliers 1.5, −1.5, 1.3 | {label} | {found.steps.tolist()} | {found.summary()} |")
    symmetric_maps("Secant(20)", Secant(memory=20))
    print()


def symmetric_maps(label: str, solver: Solver) -> None:
    for radius in (0.9, 0.99):
        spectrum = torch.linspace(-radius, radius, 200, dtype=torch.float64)
        steps = _solve_symmetric(spectrum, solver, 2000).steps.tolist()
        bound = math.log(1e-8) / math.log((1 - math.sqrt(1 - radius**2)) / radius)
        print(f"| symmetric, radius {radius} | {label} | {steps} of {bound:.1f} | {max(steps) / bound:.2f} |")


def _solve_symmetric(spectrum: Tensor, solver: Solver, max_iter: int) -> Solution:
    size = len(spectrum)
    bases = [torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0] for _ in range(4)]
    W = torch.stack([basis @ torch.diag(spectrum) @ basis.T for basis in bases])
    b = torch.randn(4, size, dtype=torch.float64)
    budget = Budget(max_iter=max_iter, tol=1e-8)
    return solve(lambda z: (W @ z[..., None])[..., 0] + b, torch.zeros_like(b), solver=solver, budget=budget)


def trained_cells(output: Path) -> None:
    columns: dict[str, list[str]] = {}
    for label, overrides in CELLS.items():
        model, inputs, accuracy = trained(output / label.replace(", ", "-").replace(" ", "-"), overrides)
        with torch.no_grad(), model.cell.fixed_weights():
            f = model.bind(inputs)
            z0 = model.start(f)
            solutions = [solve(f, z0, solver=solver, budget=Budget(150, 1e-4)) for solver in SOLVERS.values()]
        columns[f"{label} ({accuracy:.1%} val)"] = [_cell(found) for found in solutions]
    print("| solver | " + " | ".join(columns) + " |\n|---" + "|---:" * len(columns) + "|")
    for i, label in enumerate(SOLVERS):
        print(f"| {label} | " + " | ".join(cells[i] for cells in columns.values()) + " |")


def trained(folder: Path, overrides: list[str]) -> tuple[DEQ, Tensor, float]:
    """The best checkpoint of a deqrun run in `folder`, trained now if it is not there; 256 inputs; its accuracy."""
    if not (folder / "summary.json").is_file():
        again = ["resume=true"] if (folder / "config.yaml").is_file() else [*overrides, "sweep=none", "tracker=none"]
        command = [sys.executable, "-m", "deqrun", "train", f"run={folder}", *again]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    settings = read_settings(folder / "config.yaml")
    dataset = build_dataset(settings)
    model = build_deq(settings, dataset)
    best = load_checkpoint(folder / "checkpoints" / "best.pt", torch.device("cpu"))
    model.load_state_dict(best.model)
    inputs = dataset.encode(dataset.load("test").inputs[:256])
    return model.eval(), inputs, best.best_accuracy


if __name__ == "__main__":
    main()
