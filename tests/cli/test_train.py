"""deqrun train: where a run goes, what it is given, and how it ends."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deqrun.cli import main
from deqrun.errors import Interrupted, UserError
from tests.cli.conftest import Launches, Outcome

Deqrun = Callable[..., Outcome]


def test_a_run_is_given_its_settings_its_folder_and_its_command(
    deqrun: Deqrun, launches: Launches, workspace: Path
) -> None:
    outcome = deqrun("train", "model=mlp", "solver=picard", "train.epochs=3", "name=mine")
    assert (outcome.code, outcome.err) == (0, "")
    [(name, (settings, folder, command))] = launches.calls
    assert name == "run_train"
    assert settings.train.epochs == 3
    assert settings.choices["solver"] == "picard"
    assert re.fullmatch(r"outputs/train/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-mine", str(folder.relative_to(workspace)))
    assert shlex.split(command) == ["deqrun", "train", "model=mlp", "solver=picard", "train.epochs=3", "name=mine"]


def test_the_name_comes_from_model_and_dataset(deqrun: Deqrun, launches: Launches) -> None:
    deqrun("train", "model=conv", "dataset=fashion_mnist")
    assert launches.settings[0].name == "conv-fashion_mnist"


def test_the_run_folder_holds_nothing_of_hydras(deqrun: Deqrun, launches: Launches) -> None:
    deqrun("train", "model=mlp")
    folder = launches.calls[0][1][1]
    assert folder.is_dir()
    assert [path.name for path in folder.iterdir()] == ["status.json"]


def test_run_names_the_folder(deqrun: Deqrun, launches: Launches, workspace: Path) -> None:
    awkward = "some where/it's a=1,b=[2]"
    assert deqrun("train", "model=mlp", f"run={awkward}").code == 0
    assert launches.calls[0][1][1] == workspace / awkward
    assert launches.settings[0].run == Path(awkward)
    assert not (workspace / "outputs").exists()


def test_a_value_with_signs_is_quoted_for_the_grammar(deqrun: Deqrun, launches: Launches) -> None:
    assert deqrun("train", "model=mlp", "tracker.project='a, b=c'", "tracker.tags=[x,y]").code == 0
    tracker = launches.settings[0].tracker
    assert (tracker.project, tracker.tags) == ("a, b=c", ("x", "y"))


def test_a_study_changes_groups_and_keys_and_the_command_line_has_the_last_word(
    deqrun: Deqrun, launches: Launches, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "study").mkdir(parents=True)
    (tmp_path / "mine" / "study" / "long.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: mlp\n  - override /budget: deep\n"
        "train:\n  epochs: 77\n  batch_size: 8\n"
    )
    outcome = deqrun("train", "--config-dir", str(tmp_path / "mine"), "study=long", "train.batch_size=9")
    assert outcome.code == 0
    settings = launches.settings[0]
    assert (settings.choices["model"], settings.budget.max_iter) == ("mlp", 64)
    assert (settings.train.epochs, settings.train.batch_size) == (77, 9)
    assert launches.calls[0][1][2].endswith(f"--config-dir {tmp_path / 'mine'}")


@pytest.mark.parametrize("how", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_a_solver_of_ones_own_can_be_chosen_and_swept(
    deqrun: Deqrun, launches: Launches, tmp_path: Path, how: str
) -> None:
    (tmp_path / "mine" / "solver").mkdir(parents=True)
    (tmp_path / "mine" / "solver" / "short.yaml").write_text("_target_: deqrun.solvers.Anderson\nmemory: 2\n")
    arguments = [how.format(tmp_path / "mine"), "model=mlp", "sweep.solvers=[picard,short]"]
    assert deqrun("train", *arguments).code == 0
    assert deqrun("train", *arguments, "solver=short", "solver.memory=3").code == 0
    first, second = launches.settings
    assert first.sweep_solvers["short"].parameters == {"memory": 2}
    assert second.sweep_solvers["short"].parameters == {"memory": 3}
    assert second.solver.parameters == {"memory": 3}


def test_the_swept_solver_that_is_the_runs_own_keeps_the_runs_parameters(deqrun: Deqrun, launches: Launches) -> None:
    deqrun("train", "model=mlp", "solver=anderson", "solver.memory=2", "sweep.solvers=[picard,anderson]")
    solvers = launches.settings[0].sweep_solvers
    assert list(solvers) == ["picard", "anderson"]
    assert solvers["anderson"].parameters["memory"] == 2
    assert solvers["picard"].parameters["damping"] == 1.0


def test_a_users_error_inside_a_run_is_one_sentence_and_leaves_no_empty_folder(
    deqrun: Deqrun, launches: Launches, workspace: Path
) -> None:
    launches.fails = UserError("The data is not there.")
    outcome = deqrun("train", "model=mlp")
    assert (outcome.code, outcome.err) == (2, "deqrun: The data is not there.\n")
    assert not (workspace / "outputs").exists()


def test_an_interruption_says_how_to_go_on(deqrun: Deqrun, launches: Launches) -> None:
    launches.fails = Interrupted("Go on with resume=true.")
    outcome = deqrun("train", "model=mlp")
    assert (outcome.code, outcome.err) == (130, "deqrun: Go on with resume=true.\n")


def test_an_early_interruption_ends_quietly(deqrun: Deqrun, launches: Launches) -> None:
    launches.fails = KeyboardInterrupt()
    outcome = deqrun("train", "model=mlp")
    assert outcome.code == 130
    assert outcome.err.count("\n") == 1


def test_the_unexpected_keeps_its_trace_but_not_hydras(launches: Launches) -> None:
    launches.fails = ZeroDivisionError("by zero")
    with pytest.raises(ZeroDivisionError) as raised:
        main(["train", "model=mlp"])
    names = [entry.name for entry in raised.traceback]
    assert "train_job" in names
    assert "run_job" not in names


def test_a_multirun_runs_every_combination_in_folders_named_after_what_differs(
    deqrun: Deqrun, launches: Launches, workspace: Path
) -> None:
    outcome = deqrun("train", "-m", "model=mlp", "solver=picard,anderson", "seed=range(0,2)", "train.epochs=2")
    assert (outcome.code, outcome.err) == (0, "")
    assert [(s.choices["solver"], s.seed) for s in launches.settings] == [
        ("picard", 0),
        ("picard", 1),
        ("anderson", 0),
        ("anderson", 1),
    ]
    folders = [arguments[1] for _, arguments in launches.calls]
    assert [folder.name for folder in folders] == [
        "000-solver=picard,seed=0",
        "001-solver=picard,seed=1",
        "002-solver=anderson,seed=0",
        "003-solver=anderson,seed=1",
    ]
    parent = str(folders[0].parent.relative_to(workspace))
    assert re.fullmatch(r"outputs/train/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d-multirun", parent)
    assert all(folder.is_dir() for folder in folders)
    command = shlex.split(launches.calls[3][1][2])
    assert set(command[2:]) == {"model=mlp", "solver=anderson", "seed=1", "train.epochs=2"}


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (["solver=picard,andersn"], "the nearest is anderson"),
        (["train.epochs=3,2,1,0"], "train.epochs=0 is out of range"),
        (["solver=picard,anderson", "solver.memory=1,2"], "solver.memory=1"),
        (["solver=anderson", "solver.memory=0,1,-1"], "got -1"),
        (["model=mlp", "seed=1,2", "run=outputs/x"], "run="),
        (["model=mlp", "seed=1,2", "resume=true"], "finds no grid of this shape"),
        (["seed=interval(0,1)"], "1,2,3"),
    ],
)
def test_every_job_of_a_multirun_is_checked_before_the_first_starts(
    refused: Callable[..., str], overrides: list[str], hint: str
) -> None:
    assert hint in refused("train", "-m", *overrides)


def test_of_very_many_jobs_each_value_is_checked_once(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deqrun.cli.preflight.JOBS_CHECKED", 4)
    sentence = refused("train", "-m", "model=mlp", "seed=range(0,1000000)", "train.epochs=2,1,0")
    assert "train.epochs=0 is out of range" in sentence


def test_a_config_may_ask_for_a_multirun_itself(deqrun: Deqrun, launches: Launches, tmp_path: Path) -> None:
    (tmp_path / "mine" / "study").mkdir(parents=True)
    study = {"hydra": {"mode": "MULTIRUN", "sweeper": {"params": {"seed": "1,2,3"}}}, "name": "seeds"}
    (tmp_path / "mine" / "study" / "seeds.yaml").write_text("# @package _global_\n" + yaml.safe_dump(study))
    assert deqrun("train", "--config-dir", str(tmp_path / "mine"), "study=seeds", "model=mlp").code == 0
    assert [settings.seed for settings in launches.settings] == [1, 2, 3]
    assert [arguments[1].name for _, arguments in launches.calls] == [f"00{i}-seed={i + 1}" for i in range(3)]


def test_one_failing_job_does_not_keep_the_others_from_running(deqrun: Deqrun, launches: Launches) -> None:
    launches.fails = UserError("The data is not there.")
    outcome = deqrun("train", "-m", "model=mlp", "seed=1,2")
    assert outcome.code == 3
    assert outcome.out.count("The data is not there.") == 2
    assert len(launches.calls) == 2


def test_an_interruption_ends_a_multirun(deqrun: Deqrun, launches: Launches) -> None:
    launches.fails = Interrupted("Stopped.")
    assert deqrun("train", "-m", "model=mlp", "seed=1,2").code == 130
    assert len(launches.calls) == 1
