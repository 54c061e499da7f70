"""Run folders are found wherever they lie, each once, and what is none is told with its reason."""

import os
from pathlib import Path

import pytest

from deqrun.errors import UserError
from deqrun.records.folders import find_folders


def made(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("config.yaml",):
        (folder / name).write_text("{}")
    return folder


def reasons(*given: Path | str, sweeps: bool = False) -> list[str]:
    return [left.reason for left in find_folders(given, sweeps=sweeps).left_out]


def test_runs_multiruns_studies_and_patterns_are_found_once(tmp_path: Path) -> None:
    run = made(tmp_path / "train" / "day" / "run")
    jobs = [made(tmp_path / "train" / "day" / "multirun" / str(i)) for i in range(2)]
    asked = made(tmp_path / "train" / "day" / "study" / "runs" / "one")
    (tmp_path / "train" / "day" / "study" / "study.yaml").write_text("")
    (tmp_path / "train" / "day" / "study" / "status.json").write_text("{}")
    made(run / "wandb" / "offline-run")  # W&B's own config.yaml is no run
    everything = (*jobs, run, asked)
    assert set(find_folders([tmp_path]).runs) == set(everything)
    assert find_folders([run, tmp_path / "train" / "day" / "multirun", run, f"{run}/"]).runs == (run, *jobs)
    assert set(find_folders([str(tmp_path / "train" / "*")]).runs) == set(everything)
    assert find_folders([tmp_path]).left_out == ()


def test_sweeps_are_found_where_they_are_named(tmp_path: Path) -> None:
    sweep = made(tmp_path / "sweep" / "one")
    run = made(tmp_path / "train" / "one")
    assert find_folders([tmp_path]).runs == (run,)
    assert find_folders([tmp_path], sweeps=True).runs == (sweep, run)
    assert find_folders([tmp_path / "sweep"]).runs == (sweep,)


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    near = made(tmp_path / "runs")
    assert reasons(tmp_path / "rums") == [f"{tmp_path / 'rums'} does not exist; the nearest is {near}."]
    made(tmp_path / "half", "train.jsonl", "status.json")
    assert "is half a run: it has no config.yaml" in reasons(tmp_path / "half")[0]
    (tmp_path / "empty").mkdir()
    assert "holds no run" in reasons(tmp_path / "empty")[0]
    (tmp_path / "file").write_text("")
    assert "is a file" in reasons(tmp_path / "file")[0]
    (tmp_path / "odd" / "config.yaml").mkdir(parents=True)
    assert reasons(tmp_path / "odd") == [f"{tmp_path / 'odd' / 'config.yaml'} is not a file."]
    with pytest.raises(UserError, match="matches no folder"):
        find_folders([str(tmp_path / "no*")])


def test_links_are_followed_and_never_in_circles(tmp_path: Path) -> None:
    run = made(tmp_path / "there" / "run")
    inside = tmp_path / "here"
    inside.mkdir()
    (inside / "linked").symlink_to(tmp_path / "there")
    (inside / "circle").symlink_to(inside)
    (inside / "itself").symlink_to(inside / "itself")
    (inside / "nowhere").symlink_to(tmp_path / "gone")
    assert [os.path.realpath(path) for path in find_folders([inside]).runs] == [str(run)]
    assert "is a link to nothing" in reasons(inside / "nowhere")[0]


def test_a_pipe_in_a_config_s_place_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "config.yaml")
    assert find_folders([tmp_path]).runs == ()
    assert "is not a file" in reasons(tmp_path)[0]
