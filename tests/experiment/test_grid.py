"""A multirun is a grid that survives: finished jobs are skipped, cut ones go on, failed ones cost no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deqrun.cli import main
from deqrun.experiment import launch
from deqrun.records.reading import read_run
from tests.experiment.test_resume import Stop

SMALL = [
    "dataset=prefix_sums",
    "dataset.n_train=64",
    "dataset.n_validation=16",
    "dataset.n_test=16",
    "model=recall",
    "model.width=8",
    "train.epochs=2",
    "tracker=none",
    "report=false",
    "device=cpu",
    "threads=1",
    "sweep.iterations=[1]",
    "sweep.tolerances=[0.1]",
    "sweep.solvers=[picard]",
    "sweep.starts=[zeros]",
    "sweep.spectrum=0",
    "budget.max_iter=8",
    "gradient.budget.max_iter=8",
]
GRID = ["train", "-m", *SMALL, "seed=0,1", "solver=picard,anderson"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def home() -> Path:
    (found,) = Path("outputs").glob("*/*/*/grid.json")
    return found.parent


def numbers(folder: Path) -> dict[str, list[object]]:
    """Losses and sweep of each job, by the folder's name."""
    found = {}
    for path in sorted(folder.glob("0*")):
        record = read_run(path)
        assert record.status.status == "completed"
        found[path.name] = [[epoch.loss for epoch in record.epochs], [cell.accuracy for cell in record.sweep]]
    return found


def changed(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.glob("0*/**/*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "grid"
    assert main([*GRID, f"hydra.sweep.dir={folder}"]) == 0
    return numbers(folder)


def test_the_same_command_goes_on_where_it_was_cut(
    undisturbed: dict[str, list[object]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(launch, "evaluate", Stop(launch.evaluate, 2, KeyboardInterrupt()))
        assert main(GRID) == 130
    told = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 4 jobs are complete" in told
    assert "Go on with the same command." in told
    first = {name: times for name, times in changed(home()).items() if "/000-" in name}
    assert main(GRID) == 0
    assert "1 of 4 jobs are complete already" in capsys.readouterr().out
    assert numbers(home()) == undisturbed
    assert {name: times for name, times in changed(home()).items() if "/000-" in name} == first


def test_a_complete_grid_does_nothing_and_a_wider_one_does_what_is_new(
    undisturbed: dict[str, list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(GRID) == 0
    before = changed(home())
    assert main(GRID) == 0
    assert "4 of 4 jobs are complete already" in capsys.readouterr().out
    assert changed(home()) == before
    assert main([*GRID[:-2], "seed=0,1,2", "solver=picard,anderson"]) == 0
    assert {name: value for name, value in changed(home()).items() if name in before} == before
    wide = numbers(home())
    assert {name: wide[name] for name in undisturbed} == undisturbed
    assert sorted(set(wide) - set(undisturbed)) == ["004-seed=2,solver=picard", "005-seed=2,solver=anderson"]
    assert main([*GRID, "resume=false"]) == 0
    assert len(list(Path("outputs").glob("*/*/*/grid.json"))) == 2


def test_a_job_that_fails_costs_no_other_and_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """With a learning rate of 1e30 the loss is lost; the second job is trained none the less."""
    assert main(["train", "-m", *SMALL, "seed=0", "optimizer.lr=1e30,1e-3"]) == 3
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    table = printed.out[printed.out.rindex("differs in") :]
    assert "failed" in table
    assert "completed" in table
    assert "job 0: The loss is not finite" in table
    states = {path.parent.name: json.loads(path.read_text())["status"] for path in home().glob("0*/status.json")}
    assert states == {"000-lr=1e+30": "failed", "001-lr=0.001": "completed"}
    assert main(["train", "-m", *SMALL, "seed=0", "optimizer.lr=1e30,1e-3"]) == 3  # redone, and fails again
    printed = capsys.readouterr()
    assert "1 of 2 jobs are complete already" in printed.out
    assert (printed.out + printed.err).count("job 0 failed: ") == 1  # told of this call, not of the one before


def test_a_key_that_only_the_swept_options_have_composes() -> None:
    """The default solver, Anderson, has no line search; both swept ones do."""
    assert main(["train", "-m", *SMALL, "solver=broyden,newton", "solver.line_search=true"]) == 0
    kept = [read_run(path).config["solver"]["line_search"] for path in sorted(home().glob("0*"))]
    assert kept == [True, True]


def test_a_job_in_the_way_of_another_run_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*GRID[:-2], "seed=0,1"]) == 0
    config = home() / "000-seed=0" / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 3"))
    (home() / "000-seed=0" / "status.json").write_text('{"status": "interrupted"}')
    assert main([*GRID[:-2], "seed=0,1"]) == 3
    assert "already holds another run" in " ".join(capsys.readouterr().out.split())


def test_values_that_change_no_number_make_jobs_of_their_own() -> None:
    """The fingerprint of a run leaves out how often it is recorded; two jobs that differ in that alone are two jobs."""
    assert main(["train", "-m", *SMALL, "train.log_every=1,2"]) == 0
    assert sorted(numbers(home())) == ["000-log_every=1", "001-log_every=2"]


def test_an_error_that_nobody_expected_keeps_its_trace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "train", Stop(launch.train, 1, ZeroDivisionError("by zero")))
    assert main([*GRID[:-2], "seed=0,1"]) == 3
    printed = capsys.readouterr()
    assert "ZeroDivisionError: by zero" in " ".join(printed.out.split())
    assert "Traceback" in printed.err
    assert read_run(home() / "001-seed=1").status.status == "completed"


@pytest.mark.parametrize(
    "name",
    [
        "../../elsewhere",
        *(pytest.param(name, marks=pytest.mark.nightly) for name in ("..", "/tmp", "000/../..", "", 3)),
    ],
)
def test_a_grid_that_names_folders_elsewhere_is_none(name: object) -> None:
    """A stranger's grid.json sends no job out of its folder."""
    assert main([*GRID[:-2], "seed=0,1"]) == 0
    written = json.loads((home() / "grid.json").read_text())
    written["folders"] = dict.fromkeys(written["folders"], name)
    (home() / "grid.json").write_text(json.dumps(written))
    assert main([*GRID[:-2], "seed=0,1"]) == 0
    assert len(list(Path("outputs").glob("*/*/*/grid.json"))) == 2
