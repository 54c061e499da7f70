"""The files for W&B's own tools: a sweep that drives deqrun, and a view that compares runs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from deqrun.cli import main
from deqrun.experiment.trackers.wandb_tracker import wandb_id
from tests.experiment.test_grid import SMALL

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "scripts" / "wandb_sweep.yaml"
CHOSEN = {"model": "mlp", "train.epochs": 10, "solver": "picard", "optimizer.lr": 0.0123, "train.jacobian_weight": 0.5}


@pytest.mark.filterwarnings("ignore")  # W&B leaves the file open
@pytest.mark.skipif(find_spec("sweeps") is None, reason="sweeps, which has W&B's schema, is not installed")
def test_the_sweep_agrees_with_the_schema_of_wandb() -> None:
    from sweeps.config import schema_violations_from_proposed_config
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    assert schema_violations_from_proposed_config(load_sweep_config(str(SWEEP))) == []


@pytest.mark.filterwarnings("ignore")  # W&B leaves the file open
def test_the_command_of_the_sweep_is_one_that_deqrun_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """The words that an agent would run, as W&B's own code makes them, through deqrun's checks and composition."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

    sweep = load_sweep_config(str(SWEEP))
    assert sweep is not None
    assert set(sweep["parameters"]) == set(CHOSEN)
    words = create_sweep_command_args({"args": {key: {"value": value} for key, value in CHOSEN.items()}})
    command = [
        word
        for part in create_sweep_command(sweep["command"])
        for word in (words["args_no_hyphens"] if part == "${args_no_hyphens}" else [part])
    ]
    assert command[1:3] == ["deqrun", "train"]  # after /usr/bin/env
    assert main([*command[2:], "--cfg", "job", "-p", "optimizer"]) == 0
    assert "lr: 0.0123" in capsys.readouterr().out


def test_a_new_run_of_an_agent_takes_the_id_that_the_agent_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert wandb_id(tmp_path / "alone") != "given"
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    assert wandb_id(tmp_path / "agent") == "given"
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    assert wandb_id(tmp_path / "agent") == "given"


@pytest.mark.nightly
@pytest.mark.skipif(find_spec("wandb_workspaces") is None, reason="wandb-workspaces is not installed")
def test_the_view_has_a_section_for_each_family_of_curves(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["train", *SMALL, "report=true", "sweep.halting=[residual]", "sweep.breadth=[1,2]", f"run={run}"]) == 0
    command = [sys.executable, str(ROOT / "scripts" / "wandb_workspace.py"), str(run), "--entity", "e", "--dry-run"]
    printed = subprocess.run([*command, "--group-by", "solver._target_"], capture_output=True, text=True, check=True)
    sections = dict(line.split(": ") for line in printed.stdout.splitlines())
    assert {"Summary", "Accuracy against budget", "Halting rules", "Breadth", "Figures"} <= set(sections)
    assert all(int(count.split()[0]) > 0 for count in sections.values())
    refused = subprocess.run([*command[:2], str(tmp_path), *command[3:]], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "is not a run folder" in refused.stderr
    assert json.loads((run / "status.json").read_text())["status"] == "completed"
