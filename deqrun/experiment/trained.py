"""A trained model, taken from its run folder."""

from __future__ import annotations

from pathlib import Path

import torch

from deqrun.datasets import Dataset
from deqrun.experiment.build import build_dataset, build_deq
from deqrun.experiment.checkpoint import Checkpoint, load_checkpoint
from deqrun.models import DEQ
from deqrun.settings import Settings, UserError


def load_trained(settings: Settings, run: Path, device: torch.device) -> tuple[DEQ, Dataset]:
    """The model of a run with the weights that validation chose, in evaluation mode, and its data set.

    Raises UserError where the run has no checkpoint yet.
    """
    dataset = build_dataset(settings)
    deq = build_deq(settings, dataset).to(device)
    load_best(deq, run)
    return deq.eval(), dataset


def load_best(deq: DEQ, run: Path) -> Checkpoint:
    """Put the checkpoint that validation chose into the model. Raises UserError where there is none."""
    path = run / "checkpoints" / "best.pt"
    if not path.is_file():
        raise UserError(
            f"'{run}' has no checkpoint to sweep yet; go on training it with: deqrun train run={run} resume=true"
        )
    best = load_checkpoint(path, next(deq.parameters()).device)
    deq.load_state_dict(best.model)
    return best
