"""Whether two run or study folders hold the same numbers, timings aside; prints each number that differs.

    python scripts/compare_runs.py BEFORE AFTER

Compared are train.jsonl, evaluations.jsonl, sweep.jsonl, halting.jsonl, breadth.jsonl, savings.jsonl and answer.json
wherever they lie below the folders, each number by its file, line and key; equal means equal to the last digit. What
depends on the clock is left out: keys that hold 'seconds', and, of an answer, values in seconds. Exit code 1 where
anything differs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILES = (
    "train.jsonl",
    "evaluations.jsonl",
    "sweep.jsonl",
    "halting.jsonl",
    "breadth.jsonl",
    "savings.jsonl",
    "answer.json",
)
SHOWN = 20


def numbers_below(folder: Path) -> dict[str, Any]:
    """Every value of the compared files, by file, place and key."""
    found: dict[str, Any] = {}
    for path in sorted(path for name in FILES for path in folder.rglob(name)):
        place = str(path.relative_to(folder))
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
        for number, line in enumerate(lines, start=1):
            found |= {f"{place}:{number}{key}": value for key, value in leaves(json.loads(line))}
    return found


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of each number, text and null in nested JSON; what depends on the clock is left out."""
    if "second" in key.rpartition(".")[2]:
        return
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from leaves(entry, f"{key}.{name}")
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from leaves(entry, f"{key}[{place}]")
    elif not isinstance(value, str):
        yield key, value


def main() -> int:
    """Compare the two folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    given = parser.parse_args()
    before, after = numbers_below(given.before), numbers_below(given.after)
    missing = object()
    different = [key for key in {**before, **after} if before.get(key, missing) != after.get(key, missing)]
    for key in different[:SHOWN]:
        print(f"{key}: {before.get(key, 'not there')} | {after.get(key, 'not there')}")
    files = {key.partition(":")[0] for key in before}
    print(f"{len(before):,} values of {len(files)} files compared, {len(different):,} differ")
    return 1 if different or not before else 0


if __name__ == "__main__":
    raise SystemExit(main())
