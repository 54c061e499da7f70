"""Fixed-point problems on which solvers fail, and which solver solves how many of them at what cost.

    python scripts/hard_cells.py [--half all|even|odd] [--only NAME …] [--figure docs/images/performance_profiles.png]

Every solver of SOLVERS goes from the cell's own start to a relative residual of 1e-4 within 200 steps, float32, one
thread. A pair is one sample of one problem. The script prints, in Markdown,

1. pairs solved, of those that some solver of the table solves, and of those that plain iteration solves, with Wilson's
   95 % interval over pairs;
2. median evaluations over the best single solver's, for each problem: an unsolved sample counts as infinitely many, and
   problems of which no solver solves half are left out;
3. problem by problem: samples solved and median evaluations;

and draws performance profiles (Dolan & Moré 2002, Benchmarking optimization software with performance profiles): over
the pairs, the share that a solver solves within a factor τ of the evaluations of the pair's fastest solver.

Cells, all of seed 0. Trained here by deqrun, in --cells, a few minutes the first time: the MLP (8 epochs, its recurrent
weights then multiplied by 1 to 10), an MDEQ without penalty, recall on strings and mazes
beyond the size of its training, a transformer on longer sequences. With random weights: convolutions without norm.
With known answers, most of them from tests/problems.py: linear maps, logistic maps, rotations, H-equations, maps with
several fixed points, a map with a logarithm. Samples of even index served to choose the constants of the solver,
samples of odd index did not.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from deqrun.experiment.build import build_dataset, build_deq
from deqrun.experiment.checkpoint import load_checkpoint
from deqrun.inference import wilson
from deqrun.models import DEQ
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.report.charts.pngs import png
from deqrun.settings import read_settings
from deqrun.solvers import Anderson, Broyden, Budget, Damped, Picard, Secant, Solver, solve
from tests import problems as known

SOLVERS: dict[str, Solver] = {
    "Picard": Picard(),
    "Picard, damping 0.5": Picard(damping=0.5),
    "Damped by patience": Damped(),
    "Anderson(5)": Anderson(),
    "Anderson(5), cap 3, ridge 0.1": Anderson(cap=3.0, ridge=0.1),
    "Anderson(5), reject 2": Anderson(reject=2.0),
    "Anderson(10)": Anderson(memory=10),
    "Broyden(8)": Broyden(),
    "Broyden(20)": Broyden(memory=20),
    "Secant(10)": Secant(memory=10),
    "Secant(16)": Secant(),
    "Secant(20)": Secant(memory=20),
}
PROFILED = (
    *("Picard", "Anderson(5)", "Anderson(5), cap 3, ridge 0.1", "Broyden(8)", "Broyden(20)"),
    *("Secant(10)", "Secant(16)"),
)
"""Solvers of the figure: a colour each."""
BUDGET = Budget(max_iter=200, tol=1e-4)
ANDERSON = ("solver=anderson", "solver@gradient.solver=anderson")
TRAINING: dict[str, list[str]] = {
    "mlp": ["model=mlp", "train.epochs=8", *ANDERSON],
    "mdeq": [
        *("study=demo", "train.epochs=4", "train.unrolled_warmup_steps=0", "train.jacobian_weight=0"),
        *("model.channels=[16,16]", *ANDERSON),
    ],
    "prefix": ["study=prefix_sums", "train.epochs=5", "model.width=32"],
    "mazes": ["study=mazes", "train.epochs=2", "model.width=24"],
    "copy": ["study=copy_memory", "train.epochs=1", "model.width=32", "model.inner=64"],
}
Activation = Callable[[Tensor], Tensor]
FACTORS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
ROWS = 32
"""Samples of a problem with known answers."""


@dataclass(frozen=True)
class Rows:
    """A map whose rows have parameters of their own, each (rows, …)."""

    function: Callable[..., Tensor]
    parameters: tuple[Tensor, ...]

    def __call__(self, z: Tensor) -> Tensor:
        return self.function(z, *self.parameters)

    def take(self, rows: Tensor) -> Rows:
        return Rows(self.function, tuple(parameter[rows] for parameter in self.parameters))


@dataclass(frozen=True)
class HardProblem:
    """f with `take`, and its start z0 (samples, …)."""

    name: str
    f: Callable[[Tensor], Tensor]
    z0: Tensor

    def half(self, which: str) -> HardProblem:
        """The samples of even or of odd index alone."""
        if which == "all":
            return self
        rows = torch.arange(which == "odd", len(self.z0), 2)
        return HardProblem(self.name, self.f.take(rows), self.z0[rows])  # type: ignore[attr-defined]


def hard_problems(cells: Path) -> Iterator[HardProblem]:
    yield from trained_problems(cells)
    yield from random_convolutions()
    yield from known_problems()
    yield from several_fixed_points()


# Cells trained by deqrun -----------------------------------------------------------------------------------------


def trained_problems(cells: Path) -> Iterator[HardProblem]:
    for factor in FACTORS:
        model, inputs = trained(cells, "mlp", 240)
        with torch.no_grad():
            model.cell.layers[0].weight.mul_(factor)  # type: ignore[union-attr, index]
        yield problem_of(f"tanh cell, weights x {factor:g}", model, inputs)
    model, inputs = trained(cells, "mdeq", 64)
    yield problem_of("MDEQ without penalty", model, inputs)
    for length in (64, 128):
        yield problem_of(f"recall, {length} bits", *trained(cells, "prefix", 40, f"length={length}"))
    for size in (13, 17):
        yield problem_of(f"recall, mazes of {size}", *trained(cells, "mazes", 32, f"size={size}"))
    for blanks in (100, 150):
        yield problem_of(f"transformer, {blanks} blanks", *trained(cells, "copy", 24, f"blanks={blanks}"))


def problem_of(name: str, model: DEQ, inputs: Tensor) -> HardProblem:
    with torch.no_grad():
        f = model.bind(inputs)
        return HardProblem(name, f, model.start(f))


def trained(cells: Path, name: str, samples: int, *overrides: str) -> tuple[DEQ, Tensor]:
    """The best checkpoint of TRAINING[name], trained now if it is not there, and test inputs; overrides of its data."""
    folder = cells / name
    if not (folder / "summary.json").is_file():
        command = [sys.executable, "-m", "deqrun", "train", f"run={folder}", "sweep=none", "tracker=none", "threads=1"]
        subprocess.run([*command, *TRAINING[name]], check=True, stdout=subprocess.DEVNULL)
    settings = read_settings(folder / "config.yaml")
    for override in overrides:
        key, value = override.split("=")
        settings.dataset.parameters[key] = int(value)
    dataset = build_dataset(settings)
    model = build_deq(settings, dataset)
    best = load_checkpoint(folder / "checkpoints" / "best.pt", torch.device("cpu"))
    model.load_state_dict(best.model)
    return model.eval(), dataset.encode(dataset.load("test").inputs[:samples])


# Random weights --------------------------------------------------------------------------------------------------


def random_convolutions() -> Iterator[HardProblem]:
    """σ(K * z + x) with K 3x3, 8 channels on 8x8 pixels, its weights N(0, gain²/72): spectral radius about the gain."""
    generator = torch.Generator().manual_seed(0)
    for name, activation, gain in (
        ("relu", torch.relu, 0.9),
        ("tanh", torch.tanh, 1.0),
        ("tanh", torch.tanh, 1.5),
        ("tanh", torch.tanh, 2.5),
    ):
        kernel = torch.randn(8, 8, 3, 3, generator=generator) * gain / math.sqrt(72)
        x = torch.randn(48, 8, 8, 8, generator=generator)

        def function(
            z: Tensor, x: Tensor, kernel: Tensor = kernel, activation: Callable[[Tensor], Tensor] = activation
        ) -> Tensor:
            return activation(nn.functional.conv2d(z, kernel, padding=1) + x)

        yield HardProblem(f"convolution without norm, {name}, gain {gain:g}", Rows(function, (x,)), torch.zeros_like(x))


# Known answers ---------------------------------------------------------------------------------------------------


def known_problems() -> Iterator[HardProblem]:
    tasks: list[known.Problem] = [
        known.LinearSymmetric(0.9),
        known.LinearSymmetric(0.99),
        known.LinearComplex(0.9),
        known.LinearNonNormal(0.8),
        known.ExpandingOutliers(),
        known.TanhNetwork(0.9),
        known.TanhNetwork(1.5, skew=True),
        known.Chandrasekhar(0.99),
        known.Cosine(),
    ]
    for task in tasks:
        # Float64 parameters of tests/problems.py, here as float32.
        f = task.f(ROWS)
        parameters = tuple(parameter.float() for parameter in f.parameters)
        yield HardProblem(task.name.replace("_", " "), Rows(f.function, parameters), task.start(ROWS, torch.float32))
    yield from large_linear_maps()
    rates = (2.8, 3.2, 3.5, 3.9)
    start = torch.linspace(0.05, 0.95, ROWS)[:, None]
    for rate in rates:
        logistic = Rows(lambda z, r: r * z * (1 - z), (torch.full_like(start, rate),))
        yield HardProblem(f"logistic {rate:g}", logistic, start)
    yield from rotations()


def large_linear_maps() -> Iterator[HardProblem]:
    """100-d: symmetric of a uniform spectrum, and non-normal, 0.95 on the diagonal's circle under a full triangle."""
    rng = np.random.default_rng(0)
    size, rows = 100, 16
    for radius in (0.9, 0.99):
        weights = []
        for _ in range(rows):
            basis = known.orthogonal(rng, size)
            weights.append((basis * np.linspace(-radius, radius, size)) @ basis.T)
        yield _linear(f"symmetric, 100-d, radius {radius:g}", np.stack(weights), rng)
    weights = []
    for _ in range(rows):
        basis = known.orthogonal(rng, size)
        above = np.triu(rng.standard_normal((size, size)), 1) * 0.15
        weights.append(basis @ (np.diag(rng.uniform(-0.8, 0.8, size)) + above) @ basis.T)
    yield _linear("non-normal, 100-d", np.stack(weights), rng)


