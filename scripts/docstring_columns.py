"""Docstrings as Markdown, for the reference that `make docs` builds.

A docstring is plain text. Its lines "name   meaning" become a table, a doctest becomes a block of code, and the star of
a shape such as (batch, *state_shape) stays a star. Paragraphs and indented formulas are Markdown already.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

HEADER = re.compile(r"(Arguments|Attributes|Returns)$")
ENTRY = re.compile(r"(?P<name>[A-Za-z_][\w.]*(?:,? [A-Za-z_'][\w.']*){0,3})\s{2,}(?P<meaning>\S.*)$")


class DocstringColumns(griffe.Extension):
    """Rewrites every docstring that griffe has read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """The docstring, block by block; a blank line ends a block."""
    done: list[str] = []
    column = 0  # of the meanings, while the last block is a table
    for block in re.split(r"\n[ \t]*\n", textwrap.dedent(docstring).strip("\n")):
        lines = block.split("\n")
        if column and _indent(lines) >= column:  # a further paragraph of the last meaning
            done[-1] = f"{done[-1].removesuffix(' |')}<br>{_cell(' '.join(map(str.strip, lines)))} |"
            continue
        text, column = _block(lines)
        done.append(text)
    return "\n\n".join(done)


def _block(lines: list[str]) -> tuple[str, int]:
    """One block as Markdown, and the column of its meanings: 0 if it is no table."""
    block, header = "\n".join(lines), ""
    if lines[0].startswith(">>>"):
        return f"```python\n{block}\n```", 0
    if len(lines) > 1 and HEADER.match(lines[0]):
        header, lines = f"**{lines[0]}**\n\n", lines[1:]
    indent = _indent(lines)
    rows = _rows([line[indent:] for line in lines])
    if not rows:
        return block if block.startswith("    ") else _text(block), 0
    table = "\n".join(f"| `{name}` | {_cell(meaning)} |" for name, meaning in rows)
    return f"{header}| | |\n|---|---|\n{table}", indent + _column(lines[0][indent:])


def _rows(lines: list[str]) -> list[tuple[str, str]]:
    """Names and meanings; none unless every line is an entry or goes on with the meaning above it."""
    rows: list[tuple[str, str]] = []
    for line in lines:
        entry = ENTRY.match(line)
        if entry and not re.search(r"\S {2,}\S", entry["meaning"]):
            rows.append((entry["name"], entry["meaning"]))
        elif rows and line.startswith("  "):
            rows[-1] = (rows[-1][0], f"{rows[-1][1]} {line.strip()}")
        else:
            return []
    return rows


def _column(line: str) -> int:
    entry = ENTRY.match(line)
    return entry.start("meaning") if entry else 0


def _indent(lines: list[str]) -> int:
    return min(len(line) - len(line.lstrip()) for line in lines)


def _cell(meaning: str) -> str:
    return _text(meaning).replace("|", "\\|")


def _text(text: str) -> str:
    """Stars outside of code are stars, but for the pairs that make bold."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"(?<!\*)\*(?!\*)", r"\\*", part) for part in parts)
