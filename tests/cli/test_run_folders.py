"""run= and resume=: going on with a run, asking it again, and never writing over one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deqrun.cli.run_folders import DRAWS_THE_SPLIT, find_runs
from deqrun.records.claims import STARTING
from deqrun.settings import read_settings
from tests.cli.conftest import Launches, Outcome

Deqrun = Callable[..., Outcome]
Refused = Callable[..., str]
MadeRun = Callable[..., Path]


def test_a_folder_that_holds_a_run_is_not_written_over(refused: Refused, made_run: MadeRun) -> None:
    run = made_run("model=mlp")
    sentence = refused("train", "model=mlp", f"run={run}")
    assert f"run={run} already holds a run" in sentence
    assert "resume=true" in sentence


def test_a_misspelled_run_is_looked_for_beside_itself_first(
    refused: Refused, made_run: MadeRun, workspace: Path
) -> None:
    made_run("model=mlp").rename(workspace / "mine")
    made_run("model=mlp")
    assert "run=mien does not exist; the nearest is mine." in refused("sweep", "run=mien")


def test_a_file_is_no_run_folder(refused: Refused, workspace: Path) -> None:
    (workspace / "taken").write_text("")
    assert "run=taken is a file" in refused("train", "model=mlp", "run=taken")


def test_a_run_goes_on_with_its_own_settings(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=conv", "solver=picard", "solver.damping=0.5", "train.epochs=9", "seed=3", "tracker=none")
    assert deqrun("train", f"run={run}", "resume=true").code == 0
    [(name, (settings, folder, _))] = launches.calls
    saved = read_settings(run / "config.yaml")
    assert (name, folder) == ("run_train", run.resolve())
    assert settings == saved.model_copy(update={"run": run, "resume": True})


def test_where_and_how_a_run_goes_on_may_change(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp")
    assert deqrun("train", f"run={run}", "resume=true", "device=cpu", "threads=2", "tracker.mode=disabled").code == 0
    settings = launches.settings[0]
    assert (settings.device, settings.threads, settings.tracker.mode) == ("cpu", 2, "disabled")
    assert settings.tracker.name == "wandb"


def test_the_same_command_with_resume_goes_on(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    command = ["model=mlp", "solver=picard", "solver.damping=0.5", "solver@gradient.solver=picard", "train.epochs=9"]
    run = made_run(*command)
    assert deqrun("train", *command, f"run={run}", "resume=true").code == 0
    assert len(launches.calls) == 1


@pytest.mark.parametrize(
    ("override", "own"),
    [
        ("seed=4", "seed=0"),
        ("train.epochs=10", "train.epochs=9"),
        ("model=conv", "model=mlp"),
        ("solver=picard", "solver=secant"),
        ("solver.memory=3", "solver.memory=16"),
        ("solver@gradient.solver=picard", "solver@gradient.solver=secant"),
        ("study=demo", "study="),
        ("tracker=none", "tracker=wandb"),
        ("name=other", "name=mlp-digits"),
        ("sweep.iterations=[1]", "sweep.iterations=[1, 2, 4, 8, 16]"),
    ],
)
def test_a_run_does_not_go_on_as_another(refused: Refused, made_run: MadeRun, override: str, own: str) -> None:
    run = made_run("model=mlp", "train.epochs=9", "sweep=quick")
    sentence = refused("train", f"run={run}", "resume=true", override)
    assert f"{override} differs from the run's own {own}" in sentence


def test_resume_needs_a_run(refused: Refused) -> None:
    assert "run=DIR" in refused("train", "resume=true")


def test_resume_of_a_misspelt_run_names_the_nearest(refused: Refused, made_run: MadeRun) -> None:
    run = made_run("model=mlp")
    made_run("model=mlp", folder="outputs/train/2030-02-01/12-00-00-other")
    assert f"the nearest is {run}." in refused("train", f"run={str(run)[:-2]}", "resume=true")


def test_a_complete_run_says_so(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp", "sweep=none", status="completed")
    outcome = deqrun("train", f"run={run}", "resume=true")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"{run} is complete" in outcome.out
    assert launches.calls == []


def test_a_damaged_config_is_told(refused: Refused, made_run: MadeRun) -> None:
    run = made_run("model=mlp")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("epochs:", "epoch:"))
    sentence = refused("train", f"run={run}", "resume=true")
    assert f"{run}/config.yaml" in sentence
    assert "the nearest is train.epochs" in sentence
    (run / "config.yaml").write_text("model: [")
    assert "YAML" in refused("train", f"run={run}", "resume=true")


def test_a_sweep_asks_the_run_as_it_was_trained(
    deqrun: Deqrun, launches: Launches, made_run: MadeRun, workspace: Path
) -> None:
    run = made_run("model=conv", "solver=picard", "solver.damping=0.5", "seed=3", "name=mine")
    outcome = deqrun("sweep", f"run={run}", "sweep.iterations=[8,2,2]", "sweep.solvers=[picard,anderson]")
    assert (outcome.code, outcome.err) == (0, "")
    [(name, (settings, asked, folder, command))] = launches.calls
    saved = read_settings(run / "config.yaml")
    assert (name, asked) == ("run_sweep", run)
    assert (settings.model, settings.dataset, settings.seed) == (saved.model, saved.dataset, 3)
    assert settings.solver.parameters == {"damping": 0.5}
    assert settings.sweep_solvers["picard"].parameters == {"damping": 0.5}
    assert settings.sweep_solvers["anderson"].parameters["memory"] == 5
    assert settings.sweep.iterations == (2, 8)
    assert settings.choices["solver"] == "picard"
    assert folder.parent.parent == workspace / "outputs" / "sweep"
    assert folder.name.endswith("-mine")
    assert command.startswith("deqrun sweep ")


def test_a_sweep_may_change_the_runs_solver(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp", "solver=anderson", "solver.memory=4")
    assert deqrun("sweep", f"run={run}", "solver.mixing=0.5").code == 0
    assert deqrun("sweep", f"run={run}", "solver=picard", "solver.damping=0.7").code == 0
    first, second = launches.settings
    assert first.sweep_solvers["anderson"].parameters == {
        **dict.fromkeys(("ridge", "start", "cap", "reject")),
        "memory": 4,
        "mixing": 0.5,
    }
    assert second.sweep_solvers["picard"].parameters == {"damping": 0.7}
    assert second.sweep_solvers["anderson"].parameters["memory"] == 5
    assert second.choices["solver"] == "picard"


def test_sweeps_can_be_swept(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp", folder="outputs/train/2030-01-31/x-multirun/0-mlp-width=3,solver=picard")
    assert deqrun("sweep", "-m", f"run={run}", "solver.memory=1,2").code == 0
    assert [settings.solver.parameters["memory"] for settings in launches.settings] == [1, 2]
    names = [arguments[2].name for _, arguments in launches.calls]
    assert names == ["000-memory=1", "001-memory=2"]


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        ([], "the newest is run=outputs/train/2030-01-31/12-00-00-first"),
        (["run=outputs/train/2030-01-31/12-00-00-firs"], "the nearest is outputs/train/2030-01-31/12-00-00-first"),
        (["run=outputs"], "the nearest is outputs/train/2030-01-31/12-00-00-first"),
        (["RUN", "model=conv"], "model=conv can't change"),
        (["RUN", "train.epochs=1"], "train.epochs=1 can't change"),
        (["RUN", "solver.memry=1"], "the nearest is solver.memory"),
        (["RUN", "sweep.solvers=[andersn]"], "the nearest is anderson"),
        (["RUN", "sweep=quik"], "the nearest is quick"),
        (["RUN", "sweep=none"], "nothing to sweep"),
        (["RUN", "sweep.splits=[train]"], "validation or test"),
        (["RUN", "solver.memory=-1"], "got -1"),
        (["RUN", "resume=true"], "resume=true is not a key of deqrun sweep"),
        (["RUN", "dataset.split_seed=1"], "allowed is its own dataset.split_seed=0"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(
    refused: Refused, made_run: MadeRun, overrides: list[str], hint: str
) -> None:
    run = made_run("model=mlp")
    assert hint in refused("sweep", *(f"run={run}" if text == "RUN" else text for text in overrides))


def test_a_sweep_draws_no_split_anew(refused: Refused, made_run: MadeRun) -> None:
    """Where another seed or share would put training samples among those that are asked."""
    run = made_run("model=conv", "dataset=mnist", "dataset.split_seed=4")
    for override in ("dataset.validation_share=0.2", "dataset.split_seed=0"):
        assert f"{override} would ask the run about samples" in refused("sweep", f"run={run}", override)


def test_sudokus_split_by_another_content_are_refused(refused: Refused, made_run: MadeRun) -> None:
    run = made_run("model=trm_small", "dataset=sudoku")
    sentence = refused("sweep", f"run={run}", "dataset.split_by=puzzle")
    assert "dataset.split_by=puzzle would ask the run about samples that it was trained on" in sentence
    assert "allowed is its own dataset.split_by=solution" in sentence


def test_every_parameter_that_draws_a_split_is_known() -> None:
    configs = Path(__file__).parents[2] / "configs" / "dataset"
    keys = {key for file in configs.glob("*.yaml") for key in yaml.safe_load(file.read_text(encoding="utf-8"))}
    assert {key for key in keys if key.startswith("split_") or key.endswith("_share")} == set(DRAWS_THE_SPLIT)


def test_without_any_run_a_sweep_says_how_to_make_one(refused: Refused) -> None:
    assert "deqrun train makes one" in refused("sweep", "run=mine")


def test_a_sweep_leaves_no_trace_of_its_run_in_later_commands(deqrun: Deqrun, made_run: MadeRun) -> None:
    run = made_run("model=mlp")
    deqrun("sweep", f"run={run}")
    assert "trained" not in deqrun("train", "--help").out


def test_runs_are_found_without_sweeps_and_without_what_lies_inside_of_them(made_run: MadeRun) -> None:
    first = made_run("model=mlp")
    job = made_run("model=mlp", folder="outputs/train/2030-01-31/12-00-01-multirun/0-mlp")
    made_run("model=mlp", folder="outputs/sweep/2030-01-31/12-00-02-first")
    (first / "wandb").mkdir()
    (first / "wandb" / "config.yaml").write_text("")
    assert find_runs() == [first, job]
    assert find_runs(Path("outputs/train/2030-01-31")) == [first, job]


def test_describe_makes_nothing(deqrun: Deqrun, launches: Launches, workspace: Path) -> None:
    assert deqrun("describe", "model=mlp", "dataset=cifar10").code == 0
    [(name, (settings,))] = launches.calls
    assert (name, settings.choices["dataset"]) == ("run_describe", "cifar10")
    assert list(workspace.iterdir()) == []


def test_describe_of_a_run_is_of_what_it_was(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp", "model.width=7")
    assert deqrun("describe", f"run={run}").code == 0
    assert launches.settings[0].model.parameters["width"] == 7


def test_a_folder_of_somebody_elses_is_not_written_into(refused: Refused, workspace: Path) -> None:
    (workspace / "mine").mkdir()
    (workspace / "mine" / "report.html").write_text("kept")
    for study in ([], ["study=is_it_a_contraction"]):
        sentence = refused("train", *study, "run=mine")
        assert "run=mine holds report.html, which is no run of deqrun's, and nothing is overwritten" in sentence
    assert (workspace / "mine" / "report.html").read_text() == "kept"


def test_an_empty_folder_is_written_into(deqrun: Deqrun, workspace: Path) -> None:
    (workspace / "mine").mkdir()
    assert deqrun("train", "model=mlp", "run=mine").code == 0


def test_what_a_run_that_was_killed_before_it_began_leaves_is_written_into(
    deqrun: Deqrun, refused: Refused, workspace: Path
) -> None:
    (workspace / "mine").mkdir()
    (workspace / "mine" / "status.json").write_text(json.dumps(STARTING))
    (workspace / "mine" / ".claim.0a1b2c3d.part").write_text("")
    assert "was stopped before it began; give its command again" in refused("train", "run=mine", "resume=true")
    assert deqrun("train", "model=mlp", "run=mine").code == 0


@pytest.mark.parametrize("command", ["train", "sweep", "describe"])
@pytest.mark.parametrize("given", ["run=", "run=''", "run=' '"])
def test_a_run_of_no_name_is_refused(refused: Refused, command: str, given: str) -> None:
    assert "run= names no folder, as where a shell's variable is empty" in refused(command, given)


def test_a_tilde_is_the_home_folder(
    deqrun: Deqrun, launches: Launches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert deqrun("train", "model=mlp", "run=~/x").code == 0
    assert launches.calls[0][1][1] == tmp_path / "home" / "x"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("run=a${b}", "run=a${b} has ${ in it"),
        ("run=~nobody-of-that-name/x", "names no user's home folder"),
        ("run=\udcff", "is not text in UTF-8"),
        ("name=a\nb", "has a line break in it"),
    ],
)
def test_what_no_folder_can_be_called_is_refused(refused: Refused, given: str, hint: str) -> None:
    assert hint in refused("train", given)


def test_a_name_may_have_any_letters(deqrun: Deqrun, launches: Launches) -> None:
    assert deqrun("train", "model=mlp", "name=Übung-α").code == 0
    assert launches.calls[0][1][1].name.endswith("-Übung-α")


@pytest.mark.parametrize("linked", ["checkpoints", "train.jsonl", "wandb"])
def test_a_run_with_links_that_lead_out_does_not_go_on(
    refused: Refused, made_run: MadeRun, tmp_path: Path, linked: str
) -> None:
    run = made_run("model=mlp")
    (run / linked).symlink_to(tmp_path / "elsewhere")
    sentence = refused("train", f"run={run}", "resume=true")
    assert f"{run / linked} is a link to {tmp_path / 'elsewhere'}, outside of the run's folder" in sentence


def test_a_run_with_links_within_goes_on(deqrun: Deqrun, made_run: MadeRun) -> None:
    run = made_run("model=mlp")
    (run / "wandb").mkdir()
    (run / "wandb" / "latest-run").symlink_to("/elsewhere")  # as W&B makes them, and writes through none of them
    (run / "newest.jsonl").symlink_to("train.jsonl")
    assert deqrun("train", f"run={run}", "resume=true").code == 0


def test_a_complete_run_without_its_page_gets_it(deqrun: Deqrun, made_run: MadeRun) -> None:
    run = made_run("model=mlp", "sweep=none", status="completed")
    assert deqrun("train", f"run={run}", "resume=true").code == 0
    assert "<html" in (run / "report.html").read_text()


def test_a_report_is_made_anew(deqrun: Deqrun, made_run: MadeRun) -> None:
    run = made_run("model=mlp")
    for arguments in ([f"run={run}"], [str(run)]):
        (run / "report.html").unlink(missing_ok=True)
        outcome = deqrun("report", *arguments)
        assert (outcome.code, outcome.out, outcome.err) == (0, f"report  {run / 'report.html'}\n", "")
        assert "<html" in (run / "report.html").read_text()
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "report.html", "status.json"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "takes one run=DIR, the folder of a run, and was given nothing"),
        (["run="], "takes one run=DIR"),
        (["rn=RUN"], "the nearest is run."),
        (["RUN", "RUN"], "takes one run=DIR"),
        (["run=outputs/train/2030-01-31/12-00-00-firs"], "the nearest is outputs/train/2030-01-31/12-00-00-first"),
    ],
)
def test_a_report_of_no_run_is_refused(refused: Refused, made_run: MadeRun, arguments: list[str], hint: str) -> None:
    run = made_run("model=mlp")
    assert hint in refused("report", *(text.replace("RUN", str(run)) for text in arguments))