def _linear(name: str, weights: np.ndarray, rng: np.random.Generator) -> HardProblem:
    W = torch.as_tensor(weights).float()
    b = torch.as_tensor(rng.standard_normal(W.shape[:2])).float()
    return HardProblem(name, Rows(lambda z, W, b: torch.einsum("bij,bj->bi", W, z) + b, (W, b)), torch.zeros_like(b))


def rotations() -> Iterator[HardProblem]:
    """10-d, five planes turned by angles of their own and stretched by one factor, about b."""
    rng = np.random.default_rng(1)
    for stretch in (0.95, 1.0, 1.1):
        weights = np.stack(
            [
                known.block_diagonal([stretch * known.rotation(angle) for angle in rng.uniform(0.5, 2.5, 5)])
                for _ in range(ROWS)
            ]
        )
        yield _linear(f"rotations, 10-d, stretched by {stretch:g}", weights, rng)
    # Twisted: a turn that depends on the radius has a fixed point at 0 that plain iteration circles about.
    start = torch.as_tensor(rng.uniform(-1, 1, (ROWS, 2))).float()
    b = torch.as_tensor(rng.uniform(-1, 1, (ROWS, 2))).float()

    def twist(z: Tensor, b: Tensor) -> Tensor:
        angle = 1.0 + z.square().sum(1, keepdim=True) / 4
        x, y = z[:, :1], z[:, 1:]
        return torch.cat([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], 1) + b

    yield HardProblem("twist", Rows(twist, (b,)), start)


