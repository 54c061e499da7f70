"""A run folder made of numpy alone: realistic numbers, every awkward case, and no model.

Residuals fall geometrically with a rate of each sample's own, down to a floor; some samples never converge,
and with Broyden some diverge to inf. The sweep's cells follow from the trajectories by the definitions of a
budget: stop at the first iterate whose residual is within the tolerance, return the iterate of lowest
residual.
"""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

ITERATIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SOLVERS = ("anderson", "broyden", "picard")
EPOCHS = 20


@dataclass(frozen=True)
class Iterates:
    """One solver over one split, as trajectories.npz holds it."""

    residual: np.ndarray
    nfe: np.ndarray
    correct: np.ndarray
    seconds: np.ndarray
    status: np.ndarray

    @cached_property
    def paths(self) -> list[list[float]]:
        """Residuals of each sample, up to the iterate at which it stopped."""
        return [[value for value in column if value == value] for column in self.residual.T.tolist()]


def write_synthetic_run(
    folder: Path, name: str = "digits_mdeq", seed: int = 0, solver: str = "anderson", max_iter: int = 12
) -> Path:
    """Write a completed run to `folder`, trained with `solver`, `max_iter` and tolerance 1e-3."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    trajectories = {
        (solver, "zeros", split): synthetic_iterates(solver, n, generator)
        for split, n in (("validation", 180), ("test", 360))
        for solver in SOLVERS
    }
    cells = [
        synthetic_cell(iterates, key, budget, tol)
        for key, iterates in trajectories.items()
        if key != ("broyden", "zeros", "validation")  # a variant that the sweep lacks
        for budget in ITERATIONS
        for tol in TOLERANCES
    ]
    _write_config(folder, name, seed, solver, max_iter)
    _write_lines(folder / "train.jsonl", synthetic_epochs(generator))
    _write_lines(folder / "sweep.jsonl", cells)
    arrays = {
        "/".join(key) + f"/{part.name}": getattr(iterates, part.name)
        for key, iterates in trajectories.items()
        for part in fields(iterates)
    }
    np.savez_compressed(folder / "trajectories.npz", **arrays)
    (folder / "status.json").write_text(json.dumps({"status": "completed", "reason": "", "epoch": EPOCHS}))
    chosen = {c["split"]: c for c in cells if (c["solver"], c["max_iter"], c["tol"]) == (solver, max_iter, 1e-3)}
    summary = {**_summary(name, seed, chosen), "solver": solver, "train_max_iter": max_iter}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def synthetic_iterates(solver: str, n: int, generator: np.random.Generator) -> Iterates:
    """Trajectories of n samples over 64 iterations, stopped at the smallest tolerance."""
    rate = {"picard": 0.80, "anderson": 0.52, "broyden": 0.60}[solver]
    iterations = ITERATIONS[-1]
    k = np.arange(iterations + 1)[:, None]
    rates = np.clip(rate + 0.06 * generator.standard_normal(n), 0.2, 0.97)
    floor = np.where(generator.random(n) < 0.04, 3e-3, 3e-8)  # 4 % of the samples stall above 1e-3
    noise = np.exp(0.15 * generator.standard_normal((iterations + 1, n)))
    residual = (0.9 * rates**k * noise + floor).astype(np.float32)
    if solver == "broyden":
        lost = generator.random(n) < 0.07
        begin = generator.integers(3, 12, n)
        residual = np.where(lost & (k >= begin), np.inf, residual).astype(np.float32)
    undecided = generator.random(n) < 0.55 * 0.45**k
    drift = (generator.random(n) < 0.03) & (k > generator.integers(16, 60, n))  # thinks too long and errs
    right = generator.random(n) < 0.975
    correct = np.where(undecided, generator.random((iterations + 1, n)) < 0.1, right & ~drift)
    stopped = (residual <= TOLERANCES[-1]) | np.isinf(residual)
    last = np.where(stopped.any(axis=0), np.argmax(stopped, axis=0), iterations)
    longest = int(last.max())
    residual = np.where(k > last, np.nan, residual)[: longest + 1].astype(np.float32)
    correct = correct[np.minimum(k, last), np.arange(n)][: longest + 1]
    nfe = np.broadcast_to(k + 1, (iterations + 1, n))[: longest + 1].astype(np.int32)
    ended = residual[np.minimum(last, longest), np.arange(n)]
    status = np.where(np.isinf(ended), 3, np.where(ended <= TOLERANCES[-1], 0, 1)).astype(np.uint8)
    return Iterates(residual, nfe, correct, 0.004 * np.arange(1.0, longest + 2), status)


def synthetic_cell(iterates: Iterates, key: tuple[str, str, str], max_iter: int, tol: float) -> dict[str, Any]:
    """One row of sweep.jsonl, sample by sample in plain Python: another way than the package's arrays."""
    right, spent, residuals, converged, diverged = [], [], [], 0, 0
    n = iterates.residual.shape[1]
    for column, whole in enumerate(iterates.paths):
        path = whole[: max_iter + 1]
        stop = next((k for k, value in enumerate(path) if value <= tol), len(path) - 1)
        kept = path.index(min(path[: stop + 1]))
        right.append(bool(iterates.correct[kept, column]))
        spent.append(stop + 1)
        residuals.append(path[kept])
        converged += path[kept] <= tol
        diverged += path[stop] == float("inf")
    accuracy = sum(right) / n
    error = 1.96 * (accuracy * (1 - accuracy) / n) ** 0.5
    solver, start, split = key
    return {
        "solver": solver,
        "start": start,
        "max_iter": max_iter,
        "tol": tol,
        "split": split,
        "n": n,
        "accuracy": accuracy,
        "accuracy_low": max(accuracy - error, 0.0),
        "accuracy_high": min(accuracy + error, 1.0),
        "nfe_mean": sum(spent) / n,
        "nfe_p95": float(np.quantile(spent, 0.95)),
        "seconds": float(iterates.seconds[min(max_iter, len(iterates.seconds) - 1)]),
        "converged": converged / n,
        "diverged": diverged / n,
        "residual_median": float(np.median(residuals)),
    }


