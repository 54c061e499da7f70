"""Training a DEQ: one loop, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from deqrun.datasets import Dataset
from deqrun.errors import UserError
from deqrun.experiment import ranks
from deqrun.experiment.checkpoint import Checkpoint, keep_epoch, load_checkpoint, put_weights, save_checkpoint
from deqrun.experiment.data.changes import keep_record
from deqrun.experiment.evaluate import Evaluation, evaluate
from deqrun.experiment.precision import dtypes_of, narrow, widen
from deqrun.experiment.trackers import Tracker
from deqrun.experiment.trained import require_last_is_best, require_state
from deqrun.experiment.training.accumulation import accumulated
from deqrun.experiment.training.averaging import WeightAverage
from deqrun.experiment.training.draws import Draws
from deqrun.experiment.training.evaluations import Evaluations
from deqrun.experiment.training.loading import Loaded, shuffled
from deqrun.experiment.training.meter import EpochMeter
from deqrun.experiment.training.objective import Batch, Forward, forward
from deqrun.experiment.training.pace import ROWS_EVERY, Pace
from deqrun.experiment.training.segments import in_segments
from deqrun.experiment.training.starts import Starts
from deqrun.experiment.training.steps import Stepping, compiled
from deqrun.models import DEQ
from deqrun.records.reading import read_rows
from deqrun.records.rows import ROW_KINDS, BudgetEvaluation, Epoch, Step
from deqrun.records.signals import Stop, held
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

    With neither, the weights stay as they are, and their validation accuracy is taken.

    After each epoch, the last one of a number of steps included: validation, a row of train.jsonl, checkpoints `last`
    and, where validation accuracy is the highest yet (ties: the lower loss), `best`. Within an epoch `last` is written
    every `settings.checkpoint_minutes`. A signal that ends the run lets the step under way finish, and writes `last`.
    A step is a batch; with `settings.segments` above 1 it has several optimizer steps (`in_segments`).
    Several ranks train as one process would, up to the order of summation; the first of them writes.
    Returns the last checkpoint.
    Raises TrainingStopped where the loss or the gradient is no longer finite, KeyboardInterrupt after a signal.
    """
    # Data and schedule, then the state to begin from: the last checkpoint's, or the initial one.
    device = next(deq.parameters()).device
    dtypes = dtypes_of(deq)
    widen(deq, settings.precision)
    data, validation = dataset.load("train"), dataset.load("validation")
    length = _Length.of(settings, len(data))
    schedule = LambdaLR(optimizer, learning_rate_factor(settings, length.steps))
    if folder.writes:
        keep_record(folder.path, dataset)
    # Parts with a state of their own, which a checkpoint holds beside the weights.
    starts = Starts(settings.start, settings.start_scale, len(data))
    average = None if settings.ema is None else WeightAverage(settings.ema, deq)
    stepping, weights = Stepping(settings.precision, device, tf32=settings.tf32), list(deq.parameters())
    # Go on from the last checkpoint: its rows are written again, and the tracker is told again.
    done = _resume(deq, optimizer, schedule, starts, average, stepping, folder, dtypes)
    rows = [Epoch(**row) for row in done.epochs]
    if rows:  # the checkpoint's: a row that the file lost, as by a full disk, is written again
        folder.write_rows("epochs", rows)
    steps: list[Step] = _kept(folder, "steps", done.step)
    evaluations = Evaluations(settings, _kept(folder, "evaluations", done.step), length.steps, folder, tracker)
    _tell_again(steps, evaluations.rows, rows, tracker)
    writes, saves = Pace(ROWS_EVERY, share=0.01), Pace(60 * (settings.checkpoint_minutes or math.inf))

    def reached(step: int, within: dict[str, Any]) -> Checkpoint:
        """The checkpoint of this very moment."""
        state = replace(done, model=deq.state_dict(), optimizer=optimizer.state_dict(), schedule=schedule.state_dict())
        ema = average.state_dict() if average else {}
        return replace(
            state, starts=starts.state_dict(), step=step, within=within, ema=ema, stepping=stepping.state_dict()
        )

    def save(step: int, now: _Underway) -> None:
        """Write a checkpoint within the epoch, the rows first, so that none of a step that is done is missing."""
        with saves.timed():
            if steps:
                folder.write_rows("steps", steps)
            # Ranks put their parts together before the first one writes.
            starts.share()
            checkpoint = reached(step, now.state())
            if folder.writes:
                save_checkpoint(folder.checkpoints / "last.pt", checkpoint)
            ranks.wait()  # whoever ends now may end the others, too

    @contextmanager
    def looking(step: int, now: _Underway) -> Iterator[None]:
        """Within, the weights that are tested are looked at; a signal ends it, and the run goes on from here."""
        try:
            with average.applied() if average else nullcontext():
                yield
        except KeyboardInterrupt:
            save(step, now)
            raise

    def evaluate_if_due(step: int, now: _Underway, *, ends_epoch: bool = False) -> None:
        """Evaluate at the budgets of `eval_iterations`, where that is due and not done."""
        if evaluations.due(step, ends_epoch=ends_epoch):
            with looking(step, now):
                evaluations.make(deq, dataset, validation, step, now.epoch, stop.check)

    def optimizer_step(step: int, now: _Underway, batch: Batch) -> tuple[Forward, Tensor]:
        """Solve, whole or in parts, back-propagate, clip, and stop at once where a number is lost; then move."""
        optimizer.zero_grad(set_to_none=True)
        # The gradient of the whole batch, whether it is worked on at once, in parts, or by several ranks.
        made = accumulated(forward, deq, dataset, batch, settings, step, now.draws, starts, stepping)
        norm = stepping.clip(optimizer, weights, settings.clip_norm)
        _stop_unless_finite(made, None if stepping.scales else norm, batch.x, step, now.epoch)
        stepping.step(optimizer, norm)
        if average is not None:
            average.update(stepping.taken)
        return made, norm

    # A signal is noted, and looked for after each step.
    with held() as signals, compiled(deq, settings.compile), stepping.products():
        stop = AgreedStop(signals)
        for epoch in range(done.epoch + 1, length.epochs + 1):
            # Every draw of an epoch comes from (seed, epoch, purpose). A run that stopped within it takes the states of
            # the generators, the running figures, and the batches that are left.
            now, step = _Underway(epoch, Draws.of_epoch(seed, epoch, device)), done.step
            batches = length.batches(epoch, shuffled(len(data), settings.batch_size, now.draws.order))
            now.go_on(done.within)
            evaluate_if_due(step, now)  # a signal may have come before it was done
            deq.train()
            source = Loaded(
                data, batches[now.taken :], device, workers=settings.workers, pin_memory=settings.pin_memory
            )
            # One bar an epoch; without a terminal there is none.
            bar = tqdm(
                source,
                total=len(batches),
                initial=now.taken,
                desc=f"epoch {epoch}/{length.epochs}",
                leave=False,
                dynamic_ncols=True,
                disable=None,
            )
            # One step a batch, of one optimizer step for each segment, all at one learning rate.
            for x, y, index in bar:
                step, now.taken = step + 1, now.taken + 1
                x, y = dataset.augment_pair(dataset.encode(x), y, now.draws.augment)
                take = partial(optimizer_step, step, now)
                made, norm = in_segments(take, Batch(x, y, index), settings, now.draws)
                schedule.step()
                now.meter.add(made, norm)
                now.meter.show(bar, source.words)
                # Within the epoch: rows, evaluations and checkpoints, and the end where a signal asks for it.
                if settings.log_every is not None and step % settings.log_every == 0:
                    steps.append(now.meter.step(step, float(schedule.get_last_lr()[0])))
                    tracker.log_step(steps[-1])
                    if writes.due():
                        with writes.timed():
                            folder.write_rows("steps", steps)
                stopped, save_is_due = stop.agreed(saves.due())
                if not stopped:
                    evaluate_if_due(step, now)
                if stopped or (save_is_due and now.taken < len(batches)):
                    save(step, now)
                    stop.check()

            wait = source.wait
            starts.share()
            # Validate, and take the checkpoint that is best so far: higher accuracy, or the lower loss at the same.
            evaluate_if_due(step, now, ends_epoch=True)
            with looking(step, now):
                held_out = evaluate(deq, dataset, validation, settings.eval_batch_size, device, between=stop.check)
            row = now.meter.epoch(epoch, step, held_out, float(schedule.get_last_lr()[0]), now.seconds)
            rows.append(row)
            better = (held_out.accuracy, -held_out.mean_loss) > (done.best_accuracy, -done.best_loss)
            done = _advance(reached(step, {}), rows, held_out if better else None)

            # Records before checkpoints before status: a kill in between costs the epoch, and never the records' order.
            folder.write_rows("epochs", rows)
            if steps:
                folder.write_rows("steps", steps)
            if folder.writes:
                if better:
                    save_checkpoint(folder.checkpoints / "best.pt", done.best(dtypes))
                keep_epoch(folder.checkpoints, done, settings.keep_last)
                save_checkpoint(folder.checkpoints / "last.pt", done)
            # The next checkpoint within an epoch is due a whole interval from here.
            saves.restart()
            folder.write_status("running", epoch=epoch)
            tracker.log_epoch(row)
            if folder.writes:
                tqdm.write(_epoch_line(row, length.epochs, better, wait))
            stop.check()
        # Without training the initial weights are those that are asked.
        if not settings.trains and not (folder.checkpoints / "best.pt").is_file():
            held_out = evaluate(deq, dataset, validation, settings.eval_batch_size, device, between=stop.check)
            done = replace(reached(0, {}), best_accuracy=held_out.accuracy, best_loss=held_out.mean_loss)
            if folder.writes:
                save_checkpoint(folder.checkpoints / "best.pt", done.best(dtypes))
                save_checkpoint(folder.checkpoints / "last.pt", done)
    ranks.wait()  # for the checkpoint that is tested
    narrow(deq, dtypes)
    return done


