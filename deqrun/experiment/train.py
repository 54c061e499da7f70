"""Training a DEQ: one loop, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from deqrun.datasets import Dataset, Split
from deqrun.experiment.checkpoint import Checkpoint, as_rows, load_checkpoint, save_checkpoint
from deqrun.experiment.evaluate import Evaluation, evaluate
from deqrun.experiment.meter import EpochMeter
from deqrun.experiment.records import RunFolder
from deqrun.experiment.seeding import derived_seed, generator
from deqrun.experiment.trackers import Tracker
from deqrun.gradients import Unrolled, jacobian_penalty
from deqrun.models import DEQ
from deqrun.report.records import Epoch
from deqrun.settings import TrainSettings, UserError
from deqrun.solvers import Solution

ORDER, NOISE, PROBE, AUGMENT = range(4)  # purposes of the seeds drawn per epoch


class TrainingStopped(UserError):  # noqa: N818  (it names what happened)
    """Training cannot go on; the sentence says at which step, what the solver did, and what may help."""


def train(
    deq: DEQ,
    dataset: Dataset,
    optimizer: Optimizer,
    settings: TrainSettings,
    seed: int,
    folder: RunFolder,
    tracker: Tracker,
) -> Checkpoint:
    """Train `deq` to `settings.epochs`, going on from the folder's last checkpoint if there is one.

    After each epoch: validation, a row of train.jsonl, checkpoints `last` and, where validation accuracy is the
    highest yet (ties: the lower loss), `best`. Returns the last checkpoint.
    Raises TrainingStopped where the loss or the gradient is no longer finite.
    """
    device = next(deq.parameters()).device
    data, validation = dataset.load("train"), dataset.load("validation")
    steps_per_epoch = math.ceil(len(data) / settings.batch_size)
    schedule = LambdaLR(optimizer, _learning_rate_factor(settings, steps_per_epoch * settings.epochs))
    done = _resume(deq, optimizer, schedule, folder)
    rows = [Epoch(**row) for row in done.epochs]
    for epoch in range(done.epoch + 1, settings.epochs + 1):
        began = time.perf_counter()
        torch.manual_seed(derived_seed(seed, epoch, NOISE))
        probes = torch.Generator(device).manual_seed(derived_seed(seed, epoch, PROBE))
        changes = torch.Generator(device).manual_seed(derived_seed(seed, epoch, AUGMENT))
        meter, step = EpochMeter(), done.step
        deq.train()
        bar = tqdm(
            _shuffled(data, settings.batch_size, generator(seed, epoch, ORDER)),
            total=steps_per_epoch, desc=f"epoch {epoch}/{settings.epochs}",
            leave=False, dynamic_ncols=True, disable=None,
        )  # fmt: skip
        for x, y in bar:
            step += 1
            optimizer.zero_grad(set_to_none=True)
            with deq.cell.fixed_weights():  # around the backward pass, too: checkpointed iterations run again in it
                x = dataset.augment(dataset.encode(x.to(device)), changes)
                made = _forward(deq, dataset, x, y.to(device), settings, step, probes)
                made.objective.backward()
            norm = torch.nn.utils.clip_grad_norm_(deq.parameters(), settings.clip_norm or math.inf)
            _stop_unless_finite(made, norm, step, epoch)
            optimizer.step()
            schedule.step()
            meter.add(made.loss, made.correct, made.solution, made.penalty, norm)
            bar.set_postfix_str(meter.line(), refresh=False)
        held_out = evaluate(deq, dataset, validation, settings.eval_batch_size, device)
        seconds = time.perf_counter() - began
        row = meter.epoch(epoch, step, held_out, float(schedule.get_last_lr()[0]), seconds)
        rows.append(row)
        better = (held_out.accuracy, -held_out.mean_loss) > (done.best_accuracy, -done.best_loss)
        done = _advance(done, deq, optimizer, schedule, rows, held_out if better else None, seconds)
        folder.write_epochs(rows)
        if better:
            save_checkpoint(folder.checkpoints / "best.pt", done)
        save_checkpoint(folder.checkpoints / "last.pt", done)
        folder.write_status("running", epoch=epoch)
        tracker.log_epoch(row)
        tqdm.write(_epoch_line(row, settings.epochs, better))
    return done


class _Forward(NamedTuple):
    """One training step before its backward pass: objective = loss + weight · penalty."""

    objective: Tensor
    loss: Tensor
    correct: Tensor
    solution: Solution
    penalty: Tensor | None


def _forward(
    deq: DEQ, dataset: Dataset, x: Tensor, y: Tensor, settings: TrainSettings, step: int, probes: torch.Generator
) -> _Forward:
    warming_up = step <= settings.unrolled_warmup_steps
    gradient = Unrolled(settings.unrolled_depth) if warming_up else None
    penalty = None
    f = deq.bind(x)
    z, solution = deq.settle(f, deq.start(x), gradient)
    if settings.jacobian_weight > 0 and _due(settings.jacobian_frequency, probes):
        penalty = jacobian_penalty(f, z, probes)
    logits = deq.cell.readout(z)
    loss = dataset.loss(logits, y).mean()
    objective = loss if penalty is None else loss + settings.jacobian_weight * penalty
    return _Forward(objective, loss.detach(), dataset.correct(logits, y), solution, penalty)


def _due(frequency: float, probes: torch.Generator) -> bool:
    return frequency >= 1 or float(torch.rand((), generator=probes, device=probes.device)) < frequency


def _shuffled(data: Split, batch_size: int, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    permutation = torch.randperm(len(data), generator=order)
    for index in permutation.split(batch_size):
        yield data.inputs[index], data.targets[index]


def _learning_rate_factor(settings: TrainSettings, total: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear over the warm-up, then half a cosine to 0, or constant."""
    warm_up = max(1, round(settings.warmup_fraction * total))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        if settings.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))

    return factor


