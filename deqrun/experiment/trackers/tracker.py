"""The interface of a tracker, and a run as a tracker sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deqrun.experiment.trackers.place import Place
from deqrun.experiment.trackers.rows import Row, evaluation_row, scalars
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

    def about(self, settings: TrackerSettings) -> dict[str, Any]:
        """Its group, job type and tags: `tracker.group` and so on.

        Where they are null: the multirun or the study, the command, and what differs. W&B takes tags of 1 to 64
        characters, once each.
        """
        own = {"group": self.place.group, "job_type": self.command, "tags": self.place.differs}
        given = {name: getattr(settings, name) for name in own}
        about = own | {name: value for name, value in given.items() if value is not None}
        return about | {"tags": [tag for tag in dict.fromkeys(tag[:64] for tag in about["tags"] or ()) if tag]}


class Tracker(ABC):
    """The interface of a tracker, which takes in a run's records in the order of the methods."""

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


class RowTracker(Tracker):
    """A tracker of rows of numbers. Of a resumed run it leaves out the rows that were told before.

    told  the last epoch, the last step, and the step of the last evaluation that were told
    """

    def __init__(self, epoch: int = 0, step: int = 0, evaluated: int = 0) -> None:
        self.told = {"epoch": epoch, "step": step, "evaluated": evaluated}

    @abstractmethod
    def log(self, row: Row) -> None:
        """Take in one row."""

    def tell(self, kind: str, place: int, row: Row) -> None:
        """Log the row of a place, unless it was told before."""
        if place > self.told[kind]:
            self.log(row)
            self.told[kind] = place

    def log_step(self, step: Step) -> None:
        self.tell("step", step.step, scalars(step, "steps", "step"))

    def log_evaluation(self, rows: Sequence[BudgetEvaluation]) -> None:
        self.tell("evaluated", rows[0].step, evaluation_row(rows))

    def log_epoch(self, epoch: Epoch) -> None:
        self.tell("epoch", epoch.epoch, scalars(epoch, "train", "epoch"))


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


class NoTracker(Several):
    """Keeps the run to its folder."""

    def __init__(self) -> None:
        super().__init__(())