def synthetic_epochs(generator: np.random.Generator) -> list[dict[str, Any]]:
    """Rows of train.jsonl: falling loss, rising accuracy, solves that get a little harder."""
    rows = []
    for epoch in range(1, EPOCHS + 1):
        wobble = 1 + 0.04 * generator.standard_normal(4)
        loss = 0.05 + 2.2 * np.exp(-epoch / 4) * wobble[0]
        rows.append(
            {
                "epoch": epoch,
                "step": 20 * epoch,
                "loss": loss,
                "train_accuracy": min(1 - 0.3 * loss, 1.0),
                "val_loss": 0.09 + 2.1 * np.exp(-epoch / 4) * wobble[1] + 0.002 * epoch,
                "val_accuracy": 0.972 - 0.75 * np.exp(-epoch / 3) * wobble[1],
                "learning_rate": 1e-3 * (1 - epoch / 25),
                "nfe": 6 + 0.3 * epoch * wobble[2],
                "residual": 2e-4 * 1.08**epoch * wobble[2],
                "adjoint_nfe": 5 + 0.25 * epoch * wobble[3],
                "adjoint_residual": 3e-5 * 1.1**epoch * wobble[3],
                "jacobian_penalty": None,
                "grad_norm": 1.5 * wobble[0],
                "seconds": 2.1 * wobble[1],
            }
        )
    return rows


def _write_config(folder: Path, name: str, seed: int, solver: str, max_iter: int) -> None:
    config = {
        "name": name,
        "seed": seed,
        "device": "cpu",
        "train": {"epochs": EPOCHS, "batch_size": 64},
        "model": {"_target_": "deqrun.models.mdeq.MDEQ", "channels": [16, 32], "dropout": 0.1},
        "dataset": {"_target_": "deqrun.datasets.digits.Digits"},
        "choices": {"model": "mdeq", "dataset": "digits", "solver": solver, "gradient": "implicit"},
        "solver": {"_target_": f"deqrun.solvers.{solver.capitalize()}"},
        "budget": {"max_iter": max_iter, "tol": 1e-3, "norm": "relative", "keep": "best", "patience": None},
        "sweep": {"iterations": list(ITERATIONS), "tolerances": list(TOLERANCES), "solvers": list(SOLVERS)},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _summary(name: str, seed: int, chosen: dict[str, dict[str, Any]]) -> dict[str, Any]:
    test, validation = chosen["test"], chosen.get("validation", {"accuracy": 0.96})
    return {
        "name": name,
        "command": "deqrun train model=mdeq dataset=digits solver=anderson",
        "config_hash": "3f9a1c0b77e2",
        "seed": seed,
        "versions": {"deqrun": "0.1.0", "torch": "2.13.0", "python": "3.11.8"},
        "model": "mdeq",
        "dataset": "digits",
        "gradient": "implicit",
        "parameters": 49482,
        "state_size": 1536,
        "multiply_adds": 1203456,
        "train_tol": 1e-3,
        "n_train": 1257,
        "n_validation": 180,
        "n_test": 360,
        "best_epoch": 18,
        "val_accuracy": validation["accuracy"],
        "test_accuracy": test["accuracy"],
        "test_accuracy_low": test["accuracy_low"],
        "test_accuracy_high": test["accuracy_high"],
        "train_seconds": 42.7,
        "sweep_seconds": 5.3,
        "status": "completed",
    }
