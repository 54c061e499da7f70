"""Small trained runs, made once: what a person loads from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from deqrun.cli import main

SMALL = (
    "train.epochs=1",
    "train.batch_size=540",
    "sweep=quick",
    "tracker=none",
    "report=false",
    "threads=1",
    "device=cpu",
)


def trained(folder: Path, *overrides: str) -> Path:
    assert main(["train", f"run={folder}", *SMALL, *overrides]) == 0
    return folder


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the digits. Tests read it, and leave it as it is."""
    return trained(tmp_path_factory.mktemp("loaded") / "digits", "model=mlp", "model.width=24")
