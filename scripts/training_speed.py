"""Processor time until an MDEQ is right on 98 % of held-out digits: deqrun, torchdeq's gradient, back-propagation.

    python scripts/training_speed.py [--seeds 0 1 2] [--target 0.98]

The demo's cell, data, optimizer and schedule, one thread, four ways to train it, one after the other for each seed:

    deqrun            as study=demo has it: a warm-up of few iterations, Secant(16), implicit gradient, starts at the
                      last solutions, its own penalty
    torchdeq          its Anderson and its implicit gradient, with the demo's tolerances and its own Jacobian penalty
    torchdeq, warmed  the same after deqrun's warm-up
    bptt              twelve plain iterations from zeros, back-propagated through by PyTorch

After each epoch, outside of the clock, the validation digits are solved as the way trains; the time is the processor
time of the steps up to the first epoch that reaches the target. Beside it: the bytes that one step keeps for its
backward pass. torchdeq 0.1.0 is optional (`pip install torchdeq==0.1.0`).

Then what the options train.precision and train.compile do to the time of a step, on the demo's cell, on an MDEQ of
3x32x32 noise, and on a recall cell of prefix sums: ratios over float32 within one run; and what they do to the accuracy
and the residual of whole trainings, with the interval over seeds. At last the shares of a step's time by kinds of
operators.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deqrun.experiment.build import build_dataset, build_deq, build_optimizer
from deqrun.experiment.training.accumulation import accumulated
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.loading import shuffled
from deqrun.experiment.training.objective import Batch, forward
from deqrun.experiment.training.starts import Starts
from deqrun.experiment.training.steps import Stepping, compiled
from deqrun.experiment.training.train import learning_rate_factor
from deqrun.inference import shares_of_seeds
from deqrun.models import DEQ
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord
from deqrun.settings import Settings, load_settings
from deqrun.settings.sources import open_sources

try:
    import torchdeq
    from torchdeq.loss import jac_reg
except ImportError:  # its rows are left out
    torchdeq = None

CPU = torch.device("cpu")


class Trainer:
    """One way to train: `objective` of a batch, with its graph, and `answers` to inputs."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.train = settings, settings.train
        self.dataset = build_dataset(settings)
        torch.manual_seed(settings.seed)
        self.deq = build_deq(settings, self.dataset)
        self.data, self.validation = self.dataset.load("train"), self.dataset.load("validation")
        self.optimizer = build_optimizer(settings, self.deq)
        self.steps = math.ceil(len(self.data) / self.train.batch_size)
        factor = learning_rate_factor(self.train, self.steps * (self.train.epochs or 0))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.count = 0

    def backward(self, batch: Batch, draws: Draws) -> None:
        """Gradients of the batch's objective."""
        with self.deq.cell.fixed_weights():
            self.objective(batch, draws).backward()

    def objective(self, batch: Batch, draws: Draws) -> Tensor:
        raise NotImplementedError

    def answers(self, x: Tensor) -> Tensor:
        return self.deq(x)[0]

    def epoch(self, number: int) -> float:
        """Train for one epoch; its processor time."""
        self.deq.train()
        draws = Draws.of_epoch(self.settings.seed, number, CPU)
        batches = shuffled(len(self.data), self.train.batch_size, draws.order)
        began = time.process_time()
        for index in batches:
            self.count += 1
            self.optimizer.zero_grad(set_to_none=True)
            self.backward(self.batch(index), draws)
            torch.nn.utils.clip_grad_norm_(self.deq.parameters(), self.train.clip_norm or math.inf)
            self.optimizer.step()
            self.schedule.step()
        return time.process_time() - began

    def batch(self, index: Tensor) -> Batch:
        return Batch(self.dataset.encode(self.data.inputs[index]), self.data.targets[index], index)

    @torch.no_grad()
    def accuracy(self) -> float:
        """On the validation digits."""
        self.deq.eval()
        logits = self.answers(self.dataset.encode(self.validation.inputs[:]))
        return float(self.dataset.correct(logits, self.validation.targets).double().mean())

    def kept(self) -> int:
        """Bytes that a step keeps for its backward pass, each storage once."""
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        self.deq.train()
        draws = Draws.of_epoch(self.settings.seed, 1, CPU)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), self.deq.cell.fixed_weights():
            self.objective(self.batch(torch.arange(self.train.batch_size)), draws)
        return sum(sizes.values())


