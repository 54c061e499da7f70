"""Compared runs made by hand: settings, seed and numbers, without a folder."""

from pathlib import Path
from typing import Any

from deqrun.records.states import RunState
from deqrun.report.compare.runs import METRICS, ComparedRun

GROUPS = frozenset({"model", "dataset", "solver"})


def made_run(settings: dict[str, Any], seed: int | None = 0, **given: Any) -> ComparedRun:
    """A run with these settings; numbers by metric, and `state`, `reason`, `changed`, `folder`."""
    names = {metric.name for metric in METRICS}
    values: dict[str, float | None] = dict.fromkeys(names)
    values |= {name: value for name, value in given.items() if name in names}
    return ComparedRun(
        folder=given.get("folder", Path(f"made/{abs(hash((str(settings), seed, given.get('changed'))))}")),
        settings=settings,
        groups=GROUPS,
        seed=seed,
        state=given.get("state", RunState.COMPLETED),
        reason=given.get("reason", ""),
        epoch=None,
        title="mlp on digits",
        command="",
        values=values,
        samples={"val_accuracy": 100, "test_accuracy": 100},
        trained="anderson",
        curves={},
        changed=given.get("changed", 0.0),
    )
