"""The cell and the data set that the documentation shows pass the checks, and are as short as it says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(
    ("page", "module", "group", "option"),
    [("models.md", "my_cells", "model", "my_cell"), ("datasets.md", "my_data", "dataset", "my_data")],
)
def test_the_example_works_as_it_stands(
    deqrun: Callable[..., Outcome],
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    module: str,
    group: str,
    option: str,
) -> None:
    page_text = (DOCS / page).read_text(encoding="utf-8")
    text = page_text[page_text.rindex(f"{module}.py") :]
    code, yaml = (
        re.search(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1] for kind in ("python", "yaml")
    )  # type: ignore[index]
    (workspace / "mine" / group).mkdir(parents=True)
    (workspace / "mine" / f"{module}.py").write_text(code)
    (workspace / "mine" / group / f"{option}.yaml").write_text(yaml)
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ["--config-dir", "mine", f"{group}={option}", "allow_foreign_targets=true"]
    checked = deqrun("check", *arguments)
    assert checked.code == 0, checked.out
    assert deqrun("train", *arguments, *["model=mlp"] * (group == "dataset")).code == 0
    assert len(code.splitlines()) <= 22
    monkeypatch.delitem(sys.modules, module)
