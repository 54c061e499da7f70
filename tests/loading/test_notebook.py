"""docs/load_run.ipynb runs from its first cell to its last, and keeps no output in the repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "load_run.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_cell_runs(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that the first cell would train is there already."""
    pytest.importorskip("pandas")
    shutil.copytree(digits_run, tmp_path / "outputs" / "train" / "notebook")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in code_cells():
        *before, last = cell.rstrip().split("\n")
        exec(compile("\n".join(before), "cell", "exec"), names) if _is_expression(last) else exec(cell, names)
        if _is_expression(last):
            assert eval(last, names) is not None  # a notebook shows it
    assert len(names["answer"].names) == 3  # type: ignore[attr-defined]


def _is_expression(line: str) -> bool:
    try:
        compile(line, "line", "eval")
    except SyntaxError:
        return False
    return not line.startswith((" ", "print"))


def test_the_first_cell_s_command_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deqrun.cli import main

    first = code_cells()[0]
    line = next(line for line in first.split("\n") if line.strip().startswith("command = "))
    command = eval(line.partition("=")[2], {"FOLDER": tmp_path / "run"})
    assert main([*command[1:], "--cfg", "job"]) == 0


def test_no_output_is_kept() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(cell.get("outputs", []) == [] and cell.get("execution_count") is None for cell in cells)
