"""Checkpoints: written whole or not at all, read without executing anything."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from deqrun.report.files import write_whole


@dataclass
class Checkpoint:
    """All that training needs to go on after `epoch` to the same numbers.

    What is random is drawn from generators seeded by (seed, epoch, purpose), so no generator's state is kept.
    starts: the states that `train.start=previous` begins with; empty for other starts, and in best.pt.
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


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, replacing what was there in one rename."""
    buffer = io.BytesIO()
    content = {entry.name: getattr(checkpoint, entry.name) for entry in fields(checkpoint)}
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Read a checkpoint onto `device`; ValueError, one sentence, if the file is none."""
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        return Checkpoint(**content)
    except Exception as error:
        raise ValueError(f"'{path}' is not a checkpoint of deqrun: {type(error).__name__}.") from error


def as_rows(epochs: list[Any]) -> list[dict[str, Any]]:
    """Dataclass rows as plain dictionaries, the form in which a checkpoint holds them."""
    return [asdict(epoch) for epoch in epochs]
