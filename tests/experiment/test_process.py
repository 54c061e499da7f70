"""Whole processes: killed and gone on, run from elsewhere, installed from a wheel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from deqrun.cli import main
from deqrun.records.reading import read_run
from tests.experiment.conftest import SMALL
from tests.prepared import Deqrun

ROOT = Path(__file__).parents[2]


def deqrun(*arguments: str, folder: Path) -> Deqrun:
    return Deqrun(*arguments, folder=folder)


def finish(process: Deqrun, seconds: float = 240) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    code, _, err = finish(deqrun("train", *SMALL, "train.epochs=8", "run=here", folder=folder))
    assert code == 0, err
    return folder / "here"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, 130, marks=pytest.mark.nightly),
    ],
)
def test_stopped_by_a_signal_and_resumed(sent: signal.Signals, code: int, whole: Path, tmp_path: Path) -> None:
    process = deqrun("train", *SMALL, "train.epochs=8", "run=here", folder=tmp_path)
    last, deadline = tmp_path / "here" / "checkpoints" / "last.pt", time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sent)
    returned, _, err = finish(process)
    assert returned == code, err
    if code == 130:
        assert "resume=true" in err
        assert "Traceback" not in err
        assert read_run(tmp_path / "here").status.status == "interrupted"
    again, _, err = finish(deqrun("train", "run=here", "resume=true", folder=tmp_path))
    assert again == 0, err
    one, two = read_run(tmp_path / "here"), read_run(whole)
    assert [row.loss for row in one.epochs] == [row.loss for row in two.epochs]
    assert one.summary.test_accuracy == two.summary.test_accuracy


def test_a_trained_run_is_swept_again_without_training(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    monkeypatch.chdir(whole.parent)
    asked = ["sweep.iterations=[1,3]", "sweep.solvers=[picard]", "tracker=none", "report=false"]
    assert main(["sweep", f"run={whole}", *asked]) == 0
    (folder,) = (whole.parent / "outputs" / "sweep").glob("*/*")
    again, trained = read_run(folder), read_run(whole)
    assert {(cell.solver, cell.max_iter) for cell in again.sweep} == {
        ("picard", 1),
        ("picard", 3),
        ("picard", 24),  # the last being the run's own budget
    }
    (one,) = again.cells("test", "picard", "zeros", 1, 1e-3)
    (same,) = trained.cells("test", "picard", "zeros", 1, 1e-3)
    assert one.accuracy == same.accuracy
    assert again.summary.test_accuracy == trained.summary.test_accuracy
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}


def test_compare_puts_runs_side_by_side(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "other")
    code, out, err = finish(deqrun("compare", str(whole), "other", "--output", "both", folder=tmp_path))
    assert code == 0, err
    assert (tmp_path / "both" / "compare.html").is_file()
    assert max(map(len, out.splitlines())) <= 120


def test_describe_prints_the_published_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """158,890 parameters and a state of 30,720 on CIFAR-10's shape (Bai, Koltun & Kolter 2020), and no data is read."""
    monkeypatch.chdir(tmp_path)
    assert main(["describe", "model=mdeq", "dataset=cifar10"]) == 0
    out = capsys.readouterr().out
    assert "158,890" in out
    assert "30,720" in out
    assert list(tmp_path.iterdir()) == []


def test_absent_data_is_one_sentence_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "dataset=cifar10", "tracker=none"]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1
    assert "dataset.download=true" in err
    assert not (tmp_path / "outputs").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by its own backend from this tree."""
    pytest.importorskip("hatchling", reason="the build backend is not installed, so no wheel can be built here")
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build as b; print(b.build_wheel({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.whl"))


def test_the_wheel_works_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere and put first on the path, it finds its own configs and runs the main command."""
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "deqrun" / "configs" / "train.yaml").is_file()
    code = "import sys; import deqrun, deqrun.cli; print(deqrun.__file__); sys.exit(deqrun.cli.main(sys.argv[1:]))"
    ran = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "train",
            *SMALL,
            "train.epochs=1",
            "sweep.solvers=[picard]",
            "run=there",
            "report=true",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        text=True,
        capture_output=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    assert str(site) in ran.stdout
    assert (tmp_path / "there" / "report.html").is_file()
    assert read_run(tmp_path / "there").status.status == "completed"