def several_fixed_points() -> Iterator[HardProblem]:
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(ROWS, 4, generator=generator)
    b = 0.1 * torch.randn(ROWS, 4, generator=generator)
    yield HardProblem("tanh(3 z + b)", Rows(lambda z, b: torch.tanh(3 * z + b), (b,)), start)
    patterns = torch.randn(5, 32, generator=generator).sign()
    weight = patterns.T @ patterns / 32
    start = torch.randn(ROWS, 32, generator=generator)
    zero = torch.zeros(ROWS, 1)
    yield HardProblem("Hopfield, 5 patterns", Rows(lambda z, _: torch.tanh(1.5 * z @ weight), (zero,)), start)
    start = 3 * torch.randn(ROWS, 3, generator=generator)
    c = torch.rand(ROWS, 1, generator=generator)
    yield HardProblem("3 cos z + c", Rows(lambda z, c: 3 * torch.cos(z) + c, (c,)), start)
    start = 0.5 + torch.rand(ROWS, 1, generator=generator) * 3
    c = 1.2 + torch.rand(ROWS, 1, generator=generator)
    yield HardProblem("log map", Rows(lambda z, c: c * torch.log(2 + 4 * z) - 1, (c,)), start)
    start = torch.tensor([[0.1, 0.1, -0.1]]) + 0.3 * torch.rand(ROWS, 3, generator=generator)
    yield HardProblem("kinAnalytic", Rows(kin_analytic, (zero,)), start)
    zero = torch.zeros(ROWS, 1)
    start = torch.ones(ROWS, 2) + torch.rand(ROWS, 2, generator=generator)

    def reciprocal(z: Tensor, _: Tensor) -> Tensor:
        """The slope at the fixed points ±√2 of 2 / z is −1, and the other coordinate hangs on the first."""
        return torch.stack([2 / z[:, 0], torch.sin(2 * z[:, 0] + z[:, 1])], 1)

    yield HardProblem("2 / z", Rows(reciprocal, (zero,)), start)


def kin_analytic(z: Tensor, _: Tensor) -> Tensor:
    """The fixed-point form of SUNDIALS' kinAnalytic_fp; its solution is (1/2, 1, −π/6)."""
    x, y, w = z.unbind(1)
    return torch.stack(
        [
            torch.cos((y - 1) * w) / 3 + 1 / 6,
            torch.sqrt(x * x + torch.sin(w) + 1.06) / 9 + 0.9,
            -torch.exp(-x * (y - 1)) / 20 - (10 * math.pi - 3) / 60,
        ],
        1,
    )


# Figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """Evaluations (samples,) of every solver on every problem, inf where unsolved: of[solver][problem]."""

    of: dict[str, dict[str, np.ndarray]]

    def pairs(self, solver: str) -> np.ndarray:
        return np.concatenate(list(self.of[solver].values()))

    @property
    def fastest(self) -> np.ndarray:
        """Of every pair, the least evaluations by any solver."""
        return np.min([self.pairs(solver) for solver in self.of], axis=0)

    def median_ratios(self, solver: str) -> dict[str, float]:
        """Problem -> the solver's median evaluations over the least median by another solver."""
        ratios = {}
        for problem in self.of[solver]:
            others = [_median(found[problem]) for name, found in self.of.items() if name != solver]
            if math.isfinite(best := min(others)):
                ratios[problem] = _median(self.of[solver][problem]) / best
        return ratios


def _median(evaluations: np.ndarray) -> float:
    """The lower median, so that it is one of the values."""
    return float(np.sort(evaluations)[(len(evaluations) - 1) // 2])


def score(problems: list[HardProblem], solvers: dict[str, Solver]) -> Scores:
    of: dict[str, dict[str, np.ndarray]] = {name: {} for name in solvers}
    for problem in problems:
        for name, solver in solvers.items():
            found = solve(problem.f, problem.z0, solver=solver, budget=BUDGET)
            of[name][problem.name] = np.where(found.converged.numpy(), found.nfe.numpy(), np.inf)
    return Scores(of)


def print_tables(scores: Scores) -> None:
    fastest, plain = scores.fastest, scores.pairs("Picard")
    some, picard = np.isfinite(fastest), np.isfinite(plain)
    print(f"{len(fastest)} pairs; some solver solves {some.sum()}, Picard {picard.sum()}.\n")
    print(
        "| solver | of the pairs that some solver solves | of the pairs that Picard solves | "
        "median over the best single solver's: median | worst |\n|---|---:|---:|---:|---:|"
    )
    for solver in scores.of:
        solved, ratios = np.isfinite(scores.pairs(solver)), scores.median_ratios(solver)
        worst = max(ratios, key=lambda name: ratios[name])
        print(
            f"| {solver} | {_share(solved[some])} | {_share(solved[picard])} | {np.median(list(ratios.values())):.2f}"
            f" | {ratios[worst]:.2f} ({worst}) |"
        )
    print()
    print("| problem | " + " | ".join(scores.of) + " |\n|---" + "|---:" * len(scores.of) + "|")
    for problem in scores.of["Picard"]:
        row = [scores.of[solver][problem] for solver in scores.of]
        print(f"| {problem} | " + " | ".join(_cell(evaluations) for evaluations in row) + " |")


def _share(solved: np.ndarray) -> str:
    interval = wilson(float(solved.mean()), len(solved))
    return f"{solved.mean():.2%} ({interval[0]:.1%} to {interval[1]:.1%}; {int((~solved).sum())} of {len(solved)} not)"


def _cell(evaluations: np.ndarray) -> str:
    failed, median = int(np.isinf(evaluations).sum()), _median(evaluations)
    return ("–" if math.isinf(median) else f"{median:.0f}") + (f" ({failed} of {len(evaluations)})" if failed else "")


def profiles(scores: Scores, figure: Path) -> None:
    """One curve a solver: over τ, the share of pairs solved within τ times the evaluations of the fastest."""
    fastest = scores.fastest
    known_pairs = np.isfinite(fastest)
    factors = np.linspace(1, 5, 41)
    points = []
    for solver in scores.of:
        ratio = scores.pairs(solver)[known_pairs] / fastest[known_pairs]
        points += [Point(solver, float(factor), float((ratio <= factor * (1 + 1e-9)).mean())) for factor in factors]
    drawn = curves(
        "performance_profiles",
        "Performance profiles on hard cells",
        "Share of the pairs of sample and problem solved within a factor of the fastest solver's evaluations.",
        [point for point in points if point.series in PROFILED],
        Axis("evaluations over the fastest solver's", domain=(1.0, 5.0)),
        Axis("pairs solved", percent=True, domain=(0.0, 1.0)),
    )
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_bytes(png(drawn))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, default=Path("outputs/hard_cells"), help="runs of the trained cells")
    parser.add_argument("--half", choices=("all", "even", "odd"), default="all", help="samples by index")
    parser.add_argument("--only", nargs="*", default=[], help="problems whose name contains one of these")
    parser.add_argument("--figure", type=Path, help="write the performance profiles here, as PNG")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    begun = time.perf_counter()
    problems = [
        problem.half(arguments.half)
        for problem in hard_problems(arguments.cells)
        if not arguments.only or any(part in problem.name for part in arguments.only)
    ]
    with torch.no_grad():
        scores = score(problems, SOLVERS)
    print_tables(scores)
    if arguments.figure:
        profiles(scores, arguments.figure)
    print(f"\n{time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
