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
from deqrun.records.rows import ROW_KINDS, Epoch, RowKind
from deqrun.records.run import RunRecord, RunStatus, Summary
from deqrun.records.safe_reading import NotReadable, is_there, open_npz, parse_json, read_json, read_text
from deqrun.records.trajectory import SIGNALS, Trajectory, TrajectoryKey
from deqrun.records.yaml_text import read_yaml

Row = TypeVar("Row")


def read_run(folder: Path | str) -> RunRecord:
    """Read whatever a run folder holds by now.

    Only config.yaml must be there: a run writes it first. Each other file may be missing. When a run went on
    after an interruption, the last row for an epoch, or for a sweep cell, counts.
    Raises ValueError, one sentence, where the folder is no run or a file in it cannot be understood.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise ValueError(_no_run(folder))
    return RunRecord(
        folder=folder,
        config=_read_config(folder / "config.yaml"),
        status=_read_object(folder / "status.json", RunStatus),
        summary=_read_object(folder / "summary.json", Summary),
        trajectories=read_trajectories(folder / "trajectories.npz"),
        **{name: _rows_of(folder, kind) for name, kind in ROW_KINDS.items()},
    )


def read_status(folder: Path) -> RunStatus:
    """status.json alone; its defaults where there is none. Raises ValueError as `read_run` does."""
    return _read_object(folder / "status.json", RunStatus)


def read_summary(folder: Path) -> Summary:
    """summary.json alone; its defaults where there is none. Raises ValueError as `read_run` does."""
    return _read_object(folder / "summary.json", Summary)


def _rows_of(folder: Path, kind: RowKind) -> tuple[Any, ...]:
    rows: list[Any] = list(read_rows(folder / kind.file, kind.row))
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


def read_rows(path: Path, kind: type[Row]) -> Iterator[Row]:
    """Rows of a JSON-lines file. A last line without its newline was cut short by a kill, and is left out."""
    if not is_there(path):
        return
    lines = read_text(path).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            content = parse_json(line)
        except ValueError as error:
            if number == len(lines) and line.startswith("{"):
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


def read_trajectories(path: Path) -> dict[TrajectoryKey, Trajectory]:
    """Trajectories by their keys; one whose arrays are not all there is left out."""
    if not is_there(path):
        return {}
    try:
        with open_npz(path) as arrays:
            stems = sorted({name.rpartition("/")[0] for name in arrays if name.count("/") in (3, 5)})
            return {
                TrajectoryKey.from_path(stem): _trajectory(arrays, stem, path)
                for stem in stems
                if all(f"{stem}/{part}" in arrays for part in ("residual", "nfe", "correct"))
            }
    except NotReadable as error:
        raise ValueError(f"'{path}' is not an npz file, or is damaged: {error}.") from error


def _trajectory(arrays: Any, stem: str, path: Path) -> Trajectory:
    residual = np.asarray(arrays[f"{stem}/residual"])
    residual = residual if residual.dtype == np.float64 else residual.astype(np.float32)
    nfe = np.asarray(arrays[f"{stem}/nfe"], dtype=np.int32)
    correct = np.asarray(arrays[f"{stem}/correct"], dtype=np.bool_)
    if residual.ndim != 2 or not residual.shape == nfe.shape == correct.shape:
        raise ValueError(
            f"'{path}' holds {stem} with shapes residual {residual.shape}, nfe {nfe.shape}, correct "
            f"{correct.shape}; "
            "all three are (T+1, n)."
        )
    timed = f"{stem}/seconds" in arrays
    seconds = np.asarray(arrays[f"{stem}/seconds"], dtype=np.float64) if timed else np.full(len(residual), np.nan)
    status = np.asarray(arrays[f"{stem}/status"], dtype=np.uint8) if f"{stem}/status" in arrays else None
    jvps = np.asarray(arrays[f"{stem}/jvps"], dtype=np.int32) if f"{stem}/jvps" in arrays else None
    if jvps is not None and jvps.shape != nfe.shape:
        raise ValueError(f"'{path}' holds {stem} with shapes nfe {nfe.shape}, jvps {jvps.shape}; both are (T+1, n).")
    signals = {name: np.asarray(arrays[f"{stem}/{name}"]) for name in SIGNALS if f"{stem}/{name}" in arrays}
    if any(signal.shape != nfe.shape for signal in signals.values()):
        shapes = ", ".join(f"{name} {signal.shape}" for name, signal in signals.items())
        raise ValueError(f"'{path}' holds {stem} with shapes nfe {nfe.shape}, {shapes}; all are (T+1, n).")
    min_iter = np.asarray(arrays[f"{stem}/min_iter"]) if f"{stem}/min_iter" in arrays else np.zeros((), dtype=np.int64)
    if min_iter.shape != () or min_iter.dtype.kind not in "iu" or min_iter < 0:
        raise ValueError(f"'{path}' holds {stem} with a min_iter that is no whole number from 0.")
    return Trajectory(residual, nfe, correct, seconds, status, jvps, **signals, min_iter=int(min_iter))
