"""What a newcomer reads: it fits the terminal, and its examples work as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deqrun import __version__
from deqrun.cli.help import COMMANDS
from tests.cli.conftest import Launches, Outcome

Deqrun = Callable[..., Outcome]


def examples(text: str) -> list[list[str]]:
    """The arguments of the commands that a page shows, two spaces in."""
    lines = re.findall(r"^  deqrun (.*?)(?:   .*)?$", text, re.MULTILINE)
    return [shlex.split(line) for line in lines]


def test_deqrun_alone_says_what_to_try_first(deqrun: Deqrun) -> None:
    outcome = deqrun()
    assert outcome.code == 0
    assert examples(outcome.out)[0] == ["train", "study=demo"]
    assert all(f"\n  {command} " in outcome.out for command in COMMANDS)
    assert outcome.out == deqrun("--help").out == deqrun("help").out


@pytest.mark.parametrize("arguments", [(), *((command, "--help") for command in COMMANDS)])
def test_every_page_fits_80_columns(deqrun: Deqrun, arguments: tuple[str, ...]) -> None:
    outcome = deqrun(*arguments)
    assert outcome.code == 0
    assert outcome.err == ""
    assert max(len(line) for line in outcome.out.splitlines()) <= 80


def raise_interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_each_works(
    deqrun: Deqrun, made_run: Callable[..., Path], launches: Launches, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    shown = [arguments for arguments in examples(deqrun(command, "-h").out) if arguments[0] == command]
    assert len(shown) == (1 if command == "report" else 5)  # which takes nothing but a folder
    for name in "ABC":
        made_run("model=mlp", folder=f"outputs/train/{name}")
    for job in range(2):
        made_run("model=mlp", folder=f"outputs/train/2030-01-31/12-00-00-multirun/{job}-mlp")
    if command == "dashboard":  # which ends with Ctrl-C alone
        monkeypatch.setattr("deqrun.report.compare.server.Server.serve_forever", raise_interrupt)
    for arguments in shown:
        if command in ("sweep", "report", "describe") and not Path("outputs/train/mine").exists():
            made_run("model=mlp", folder="outputs/train/mine")
        expanded = [str(path) for word in arguments for path in (sorted(Path().glob(word)) if "*" in word else [word])]
        outcome = deqrun(*expanded)
        assert outcome.code == 0, outcome.err
    if command not in ("check", "compare", "dashboard", "new", "report", "runs"):  # which launch nothing
        assert {name for name, _ in launches.calls} == {f"run_{command}"}
        assert len(launches.calls) >= 5


def test_help_lists_every_group_and_option_that_there_is(deqrun: Deqrun) -> None:
    text = deqrun("train", "--help").out
    groups = [
        folder
        for folder in (Path(__file__).parents[2] / "configs").iterdir()
        if folder.is_dir() and folder.name != "hydra"
    ]
    assert len(groups) == 10
    for group in groups:
        line = re.search(rf"^  {group.name} +(.*(?:\n {{13}}.*)*)", text, re.MULTILINE)
        assert line is not None
        assert re.split(r",\s+", line[1]) == sorted(path.stem for path in group.glob("*.yaml"))


def test_the_version_is_the_packages_own(deqrun: Deqrun) -> None:
    assert deqrun("--version").out == f"deqrun {__version__}\n"
    assert deqrun("train", "--version").out == f"deqrun {__version__}\n"


def test_cfg_prints_the_config_as_yaml(deqrun: Deqrun, launches: Launches, workspace: Path) -> None:
    outcome = deqrun("train", "--cfg", "job", "solver=picard", "train.epochs=7")
    config = yaml.safe_load(outcome.out)
    assert outcome.code == 0
    assert config["solver"] == {"_target_": "deqrun.solvers.Picard", "damping": 1.0}
    assert config["train"]["epochs"] == 7
    assert "hydra" not in config
    assert launches.calls == []
    assert list(workspace.iterdir()) == []


def test_cfg_fills_in_interpolations_when_asked(deqrun: Deqrun) -> None:
    config = yaml.safe_load(deqrun("train", "--cfg", "job", "--resolve", "model=mlp", "dataset=mnist").out)
    assert config["name"] == "mlp-mnist"


def test_a_part_of_the_config_can_be_asked_for(deqrun: Deqrun) -> None:
    assert yaml.safe_load(deqrun("train", "-c", "job", "-p", "budget", "budget=deep").out)["max_iter"] == 64


def test_info_and_hydras_own_help_still_work(deqrun: Deqrun) -> None:
    assert "packaged" not in deqrun("train", "--info", "searchpath").err
    assert "hydra/launcher" in deqrun("train", "--hydra-help").out


def test_flags_may_stand_between_overrides(deqrun: Deqrun, launches: Launches) -> None:
    assert deqrun("train", "model=mlp", "-m", "seed=4,5").code == 0
    assert [settings.seed for settings in launches.settings] == [4, 5]
