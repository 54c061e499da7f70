"""A class from outside of deqrun and torch is constructed only for a user who says so on this command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Launches, Outcome

Deqrun = Callable[..., Outcome]
Refused = Callable[..., str]

FOREIGN = """
from pathlib import Path
from deqrun.solvers import Picard
Path("imported").write_text("")
class Mine(Picard):
    pass
"""


@pytest.fixture
def foreign(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A solver in a module that leaves a mark when it is imported."""
    (workspace / "foreign_solvers.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(str(workspace))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "foreign_solvers", raising=False)
    return "foreign_solvers.Mine"


@pytest.mark.parametrize("key", ["solver", "gradient.solver"])
def test_a_foreign_target_is_not_even_imported(refused: Refused, foreign: str, workspace: Path, key: str) -> None:
    sentence = refused("train", "model=mlp", f"{key}._target_={foreign}")
    assert f"{key}._target_={foreign}" in sentence
    assert "allow_foreign_targets=true" in sentence
    assert not (workspace / "imported").exists()


def test_a_user_may_allow_it(deqrun: Deqrun, launches: Launches, foreign: str, workspace: Path) -> None:
    arguments = ["model=mlp", "solver=picard", f"solver._target_={foreign}"]
    assert deqrun("train", *arguments, "allow_foreign_targets=true").code == 0
    assert launches.settings[0].allow_foreign_targets
    assert (workspace / "imported").exists()


@pytest.mark.parametrize("command", [["train", "resume=true"], ["sweep"]])
def test_a_run_folder_cannot_allow_it(
    deqrun: Deqrun,
    refused: Refused,
    made_run: Callable[..., Path],
    launches: Launches,
    foreign: str,
    workspace: Path,
    command: list[str],
) -> None:
    run = made_run("model=mlp", "solver=picard")
    config = (run / "config.yaml").read_text().replace("deqrun.solvers.Picard", foreign)
    (run / "config.yaml").write_text(f"allow_foreign_targets: true\n{config}")
    sentence = refused(*command, f"run={run}")
    assert f"{run}/config.yaml" in sentence
    assert foreign in sentence
    assert not (workspace / "imported").exists()
    assert deqrun(*command, f"run={run}", "allow_foreign_targets=true").code == 0
    assert launches.settings[0].solver.target == foreign


@pytest.mark.parametrize(
    "target", ["torch.os.system", "torch.hub.load", "torch.load", "deqrun.cli.main", "deqrun.cli.run_folders.Path"]
)
def test_a_name_that_only_begins_with_torch_or_deqrun_is_not_enough(refused: Refused, target: str) -> None:
    assert f"solver._target_={target} is not a class of deqrun or torch" in refused(
        "train", f"solver._target_={target}"
    )


@pytest.mark.parametrize(
    ("override", "kind"),
    [
        ("solver._target_=deqrun.gradients.OneStep", "Solver"),
        ("model._target_=torch.nn.Linear", "Cell"),
        ("optimizer._target_=torch.nn.Linear", "Optimizer"),
    ],
)
def test_a_class_of_another_kind_is_refused(refused: Refused, override: str, kind: str) -> None:
    assert f"is not a {kind}" in refused("train", override)


@pytest.mark.parametrize("key", ["_args_", "_partial_", "_recursive_", "_convert_"])
def test_a_component_holds_nothing_but_its_parameters(refused: Refused, key: str) -> None:
    assert key in refused("train", f"+solver.{key}=1")
