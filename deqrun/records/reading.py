"""Reading a run folder. Nothing in it is executed: YAML builds plain values only and arrays without pickle."""

import math
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from deqrun.records.former_names import with_present_names
from deqrun.records.long_trajectory import HELD, AnyTrajectory, ArraysInArchive, LongTrajectory
from deqrun.records.rows import ROW_KINDS, Epoch, RowKind
from deqrun.records.run import RunRecord, RunStatus, Summary
from deqrun.records.safe_reading import Arrays, NotReadable, is_there, open_npz, parse_json, read_json, read_text
from deqrun.records.trajectory import MEASURES, PER_ITERATE, SIGNALS, Trajectory, TrajectoryKey
from deqrun.records.yaml_text import read_yaml

Row = TypeVar("Row")
AXES = ("solvers", "starts", "iterations", "tolerances", "precisions", "splits")
"""Keys of a sweep's lists, of which one that is empty leaves no row."""

DTYPES = {"nfe": np.int32, "correct": np.bool_, "jvps": np.int32, "seconds": np.float64, "status": np.uint8}
"""Types of a trajectory's arrays; the others have those that they were written with."""


def read_run(folder: Path | str, *, trajectories: bool = True) -> RunRecord:
    """Read whatever a run folder holds by now.

    trajectories  whether they are read, too: who has just written them has them
    Only config.yaml must be there: a run writes it first. Each other file may be missing. When a run went on
    after an interruption, the last row for an epoch, or for a sweep cell, counts.
    Raises ValueError, one sentence, where the folder is no run, a file in it cannot be understood, or a completed run
    lacks rows of its sweep or the end of a file.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ValueError(_no_run(folder))
    status, summary = read_status(folder), read_summary(folder)
    complete = status.status == "completed"
    record = RunRecord(
        folder=folder,
        config=_read_config(folder / "config.yaml"),
        status=status,
        summary=summary,
        trajectories=read_trajectories(folder / "trajectories.npz") if trajectories else {},
        **{name: _rows_of(folder, kind, complete) for name, kind in ROW_KINDS.items()},
    )
    empty = any(record.setting("sweep", axis) == [] for axis in AXES)  # sweep=none, or a list left empty
    if complete and record.setting("sweep", "solvers") and not empty and not record.sweep:
        raise ValueError(f"'{folder / 'sweep.jsonl'}' is missing or empty, though the run's sweep was completed.")
    return record


def read_status(folder: Path) -> RunStatus:
    """status.json alone; its defaults where there is none. Raises ValueError as `read_run` does."""
    return _read_object(folder / "status.json", RunStatus)


def read_summary(folder: Path) -> Summary:
    """summary.json alone; its defaults where there is none. Raises ValueError as `read_run` does."""
    return _read_object(folder / "summary.json", Summary)


def _rows_of(folder: Path, kind: RowKind, complete: bool) -> tuple[Any, ...]:
    rows: list[Any] = list(read_rows(folder / kind.file, kind.row, complete))
    if kind.once is None:
        return tuple(rows)
    last = {kind.once(row): row for row in rows}
    return tuple(sorted(last.values(), key=kind.once) if kind.row is Epoch else last.values())


def _no_run(folder: Path) -> str:
    """One sentence: the folder given, the kind allowed, and the nearest run folder."""
    if not folder.exists():
        return f"'{folder}' does not exist; give a run folder, one that holds config.yaml."
    near = next((parent for parent in folder.parents if (parent / "config.yaml").is_file()), None)
    if near is None and folder.is_dir():
        below = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/config.yaml"))
        near = below[-1] if below else None
    hint = f"; did you mean '{near}'?" if near else "."
    return f"'{folder}' is not a run folder: a run folder holds config.yaml{hint}"


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return with_present_names(read_yaml(path))
    except ValueError as error:
        raise ValueError(f"'{path}' is not a config: {' '.join(str(error).split())}.") from error


def _read_object(path: Path, kind: type[Row]) -> Row:
    if not is_there(path):
        return kind()
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"'{path}' is not JSON: {error}.") from error
    return _from_mapping(kind, content, f"'{path}'")


def read_rows(path: Path, kind: type[Row], complete: bool = False) -> Iterator[Row]:
    """Rows of a JSON-lines file. A last line that was cut short by a kill is left out; in a file that was completed it
    is damage.
    """
    if not is_there(path):
        return
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = parse_json(line)
        except ValueError as error:
            cut = number == len(lines) and line.startswith("{")
            if cut and complete:
                raise ValueError(f"'{path}' is cut short in line {number}, though the run was completed.") from error
            if cut:
                return
            raise ValueError(f"'{path}' line {number} is not JSON: {error}.") from error
        yield _from_mapping(kind, content, f"'{path}' line {number}")


def _from_mapping(kind: type[Row], content: Any, where: str) -> Row:
    """A dataclass from a JSON object: known fields are converted, unknown ones are left out."""
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds a {type(content).__name__}; an object with named values is expected.")
    content = with_present_names(content)
    values: dict[str, Any] = {}
    for field in _fields(kind):  # type: ignore[arg-type]  # mypy takes the hash of the class for its instances'
        if field.name in content:
            value = content[field.name]
            plain = type(value) is field.type and field.type is not dict
            values[field.name] = value if plain else _convert(value, field, f"{where}: {field.name}")
        elif field.required:
            raise ValueError(f"{where} has no '{field.name}'; it has {', '.join(sorted(map(str, content)))}.")
    return kind(**values)


class _Field(NamedTuple):
    """A dataclass's field as JSON fills it; type is int, float, str, bool or dict."""

    name: str
    type: Any
    optional: bool
    required: bool