class AgreedStop:
    """A signal that ends the run, at the same step of every rank: a rank looks for it together with the others."""

    def __init__(self, noted: Stop) -> None:
        self._noted = noted

    def agreed(self, flag: bool) -> tuple[bool, bool]:
        """Whether a signal has come to any rank, and whether the flag is set at any."""
        requested, flagged = ranks.agreed(self._noted.requested, flag)
        self._noted.requested |= requested
        return requested, flagged

    def check(self) -> None:
        """Raise KeyboardInterrupt at every rank if a signal has come to any."""
        if self.agreed(False)[0]:
            raise KeyboardInterrupt


@dataclass
class _Underway:
    """An epoch under way: what its steps draw from, what they have come to, and how many of them are done.

    began  on the clock of time.perf_counter, less what earlier processes spent on the epoch
    """

    epoch: int
    draws: Draws
    meter: EpochMeter = field(default_factory=EpochMeter)
    taken: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def state(self) -> dict[str, Any]:
        """`Checkpoint.within`."""
        return {
            "steps": self.taken,
            "seconds": self.seconds,
            "draws": self.draws.state_dict(),
            "meter": self.meter.state_dict(),
        }

    def go_on(self, within: dict[str, Any]) -> None:
        """Take the state of a checkpoint within the epoch; of another checkpoint nothing is to be taken."""
        if within:
            self.taken, self.began = within["steps"], self.began - within["seconds"]
            self.draws.load_state_dict(within["draws"])
            self.meter.load_state_dict(within["meter"])


