"""Completion: commands by deqrun, run folders by deqrun, groups, options and keys by Hydra."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

Complete = Callable[..., list[str]]


@pytest.fixture
def complete(deqrun: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Complete:
    """complete(line): what a shell is offered at the end of the line."""

    def call(line: str, shell: str = "bash") -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_POINT", str(len(line)))
        outcome = deqrun("-sc", f"query={shell}")
        assert (outcome.code, outcome.err) == (0, "")
        return outcome.out.split()

    return call


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("deqrun ", ["train", "sweep", "compare", "dashboard", "runs", "report", "describe", "check", "new"]),
        ("deqrun tr", ["train"]),
        ("deqrun train solver=pi", ["solver=picard"]),
        ("deqrun train budget=d", ["budget=deep", "budget=default"]),
        ("deqrun train solver=picard solver.", ["solver._target_=", "solver.damping="]),
        ("deqrun train -m solver=picard,anderson budget=f", ["budget=fast"]),
        ("deqrun train train.ep", ["train.epochs="]),
        ("deqrun train --mult", ["--multirun"]),
        ("deqrun describe model=ml", ["model=mlp"]),
        ("deqrun sweep sweep=q", ["sweep=quick"]),
        ("deqrun sweep solver=t", ["solver=trained"]),
        ("deqrun compare ", []),
        ("deqrun runs ", []),
        ("deqrun da", ["dashboard"]),
        ("deqrun new c", ["cell"]),
        ("deqrun new cell ", []),
        ("deqrun trian ", []),
        ("deqrun train 'an open quote", []),
        ("deqrun train x=[ mod", []),
    ],
)
def test_what_is_offered(complete: Complete, line: str, offered: list[str]) -> None:
    assert complete(line) == offered


def test_groups_are_offered_with_their_sign(complete: Complete) -> None:
    assert "model=" in complete("deqrun train mo")


def test_every_shell_gets_the_same(complete: Complete) -> None:
    line = "deqrun train solver="
    assert complete(line, "bash") == complete(line, "zsh") == complete(line, "fish")


def test_run_folders_are_offered(complete: Complete, made_run: Callable[..., Path]) -> None:
    run = made_run("model=mlp")
    assert complete("deqrun sweep run=") == [f"run={run}"]
    assert complete("deqrun train run=outputs/tr") == [f"run={run}"]
    assert complete("deqrun train run=else") == []


def test_a_config_folder_on_the_line_counts(complete: Complete, workspace: Path) -> None:
    (workspace / "mine" / "solver").mkdir(parents=True)
    (workspace / "mine" / "solver" / "short.yaml").write_text("_target_: deqrun.solvers.Picard\n")
    assert "solver=short" in complete("deqrun train --config-dir mine solver=")


def test_the_environment_is_left_as_it_was(complete: Complete) -> None:
    complete("deqrun train solver=")
    assert os.environ["COMP_LINE"] == "deqrun train solver="
    assert "HYDRA_FULL_ERROR" not in os.environ


@pytest.mark.parametrize("arguments", [["-sc", "install=bash"], ["train", "-sc", "install=bash"]])
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_itself_completes(deqrun: Callable[..., Outcome], workspace: Path, arguments: list[str]) -> None:
    script = deqrun(*arguments).out
    assert script.rstrip().endswith(" deqrun")
    program = workspace / "bin" / "deqrun"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deqrun "$@"\n')
    program.chmod(0o755)
    line = "deqrun train solver=and"
    ask = f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({line}); COMP_CWORD=2\n"
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["bash", "-c", f'{script}\n{ask}hydra_bash_completion; echo "${{COMPREPLY[@]}}"'],
        env={**os.environ, **path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "solver=anderson"
