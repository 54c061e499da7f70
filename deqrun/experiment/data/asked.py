"""The data of a run that is asked or goes on, compared before anything is made."""

from __future__ import annotations

from pathlib import Path

from deqrun.errors import UserError
from deqrun.experiment.build import build_dataset, hand_over
from deqrun.experiment.data.changes import MatchedDataset, own_data, require_recorded, warn_without_record
from deqrun.experiment.data.record import read_record
from deqrun.settings import Settings, read_settings

__all__ = ["require_own_data", "require_same_data"]

WAY_OUT = (
    "allowed are the run's own data, or data_changed=match_classes, which matches classes by name and leaves out the "
    "samples that were trained on"
)


def require_same_data(asked: Settings) -> None:
    """A trained run is asked about the data that it was trained on, or about matched ones. Raises UserError."""
    assert asked.run is not None
    # Runs of before have no record: their data can't be compared, which is said once.
    record = read_record(asked.run)
    if record is None:
        if asked.data_changed == "match_classes":
            raise UserError(
                f"data_changed=match_classes needs data.json, which {asked.run} does not hold; leave it out."
            )
        if (asked.run / "checkpoints").is_dir():
            warn_without_record(asked.run)
        return
    # Matched by class, the samples that trained the run are left out; otherwise all must be as they were.
    own = own_data(asked, read_settings(asked.run / "config.yaml", allow_foreign_targets=asked.allow_foreign_targets))
    if asked.data_changed == "match_classes":
        if own.dataset != asked.dataset:
            raise UserError(
                "data_changed=match_classes compares samples as the run stored them, and so takes the run's own "
                "dataset parameters; leave the others out."
            )
        dataset = build_dataset(asked)
        assert isinstance(dataset, MatchedDataset)
        print(dataset.told(), flush=True)
    else:
        dataset = build_dataset(own)
        if dataset.by_content and own.dataset != asked.dataset:
            return
        require_recorded(record, dataset, asked.run, WAY_OUT)
        if own.dataset != asked.dataset:
            return
    # The data have been read: the job takes them over.
    hand_over(asked, dataset)


def require_own_data(settings: Settings, run: Path, *, asked: bool) -> None:
    """A run that goes on, or that a study asks, has its own data still. Raises UserError."""
    record = read_record(run)
    if record is None:
        if asked or (run / "checkpoints" / "last.pt").is_file():
            warn_without_record(run)
        return
    # The data as they are now, against the record of the data that the weights have seen.
    dataset = build_dataset(settings)
    way_out = (
        "a study asks about the run's own data"
        if asked
        else "a run goes on with its own data, and other data need a new run"
    )
    require_recorded(record, dataset, run, way_out)
    if not asked:
        hand_over(settings, dataset)
