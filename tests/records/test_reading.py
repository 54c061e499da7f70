"""A run folder is read for what it holds; what it lacks or garbles is said in one sentence."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from deqrun.records.reading import read_run
from deqrun.records.run import RunRecord
from deqrun.records.trajectory import TrajectoryKey
from deqrun.records.writing import RunFolder
from tests.records.synthetic_run import ITERATIONS, TOLERANCES


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_a_whole_run(record: RunRecord) -> None:
    assert (record.name, record.status.status, record.summary.parameters) == ("digits_mdeq", "completed", 49482)
    assert [epoch.epoch for epoch in record.epochs] == list(range(1, 21))
    assert record.epochs[0].jacobian_penalty is None
    # Two splits of three solvers, less the one variant that is missing.
    assert len(record.sweep) == 5 * len(ITERATIONS) * len(TOLERANCES)
    assert record.trajectories[TrajectoryKey("picard", "zeros", "test")].residual.shape == (65, 360)
    assert record.summary.versions["torch"] == "2.13.0"


def test_a_run_in_training_shows_what_it_has(folder: Path) -> None:
    for name in ("summary.json", "sweep.jsonl", "trajectories.npz"):
        (folder / name).unlink()
    (folder / "status.json").write_text('{"status": "running", "reason": "", "epoch": 20}')
    record = read_run(folder)
    assert (record.status.status, len(record.epochs)) == ("running", 20)
    assert (record.sweep, record.trajectories, record.summary.test_accuracy) == ((), {}, None)
    # The config stands in for the summary.
    assert (record.name, record.train_max_iter, record.train_tol) == ("digits_mdeq", 12, 1e-3)


def test_a_line_cut_by_a_kill_is_left_out(folder: Path) -> None:
    (folder / "status.json").write_text('{"status": "running", "reason": "", "epoch": 8}')
    whole = (folder / "train.jsonl").read_text()
    (folder / "train.jsonl").write_text(whole[: whole.index('{"epoch": 8') + 25])
    assert [epoch.epoch for epoch in read_run(folder).epochs] == list(range(1, 8))


@pytest.mark.parametrize("name", ["train.jsonl", "sweep.jsonl"])
def test_in_a_complete_run_a_line_cut_short_is_damage(name: str, folder: Path) -> None:
    (folder / name).write_text((folder / name).read_text()[:-20])
    with pytest.raises(ValueError, match=f"{name}' is cut short in line [0-9]+, though the run was completed"):
        read_run(folder)


@pytest.mark.parametrize("none", ["solvers", "starts", "iterations", "tolerances", "splits"])
def test_a_complete_run_that_asked_for_no_sweep_lacks_none(none: str, folder: Path) -> None:
    (folder / "sweep.jsonl").unlink()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["sweep"][none] = []
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert read_run(folder).sweep == ()


@pytest.mark.parametrize("lost", ["missing", "empty"])
def test_a_complete_run_has_its_sweep(lost: str, folder: Path) -> None:
    if lost == "missing":
        (folder / "sweep.jsonl").unlink()
    else:
        (folder / "sweep.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"sweep.jsonl' is missing or empty, though the run's sweep was completed"):
        read_run(folder)


def test_the_last_row_of_an_epoch_counts(folder: Path) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": 20, "val_accuracy": 0.5}) + "\n")
    epochs = read_run(folder).epochs
    assert (len(epochs), epochs[-1].val_accuracy) == (20, 0.5)


def test_null_is_none_or_nan_as_the_column_needs(folder: Path) -> None:
    row = json.loads((folder / "sweep.jsonl").read_text().splitlines()[0])
    (folder / "sweep.jsonl").write_text(json.dumps({**row, "residual_median": None, "unknown_column": 3}) + "\n")
    (cell,) = read_run(folder).sweep
    assert np.isnan(cell.residual_median)


def test_config_floats_are_numbers_as_people_write_them(folder: Path) -> None:
    (folder / "summary.json").unlink()
    (folder / "config.yaml").write_text("budget: {max_iter: 3, tol: 1e-4}\n")
    assert read_run(folder).train_tol == 1e-4


def test_a_folder_that_is_no_run_names_the_nearest_one(run_folder: Path) -> None:
    with pytest.raises(ValueError, match="is not a run folder") as error:
        read_run(run_folder.parent)
    assert f"did you mean '{run_folder}'?" in str(error.value)
    with pytest.raises(ValueError, match="does not exist"):
        read_run(run_folder / "nothing")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train.jsonl", '{"epoch": "one"}\n', "line 1: epoch is 'one', which is not int"),
        ("train.jsonl", '{"loss": 1}\n', "line 1 has no 'epoch'; it has loss"),
        ("train.jsonl", "{oops}\n{}\n", "line 1 is not JSON"),
        ("summary.json", "[]", "holds a list"),
        ("config.yaml", "a: !!python/object/apply:os.getcwd []", "is not a config"),
        ("config.yaml", "[1, 2]", "holds a list"),
    ],
)
def test_what_cannot_be_understood_is_one_sentence(folder: Path, name: str, content: str, sentence: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=r"^'.*\.$") as error:
        read_run(folder)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_arrays_are_refused(folder: Path) -> None:
    """An array of objects is a pickle, and loading a pickle runs whatever is in it."""
    names = [f"picard/zeros/test/{part}" for part in ("residual", "nfe", "correct")]
    np.savez(folder / "trajectories.npz", **dict.fromkeys(names, np.array([{"a": 1}], dtype=object)))
    with pytest.raises(ValueError, match="pickle"):
        read_run(folder)


def test_arrays_that_do_not_fit_are_refused(folder: Path) -> None:
    shapes = {"residual": (3, 4), "nfe": (3, 4), "correct": (2, 4)}
    np.savez(folder / "trajectories.npz", **{f"picard/zeros/test/{k}": np.zeros(s) for k, s in shapes.items()})
    with pytest.raises(ValueError, match=r"picard/zeros/test with shapes residual \(3, 4\)"):
        read_run(folder)


@pytest.mark.parametrize("min_iter", [-1, 1.5, [1, 2], np.nan])
def test_a_least_number_of_iterations_that_is_none_is_refused(folder: Path, min_iter: object) -> None:
    arrays = {"residual": np.zeros((3, 4)), "nfe": np.ones((3, 4)), "correct": np.zeros((3, 4)), "min_iter": min_iter}
    np.savez(folder / "trajectories.npz", **{f"picard/zeros/test/{name}": value for name, value in arrays.items()})
    with pytest.raises(ValueError, match="picard/zeros/test with a min_iter that is no whole number from 0"):
        read_run(folder)


def test_a_least_number_of_iterations_comes_back(folder: Path, record: RunRecord) -> None:
    late = {key: replace(trajectory, min_iter=3) for key, trajectory in record.trajectories.items()}
    RunFolder(folder).write_trajectories(late)
    assert {trajectory.min_iter for trajectory in read_run(folder).trajectories.values()} == {3}