@dataclass(frozen=True)
class _Length:
    """How long training is, in steps, and how they fall into epochs."""

    steps: int
    per_epoch: int

    @classmethod
    def of(cls, settings: TrainSettings, samples: int) -> _Length:
        per_epoch = math.ceil(samples / settings.batch_size)
        return cls(settings.steps or per_epoch * (settings.epochs or 0), per_epoch)

    @property
    def epochs(self) -> int:
        """Epochs that are begun."""
        return math.ceil(self.steps / self.per_epoch)

    def batches(self, epoch: int, batches: Sequence[Tensor]) -> Sequence[Tensor]:
        """The batches of an epoch that belong to it: all but in the last epoch, which a number of steps may cut."""
        return batches[: self.steps - (epoch - 1) * self.per_epoch]


def _kept(folder: RunFolder, kind: str, step: int) -> list[Any]:
    """The rows of a kind up to a step; none where the file is missing or damaged, since no number rests on them."""
    try:
        found: list[Any] = list(read_rows(folder.path / ROW_KINDS[kind].file, ROW_KINDS[kind].row))
    except ValueError:
        return []
    return [row for row in found if row.step <= step]


def _tell_again(steps: list[Step], evaluations: list[BudgetEvaluation], epochs: list[Epoch], tracker: Tracker) -> None:
    """Tell the tracker of a resumed run the rows of its earlier part, in their order."""
    # At one step: first the step, then its evaluation, then the epoch that ends there.
    told: list[tuple[int, int, Callable[[], None]]] = [(row.step, 0, partial(tracker.log_step, row)) for row in steps]
    for step, rows in groupby(evaluations, key=lambda row: row.step):
        told.append((step, 1, partial(tracker.log_evaluation, list(rows))))
    told += [(row.step or 0, 2, partial(tracker.log_epoch, row)) for row in epochs]
    for _, _, tell in sorted(told, key=lambda one: one[:2]):
        tell()


