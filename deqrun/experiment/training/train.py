"""Training a DEQ: one loop, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from deqrun.datasets import Dataset
from deqrun.errors import UserError
from deqrun.experiment.checkpoint import Checkpoint, as_rows, load_checkpoint, put_weights, save_checkpoint
from deqrun.experiment.data.changes import keep_record
from deqrun.experiment.evaluate import Evaluation, evaluate
from deqrun.experiment.trackers import Tracker
from deqrun.experiment.trained import require_last_is_best, require_state
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.loading import loaded, shuffled
from deqrun.experiment.training.meter import EpochMeter
from deqrun.experiment.training.objective import Batch, Forward, forward
from deqrun.experiment.training.starts import Starts
from deqrun.models import DEQ
from deqrun.records.reading import read_rows
from deqrun.records.rows import ROW_KINDS, Epoch, Step
from deqrun.records.writing import RunFolder
from deqrun.settings import TrainSettings


class TrainingStopped(UserError):  # noqa: N818  (it names what happened)
    """Training cannot go on; the sentence names the step, the solver's state, and a remedy."""


def train(
    deq: DEQ,
    dataset: Dataset,
    optimizer: Optimizer,
    settings: TrainSettings,
    seed: int,
    folder: RunFolder,
    tracker: Tracker,
    log_every: int | None = None,
) -> Checkpoint:
    """Train `deq` to `settings.epochs`, going on from the folder's last checkpoint if there is one.

    log_every  steps of an epoch between two rows of steps.jsonl; None: no such rows

    After each epoch: validation, a row of train.jsonl, checkpoints `last` and, where validation accuracy is the
    highest yet (ties: the lower loss), `best`. Returns the last checkpoint.
    Raises TrainingStopped where the loss or the gradient is no longer finite.
    """
    # Data and schedule, then the state to begin from: the last checkpoint's, or the initial one.
    device = next(deq.parameters()).device
    data, validation = dataset.load("train"), dataset.load("validation")
    steps_per_epoch = math.ceil(len(data) / settings.batch_size)
    schedule = LambdaLR(optimizer, _learning_rate_factor(settings, steps_per_epoch * settings.epochs))
    keep_record(folder.path, dataset)
    starts = Starts(settings.start, settings.start_scale, len(data))
    done = _resume(deq, optimizer, schedule, starts, folder)
    rows = [Epoch(**row) for row in done.epochs]
    if rows:  # the checkpoint's: a row that the file lost, as by a full disk, is written again
        folder.write_rows("epochs", rows)
    steps = [row for row in _kept_steps(folder) if row.step <= done.step]
    _tell_again(steps, rows, tracker)
    for epoch in range(done.epoch + 1, settings.epochs + 1):
        # Every draw of an epoch comes from (seed, epoch, purpose): a resumed run repeats it without stored generators.
        began = time.perf_counter()
        draws = Draws.of_epoch(seed, epoch, device)
        meter, step = EpochMeter(), done.step
        deq.train()
        batches = shuffled(len(data), settings.batch_size, draws.order)
        bar = tqdm(
            loaded(data, batches, device, workers=settings.workers, pin_memory=settings.pin_memory),
            total=steps_per_epoch,
            desc=f"epoch {epoch}/{settings.epochs}",
            leave=False,
            dynamic_ncols=True,
            disable=None,
        )
        # One step a batch: solve, back-propagate, clip, and stop at once where a number is lost.
        for x, y, index in bar:
            step += 1
            optimizer.zero_grad(set_to_none=True)
            with deq.cell.fixed_weights():  # around the backward pass, too: checkpointed iterations run again in it
                x = dataset.augment(dataset.encode(x), draws.augment)
                made = forward(deq, dataset, Batch(x, y, index), settings, step, draws, starts)
                made.objective.backward()
            norm = torch.nn.utils.clip_grad_norm_(deq.parameters(), settings.clip_norm or math.inf)
            _stop_unless_finite(made, norm, x, step, epoch)
            optimizer.step()
            schedule.step()
            meter.add(made, norm)
            meter.show(bar)
            if log_every is not None and (step - done.step) % log_every == 0:
                steps.append(meter.step(step, float(schedule.get_last_lr()[0])))
                tracker.log_step(steps[-1])

        # Validate, and take the checkpoint that is best so far: higher accuracy, or the lower loss at the same.
        held_out = evaluate(deq, dataset, validation, settings.eval_batch_size, device)
        seconds = time.perf_counter() - began
        row = meter.epoch(epoch, step, held_out, float(schedule.get_last_lr()[0]), seconds)
        rows.append(row)
        better = (held_out.accuracy, -held_out.mean_loss) > (done.best_accuracy, -done.best_loss)
        done = _advance(done, deq, optimizer, schedule, starts, rows, held_out if better else None, seconds)

        # Records before checkpoints before status: a kill in between costs the epoch, and never the record's order.
        folder.write_rows("epochs", rows)
        if steps:
            folder.write_rows("steps", steps)
        if better:
            save_checkpoint(folder.checkpoints / "best.pt", replace(done, starts={}))
        save_checkpoint(folder.checkpoints / "last.pt", done)
        folder.write_status("running", epoch=epoch)
        tracker.log_epoch(row)
        tqdm.write(_epoch_line(row, settings.epochs, better))
    return done


