"""deqrun compare from the command line: what is read, what is written, and what stays as it was."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deqrun.records.reading import read_run
from scripts.many_runs import write_runs
from tests.cli.conftest import Outcome

Deqrun = Callable[..., Outcome]
Refused = Callable[..., str]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten runs: two learning rates, five seeds each. Tests copy it."""
    folder = tmp_path_factory.mktemp("made") / "runs"
    write_runs(folder, 10)
    return folder


@pytest.fixture
def runs(made: Path, workspace: Path) -> Path:
    """The runs as outputs/train/runs."""
    shutil.copytree(made, workspace / "outputs" / "train" / "runs")
    return Path("outputs/train/runs")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_named_is_all_of_outputs_and_seeds_are_folded(deqrun: Deqrun, runs: Path) -> None:
    before = contents(runs)
    outcome = deqrun("compare")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines()[:-1])) <= 80
    lines = [line for line in outcome.out.splitlines() if "]" in line and "e-4" in line]
    assert len(lines) == 2
    assert all(line.split()[1] == "5" for line in lines)  # lr, seeds
    (page,) = Path("outputs/compare").rglob("compare.html")
    assert sorted(path.name for path in page.parent.iterdir()) == ["compare.html", "compare.md", "compare.txt"]
    assert contents(runs) == before
    assert deqrun("compare").code == 0  # a page of one comparison is no run of the next
    assert len(list(Path("outputs/compare").rglob("compare.html"))) == 2


def test_the_export_has_the_numbers_of_the_runs(deqrun: Deqrun, runs: Path) -> None:
    assert deqrun("compare", str(runs), "--export", "table.csv", "--apart").code == 0
    with open("table.csv", newline="", encoding="utf-8") as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    assert len(rows) == 10
    for folder, row in rows.items():
        summary = read_run(folder).summary
        assert float(row["test_accuracy"]) == summary.test_accuracy
        assert int(row["seed"]) == summary.seed


def test_what_cannot_be_compared_is_listed_and_the_rest_is_compared(deqrun: Deqrun, runs: Path) -> None:
    """Missing, half-written, foreign, damaged and hostile folders, and runs that failed or were killed."""
    bad = {
        name: runs.parent / name for name in ("foreign", "half", "damaged", "share", "bomb", "deep", "types", "failed")
    }
    for name in ("damaged", "share", "types", "failed", "deep"):
        shutil.copytree(runs / "000", bad[name])
    for name in ("foreign", "half", "bomb"):
        bad[name].mkdir()
    (bad["foreign"] / "config.yaml").write_text("services:\n  web: [1, 2]\n")
    (bad["half"] / "train.jsonl").write_text('{"epoch": 1}\n')
    (bad["damaged"] / "trajectories.npz").write_bytes(b"PK\x03\x04 not an archive")
    (bad["share"] / "summary.json").write_text('{"test_accuracy": 42}')
    (bad["bomb"] / "config.yaml").write_text("a: &a [x, x]\nb: [*a, *a]\n")
    (bad["deep"] / "summary.json").write_text("[" * 100_000)
    (bad["types"] / "sweep.jsonl").write_text('{"solver": ["a"], "max_iter": "many"}\n')
    (bad["failed"] / "status.json").write_text(json.dumps({"status": "failed", "reason": "no \x1b[31mmemory"}))
    outcome = deqrun("compare", "outputs", "nowhere", "--output", "page")
    assert outcome.code == 0
    text = " ".join((Path("page") / "compare.txt").read_text(encoding="utf-8").split())
    for words in ("nowhere does not exist", "half is half a run", "is no share from 0 to 1", "aliases (*name)"):
        assert words in text
    for name in ("damaged/trajectories.npz", "deep/summary.json", "types/sweep.jsonl"):
        assert name in text
    assert "failed" in text
    assert "no \\x1b[31mmemory" in text
    assert "\x1b[31m" not in outcome.out
    assert "foreign" in text  # it has no status: it is unknown, and in no row of the table
    assert len([line for line in outcome.out.splitlines() if "] " in line and "e-4" in line]) == 2


def test_a_name_of_a_stranger_never_becomes_html(deqrun: Deqrun, runs: Path) -> None:
    nasty = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    config = runs / "000" / "config.yaml"
    config.write_text(
        config.read_text().replace("lr: 0.0001", f"lr: '{nasty}'").replace("model: mlp", f"model: '{nasty}'")
    )
    (runs / "000" / "status.json").write_text(json.dumps({"status": "completed", "reason": nasty}))
    assert deqrun("compare", str(runs), "--output", "page", "--export", "t.md").code == 0
    page = (Path("page") / "compare.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "alert(1)</script>" not in page
    assert "\\u003c/script\\u003e" in page
    assert "<img" not in Path("t.md").read_text(encoding="utf-8").replace("\\<img", "")
    assert "unsafe-inline" not in page[page.index("script-src") :].split(";")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sort", "test"], "--sort test is not a column of this comparison"),
        (["--export", "table.xls"], "allowed: .csv, .md, .tex, .parquet"),
        (["--output", "outputs"], "--output outputs exists, and nothing is overwritten"),
        (["--export", "outputs/train/runs/000/table.csv", "--expor", "x"], "--expor"),
    ],
)
def test_what_is_typed_wrong_is_refused_before_anything_is_made(
    refused: Refused, runs: Path, arguments: list[str], words: str
) -> None:
    assert words in refused("compare", str(runs), *arguments)


def test_nothing_is_overwritten(refused: Refused, runs: Path) -> None:
    Path("table.csv").write_text("kept")
    assert "nothing is overwritten" in refused("compare", str(runs), "--export", "table.csv")
    Path("link.csv").symlink_to("elsewhere.csv")
    assert "nothing is overwritten" in refused("compare", str(runs), "--export", "link.csv")
    assert Path("table.csv").read_text() == "kept"


def test_no_torch_is_needed(runs: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from deqrun.cli import main\n"
        "sys.exit(main(['compare', 'outputs', '--output', 'page']) or main(['runs']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "10 runs" in done.stdout