def _resume(deq: DEQ, optimizer: Optimizer, schedule: LambdaLR, folder: RunFolder) -> Checkpoint:
    """The folder's last checkpoint, put in place; where there is none, the state before the first epoch."""
    path = folder.checkpoints / "last.pt"
    if not path.exists():
        return Checkpoint(deq.state_dict(), {}, {}, 0, 0, 0, -1.0, math.inf, 0.0, [])
    done = load_checkpoint(path, next(deq.parameters()).device)
    deq.load_state_dict(done.model)
    optimizer.load_state_dict(done.optimizer)
    schedule.load_state_dict(done.schedule)
    return done


def _advance(
    done: Checkpoint, deq: DEQ, optimizer: Optimizer, schedule: LambdaLR, rows: list[Epoch],
    best: Evaluation | None, seconds: float,
) -> Checkpoint:  # fmt: skip
    """The checkpoint after one more epoch; `best` is its evaluation where it is the best yet."""
    after = replace(
        done, model=deq.state_dict(), optimizer=optimizer.state_dict(), schedule=schedule.state_dict(),
        epoch=rows[-1].epoch, step=rows[-1].step or 0, seconds=done.seconds + seconds, epochs=as_rows(rows),
    )  # fmt: skip
    if best is not None:
        after.best_epoch, after.best_accuracy, after.best_loss = after.epoch, best.accuracy, best.mean_loss
    return after


def _stop_unless_finite(made: _Forward, norm: Tensor, step: int, epoch: int) -> None:
    objective_finite, norm_finite = math.isfinite(float(made.objective.detach())), math.isfinite(float(norm))
    if objective_finite and norm_finite:
        return
    adjoint = f"; its adjoint: {made.solution.adjoint.summary()}" if made.solution.adjoint else ""
    raise TrainingStopped(
        f"The {'gradient' if objective_finite else 'loss'} is not finite at step {step} (epoch {epoch}); "
        f"the forward solve: {made.solution.summary()}{adjoint}. "
        f"Try a lower optimizer.lr, a higher train.jacobian_weight, or a larger budget.max_iter."
    )


def _epoch_line(row: Epoch, epochs: int, better: bool) -> str:
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.loss:.3f}  train {row.train_accuracy:.1%}  "
        f"val {row.val_accuracy:.1%}{'*' if better else ' '}  nfe {row.nfe:.0f}  residual {row.residual:.0e}"
    )
