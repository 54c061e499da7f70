"""Calling deqrun in this process, in an empty folder, with the experiments themselves replaced by a record of calls."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deqrun.cli import main
from deqrun.settings import Settings, load_settings
from deqrun.settings.sources import open_sources


@dataclass
class Launches:
    """The calls of the experiment functions, in order; `fails` is raised by them if it is set."""

    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    fails: BaseException | None = None

    def record(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            self.calls.append((name, arguments))
            if self.fails is not None:
                raise self.fails

        return call

    @property
    def settings(self) -> list[Settings]:
        return [arguments[0] for _, arguments in self.calls]


@dataclass(frozen=True)
class Outcome:
    """What a call of deqrun came to."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """The experiments, replaced."""
    recorded = Launches()
    module = ModuleType("deqrun.experiment.launch")
    for name in ("run_train", "run_sweep", "run_describe"):
        setattr(module, name, recorded.record(name))
    monkeypatch.setitem(sys.modules, "deqrun.experiment.launch", module)
    return recorded


@pytest.fixture
def deqrun(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """deqrun(*arguments) in this process."""

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def refused(deqrun: Callable[..., Outcome], workspace: Path, launches: Launches) -> Callable[..., str]:
    """refused(*arguments): the one line on stderr of a call that must end with code 2 and touch nothing."""

    def call(*arguments: str) -> str:
        before = sorted(workspace.rglob("*"))
        outcome = deqrun(*arguments)
        assert outcome.code == 2
        assert outcome.err.count("\n") == 1
        assert outcome.err.endswith(".\n") or outcome.err.endswith("?\n")
        assert "Traceback" not in outcome.err
        assert outcome.out == ""
        assert sorted(workspace.rglob("*")) == before
        assert launches.calls == []
        return outcome.err

    return call


@cache
def config_of(overrides: tuple[str, ...]) -> str:
    """The text of config.yaml of a run of these overrides."""
    with open_sources() as sources:
        return load_settings(sources.compose("train", overrides)).to_yaml()


@pytest.fixture
def made_run(workspace: Path) -> Callable[..., Path]:
    """made_run(*overrides, folder=…, status=…): a run folder as a run of these overrides leaves it."""

    def make(*overrides: str, folder: str = "outputs/train/2030-01-31/12-00-00-first", status: str = "running") -> Path:
        path = Path(folder)
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(config_of(overrides))
        (path / "status.json").write_text(json.dumps({"status": status, "reason": "", "epoch": 1}))
        return path

    return make


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without CUDA."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