@cache
def _fields(kind: type) -> tuple[_Field, ...]:
    """The fields of a dataclass, with their annotations resolved once."""
    hints, found = get_type_hints(kind), []
    for field in fields(kind):
        hint = hints[field.name]
        optional = get_origin(hint) in (types.UnionType, Union)
        if optional:
            hint = next(option for option in get_args(hint) if option is not type(None))
        required = field.default is MISSING and field.default_factory is MISSING
        found.append(_Field(field.name, get_origin(hint) or hint, optional, required))
    return tuple(found)


def _convert(value: Any, field: _Field, where: str) -> Any:
    """`value` as the annotated type; null stands for None, or for NaN where a number is due."""
    if value is None and field.optional:
        return None
    if field.type is dict:
        return {str(key): str(entry) for key, entry in value.items()} if isinstance(value, dict) else {}
    if value is None and field.type is float:
        return math.nan
    try:
        return field.type(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} is {value!r}, which is not {field.type.__name__}.") from error


def read_trajectories(path: Path) -> dict[TrajectoryKey, AnyTrajectory]:
    """Trajectories by their keys; one whose arrays are not all there is left out.

    The first, up to `HELD` bytes, are in memory; the others are read part by part when they are used.
    """
    if not is_there(path):
        return {}
    try:
        with open_npz(path, by_parts=True) as arrays:
            stems = sorted({name.rpartition("/")[0] for name in arrays if name.count("/") in (3, 5)})
            found: dict[TrajectoryKey, AnyTrajectory] = {}
            left = HELD
            for stem in stems:
                if all(f"{stem}/{part}" in arrays for part in ("residual", "nfe", "correct")):
                    left -= sum(arrays.size(f"{stem}/{name}") for name in _names(arrays, stem))
                    read = _trajectory if left >= 0 else _long_trajectory
                    found[TrajectoryKey.from_path(stem)] = read(arrays, stem, path)
            return found
    except NotReadable as error:
        raise ValueError(f"'{path}' is not an npz file, or is damaged: {error}.") from error


def _names(arrays: Arrays, stem: str) -> list[str]:
    known = (*PER_ITERATE, "seconds", "status", "min_iter")
    return [name for name in known if f"{stem}/{name}" in arrays]


def _long_trajectory(arrays: Arrays, stem: str, path: Path) -> AnyTrajectory:
    """A trajectory that stays in its file; one that an earlier version wrote iterate by iterate is read whole."""
    headers = {name: arrays.header(f"{stem}/{name}") for name in _names(arrays, stem)}
    expected = {"residual": "f", "nfe": "i", "correct": "b", "jvps": "i"}
    by_sample = all(headers[name].fortran for name in headers if len(headers[name].shape) == 2)
    if not by_sample or "seconds" not in headers:
        return _trajectory(arrays, stem, path)
    odd = [name for name, kind in expected.items() if name in headers and headers[name].dtype.kind != kind]
    if odd:
        raise ValueError(f"'{path}' holds {stem} with {odd[0]} of type {headers[odd[0]].dtype}.")
    _require_shapes(path, stem, {name: header.shape for name, header in headers.items()})
    return LongTrajectory(ArraysInArchive(path, stem, headers))


def _require_shapes(path: Path, stem: str, shapes: dict[str, tuple[int, ...]]) -> None:
    """ValueError where residual, nfe and correct, or jvps, or the signals are not all (T+1, n)."""
    shape = shapes["residual"]
    if len(shape) != 2 or not shape == shapes["nfe"] == shapes["correct"]:
        raise ValueError(
            f"'{path}' holds {stem} with shapes residual {shape}, nfe {shapes['nfe']}, correct "
            f"{shapes['correct']}; all three are (T+1, n)."
        )
    if shapes.get("jvps", shape) != shape:
        raise ValueError(f"'{path}' holds {stem} with shapes nfe {shape}, jvps {shapes['jvps']}; both are (T+1, n).")
    signals = {name: shapes[name] for name in (*SIGNALS, *MEASURES, "loss") if name in shapes}
    if any(other != shape for other in signals.values()):
        told = ", ".join(f"{name} {other}" for name, other in signals.items())
        raise ValueError(f"'{path}' holds {stem} with shapes nfe {shape}, {told}; all are (T+1, n).")


def _trajectory(arrays: Arrays, stem: str, path: Path) -> Trajectory:
    read: dict[str, Any] = {
        name: np.asarray(arrays[f"{stem}/{name}"], dtype=DTYPES.get(name)) for name in _names(arrays, stem)
    }
    _require_shapes(path, stem, {name: array.shape for name, array in read.items()})
    if read["residual"].dtype != np.float64:
        read["residual"] = read["residual"].astype(np.float32)
    read.setdefault("seconds", np.full(len(read["residual"]), np.nan))
    min_iter = read.pop("min_iter", np.zeros((), dtype=np.int64))
    if min_iter.shape != () or min_iter.dtype.kind not in "iu" or min_iter < 0:
        raise ValueError(f"'{path}' holds {stem} with a min_iter that is no whole number from 0.")
    return Trajectory(**read, min_iter=int(min_iter))
