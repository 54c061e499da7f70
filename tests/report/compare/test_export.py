"""What is exported comes back as it was, and no text of a run becomes markup or a formula."""

import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from deqrun.errors import UserError
from deqrun.report.compare.export import export, require_exportable, rows_apart, rows_folded
from deqrun.report.compare.recipes import Comparison, compared
from deqrun.report.compare.table import comparison_markdown, comparison_text
from deqrun.report.tables import plain_text
from tests.report.compare.runs import made_run

NASTY = "a|b <b>\\`c` & %_#{}~^$"


def comparison(*names: str) -> Comparison:
    runs = [
        made_run({"model": name, "lr": lr}, seed, val_accuracy=0.9 + 0.01 * seed, test_accuracy=0.8 + lr)
        for name in (names or ("mlp", "conv"))
        for lr in (1e-3, 1e-1)
        for seed in (0, 1)
    ]
    return compared(runs)


def written(path: Path, of: Comparison, *, apart: bool = False) -> list[dict[str, Any]]:
    rows = rows_apart(of, of.recipes) if apart else rows_folded(of, of.recipes)
    export(path, rows, of, of.recipes, apart=apart)
    return rows


@pytest.mark.parametrize("apart", [False, True])
def test_csv_comes_back(tmp_path: Path, apart: bool) -> None:
    rows = written(tmp_path / "table.csv", comparison(), apart=apart)
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        back = list(csv.DictReader(file))
    assert back == [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    assert float(back[0]["val_accuracy"]) == rows[0]["val_accuracy"]  # to the last digit


@pytest.mark.parametrize("reader", ["pandas", "polars"])
@pytest.mark.parametrize("apart", [False, True])
def test_parquet_comes_back(tmp_path: Path, reader: str, apart: bool) -> None:
    frames = pytest.importorskip(reader)
    pytest.importorskip("pyarrow")
    rows = written(tmp_path / "table.parquet", comparison(), apart=apart)
    frame = frames.read_parquet(tmp_path / "table.parquet")
    assert list(frame.columns) == list(rows[0])
    for name in ("model", "val_accuracy"):
        assert list(frame[name]) == [row[name] for row in rows]


def test_parquet_without_its_packages_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'deqrun\[frames\]'"):
        require_exportable(tmp_path / "table.parquet")


def test_markdown_keeps_its_cells(tmp_path: Path) -> None:
    written(tmp_path / "table.md", comparison(NASTY, "conv"))
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    unescaped = {line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines}
    assert unescaped == {2 + 1 + 6 + 1}  # two keys, seeds, six metrics
    assert "<b>" not in text.replace("\\<b\\>", "")
    assert "\\<b\\>" in text
    assert "0.9" not in lines[2]
    assert "90.5 \\[83.2, 94.8\\]†" in lines[2]  # Wilson of 0.905 among 100


def test_latex_escapes_its_text(tmp_path: Path) -> None:
    written(tmp_path / "table.tex", comparison(NASTY, "conv"))
    text = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert (
        r"a\textbar{}b \textless{}b\textgreater{}\textbackslash{}`c` \& \%\_\#\{\}\textasciitilde{}\textasciicircum{}\$"
        in text
    )
    assert text.count("\\begin{tabular}{ll") == text.count("\\end{tabular}") == 1
    assert text.count(r" \\") == 1 + 4


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    written(tmp_path / "table.csv", comparison("=cmd|' /C calc'!A0", "-1"))
    text = (tmp_path / "table.csv").read_text(encoding="utf-8")
    assert "'=cmd" in text
    assert "\n=cmd" not in text
    assert "\n-1," in text  # a number stays one


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("table.cvs", r"allowed: \.csv, \.md, \.tex, \.parquet; the nearest is \.csv"),
        ("table", "ends in nothing"),
        ("there.csv", "nothing is overwritten"),
        ("no/folder.csv", "does not exist; make it first"),
    ],
)
def test_what_cannot_be_exported_is_refused(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "there.csv").write_text("kept")
    with pytest.raises(UserError, match=words):
        require_exportable(tmp_path / name)
    assert (tmp_path / "there.csv").read_text() == "kept"


def test_the_table_fits_eighty_columns_and_says_what_is_gone() -> None:
    long = {f"section.a_key_that_is_long_{i}": "x" * 30 for i in range(3)}
    runs = [
        made_run(
            {name: f"{value}{place}{value}" for name, value in long.items()} | {"model": model},
            seed,
            val_accuracy=0.9,
            test_accuracy=0.9,
            evaluations=12.0,
            parameters=1e6,
            train_seconds=5000.0,
        )
        for place in range(9)
        for model in ("monotone_conv", "mlp")
        for seed in range(3)
    ]
    for some in (runs, runs[:3], runs[:6]):
        of = compared(some)
        text = plain_text(comparison_text(of, of.recipes))
        assert max(map(len, text.splitlines())) <= 80
    assert "No room for" in plain_text(comparison_text(compared(runs), compared(runs).recipes))


def test_the_page_of_words_tells_what_is_not_in_the_table() -> None:
    from dataclasses import replace

    from deqrun.records.folders import LeftOut
    from deqrun.records.states import RunState

    failed = made_run({"model": "mlp", "lr": 5}, 3, state=RunState.FAILED, reason="no memory", folder=Path("at/x"))
    base = comparison()
    of = replace(base, unfinished=(failed,), left_out=(LeftOut(Path("b"), "b is <b>damaged</b>."),))
    text = plain_text(comparison_text(of, of.recipes))
    assert "failed, mlp, lr=5, seed 3: no memory (at/x)" in " ".join(text.split())
    assert "b is <b>damaged</b>." in text
    assert "\\<b\\>damaged" in comparison_markdown(of, of.recipes)
