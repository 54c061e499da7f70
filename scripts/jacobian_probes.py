"""What products with a cell's Jacobian cost, and how many of them its spectrum takes.

    python scripts/jacobian_probes.py

1. milliseconds of an evaluation, of Jᵀu on a recorded graph, and of Jv three ways, of untrained cells on digits:
   twice backward, as `deqrun.analysis.Jacobian` does, and forward mode by `torch.func.jvp` and by dual numbers;
2. relative errors after so many iterations of spectral radius and spectral norm, against dense decompositions of the
   Jacobians at the equilibria of a few test digits, for cells after a short training (--steps).

Each number of 2 is the largest over the samples; beside it stands the error indicator, also over the exact value.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from deqrun.analysis import Estimate, Jacobian, spectral_norm, spectral_radius
from deqrun.datasets import Digits, Split
from deqrun.gradients import Implicit
from deqrun.models import DEQ, BoundCell, Cell, ConvCell, MDEQCell, MLPCell
from deqrun.solvers import Anderson, Budget

SHAPE = {"input_shape": Digits.input_shape, "num_classes": Digits.num_classes}
SAMPLES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="rows of the products that are timed")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved repeats; medians are printed")
    parser.add_argument("--steps", type=int, default=150, help="training steps before the spectra are taken")
    arguments = parser.parse_args()
    for name, cell in full_cells().items():
        products(name, cell, arguments.batch, arguments.repeats)
    for name, cell in small_cells().items():
        accuracy(name, trained(cell, Digits().load("train"), arguments.steps), Digits().load("test"))


def full_cells() -> dict[str, Cell]:
    torch.manual_seed(0)
    return {"conv": ConvCell(**SHAPE), "mdeq": MDEQCell(**SHAPE), "mlp": MLPCell(**SHAPE)}  # type: ignore[arg-type]


def small_cells() -> dict[str, Cell]:
    """States of about a thousand numbers, whose Jacobians a dense decomposition can take."""
    torch.manual_seed(0)
    branches = {"channels": [16, 16], "head_channels": [4, 8], "expansion": 3, "dropout": 0.0}
    return {
        "conv": ConvCell(**SHAPE, channels=16, inner_channels=32),  # type: ignore[arg-type]
        "mdeq": MDEQCell(**SHAPE, **branches),  # type: ignore[arg-type]
    }


def products(name: str, cell: Cell, batch: int, repeats: int) -> None:
    """Print the median milliseconds of one evaluation and of each product."""
    cell = cell.eval()
    f = BoundCell(cell, cell.inject(torch.randn(batch, *cell.input_shape)))
    z, v = torch.randn(2, batch, *cell.state_shape)
    jacobian, v_BD = Jacobian(f, z), v.flatten(1)

    def dual() -> Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(z, v))).tangent

    with torch.no_grad():
        timed = medians(
            {
                "f": lambda: f(z),
                "Jᵀu": lambda: jacobian.vjp(v_BD),
                "Jv, twice backward": lambda: jacobian.jvp(v_BD),
                "Jv, torch.func.jvp": lambda: torch.func.jvp(f, (z,), (v,))[1],
                "Jv, dual numbers": dual,
            },
            repeats,
        )
    costs = ", ".join(f"{what} {seconds * 1e3:.2f}" for what, seconds in timed.items())
    print(f"{name}, {batch} rows of {cell.state_size}, ms: {costs}", flush=True)


def medians(functions: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Median seconds of each function, the repeats interleaved, after one call that is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def trained(cell: Cell, split: Split, steps: int) -> DEQ:
    """The cell in a DEQ after so many steps of Adam on 64 samples each."""
    budget = Budget(max_iter=15, tol=1e-3)
    model = DEQ(cell, Anderson(memory=5), budget, Implicit(budget=budget))
    optimizer, generator = torch.optim.Adam(model.parameters(), 2e-3), torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randint(len(split), (64,), generator=generator)
        logits, _ = model(split.inputs[rows])
        loss = torch.nn.functional.cross_entropy(logits, split.targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(name: str, model: DEQ, split: Split) -> None:
    """Print the errors of each probe at the equilibria of a few samples."""
    x = split.inputs[:SAMPLES]
    model.budget = Budget(max_iter=100, tol=1e-5)
    f = model.bind(x)
    z, solution = model.settle(f, model.start(f))
    dense = dense_jacobians(f, z)
    radius, norm = torch.linalg.eigvals(dense).abs().amax(dim=1), torch.linalg.matrix_norm(dense, 2)
    print(f"{name}, state {dense.shape[1]}: {solution.summary()}; ρ {rounded(radius)}; ‖J‖₂ {rounded(norm)}")
    for iterations in (10, 20, 30, 40, 60, 80):
        report("radius, arnoldi", iterations, spectral_radius(f, z, iterations=iterations), radius)
    for iterations in (50, 100, 200, 400):
        report("radius, growth", iterations, spectral_radius(f, z, iterations=iterations, method="growth"), radius)
    for iterations in (5, 8, 10, 15, 20):
        report("norm, Golub-Kahan-Lanczos", iterations, spectral_norm(f, z, iterations=iterations), norm)
        report("norm, power iteration", iterations, power_iteration(f, z, iterations), norm)


def dense_jacobians(f: BoundCell, z: Tensor) -> Tensor:
    """(batch, D, D) float64, a row at a time."""
    jacobian = Jacobian(f, z)
    units = torch.eye(jacobian.size)[:, None].expand(-1, jacobian.batch, -1)
    return torch.stack([jacobian.vjp(unit) for unit in units], dim=1).double()


def power_iteration(f: BoundCell, z: Tensor, iterations: int) -> Estimate:
    """‖J v‖ after so many steps v ← JᵀJ v / ‖JᵀJ v‖; as `error` how much the last step changed it."""
    jacobian, values = Jacobian(f, z), [torch.zeros(len(z))]
    v_BD = torch.randn(jacobian.size, generator=torch.Generator().manual_seed(0)).expand(jacobian.batch, -1)
    for _ in range(iterations):
        image_BD = jacobian.jvp(v_BD / torch.linalg.vector_norm(v_BD, dim=1, keepdim=True))
        values.append(torch.linalg.vector_norm(image_BD, dim=1))
        v_BD = jacobian.vjp(image_BD)
    return Estimate(values[-1], (values[-1] - values[-2]).abs(), jacobian.nfe, jacobian.jvps, jacobian.vjps)


def report(what: str, iterations: int, estimate: Estimate, exact: Tensor) -> None:
    error, indicator = (float((part / exact).abs().max()) for part in (estimate.value - exact, estimate.error))
    print(f"  {what}, {iterations} iterations: relative error {error:.1e}, indicator {indicator:.1e}", flush=True)


def rounded(values: Tensor) -> str:
    return ", ".join(f"{value:.3f}" for value in values.tolist())


if __name__ == "__main__":
    main()
