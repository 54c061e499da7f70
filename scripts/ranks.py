"""How far the numbers of several ranks lie from one process's, and how much faster they train; prints the tables of
docs/devices.md.

    OMP_NUM_THREADS=1 python scripts/ranks.py [--seeds 3] [--rounds 5] [--only losses]

Losses: 20 steps of a model on digits, batches of 100 samples (the last of an epoch has 78), one thread for each rank;
the largest |L − L₁| / L₁ over the steps and seeds. Beside it one process whose gradients are changed by 1e-7 of their
size, in float64 by 1e-15, about the dtype's rounding, tells how much a model amplifies rounding by itself. Going on:
a signal comes in step 7, and the run goes on with another number of ranks. Sweep: both splits from three kinds of
starts, breadth and halting rules; the values that differ. These are maxima and counts over the stated n, so they have
no interval. Speed: seconds of 17 steps of an MDEQ after a first epoch, one process before two ranks in each round;
the geometric mean over rounds with Student's 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from scipy.stats import t as student

from deqrun.experiment import launch, ranks
from deqrun.experiment.rank_launch import in_ranks
from deqrun.experiment.training import train as training
from deqrun.records.signals import ending_as_interrupted
from deqrun.settings import LaunchSettings, Settings, load_settings

CONFIGS = Path(__file__).parents[1] / "configs"
QUIET = ["tracker=none", "report=false", "train.log_every=1"]
STEPS = [*QUIET, "train.steps=20", "train.batch_size=100", "optimizer.lr=1e-3", "sweep=none"]
MODELS = {
    "`mlp`": ["model=mlp"],
    "`mlp`, every draw": [
        "model=mlp",
        "train.start=mixture",
        "train.random_budget=[8,24]",
        "train.random_budget_per=sample",
        "train.path_noise=0.01",
        "train.progressive_weight=0.3",
        "train.accumulate=2",
    ],
    "`mlp`, batches of 2": ["model=mlp", "train.batch_size=2"],
    "`conv` (batch norm)": ["model=conv"],
    "`mdeq` (batch norm, dropout)": ["model=mdeq", "model.channels=[8,8]"],
    "`conv`, in float64": ["model=conv", "train.precision=float64"],
    "`mdeq`, in float64": ["model=mdeq", "model.channels=[8,8]", "train.precision=float64"],
    "`mdeq`, in float64, 6 plain iterations": [
        "model=mdeq",
        "model.channels=[8,8]",
        "train.precision=float64",
        "solver=picard",
        "budget.max_iter=6",
        "gradient=one_step",
    ],
}
ROUNDING = {"float32": 1e-7, "float64": 1e-15}
SWEEP = [
    *QUIET,
    "model=mlp",
    "train.epochs=1",
    "sweep.starts=[zeros,normal,other]",
    "sweep.solvers=[picard,anderson]",
    "sweep.iterations=[1,4,16]",
    "sweep.batch_size=50",
    "sweep.breadth=[1,3]",
]


def settings_of(*overrides: str) -> Settings:
    """Settings of train.yaml with overrides."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return load_settings(compose("train", list(overrides), return_hydra_config=True))


