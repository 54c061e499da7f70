"""What the options of loading do to speed: train.workers, train.pin_memory and train.channels_last.

    python scripts/loading_speed.py [--repeats N]

Times an epoch of batches of an in-memory set of CIFAR-10's shape (45,000 images, batches of 128, brought to the device
and standardised) with 0, 1 and 2 workers, and with crops and flips on top; a training step of `model=conv` and
`model=mdeq` on 3x32x32 images, in plain and in channels-last order; and, where there is a CUDA device, the epoch with
and without page-locked memory. Medians of interleaved repeats in one process, and their ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from bench_timing import interleaved

from deqrun.datasets import Dataset, Split
from deqrun.datasets.images import CIFAR10
from deqrun.experiment.build import build_dataset, build_deq, build_optimizer
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.loading import Loaded, shuffled
from deqrun.experiment.training.objective import Batch, forward
from deqrun.experiment.training.starts import Starts
from deqrun.settings import Settings, load_settings
from deqrun.settings.sources import open_sources

IMAGES, BATCH, STEP_BATCH = 45_000, 128, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{torch.get_num_threads()} thread, device {device}, n = {repeats}")
    epochs(repeats, device)
    for model in ("conv", "mdeq"):
        steps(model, repeats, device)


def epochs(repeats: int, device: torch.device) -> None:
    """An epoch's batches, by workers, with augmentation, and on CUDA by page-locked memory."""
    split, cifar = pictures(IMAGES), CIFAR10(augment="crop_flip")

    def epoch(workers: int, *, pinned: bool = True, augmented: bool = False) -> Callable[[], None]:
        def run() -> None:
            order, draws = shuffled(IMAGES, BATCH, torch.Generator()), torch.Generator(device)
            for inputs, _, _ in Loaded(split, order, device, workers=workers, pin_memory=pinned):
                x = cifar.encode(inputs)
                if augmented:
                    cifar.augment(x, draws)
            wait(device)

        return run

    runs: dict[str, Callable[[], object]] = {f"{workers} workers": epoch(workers) for workers in (0, 1, 2)}
    runs["0 workers, crop_flip"] = epoch(0, augmented=True)
    if device.type == "cuda":
        runs |= {f"{w} workers, memory not page-locked": epoch(w, pinned=False) for w in (0, 2)}
    show(f"an epoch of {IMAGES:,} images", interleaved(runs, repeats))


def steps(model: str, repeats: int, device: torch.device) -> None:
    """A training step in both orders, from the same weights."""
    runs: dict[str, Callable[[], object]] = {}
    for name, value in {"plain": "false", "channels last": "true"}.items():
        settings = composed(model, f"train.channels_last={value}")
        dataset = build_dataset(settings)
        runs[name] = step(settings, dataset, device)
    show(f"a training step of {model}, batch {STEP_BATCH}", interleaved(runs, repeats))


def step(settings: Settings, dataset: Dataset, device: torch.device) -> Callable[[], None]:
    """Forward solve, backward solve and update of one batch; as many iterations each time."""
    torch.manual_seed(0)
    deq = build_deq(settings, dataset).to(device).train()
    optimizer = build_optimizer(settings, deq)
    split, starts = pictures(STEP_BATCH), Starts("zeros", 1.0, STEP_BATCH)
    batch = Batch(dataset.encode(split.inputs[:].to(device)), split.targets.to(device), torch.arange(STEP_BATCH))

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with deq.cell.fixed_weights():
            forward(deq, dataset, batch, settings.train, 1, Draws.of_epoch(0, 1, device), starts).objective.backward()
        optimizer.step()
        wait(device)

    return run


def composed(model: str, *overrides: str) -> Settings:
    fixed = ["dataset=cifar10", "train.jacobian_weight=0"]
    for budget in ("budget", "gradient.budget"):
        fixed += [f"{budget}.max_iter=8", f"{budget}.tol=0"]
    with open_sources() as sources:
        return load_settings(sources.compose("train", [f"model={model}", *fixed, *overrides]))


def pictures(n: int) -> Split:
    """Random pictures of CIFAR-10's shape: what they show makes no difference to the time."""
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=draws)
    return Split(inputs, torch.randint(0, 10, (n,), generator=draws))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def show(title: str, seconds: dict[str, float]) -> None:
    """Medians in milliseconds, each also as a ratio to the first."""
    base = next(iter(seconds.values()))
    print(title)
    for name, value in seconds.items():
        print(f"    {name:<38} {1000 * value:>9.1f} ms {value / base:>6.2f}", flush=True)


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"{time.perf_counter() - began:.0f} s in all")