class Ours(Trainer):
    """deqrun's own step."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.starts = Starts(self.train.start, self.train.start_scale, len(self.data))
        self.stepping = Stepping("float32", CPU)

    def backward(self, batch: Batch, draws: Draws) -> None:
        accumulated(forward, self.deq, self.dataset, batch, self.train, self.count, draws, self.starts, self.stepping)

    def objective(self, batch: Batch, draws: Draws) -> Tensor:
        return forward(self.deq, self.dataset, batch, self.train, 1, draws, self.starts).objective


class Theirs(Trainer):
    """torchdeq's solver and gradient around the same cell."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        own = settings.gradient.parameters["budget"].parameters
        self.core = torchdeq.get_deq(
            ift=True,
            f_solver="anderson",
            b_solver="anderson",
            f_max_iter=settings.budget.max_iter,
            b_max_iter=own["max_iter"],
            f_tol=settings.budget.tol,
            b_tol=own["tol"],
            f_stop_mode="rel",
            b_stop_mode="rel",
            m=6,
        )

    def objective(self, batch: Batch, draws: Draws) -> Tensor:
        f = self.deq.bind(batch.x)
        self.core.train()
        states, _ = self.core(f, self.deq.start(f))
        loss = self.dataset.loss(self.deq.cell.readout(states[-1]), batch.y).mean()
        if float(torch.rand((), generator=draws.probes)) < self.train.jacobian_frequency:
            z = states[-1].detach().requires_grad_()
            loss = loss + self.train.jacobian_weight * jac_reg(f(z), z)
        return loss

    def answers(self, x: Tensor) -> Tensor:
        self.core.eval()
        with self.deq.cell.fixed_weights():
            f = self.deq.bind(x)
            states, _ = self.core(f, self.deq.start(f))
            return self.deq.cell.readout(states[-1])


def after_iterations(deq: DEQ, x: Tensor, iterations: int) -> Tensor:
    """Answers after plain iterations from the cell's start."""
    f = deq.bind(x)
    z = deq.start(f)
    for _ in range(iterations):
        z = f(z)
    return deq.cell.readout(z)


class TheirsWarmed(Theirs):
    """torchdeq's after the recipe's first steps through few iterations."""

    def objective(self, batch: Batch, draws: Draws) -> Tensor:
        if not 0 < self.count <= self.train.unrolled_warmup_steps:
            return super().objective(batch, draws)
        logits = after_iterations(self.deq, batch.x, self.train.unrolled_depth)
        return self.dataset.loss(logits, batch.y).mean()


class Unrolled(Trainer):
    """Twelve plain iterations, back-propagated through."""

    ITERATIONS = 12

    def objective(self, batch: Batch, draws: Draws) -> Tensor:
        return self.dataset.loss(after_iterations(self.deq, batch.x, self.ITERATIONS), batch.y).mean()

    def answers(self, x: Tensor) -> Tensor:
        with self.deq.cell.fixed_weights():
            return after_iterations(self.deq, x, self.ITERATIONS)


def until(trainer: Trainer, target: float) -> tuple[float, int]:
    """(processor time, epochs) to the target; inf where the epochs end before."""
    spent, epochs = 0.0, trainer.train.epochs or 0
    for epoch in range(1, epochs + 1):
        spent += trainer.epoch(epoch)
        if trainer.accuracy() >= target:
            return spent, epoch
    return math.inf, epochs


def composed(*overrides: str) -> Settings:
    with open_sources() as sources:
        return load_settings(sources.compose("train", list(overrides)))


def race(seeds: Sequence[int], target: float) -> None:
    """The four ways, seed by seed."""
    ways: dict[str, type[Trainer]] = {"deqrun": Ours, "bptt": Unrolled}
    if torchdeq is not None:
        ways |= {"torchdeq": Theirs, "torchdeq, warmed": TheirsWarmed}
    ratios: dict[str, list[float]] = {name: [] for name in ways}
    for seed in seeds:
        found = {name: until(way(composed("study=demo", f"seed={seed}")), target) for name, way in ways.items()}
        for name, (seconds, epochs) in found.items():
            ratios[name].append(seconds / found["deqrun"][0])
            print(f"seed {seed}  {name:<16} {seconds:6.1f} s  {epochs:>2} epochs", flush=True)
    for name, way in ways.items():
        kept = way(composed("study=demo", "train.unrolled_warmup_steps=0")).kept() / 1e6
        middle = statistics.geometric_mean(ratios[name]) if all(map(math.isfinite, ratios[name])) else math.inf
        print(
            f"{name:<16} over deqrun {middle:.2f} [{min(ratios[name]):.2f}, {max(ratios[name]):.2f}] "
            f"({len(seeds)} seeds, least and largest)   kept for the backward pass {kept:.0f} MB"
        )


CASES: dict[str, list[str]] = {
    "demo, 1x8x8": ["study=demo", "train.unrolled_warmup_steps=0"],
    "MDEQ, 3x32x32": ["study=mdeq_cifar10", "train.batch_size=16", "train.unrolled_warmup_steps=0"],
    "prefix sums, 16 bits": ["study=prefix_sums"],
}
OPTIONS: dict[str, list[str]] = {
    "float32": [],
    "bfloat16": ["train.precision=bfloat16"],
    "compiled": ["train.compile=true"],
}


