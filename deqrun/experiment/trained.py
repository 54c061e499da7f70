"""A trained model, taken from its run folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.optim import Optimizer

from deqrun.datasets import Dataset
from deqrun.errors import UserError, one_line
from deqrun.experiment.build import build_dataset, build_deq, build_optimizer
from deqrun.experiment.checkpoint import Checkpoint, load_checkpoint, put_weights
from deqrun.experiment.precision import dtypes_of, narrow, widen
from deqrun.models import DEQ
from deqrun.records.reading import read_run
from deqrun.records.rows import Epoch
from deqrun.records.safe_reading import is_there
from deqrun.settings import Settings


def load_trained(settings: Settings, run: Path, device: torch.device) -> tuple[DEQ, Dataset]:
    """The model of a run with the weights that validation chose, in evaluation mode, and its data set.

    Raises UserError where the run has no checkpoint yet.
    """
    dataset = build_dataset(settings)
    deq = build_deq(settings, dataset).to(device)
    load_best(deq, run)
    return deq.eval(), dataset


def load_best(deq: DEQ, run: Path) -> Checkpoint:
    """Put the checkpoint that validation chose into the model. Raises UserError where there is none, or it is damaged.

    Where its file is missing and the last epoch is the one that validation chose, the last checkpoint has its weights.
    """
    # Where best.pt is gone, last.pt will do if validation chose that very epoch.
    device, path = next(deq.parameters()).device, run / "checkpoints" / "best.pt"
    if not checkpoint_is_there(path):
        path = run / "checkpoints" / "last.pt"
    if not checkpoint_is_there(path):
        raise UserError(_no_checkpoint(run))
    checkpoint = load_checkpoint(path, device)
    if path.name == "last.pt":
        require_last_is_best(checkpoint, run)
    put_weights(deq, checkpoint.best(dtypes_of(deq)), path)
    return checkpoint


def checkpoint_is_there(path: Path) -> bool:
    """Whether there is a checkpoint. Raises UserError where something that is no file is in its place."""
    try:
        return is_there(path)
    except ValueError as error:
        raise UserError(str(error)) from error


def require_last_is_best(last: Checkpoint, run: Path) -> None:
    """Raise UserError where best.pt is missing and last.pt has other weights than it had."""
    if last.epoch == 0:
        raise UserError(_no_checkpoint(run))
    if last.best_epoch != last.epoch or last.within:
        place = f"step {last.step}" if last.within else f"epoch {last.epoch}"
        raise UserError(
            f"'{run / 'checkpoints' / 'best.pt'}' is missing, and the weights of epoch {last.best_epoch}, which "
            f"validation chose, are in no other file (last.pt has those of {place}); put it back from a copy, or train "
            "a new run."
        )


def _no_checkpoint(run: Path) -> str:
    completed = read_run(run).status.status == "completed"
    if completed:
        return (
            f"'{run}' has no checkpoints any more, though its training is complete; put checkpoints/ back from a copy, "
            "or train a new run."
        )
    return f"'{run}' has no checkpoint to sweep yet; go on training it with: deqrun train run={run} resume=true"


def require_sound(settings: Settings, run: Path, *, resumes: bool) -> None:
    """Refuse a run whose files can't be read or don't fit each other, before anything is made. Raises UserError."""
    try:
        read_run(run)
    except ValueError as error:
        raise UserError(one_line(error)) from error
    # Building draws weights: the generator is left as it was.
    if not (run / "checkpoints").is_dir():
        return
    with torch.random.fork_rng(devices=[]):
        deq = build_deq(settings, build_dataset(settings))
    if not resumes:
        load_best(deq, run)
        return
    # To go on, weights, rows and the optimizer's state must all fit, before an epoch is spent.
    best, last = run / "checkpoints" / "best.pt", run / "checkpoints" / "last.pt"
    best_is_there = checkpoint_is_there(best)
    if checkpoint_is_there(last):
        checkpoint = load_checkpoint(last, torch.device("cpu"))
        dtypes = dtypes_of(deq)
        put_weights(deq, checkpoint.best(dtypes), last)
        widen(deq, settings.train.precision)
        put_weights(deq, checkpoint, last)
        narrow(deq, dtypes)
        require_average(checkpoint, settings, last)
        if best_is_there:  # it is tested at the end, if no later epoch takes its place
            put_weights(deq, load_checkpoint(best, torch.device("cpu")), best)
        elif checkpoint.epoch:
            require_last_is_best(checkpoint, run)
        require_state(checkpoint, build_optimizer(settings, deq), last)


def require_average(checkpoint: Checkpoint, settings: Settings, path: Path) -> None:
    """Raise UserError where a checkpoint has no average of the weights, and training goes on with one."""
    if settings.train.ema is not None and not checkpoint.ema:
        raise UserError(
            f"'{path}' holds no average of the weights, which train.ema={settings.train.ema:g} goes on with; put it "
            "back from a copy, or train a new run."
        )


def require_state(checkpoint: Checkpoint, optimizer: Optimizer, path: Path) -> None:
    """Put a checkpoint's optimizer state in place, and its rows. Raises UserError where one of them doesn't fit."""
    try:
        optimizer.load_state_dict(checkpoint.optimizer)
        for row in checkpoint.epochs:
            Epoch(**row)
    except Exception as error:
        raise UserError(
            f"'{path}' does not fit the run ({type(error).__name__} in its optimizer or its rows); put it back from a "
            "copy, or train a new run."
        ) from error