def train(
    settings: Settings, folder: Path, stop_in: int | None = None, run: Path | None = None, changed: float = 0.0
) -> float:
    """At one rank: train, or sweep `run`.

    stop_in  the step in which the last rank is sent SIGTERM
    changed  by this share of their size gradients are changed at random
    """
    wrapped, left, noise = training.accumulated, stop_in or 0, torch.Generator().manual_seed(0)

    def strike(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and ranks.place().rank == ranks.place().count - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        made = wrapped(*arguments)
        for weight in arguments[1].parameters() if changed else ():
            weight.grad *= 1 + changed * torch.randn(weight.grad.shape, generator=noise, dtype=weight.dtype)
        return made

    training.accumulated = strike  # type: ignore[assignment]
    try:
        with _silence(), ending_as_interrupted():
            if run is not None:
                return launch._sweep_and_finish(settings, run, folder, "deqrun sweep")
            return launch._train_and_finish(settings, folder, "deqrun train")
    finally:
        training.accumulated = wrapped


@contextmanager
def _silence() -> Iterator[None]:
    with open(os.devnull, "w", encoding="utf-8") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield


def made(settings: Settings, count: int, folder: Path, **more: Any) -> Path:
    """The folder of a run by so many ranks with a thread each."""
    launched = LaunchSettings(devices=count if count > 1 else None)
    # Threads are shared by the ranks of this machine.
    changes = {"launch": launched, "threads": (settings.threads or 1) * count}
    settings = settings.model_copy(update=changes)
    with suppress(KeyboardInterrupt), ending_as_interrupted():
        in_ranks(train, settings, folder, *more.values())
    return folder


def values(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The rows of a file, timings left out."""
    lines = (folder / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if "seconds" not in key} for line in lines]


def difference(folder: Path, other: Path) -> float:
    """The largest relative difference of two runs' losses."""
    pairs = list(zip(values(folder, "steps"), values(other, "steps"), strict=True))
    assert len(pairs) == 20
    return max(abs(mine["loss"] - its["loss"]) / its["loss"] for mine, its in pairs)


def losses(seeds: int, home: Path) -> None:
    """The table of losses."""
    print(f"Losses of 20 steps against one process, the largest relative difference (n = {seeds} seeds)\n")
    print("| model | 2 ranks | 3 ranks | one process, gradients changed |\n|---|---|---|---|")
    for name, own in MODELS.items():
        worst, own_worst = dict.fromkeys((2, 3), 0.0), 0.0
        for seed in range(seeds):
            settings, place = settings_of(*STEPS, *own, f"seed={seed}"), home / f"{abs(hash(name))}-{seed}"
            one = made(settings, 1, place / "1")
            amount = ROUNDING[settings.train.precision]
            changed = made(settings, 1, place / "changed", stop_in=None, run=None, changed=amount)
            own_worst = max(own_worst, difference(changed, one))
            for count in worst:
                worst[count] = max(worst[count], difference(made(settings, count, place / str(count)), one))
        print(f"| {name} | {worst[2]:.1e} | {worst[3]:.1e} | {own_worst:.1e} |", flush=True)


def going_on(seeds: int, home: Path) -> None:
    """The table of runs that go on with other ranks."""
    print(f"\nStopped in step 7, gone on with other ranks: the same figure (`mlp`, n = {seeds} seeds)\n")
    print("| ranks before and after | largest relative difference |\n|---|---|")
    for before, after in ((1, 2), (2, 1), (2, 3)):
        worst = 0.0
        for seed in range(seeds):
            settings, place = settings_of(*STEPS, "model=mlp", f"seed={seed}"), home / f"on-{before}-{after}-{seed}"
            one, cut = made(settings, 1, place / "1"), made(settings, before, place / "cut", stop_in=7)
            assert len(values(cut, "steps")) == 7
            worst = max(worst, difference(made(settings, after, cut), one))
        print(f"| {before}, {after} | {worst:.1e} |", flush=True)


def sweeps(home: Path) -> None:
    """Count the values of a sweep that differ."""
    settings = settings_of(*SWEEP)
    run = made(settings_of(*SWEEP, "sweep=none"), 1, home / "run")
    settings = settings.model_copy(update={"run": run})
    one = made(settings, 1, home / "sweep-1", stop_in=None, run=run)
    print("\nA sweep by several ranks, beside one process (seed 0)\n")
    print("| ranks | values compared | values that differ |\n|---|---|---|")
    for count in (2, 3):
        folder, compared, differing = made(settings, count, home / f"sweep-{count}", stop_in=None, run=run), 0, 0
        for kind in ("sweep", "halting", "breadth", "savings"):
            for mine, its in zip(values(folder, kind), values(one, kind), strict=True):
                compared += len(its)
                differing += sum(mine[key] != its[key] for key in its)
        with np.load(folder / "trajectories.npz") as found, np.load(one / "trajectories.npz") as alone:
            for name in alone:
                if "seconds" not in name:
                    compared += alone[name].size
                    differing += int((~np.isclose(found[name], alone[name], 0, 0, equal_nan=True)).sum())
        print(f"| {count} | {compared:,} | {differing} |", flush=True)


def seconds(settings: Settings, count: int, folder: Path) -> float:
    """Of the second epoch."""
    made(settings, count, folder)
    lines = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return float(json.loads(lines[1])["seconds"])


def speed(rounds: int, home: Path) -> None:
    """The table of speed."""
    cores = len(os.sched_getaffinity(0))
    settings = settings_of(*QUIET, "model=mdeq", "train.epochs=2", "sweep=none")
    logs: dict[str, list[float]] = {"one thread": [], "two threads": []}
    for number in range(rounds):
        alone = seconds(settings, 1, home / f"alone-{number}")
        both = seconds(settings.model_copy(update={"threads": 2}), 1, home / f"threads-{number}")
        two = seconds(settings, 2, home / f"two-{number}")
        logs["one thread"].append(math.log(alone / two))
        logs["two threads"].append(math.log(both / two))
    print(f"\nSeconds of one process over seconds of two ranks with a thread each, `mdeq`, {cores} cores\n")
    print(f"| one process has | ratio [95 %] (n = {rounds} rounds) |\n|---|---|")
    for name, ratios in logs.items():
        print(f"| {name} | {interval(ratios)} |", flush=True)


def interval(logs: Sequence[float]) -> str:
    """exp(mean) [exp(Student's interval)]."""
    mean = statistics.mean(logs)
    half = float(student.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return f"{math.exp(mean):.2f} [{math.exp(mean - half):.2f}, {math.exp(mean + half):.2f}]"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["losses", "going_on", "sweeps", "speed"], help="one of the tables")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        tables = {
            "losses": partial(losses, given.seeds, home),
            "going_on": partial(going_on, given.seeds, home),
            "sweeps": partial(sweeps, home),
            "speed": partial(speed, given.rounds, home),
        }
        for name, table in tables.items():
            if given.only in (None, name):
                table()


if __name__ == "__main__":
    main()
