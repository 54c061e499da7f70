"""report=false: the same numbers, no page, and the page made later."""

from pathlib import Path

import pytest

from deqrun.cli import main
from deqrun.experiment.sweep import parts
from deqrun.records.reading import read_run
from deqrun.settings import read_settings

SMALL = ("model=mlp", "model.width=8", "train.epochs=1", "sweep=quick", "tracker=none", "threads=1", "device=cpu")
SMALL += ("train.batch_size=540", "sweep.solvers=[picard]", "sweep.starts=[zeros]")


def test_a_run_without_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(parts, "HELD", 0)  # each trajectory stays in its file until the end
        assert main(["train", *SMALL, "run=with"]) == 0
    assert not (Path("with") / "sweep_parts").exists()
    page = (Path("with") / "report.html").read_text()
    pictures = {path.name: path.read_bytes() for path in Path("with/figures").iterdir()}
    assert main(["report", "run=with"]) == 0  # from the files alone
    assert (Path("with") / "report.html").read_text() == page
    assert {path.name: path.read_bytes() for path in Path("with/figures").iterdir()} == pictures
    capsys.readouterr()
    assert main(["train", *SMALL, "run=without", "report=false"]) == 0
    assert f"left out; deqrun report run={tmp_path / 'without'} makes it" in " ".join(capsys.readouterr().out.split())
    assert not (Path("without") / "report.html").exists()
    assert not (Path("without") / "figures").exists()
    settings = [read_settings(Path(name) / "config.yaml") for name in ("with", "without")]
    assert settings[0].fingerprint() == settings[1].fingerprint()
    one, other = read_run("with"), read_run("without")
    assert [cell.accuracy for cell in one.sweep] == [cell.accuracy for cell in other.sweep]
    assert other.status.status == "completed"

    assert main(["train", "run=without", "resume=true"]) == 0
    assert "Its report was left out; deqrun report run=" in capsys.readouterr().out
    assert not (Path("without") / "report.html").exists()
    assert main(["report", "run=without"]) == 0
    assert (Path("without") / "report.html").is_file()
