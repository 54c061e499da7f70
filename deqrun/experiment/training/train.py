"""Training a DEQ: one loop, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from deqrun.datasets import Dataset
from deqrun.errors import UserError
from deqrun.experiment.checkpoint import Checkpoint, as_rows, keep_epoch, load_checkpoint, put_weights, save_checkpoint
from deqrun.experiment.data.changes import keep_record
from deqrun.experiment.evaluate import Evaluation, evaluate
from deqrun.experiment.trackers import Tracker
from deqrun.experiment.trained import require_last_is_best, require_state
from deqrun.experiment.training.accumulation import accumulated
from deqrun.experiment.training.averaging import WeightAverage
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.loading import loaded, shuffled
from deqrun.experiment.training.meter import EpochMeter
from deqrun.experiment.training.objective import Batch, Forward, forward
from deqrun.experiment.training.pace import ROWS_EVERY, Pace
from deqrun.experiment.training.starts import Starts
from deqrun.models import DEQ
from deqrun.records.reading import read_rows
from deqrun.records.rows import ROW_KINDS, Epoch, Step
from deqrun.records.signals import held
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
) -> Checkpoint:
    """Train `deq` to `settings.steps` or `settings.epochs`, going on from the folder's last checkpoint if there is one.

    After each epoch, the last one of a number of steps included: validation, a row of train.jsonl, checkpoints `last`
    and, where validation accuracy is the highest yet (ties: the lower loss), `best`. Within an epoch `last` is written
    every `settings.checkpoint_minutes`. A signal that ends the run lets the step under way finish, and writes `last`.
    Returns the last checkpoint.
    Raises TrainingStopped where the loss or the gradient is no longer finite, KeyboardInterrupt after a signal.
    """
    # Data and schedule, then the state to begin from: the last checkpoint's, or the initial one.
    device = next(deq.parameters()).device
    data, validation = dataset.load("train"), dataset.load("validation")
    length = _Length.of(settings, len(data))
    schedule = LambdaLR(optimizer, _learning_rate_factor(settings, length.steps))
    keep_record(folder.path, dataset)
    starts = Starts(settings.start, settings.start_scale, len(data))
    average = None if settings.ema is None else WeightAverage(settings.ema, deq)
    tested = average.applied if average else nullcontext
    done = _resume(deq, optimizer, schedule, starts, average, folder)
    rows = [Epoch(**row) for row in done.epochs]
    if rows:  # the checkpoint's: a row that the file lost, as by a full disk, is written again
        folder.write_rows("epochs", rows)
    steps = [row for row in _kept_steps(folder) if row.step <= done.step]
    _tell_again(steps, rows, tracker)
    writes, saves = Pace(ROWS_EVERY, share=0.01), Pace.of_minutes(settings.checkpoint_minutes)

    def reached(done: Checkpoint, step: int, within: dict[str, Any]) -> Checkpoint:
        """The checkpoint of this very moment."""
        state = replace(done, model=deq.state_dict(), optimizer=optimizer.state_dict(), schedule=schedule.state_dict())
        return replace(
            state, starts=starts.state_dict(), step=step, within=within, ema=average.state_dict() if average else {}
        )

    with held() as stop:  # a signal is noted, and looked for after each step
        for epoch in range(done.epoch + 1, length.epochs + 1):
            # Every draw of an epoch comes from (seed, epoch, purpose). A run that stopped within it takes the states of
            # the generators, the running figures, and the batches that are left.
            draws, meter = Draws.of_epoch(seed, epoch, device), EpochMeter()
            batches = length.batches(epoch, shuffled(len(data), settings.batch_size, draws.order))
            taken, spent = _within(done, draws, meter)
            began, step = time.perf_counter() - spent, done.step
            deq.train()
            bar = tqdm(
                loaded(data, batches[taken:], device, workers=settings.workers, pin_memory=settings.pin_memory),
                total=len(batches),
                initial=taken,
                desc=f"epoch {epoch}/{length.epochs}",
                leave=False,
                dynamic_ncols=True,
                disable=None,
            )
            # One step a batch, whole or in parts: solve, back-propagate, clip, and stop at once where a number is lost.
            for x, y, index in bar:
                step, taken = step + 1, taken + 1
                optimizer.zero_grad(set_to_none=True)
                x = dataset.augment(dataset.encode(x), draws.augment)
                made = accumulated(forward, deq, dataset, Batch(x, y, index), settings, step, draws, starts)
                norm = torch.nn.utils.clip_grad_norm_(deq.parameters(), settings.clip_norm or math.inf)
                _stop_unless_finite(made, norm, x, step, epoch)
                optimizer.step()
                schedule.step()
                if average is not None:
                    average.update(step)
                meter.add(made, norm)
                bar.set_postfix_str(meter.line(), refresh=False)
                if settings.log_every is not None and step % settings.log_every == 0:
                    steps.append(meter.step(step, float(schedule.get_last_lr()[0])))
                    tracker.log_step(steps[-1])
                    if writes.due():
                        with writes.timed():
                            folder.write_rows("steps", steps)
                # A checkpoint within the epoch: now and then, and where a signal asks for the end. Rows come first, so
                # that none of a step that is done is missing.
                if stop.requested or (saves.due() and taken < len(batches)):
                    with saves.timed():
                        within = _state_within(taken, time.perf_counter() - began, draws, meter)
                        _keep(folder, steps, reached(done, step, within))
                    stop.check()

            # Validate, the averages where there are any; a signal leaves a checkpoint at the end of the epoch's steps.
            try:
                with tested():
                    held_out = evaluate(deq, dataset, validation, settings.eval_batch_size, device, between=stop.check)
            except KeyboardInterrupt:
                within = _state_within(taken, time.perf_counter() - began, draws, meter)
                _keep(folder, steps, reached(done, step, within))
                raise
            # Take the checkpoint that is best so far: higher accuracy, or the lower loss at the same.
            seconds = time.perf_counter() - began
            row = meter.epoch(epoch, step, held_out, float(schedule.get_last_lr()[0]), seconds)
            rows.append(row)
            better = (held_out.accuracy, -held_out.mean_loss) > (done.best_accuracy, -done.best_loss)
            done = _advance(reached(done, step, {}), rows, held_out if better else None, seconds)

            # Records before checkpoints before status: a kill in between costs the epoch, and never the records' order.
            folder.write_rows("epochs", rows)
            if steps:
                folder.write_rows("steps", steps)
            if better:
                save_checkpoint(folder.checkpoints / "best.pt", done.best())
            keep_epoch(folder.checkpoints, done, settings.keep_last)
            save_checkpoint(folder.checkpoints / "last.pt", done)
            saves.restart()
            folder.write_status("running", epoch=epoch)
            tracker.log_epoch(row)
            tqdm.write(_epoch_line(row, length.epochs, better))
            stop.check()
    return done


@dataclass(frozen=True)
class _Length:
    """How long training is, in steps, and how they fall into epochs."""

    steps: int
    per_epoch: int

    @classmethod
    def of(cls, settings: TrainSettings, samples: int) -> _Length:
        per_epoch = math.ceil(samples / settings.batch_size)
        return cls(settings.steps or per_epoch * settings.epochs, per_epoch)

    @property
    def epochs(self) -> int:
        """Epochs that are begun."""
        return math.ceil(self.steps / self.per_epoch)

    def batches(self, epoch: int, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """The batches of an epoch that belong to it: all but in the last epoch, which a number of steps may cut."""
        return batches[: self.steps - (epoch - 1) * self.per_epoch]


def _within(done: Checkpoint, draws: Draws, meter: EpochMeter) -> tuple[int, float]:
    """Steps done in the epoch that begins or goes on, and their seconds; generators and figures are put in place."""
    if not done.within:
        return 0, 0.0
    draws.load_state_dict(done.within["draws"])
    meter.load_state_dict(done.within["meter"])
    return int(done.within["steps"]), float(done.within["seconds"])


def _state_within(taken: int, seconds: float, draws: Draws, meter: EpochMeter) -> dict[str, Any]:
    """`Checkpoint.within`, from which `_within` goes on."""
    return {"steps": taken, "seconds": seconds, "draws": draws.state_dict(), "meter": meter.state_dict()}


def _keep(folder: RunFolder, steps: list[Step], done: Checkpoint) -> None:
    """Write the rows within the epoch, then the checkpoint."""
    if steps:
        folder.write_rows("steps", steps)
    save_checkpoint(folder.checkpoints / "last.pt", done)


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
    for step in steps[told:]:
        tracker.log_step(step)


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


def _resume(
    deq: DEQ, optimizer: Optimizer, schedule: LambdaLR, starts: Starts, average: WeightAverage | None, folder: RunFolder
) -> Checkpoint:
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
        save_checkpoint(best, done.best())
    schedule.load_state_dict(done.schedule)
    starts.load_state_dict(done.starts)
    if average is not None:
        average.load_state_dict(done.ema)
    return done


def _advance(reached: Checkpoint, rows: list[Epoch], best: Evaluation | None, seconds: float) -> Checkpoint:
    """The checkpoint after one more epoch; `best` is its evaluation where it is the best yet."""
    after = replace(reached, epoch=rows[-1].epoch, seconds=reached.seconds + seconds, epochs=as_rows(rows))
    if best is not None:
        after.best_epoch, after.best_accuracy, after.best_loss = after.epoch, best.accuracy, best.mean_loss
    return after


def _stop_unless_finite(made: Forward, norm: Tensor, x: Tensor, step: int, epoch: int) -> None:
    objective_finite, norm_finite = math.isfinite(float(made.objective.detach())), math.isfinite(float(norm))
    if objective_finite and norm_finite:
        return
    if not bool(x.isfinite().all()):
        raise UserError(
            f"The inputs of step {step} (epoch {epoch}) are not finite, so that no loss can be; put the data right: "
            "deqrun check dataset=… says which sample it is."
        )
    adjoint = f"; its adjoint: {made.solution.adjoint.summary()}" if made.solution.adjoint else ""
    raise TrainingStopped(
        f"The {'gradient' if objective_finite else 'loss'} is not finite at step {step} (epoch {epoch}); "
        f"the forward solve: {made.solution.summary()}{adjoint}. "
        f"Try a lower optimizer.lr, a higher train.jacobian_weight, or a larger budget.max_iter."
    )


def _epoch_line(row: Epoch, epochs: int, better: bool) -> str:
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.loss:.3f}  train {row.train_accuracy:.1%}  "
        f"val {row.val_accuracy:.1%}{'*' if better else ' '}  nfe {row.nfe:.0f}  residual {row.residual:.0e}  "
        f"converged {row.converged:.0%}"
    )
