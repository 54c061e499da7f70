"""Compare a run's data with the data it was trained on: refuse others, or match them by class name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deqrun.datasets import SPLITS, Dataset, DataUnavailable, Split
from deqrun.datasets.dataset import require_split
from deqrun.datasets.fingerprint import digest_of, row_digests
from deqrun.errors import UserError, listing
from deqrun.experiment.data.record import FILE, DataRecord, class_names, read_record, record_of, write_record
from deqrun.settings import Settings
from deqrun.settings.trust import is_packaged

__all__ = ["MatchedDataset", "data_digest", "keep_record", "own_data", "require_recorded", "warn_without_record"]

LOCATION = ("root", "path", "download")
"""Parameters of deqrun's data sets that name places of files, and change no sample."""


def own_data(asked: Settings, saved: Settings) -> Settings:
    """Settings whose data set must be the recorded one: the run's own, where its files lie now."""
    if asked.dataset.target != saved.dataset.target or not is_packaged(asked.dataset.target):
        return asked
    # Files may lie elsewhere now; everything else is as it was.
    moved = {key: value for key, value in asked.dataset.parameters.items() if key in LOCATION}
    parameters = saved.dataset.parameters | moved
    return saved.model_copy(update={"dataset": saved.dataset.model_copy(update={"parameters": parameters})})


def require_recorded(record: DataRecord, dataset: Dataset, run: Path, way_out: str) -> None:
    """Refuse data that differ from the record. Raises UserError with the difference, and the way out."""
    try:
        differences = record.differences(record_of(dataset))
    except DataUnavailable as error:
        raise UserError(str(error)) from error
    if differences:
        raise UserError(f"the data of {run} changed since it was trained: {listing(differences)}; {way_out}.")


def warn_without_record(run: Path) -> None:
    """Say once that a run from before there were records can't be compared."""
    print(
        f"deqrun: {run} holds no {FILE}, as runs of before have none, so that changed data would not be noticed.",
        file=sys.stderr,
    )


def keep_record(folder: Path, dataset: Dataset) -> None:
    """Write the record of a run that begins; of one that goes on, refuse other data. Raises UserError."""
    record = read_record(folder)
    if record is not None:
        require_recorded(record, dataset, folder, "a run goes on with its own data, and other data need a new run")
    # A run that has trained without a record gets none later: it would be of other data, perhaps.
    elif not (folder / "checkpoints" / "last.pt").is_file():
        write_record(folder, record_of(dataset))


def data_digest(dataset: Dataset) -> str:
    """Digits that differ where a matched data set leaves in other samples; '' of any other data set."""
    return dataset.digest if isinstance(dataset, MatchedDataset) else ""


class MatchedDataset(Dataset):
    """Changed data as a trained run can be asked about them: its classes by name, none of its training samples.

    A target is the number that the class of this name had in training; samples of other classes are left out. Of test,
    samples that trained or validated the run are left out; of validation those that trained it.

    Raises UserError where answers are asked at positions, where the record is of a part of the samples only, and where
    nothing is left.
    """

    def __init__(self, dataset: Dataset, record: DataRecord, run: Path) -> None:
        if dataset.output_shape:
            raise UserError("data_changed=match_classes is for data with one label per sample; leave it out.")
        if not record.whole:
            raise UserError(
                "data_changed=match_classes needs a record of every sample, and this run's data were too large for one."
            )
        self.dataset, self.record, self.run = dataset, record, run
        self.name, self.input_shape, self.classes = dataset.name, dataset.input_shape, record.classes
        self.num_classes, self.difficulty = len(record.classes), dataset.difficulty
        # The number that each of today's classes had in training; −1: it had none.
        numbers = {name: number for number, name in enumerate(record.classes)}
        self._number = torch.tensor([numbers.get(name, -1) for name in class_names(dataset)])
        self._kept: dict[str, Split] = {}
        self._left_out: dict[str, tuple[int, int]] = {}

    @property
    def digest(self) -> str:
        """Digits of the samples that are left."""
        return "".join(digest_of(split, row_digests(split.inputs)) for split in map(self.load, SPLITS))

    def _keep(self, name: str) -> None:
        """Keep the rest of a split, with counts of samples that were trained on, and of other classes."""
        split = self.dataset.load(name)
        targets = self._number[split.targets]
        # A sample that an earlier split held was trained on, or chose the checkpoint.
        seen = [self.record.rows[earlier] for earlier in SPLITS[: SPLITS.index(name)]]
        trained = np.isin(row_digests(split.inputs), np.concatenate(seen)) if seen else np.zeros(len(split), dtype=bool)
        trained_on = torch.from_numpy(trained)
        kept = (targets >= 0) & ~trained_on
        if not bool(kept.any()):
            raise UserError(
                f"data_changed=match_classes leaves nothing of the {name} split: {int(trained_on.sum())} of "
                f"{len(split)} samples were trained on, and the others are of classes that {self.run} does not know."
            )
        ratings = None if split.ratings is None else split.ratings[kept]
        self._kept[name] = Split(split.inputs[kept], targets[kept], ratings)
        self._left_out[name] = int(trained_on.sum()), int(((targets < 0) & ~trained_on).sum())

    def load(self, split: str) -> Split:
        require_split(split)
        if split not in self._kept:
            self._keep(split)
        return self._kept[split]

    def encode(self, inputs: Tensor) -> Tensor:
        return self.dataset.encode(inputs)

    def augment(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return self.dataset.augment(x, generator)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.dataset.loss(logits, targets)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.dataset.correct(logits, targets)

    def told(self) -> str:
        """'of test 12 samples were trained on and 3 are of other classes; 85 are asked'."""
        asked = len(self.load("test"))
        trained, unknown = self._left_out["test"]
        return (
            f"data_changed=match_classes: of test {trained} samples were trained on and {unknown} are of other "
            f"classes; {asked} are asked"
        )
