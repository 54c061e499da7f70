"""The reference that `make docs` builds: columns of a docstring become a table, and no star of a shape is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("griffe", reason="make docs installs it")
sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from docstring_columns import as_markdown


def test_columns_become_a_table_with_their_further_lines_and_paragraphs() -> None:
    text = "A sum.\n\nname   first\n       and more |x|\nother  second:\n\n           a formula\n\nRaises ValueError."
    assert as_markdown(text) == (
        "A sum.\n\n| | |\n|---|---|\n| `name` | first and more \\|x\\| |\n"
        "| `other` | second:<br>a formula |\n\nRaises ValueError."
    )


def test_a_header_stands_above_its_table() -> None:
    assert as_markdown("Arguments\n    cell   the cell") == "**Arguments**\n\n| | |\n|---|---|\n| `cell` | the cell |"


def test_text_and_formulas_stay() -> None:
    text = "Of **all** (batch, *shape) `*args`.\n\n    z = f(z)   per row   always"
    assert as_markdown(text) == "Of **all** (batch, \\*shape) `*args`.\n\n    z = f(z)   per row   always"


def test_a_doctest_is_code() -> None:
    assert as_markdown(">>> 1 + 1\n2") == "```python\n>>> 1 + 1\n2\n```"
