"""The interface of a tracker, and a run as a tracker sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deqrun.experiment.trackers.place import Place
from deqrun.records.rows import BudgetEvaluation, Epoch, Step
from deqrun.records.run import RunRecord, Summary
from deqrun.settings import TrackerSettings


@dataclass(frozen=True)
class TrackedRun:
    """A run as a tracker sees it when the run begins.

    name     of the run, without the values that differ within its multirun
    config   the settings as plain sections
    command  train or sweep
    place    the multirun or study that the run belongs to, and the values in which it differs there
    trained  of a sweep, the trained run: its folder, its name, and its id at W&B where it has one
    """

    folder: Path
    name: str
    config: dict[str, Any]
    command: str = "train"
    place: Place = field(default_factory=Place)
    trained: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name and what differs, as in 'mlp-digits seed=0 solver=picard'; at most 128 characters."""
        return " ".join((self.name, *self.place.differs))[:128]

    def group(self, settings: TrackerSettings) -> str | None:
        """`tracker.group`, else the multirun or the study."""
        return self.place.group if settings.group is None else settings.group

    def job_type(self, settings: TrackerSettings) -> str:
        """`tracker.job_type`, else the command."""
        return self.command if settings.job_type is None else settings.job_type

    def tags(self, settings: TrackerSettings) -> list[str]:
        """`tracker.tags`, else what differs; W&B takes tags of 1 to 64 characters, once each."""
        tags = self.place.differs if settings.tags is None else settings.tags
        return [tag for tag in dict.fromkeys(tag[:64] for tag in tags) if tag]


class Tracker(ABC):
    """The interface of a tracker: it takes in a run's records, in the order of the methods below."""

    @abstractmethod
    def log_step(self, step: Step) -> None:
        """Scalars of one step within an epoch."""

    @abstractmethod
    def log_evaluation(self, rows: Sequence[BudgetEvaluation]) -> None:
        """Scalars of one evaluation at several budgets while training goes on."""

    @abstractmethod
    def log_epoch(self, epoch: Epoch) -> None:
        """Scalars of one epoch of training."""

    @abstractmethod
    def log_results(self, record: RunRecord) -> None:
        """Curves and tables of the sweep, the figures, and files, when the record and its page are complete."""

    @abstractmethod
    def finish(self, summary: Summary | None) -> None:
        """Close the record, with the summary's figures; None marks a run that failed or was interrupted."""


class NoTracker(Tracker):
    """Keeps the run to its folder."""

    def log_step(self, step: Step) -> None: ...

    def log_evaluation(self, rows: Sequence[BudgetEvaluation]) -> None: ...

    def log_epoch(self, epoch: Epoch) -> None: ...

    def log_results(self, record: RunRecord) -> None: ...

    def finish(self, summary: Summary | None) -> None: ...


class Several(Tracker):
    """Several trackers, each told everything."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self.trackers = tuple(trackers)

    def log_step(self, step: Step) -> None:
        for tracker in self.trackers:
            tracker.log_step(step)

    def log_evaluation(self, rows: Sequence[BudgetEvaluation]) -> None:
        for tracker in self.trackers:
            tracker.log_evaluation(rows)

    def log_epoch(self, epoch: Epoch) -> None:
        for tracker in self.trackers:
            tracker.log_epoch(epoch)

    def log_results(self, record: RunRecord) -> None:
        for tracker in self.trackers:
            tracker.log_results(record)

    def finish(self, summary: Summary | None) -> None:
        for tracker in self.trackers:
            tracker.finish(summary)
