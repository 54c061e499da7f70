"""What a question is given: the finished runs of its study, their models, and the size of the effort."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deqrun.datasets import Dataset
from deqrun.experiment.trained import load_trained
from deqrun.models import DEQ
from deqrun.report import RunRecord, read_run
from deqrun.report.files import write_whole
from deqrun.settings import ComponentSettings, Settings


@dataclass(frozen=True)
class StudyRun:
    """One finished run of a study.

    label   name of its folder
    kind    the variant that it is a run of, whatever its seed
    folder  the run folder
    """

    label: str
    kind: str
    folder: Path
    settings: Settings
    device: torch.device

    @cached_property
    def record(self) -> RunRecord:
        return read_run(self.folder)

    def model(self, **dataset: Any) -> tuple[DEQ, Dataset]:
        """The trained model in evaluation mode, and its data set, with other parameters of the data set if given.

        A network of convolutions can so be asked about longer or larger inputs than it was trained on.
        """
        settings = self.settings
        if dataset:
            section = ComponentSettings(
                target=settings.dataset.target, parameters={**settings.dataset.parameters, **dataset}
            )
            settings = settings.model_copy(update={"dataset": section})
        return load_trained(settings, self.folder, self.device)


@dataclass(frozen=True)
class Context:
    """What a question is asked of.

    folder  of the study
    size    small or full
    runs    in the order of its variants
    device  for the question's own computations
    quiet   tell the terminal nothing
    """

    folder: Path
    size: str
    runs: tuple[StudyRun, ...]
    device: torch.device
    quiet: bool = False

    @property
    def kinds(self) -> list[str]:
        """The variants, in order."""
        return list(dict.fromkeys(run.kind for run in self.runs))

    def of_kind(self, kind: str) -> list[StudyRun]:
        """The runs of one variant, by seed."""
        return [run for run in self.runs if run.kind == kind]

    def once(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `measure` found, JSON-able; of a study that goes on after an interruption, what it had found before."""
        path = self.folder / "parts" / f"{name}.json"
        if path.is_file():
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
        found = json.loads(json.dumps(measure()))  # the same types whether it was measured now or before
        write_whole(path, json.dumps(found))
        return found

    def progress(self, done: str) -> None:
        """Tell the terminal what the question is at."""
        if not self.quiet:
            print(f"  {done}", flush=True)


def batch_of(
    dataset: Dataset, split: str, samples: int, device: torch.device
) -> tuple[Tensor, Tensor]:  # (samples, …), (samples, …)
    """`samples` samples of a split, encoded, with their targets; all of them where there are fewer.

    Drawn at random with a seed of their own, so that they are the same in every run: differences can be paired.
    """
    data = dataset.load(split)
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:samples].sort().values
    return dataset.encode(data.inputs[chosen].to(device)), data.targets[chosen].to(device)