def learning_rate_factor(settings: TrainSettings, total: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear over the warm-up, then by `settings.schedule`.

    constant: 1. cosine: half a cosine to 0. steps: 10^−m after m of the milestones, which are shares of all steps.
    """
    warm_up = max(1, round(settings.warmup_fraction * total))
    milestones = [round(share * total) for share in settings.milestones]

    def factor(step: int) -> float:
        # Not from 0: the first step would change nothing.
        if step < warm_up:
            return (step + 1) / warm_up
        if settings.schedule == "constant":
            return 1.0
        if settings.schedule == "steps":
            return float(10.0 ** -sum(step >= milestone for milestone in milestones))
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))

    return factor


def _resume(
    deq: DEQ,
    optimizer: Optimizer,
    schedule: LambdaLR,
    starts: Starts,
    average: WeightAverage | None,
    stepping: Stepping,
    folder: RunFolder,
    dtypes: Mapping[str, torch.dtype],
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
        if folder.writes:
            save_checkpoint(best, done.best(dtypes))
    schedule.load_state_dict(done.schedule)
    starts.load_state_dict(done.starts)
    if average is not None:
        average.load_state_dict(done.ema)
    stepping.load_state_dict({"taken": done.step, **done.stepping})  # once a batch, where none were counted
    return done


def _advance(reached: Checkpoint, rows: list[Epoch], best: Evaluation | None) -> Checkpoint:
    """The checkpoint after one more epoch; `best` is its evaluation where it is the best yet."""
    seconds = reached.seconds + (rows[-1].seconds or 0.0)
    after = replace(reached, epoch=rows[-1].epoch, seconds=seconds, epochs=[asdict(row) for row in rows])
    if best is not None:
        after.best_epoch, after.best_accuracy, after.best_loss = after.epoch, best.accuracy, best.mean_loss
    return after


def _stop_unless_finite(made: Forward, norm: Tensor | None, x: Tensor, step: int, epoch: int) -> None:
    """norm: of the gradient; None where a gradient that is not finite is left out."""
    # One look, and one wait on an accelerator.
    finite = made.objective.detach().isfinite()
    if bool(finite if norm is None else finite & norm.detach().isfinite()):
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


NOTICEABLE_WAIT = 0.05
"""The share of an epoch spent on waiting for data from which its line says so."""


def _epoch_line(row: Epoch, epochs: int, better: bool, wait: float) -> str:
    waited = f"  waiting for data {wait:.0%}" if wait >= NOTICEABLE_WAIT else ""
    return (
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  loss {row.loss:.3f}  train {row.train_accuracy:.1%}  "
        f"val {row.val_accuracy:.1%}{'*' if better else ' '}  nfe {row.nfe:.0f}  residual {row.residual:.0e}  "
        f"converged {row.converged:.0%}{waited}"
    )