class Noise:
    """Training steps of a recipe on noise of its shape."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(0)
        self.settings, self.dataset = settings, build_dataset(settings)
        self.deq = build_deq(settings, self.dataset).train()
        self.stepping, self.optimizer = Stepping(settings.train.precision, CPU), build_optimizer(settings, self.deq)
        rows, shape = settings.train.batch_size, self.dataset.input_shape
        y = torch.randint(self.dataset.num_classes, (rows, *self.dataset.output_shape))
        self.batch = Batch(torch.randn(rows, *shape), y, torch.arange(rows))
        self.draws, self.starts = Draws.of_epoch(0, 1, CPU), Starts("zeros", 1.0, rows)
        self.count = 0

    def step(self) -> float:
        """One step; the median residual of its solves."""
        self.count += 1
        train = self.settings.train
        self.optimizer.zero_grad(set_to_none=True)
        made = accumulated(
            forward, self.deq, self.dataset, self.batch, train, self.count, self.draws, self.starts, self.stepping
        )
        norm = self.stepping.clip(self.optimizer, list(self.deq.parameters()), train.clip_norm)
        self.stepping.step(self.optimizer, norm)
        return float(made.solution.residual.median())


def step_seconds(settings: Settings, repeats: int) -> tuple[float, float]:
    """Median processor time of a training step, and the median residual of its solves."""
    noise, times, residual = Noise(settings), [], math.nan
    with compiled(noise.deq, settings.train.compile):
        for _ in range(repeats + 2):
            began = time.process_time()
            residual = noise.step()
            times.append(time.process_time() - began)
    return statistics.median(times[2:]), residual


GROUPS = {
    "convolutions": ("conv",),
    "norms": ("norm", "GroupNorm"),
    "small systems": ("bmm", "linalg", "cholesky", "triangular", "lu_", "_AtEquilibrium"),
    "optimizer": ("Optimizer",),
}


def profile(repeats: int) -> None:
    """Shares of the time of a training step, by kinds of operators."""
    for name, overrides in CASES.items():
        noise = Noise(composed(*overrides, "train.start=zeros"))
        noise.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            for _ in range(repeats):
                noise.step()
        events = found.key_averages()
        total = sum(event.self_cpu_time_total for event in events)
        shares = dict.fromkeys([*GROUPS, "rest"], 0.0)
        for event in events:
            kind = next((kind for kind, parts in GROUPS.items() if any(p in event.key for p in parts)), "rest")
            shares[kind] += event.self_cpu_time_total / total
        print(f"{name:<22} " + "  ".join(f"{kind} {share:.0%}" for kind, share in shares.items()), flush=True)


def options(repeats: int) -> None:
    """What each option does to a step."""
    for name, overrides in CASES.items():
        plain: float | None = None
        for option, more in OPTIONS.items():
            seconds, residual = step_seconds(composed(*overrides, "train.start=zeros", *more), repeats)
            plain = seconds if plain is None else plain
            print(f"{name:<22} {option:<9} {seconds / plain:5.2f} of float32   residual {residual:.1e}", flush=True)


TRAINED: dict[str, list[str]] = {
    "demo": ["study=demo", "train.epochs=20", "train.unrolled_warmup_steps=0"],
    "prefix sums, 32 channels, 5 epochs": ["study=prefix_sums", "train.epochs=5", "model.width=32"],
}


def accuracies(seeds: Sequence[int], home: Path) -> None:
    """What each option does to a whole training: test accuracy, and the median residual of the last epoch's solves."""
    print("| task | option | test accuracy, each seed | mean [95 % over seeds] | residual |\n|---|---|---|---|---|")
    for name, overrides in TRAINED.items():
        for option, more in OPTIONS.items():
            records = [trained([*overrides, *more], seed, home / f"{name}-{option}-{seed}") for seed in seeds]
            shares = [record.summary.test_accuracy or 0.0 for record in records]
            found = shares_of_seeds(shares, records[0].summary.n_test or 1)
            residuals = ", ".join(f"{record.epochs[-1].residual:.1e}" for record in records)
            print(
                f"| {name} | {option} | {', '.join(f'{100 * share:.1f}' for share in shares)} % "
                f"| {100 * found.mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}] % | {residuals} |",
                flush=True,
            )


def trained(overrides: Sequence[str], seed: int, folder: Path) -> RunRecord:
    """The run of these overrides; one that is there already is kept."""
    if not (folder / "summary.json").is_file():
        fixed = ["sweep=none", "report=false", "tracker=none", "threads=1"]
        words = ["train", f"run={folder}", f"seed={seed}", *fixed, *overrides]
        subprocess.run([sys.executable, "-m", "deqrun", *words], check=True, stdout=subprocess.DEVNULL)
    return read_run(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--target", type=float, default=0.98)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--only", choices=("race", "options", "accuracies", "profile"))
    parser.add_argument("--output", type=Path, default=Path("outputs/training_speed"), help="runs of --only accuracies")
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Any]] = {
        "race": lambda: race(given.seeds, given.target),
        "options": lambda: options(given.repeats),
        "accuracies": lambda: accuracies(given.seeds, given.output),
        "profile": lambda: profile(given.repeats),
    }
    for name, part in parts.items():
        if given.only in (None, name):
            part()


if __name__ == "__main__":
    main()
