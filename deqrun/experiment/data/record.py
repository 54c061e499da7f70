"""The data that a run was trained on: classes and a fingerprint of each split, written into the run and compared."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deqrun.datasets import SPLITS, Dataset
from deqrun.datasets.fingerprint import digest_of, places, row_digests
from deqrun.errors import UserError, listing
from deqrun.records.files import write_whole
from deqrun.records.safe_reading import is_there, open_npz, read_json

__all__ = ["FILE", "ROWS", "DataRecord", "read_record", "record_of", "write_record"]

FILE, ROWS = "data.json", "data_rows.npz"
"""Names in a run folder: the record, and the digests of the samples of each split."""


@dataclass(frozen=True)
class DataRecord:
    """The data of a run.

    dataset  the class
    classes  names of the classes in the order of their numbers
    sizes    samples of each split
    digests  of each split, 16 hexadecimal digits
    whole    whether every sample was read, as opposed to evenly spaced ones
    rows     of each split the digests of its samples
    """

    dataset: str
    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    digests: Mapping[str, str]
    whole: bool
    rows: Mapping[str, NDArray[np.uint64]] = field(repr=False, compare=False)

    def differences(self, now: DataRecord) -> list[str]:
        """How other data differ from these, a clause each; empty where they are the same."""
        if self.dataset != now.dataset:
            return [f"it is {now.dataset} and was {self.dataset}"]
        # Classes first, then sizes, then samples: the first difference explains the later ones.
        found = _class_differences(self.classes, now.classes)
        for split in SPLITS:
            if self.sizes[split] != now.sizes[split]:
                found.append(f"{split} has {now.sizes[split]} samples and had {self.sizes[split]}")
            elif self.digests[split] != now.digests[split]:
                changed = int((~np.isin(now.rows[split], self.rows[split])).sum())
                others = f"{changed} of the {now.sizes[split]} samples of {split} are others"
                # The same samples, yet another digest: labels or order.
                found.append(others if changed else f"{split} has other labels or another order")
        return found


def _class_differences(before: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    if before == now:
        return []
    gone, new = [name for name in before if name not in now], [name for name in now if name not in before]
    found = [f"class {listing(map(repr, gone))} is gone"] if gone else []
    found += [f"class {listing(map(repr, new))} is new"] if new else []
    return found or ["the classes are in another order"]


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """The names of the classes; where the data set has none, their numbers."""
    return dataset.classes or tuple(map(str, range(dataset.num_classes)))


def record_of(dataset: Dataset) -> DataRecord:
    """The record of a data set as it is now; reads all of its splits."""
    splits = {name: dataset.load(name) for name in SPLITS}
    rows = {name: row_digests(split.inputs) for name, split in splits.items()}
    kind = type(dataset)
    return DataRecord(
        f"{kind.__module__}.{kind.__qualname__}",
        class_names(dataset),
        {name: len(split) for name, split in splits.items()},
        {name: digest_of(split, rows[name]) for name, split in splits.items()},
        all(len(places(split.inputs)) == len(split) for split in splits.values()),
        rows,
    )


def write_record(folder: Path, record: DataRecord) -> None:
    """Write data_rows.npz, and then data.json, which says that both are there."""
    # data.json last: it says that both are whole.
    buffer = io.BytesIO()
    np.savez(buffer, **dict(record.rows))  # type: ignore[arg-type]
    write_whole(folder / ROWS, buffer.getvalue())
    content = {
        "dataset": record.dataset,
        "classes": list(record.classes),
        "whole": record.whole,
        "splits": {name: {"n": record.sizes[name], "digest": record.digests[name]} for name in SPLITS},
    }
    write_whole(folder / FILE, json.dumps(content, indent=2) + "\n")


def read_record(folder: Path) -> DataRecord | None:
    """The record in a run folder; None where it was recorded before there were any. Raises UserError if damaged."""
    try:
        if not is_there(folder / FILE):
            return None
        content: Any = read_json(folder / FILE)
        with open_npz(folder / ROWS) as arrays:
            rows = {name: np.asarray(arrays[name], dtype=np.uint64) for name in SPLITS}
        splits = content["splits"]
        sizes = {name: int(splits[name]["n"]) for name in SPLITS}
        whole = content["whole"] is True
        # A record of every sample has a digest for each; of a part, no more than there are.
        if any(
            rows[name].ndim != 1 or len(rows[name]) > n or (whole and len(rows[name]) < n) for name, n in sizes.items()
        ):
            raise ValueError(f"{ROWS} holds another number of samples")
        # Read into plain types, so that a value of another kind is told as damage here.
        return DataRecord(
            str(content["dataset"]),
            tuple(map(str, content["classes"])),
            sizes,
            {name: str(splits[name]["digest"]) for name in SPLITS},
            whole,
            rows,
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"{folder / FILE}, which says what data the run was trained on, is damaged ({reason}); put it back from a "
            "copy, or take both it and data_rows.npz away, upon which changed data can't be noticed."
        ) from error
