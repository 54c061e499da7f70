"""Checkpoints: written whole or not at all, read without executing anything."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from deqrun.errors import UserError
from deqrun.records.files import write_whole
from deqrun.records.safe_reading import available_memory, require_honest_zip

WITHIN = {"steps", "seconds", "draws", "meter"}
"""Entries of `Checkpoint.within` where there are any."""


@dataclass
class Checkpoint:
    """All that training needs to go on after `step` to the same numbers.

    epoch   the last finished epoch; `step` is its last, or one of the next epoch where `within` says so
    starts  the states that `train.start=previous` begins with; empty for other starts, and in best.pt
    within  of a checkpoint within the epoch after `epoch`: the steps done in it, their seconds, the state of every
            generator, and the epoch's running figures; empty at the end of an epoch, where the next one's generators
            are seeded anew by (seed, epoch, purpose)
    stepping  the number of optimizer steps and, with train.precision=float16, the scale of the loss
    ema     with `train.ema`, the averages of `model`, under its names; empty in best.pt, whose `model` they are
    """

    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    epoch: int
    step: int
    best_epoch: int
    best_accuracy: float
    best_loss: float
    seconds: float
    epochs: list[dict[str, Any]]
    starts: dict[str, Any] = field(default_factory=dict)
    within: dict[str, Any] = field(default_factory=dict)
    ema: dict[str, Any] = field(default_factory=dict)
    stepping: dict[str, Any] = field(default_factory=dict)

    def best(self, dtypes: Mapping[str, torch.dtype]) -> Checkpoint:
        """The content of best.pt: the weights that are tested, without what only the next step of training needs.

        dtypes: of the model outside of its training; what was trained in double precision is rounded to them.
        """
        trained = self.ema or self.model
        double = {name: dtypes[name] for name in trained if name in dtypes and trained[name].dtype == torch.float64}
        tested = trained | {name: trained[name].to(dtype) for name, dtype in double.items()}
        return replace(self, model=tested, starts={}, within={}, ema={}, stepping={})


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, replacing an earlier one in one rename."""
    # In memory first: the file is then written whole, or not at all.
    buffer = io.BytesIO()
    torch.save(dict(vars(checkpoint)), buffer)
    write_whole(path, buffer.getvalue())


def keep_epoch(folder: Path, checkpoint: Checkpoint, count: int) -> None:
    """Keep the checkpoint of a finished epoch as epoch-N.pt, and of earlier ones the last `count` − 1; 1: none."""
    if count > 1:
        save_checkpoint(folder / f"epoch-{checkpoint.epoch}.pt", checkpoint)
    # Older files go, those of an earlier process included.
    for path in folder.glob("epoch-*.pt"):
        number = path.stem.removeprefix("epoch-")
        if count > 1 and number.isdecimal() and int(number) <= checkpoint.epoch - count:
            path.unlink()


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint onto `device`; nothing in it is executed, and its size is known before it is read.

    Raises UserError, one sentence, where the file is none, is damaged, or would not fit into the memory.
    """
    try:
        # The sizes that the archive tells are checked against the memory before a byte is unpacked.
        with zipfile.ZipFile(path) as archive:
            require_honest_zip(archive, available_memory() // 2)
        # weights_only: tensors and plain values; no code of a stranger's file runs.
        content = torch.load(path, map_location=lambda storage, kept: _placed(storage, kept, device), weights_only=True)
        checkpoint = Checkpoint(**content)
        _require_types(checkpoint)
        return checkpoint
    except Exception as error:
        raise UserError(
            f"'{path}' is not a checkpoint of deqrun, or is damaged ({_reason(error)}); put it back from a copy, or "
            "train a new run."
        ) from error


def _placed(storage: Any, kept: str, device: torch.device) -> Any:
    """Device tensors on `device`; those of the host, such as states of generators, stay there."""
    return storage if kept == "cpu" else storage.to(device=device)


def _require_types(checkpoint: Checkpoint) -> None:
    """ValueError where an entry is of another type than deqrun writes."""
    # weights_only admits any plain value: each entry must be what deqrun writes.
    for name in ("model", "optimizer", "schedule", "starts", "within", "ema", "stepping"):
        if not isinstance(getattr(checkpoint, name), dict):
            raise ValueError(f"{name} is no mapping")
    if checkpoint.within and checkpoint.within.keys() != WITHIN:
        raise ValueError("within lacks an entry")
    if not all(isinstance(tensor, torch.Tensor) for tensor in (*checkpoint.model.values(), *checkpoint.ema.values())):
        raise ValueError("model holds more than tensors")
    for name in ("epoch", "step", "best_epoch"):
        if type(getattr(checkpoint, name)) is not int or getattr(checkpoint, name) < 0:
            raise ValueError(f"{name} is no count")
    for name in ("best_accuracy", "best_loss", "seconds"):
        if not isinstance(getattr(checkpoint, name), (int, float)):
            raise ValueError(f"{name} is no number")
    if not isinstance(checkpoint.epochs, list) or not all(isinstance(row, dict) for row in checkpoint.epochs):
        raise ValueError("epochs are no rows")


def _reason(error: Exception) -> str:
    """The kind of the error and, where the message is short, the message."""
    text = " ".join(str(error).split()).rstrip(".")
    plain = text and len(text) < 120 and isinstance(error, (ValueError, OSError, zipfile.BadZipFile))
    return f"{type(error).__name__}: {text}" if plain else type(error).__name__


def put_weights(model: nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Put a checkpoint's weights into the model. Raises UserError, before any is changed, where they don't fit."""
    # Compare names, shapes and types before any weight is changed.
    own, given = model.state_dict(), checkpoint.model
    missing, more = [name for name in own if name not in given], [name for name in given if name not in own]
    other = [name for name in own if name in given and own[name].shape != given[name].shape]
    odd = [name for name in own if name in given and not _is_sound(given[name], own[name])]
    if not (missing or more or other or odd):
        model.load_state_dict(given)
        return
    # One sentence: the first of each kind of misfit.
    clauses = [f"it has no {missing[0]}"] if missing else [f"the model has no {more[0]}"] if more else []
    clauses += [
        f"its {name} is {list(given[name].shape)} and the model's {list(own[name].shape)}" for name in other[:1]
    ]
    clauses += [f"its {odd[0]} is not finite, or of another type than the model's"] if odd and not other else []
    raise UserError(
        f"'{path}' does not fit the model that config.yaml describes: {', and '.join(clauses)}; put back the "
        "checkpoint or the config.yaml that belongs to it."
    )


def _is_sound(given: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a tensor is of the type of the model's own, and finite."""
    return given.dtype == own.dtype and bool(given.isfinite().all())