def _kept_steps(folder: RunFolder) -> list[Step]:
    """The rows of steps.jsonl; none where the file is missing or damaged, since no number rests on them."""
    try:
        return list(read_rows(folder.path / ROW_KINDS["steps"].file, Step))
    except ValueError:
        return []


def _tell_again(steps: list[Step], epochs: list[Epoch], tracker: Tracker) -> None:
    """Tell the tracker of a resumed run the rows of its earlier part, in their order."""
    told = 0
    for epoch in epochs:
        while told < len(steps) and epoch.step is not None and steps[told].step <= epoch.step:
            tracker.log_step(steps[told])
            told += 1
        tracker.log_epoch(epoch)


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


def _resume(deq: DEQ, optimizer: Optimizer, schedule: LambdaLR, starts: Starts, folder: RunFolder) -> Checkpoint:
    """The folder's last checkpoint, put in place; where there is none, the state before the first epoch."""
    path = folder.checkpoints / "last.pt"
    if not path.exists():
        return Checkpoint(deq.state_dict(), {}, {}, 0, 0, 0, -1.0, math.inf, 0.0, [])
    done = load_checkpoint(path, next(deq.parameters()).device)
    put_weights(deq, done, path)
    require_state(done, optimizer, path)
    best = folder.checkpoints / "best.pt"
    if done.epoch and not best.is_file():
        require_last_is_best(done, folder.path)
        save_checkpoint(best, replace(done, starts={}))
    schedule.load_state_dict(done.schedule)
    starts.load_state_dict(done.starts)
    return done


def _advance(
    done: Checkpoint,
    deq: DEQ,
    optimizer: Optimizer,
    schedule: LambdaLR,
    starts: Starts,
    rows: list[Epoch],
    best: Evaluation | None,
    seconds: float,
) -> Checkpoint:
    """The checkpoint after one more epoch; `best` is its evaluation where it is the best yet."""
    after = replace(
        done,
        model=deq.state_dict(),
        optimizer=optimizer.state_dict(),
        schedule=schedule.state_dict(),
        epoch=rows[-1].epoch,
        step=rows[-1].step or 0,
        seconds=done.seconds + seconds,
        epochs=as_rows(rows),
        starts=starts.state_dict(),
    )
    if best is not None:
        after.best_epoch, after.best_accuracy, after.best_loss = after.epoch, best.accuracy, best.mean_loss
    return after


def _stop_unless_finite(made: Forward, norm: Tensor, x: Tensor, step: int, epoch: int) -> None:
    # One look, and one wait on an accelerator.
    finite = made.objective.detach().isfinite()
    if bool(finite & norm.detach().isfinite()):
        return
    if not bool(x.isfinite().all()):
        raise UserError(
            f"The inputs of step {step} (epoch {epoch}) are not finite, so that no loss can be; put the data right: "
            "deqrun check dataset=… says which sample it is."
        )
    adjoint = f"; its adjoint: {made.solution.adjoint.summary()}" if made.solution.adjoint else ""
    raise TrainingStopped(
        f"The {'gradient' if bool(finite) else 'loss'} is not finite at step {step} (epoch {epoch}); "
        f"the forward solve: {made.solution.summary()}{adjoint}. "
        f"Try a lower optimizer.lr, a higher train.jacobian_weight, or a larger budget.max_iter."
    )


def _epoch_line(row: Epoch, epochs: int, better: bool) -> str:
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.loss:.3f}  train {row.train_accuracy:.1%}  "
        f"val {row.val_accuracy:.1%}{'*' if better else ' '}  nfe {row.nfe:.0f}  residual {row.residual:.0e}  "
        f"converged {row.converged:.0%}"
    )
