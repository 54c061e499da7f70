"""The material of a question: the finished runs of its study, their models, and the size of the effort."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor

from deqrun.datasets import Dataset, Split
from deqrun.experiment.allocator import release_freed_memory
from deqrun.experiment.trained import load_trained
from deqrun.models import DEQ
from deqrun.records.files import write_whole
from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord
from deqrun.settings import ComponentSettings, Settings
from deqrun.studies.side_by_side import Task, run_side_by_side


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
    """The runs that a question is asked of.

    folder  of the study
    size    small or full
    runs    in the order of its variants
    device  for the question's own computations
    lost    runs that diverged in training, label: reason; they are not among `runs`
    jobs    runs that are measured at a time, in processes of their own
    threads of each
    """

    folder: Path
    size: str
    runs: tuple[StudyRun, ...]
    device: torch.device
    lost: Mapping[str, str] = field(default_factory=dict)
    jobs: int = 1
    threads: int | None = None

    @property
    def kinds(self) -> list[str]:
        """The variants, in order."""
        return list(dict.fromkeys(run.kind for run in self.runs))

    def of_kind(self, kind: str) -> list[StudyRun]:
        """The runs of one variant, by seed."""
        return [run for run in self.runs if run.kind == kind]

    def once(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The measurement `name`, JSON-able: taken now, or read where the study's folder has it already."""
        path = self._part(name)
        if not path.is_file():
            _keep(path, measure, None)
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def each(self, measures: Mapping[str, Callable[[], dict[str, Any]]]) -> dict[str, dict[str, Any]]:
        """`once` of every named measurement, `jobs` at a time; each must be picklable."""
        tasks = [
            Task(f"measuring {name}", partial(_keep, self._part(name), measure, self.threads), self._log(name))
            for name, measure in measures.items()
            if not self._part(name).is_file()
        ]
        run_side_by_side(tasks, self.jobs, lambda task: self.progress(task.label.replace("measuring", "measured")))
        return {name: self.once(name, measure) for name, measure in measures.items()}

    def of_runs(self, measure: Callable[..., dict[str, Any]], *parameters: object) -> list[dict[str, Any]]:
        """measure(run, *parameters) of every run, taken as by `each`."""
        return list(self.each({run.label: partial(measure, run, *parameters) for run in self.runs}).values())

    def by_kind(self, measure: Callable[..., dict[str, Any]], *parameters: object) -> dict[str, list[dict[str, Any]]]:
        """`of_runs`, of each variant its own runs' measurements, by seed."""
        found: dict[str, list[dict[str, Any]]] = {}
        for run, part in zip(self.runs, self.of_runs(measure, *parameters), strict=True):
            found.setdefault(run.kind, []).append(part)
        return found

    def _part(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.json"

    def _log(self, name: str) -> Path:
        return self.folder / "parts" / f"{name}.log"

    def progress(self, done: str) -> None:
        """Tell the terminal how far the question has come."""
        print(f"  {done}", flush=True)


def _keep(path: Path, measure: Callable[[], dict[str, Any]], threads: int | None) -> None:
    """Take a measurement and write it, whole."""
    if threads is not None:
        torch.set_num_threads(threads)
    write_whole(path, json.dumps(measure()))
    release_freed_memory()


def columns(parts: Sequence[Mapping[str, Any]], *names: str, dtype: DTypeLike | None = None) -> list[NDArray[Any]]:
    """(S, …) of each name what the measurements of S runs have under it."""
    return [np.array([part[name] for part in parts], dtype=dtype) for name in names]


def counts(parts: Sequence[Mapping[str, Any]], *names: str) -> list[NDArray[np.float64]]:
    """`columns` of numbers of steps or evaluations: inf where JSON has a negative one, since it never happened."""
    return [np.where(column < 0, np.inf, column) for column in columns(parts, *names, dtype=np.float64)]


def batch_of(
    dataset: Dataset, split: str, samples: int, device: torch.device
) -> tuple[Tensor, Tensor]:  # (samples, …), (samples, …)
    """`some_of` a split, encoded, with their targets, on the device."""
    some = some_of(dataset.load(split), samples)
    return dataset.encode(some.inputs[:].to(device)), some.targets.to(device)


def first_of(data: Split, samples: int) -> Split:
    """The first samples of a split whose own order is random."""
    return Split(data.inputs[:samples], data.targets[:samples])


def some_of(data: Split, samples: int) -> Split:
    """`samples` samples of a split, in its order; all of them where there are fewer.

    Drawn at random with a seed of their own, so that they are the same in every run: differences can be paired.
    """
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:samples].sort().values
    return Split(data.inputs[chosen], data.targets[chosen])
