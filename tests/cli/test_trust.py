"""Code of a user's own is run from a folder that the user has allowed once, in a terminal; a run can allow nothing."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deqrun.settings import trust as trusted_code
from tests.cli.conftest import Launches, Outcome

Deqrun = Callable[..., Outcome]

CELL = """
import math
from pathlib import Path
import torch
from deqrun.models import Cell

Path("imported").write_text("")

class Mine(Cell):
    def __init__(self, *, input_shape, num_classes, width=8):
        super().__init__(input_shape=input_shape, num_classes=num_classes)
        self.state_shape = (width,)
        self.encoder = torch.nn.Linear(math.prod(input_shape), width)
        self.recur = torch.nn.Linear(width, width)
        self.head = torch.nn.Linear(width, num_classes)

    def inject(self, x):
        return self.encoder(x.flatten(1))

    def forward(self, z, injection):
        return torch.tanh(self.recur(z) + injection[0])

    def readout(self, z):
        return self.head(z)

def call():
    raise SystemExit("run")
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's config directory, and an import path, of each test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(trusted_code, "_of_this_process", set())
    monkeypatch.setattr(trusted_code, "_untrusted", [])
    yield tmp_path / "config"
    for name in ("mine_cells", "broken_cells"):
        sys.modules.pop(name, None)


@pytest.fixture
def mine(workspace: Path) -> Path:
    """A config folder with a cell, and an option of the group model that names it."""
    folder = workspace / "mine"
    (folder / "model").mkdir(parents=True)
    (folder / "mine_cells.py").write_text(CELL)
    (folder / "model" / "own.yaml").write_text("_target_: mine_cells.Mine\nwidth: 8\n")
    return folder


def in_a_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_where_nobody_can_be_asked_a_sentence_says_how_to_allow_it(
    refused: Callable[..., str], mine: Path, monkeypatch: pytest.MonkeyPatch, own_config: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert refused("train", "--config-dir", "mine", "model=own") == (
        "deqrun: model._target_=mine_cells.Mine is outside of deqrun and torch, and mine is not a folder that you have "
        "allowed; if you trust it, give the command once in a terminal, where deqrun asks, or with "
        "allow_foreign_targets=true.\n"
    )
    assert not Path("imported").exists()
    assert not own_config.exists()


def test_a_folder_is_asked_about_once_and_remembered(
    deqrun: Deqrun, mine: Path, monkeypatch: pytest.MonkeyPatch, own_config: Path, launches: Launches
) -> None:
    with monkeypatch.context() as terminal:
        in_a_terminal(terminal, "y\n")
        first = deqrun("train", "--config-dir", "mine", "model=own")
    assert first.code == 0
    assert "Do you trust this folder? [y/N]" in first.err
    assert json.loads((own_config / "deqrun" / "trusted.json").read_text()) == {"folders": [str(mine.resolve())]}
    again = deqrun("train", "--config-dir", "mine", "model=own")
    assert (again.code, again.err) == (0, "")
    assert not launches.settings[1].allow_foreign_targets
    assert launches.settings[1].model.target == "mine_cells.Mine"


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yess\n"])
def test_another_answer_than_yes_allows_nothing(
    deqrun: Deqrun, mine: Path, monkeypatch: pytest.MonkeyPatch, own_config: Path, launches: Launches, answer: str
) -> None:
    with monkeypatch.context() as terminal:
        in_a_terminal(terminal, answer)
        assert deqrun("train", "--config-dir", "mine", "model=own").code == 2
    assert launches.calls == []
    assert not Path("imported").exists()
    assert not own_config.exists()


def test_allowing_on_the_command_line_works_and_is_not_remembered(
    deqrun: Deqrun, mine: Path, own_config: Path, launches: Launches
) -> None:
    assert deqrun("train", "--config-dir", "mine", "model=own", "allow_foreign_targets=true").code == 0
    assert launches.settings[0].model.target == "mine_cells.Mine"
    assert not own_config.exists()


def test_trust_in_a_folder_reaches_no_further(
    deqrun: Deqrun, refused: Callable[..., str], mine: Path, made_run: Callable[..., Path]
) -> None:
    trusted_code.remember(mine)
    Path("imported").write_text("")  # as the module does, which the user allows
    for target, reason in (("os.system", "is outside of deqrun and torch"), ("mine_cells.call", "is not a class")):
        (mine / "model" / "own.yaml").write_text(f"_target_: {target}\n")
        assert reason in refused("train", "--config-dir", "mine", "model=own")
    (mine / "json.py").write_text("raise SystemExit('run')")
    (mine / "model" / "own.yaml").write_text("_target_: json.JSONDecoder\n")
    assert "json.JSONDecoder is outside of deqrun and torch" in refused("train", "--config-dir", "mine", "model=own")


def test_a_run_folder_can_not_allow_itself(refused: Callable[..., str], made_run: Callable[..., Path]) -> None:
    run = made_run("model=mlp")
    (run / "mine_cells.py").write_text(CELL)
    text = (run / "config.yaml").read_text().replace("deqrun.models.mlp.MLPCell", "mine_cells.Mine")
    (run / "config.yaml").write_text(text)
    (run / "trusted.json").write_text(json.dumps({"folders": [str(run.resolve())]}))
    assert "mine_cells.Mine is outside of deqrun and torch" in refused("sweep", f"run={run}")
    assert not Path("imported").exists()


def test_a_damaged_list_allows_nothing(refused: Callable[..., str], mine: Path, own_config: Path) -> None:
    (own_config / "deqrun").mkdir(parents=True)
    for content in ("{", "[]", '{"folders": "/"}', '{"folders": [1, null]}', "[" * 100_000, "\0"):
        (own_config / "deqrun" / "trusted.json").write_text(content)
        assert "not a folder that you have allowed" in refused("train", "--config-dir", "mine", "model=own")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("class Mine(:\n", "SyntaxError: invalid syntax"),
        ("import no_such_module_of_mine\n", "ModuleNotFoundError: No module named 'no_such_module_of_mine'"),
        ("from deqrun.models import Sell\n", "ImportError: cannot import name 'Sell'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("class Other: pass\n", "broken_cells has no Mine"),
    ],
)
def test_a_module_that_can_not_be_imported_is_told_in_a_sentence(
    refused: Callable[..., str], mine: Path, source: str, reason: str
) -> None:
    trusted_code.remember(mine)
    (mine / "broken_cells.py").write_text(source)
    (mine / "model" / "own.yaml").write_text("_target_: broken_cells.Mine\n")
    sentence = refused("train", "--config-dir", "mine", "model=own")
    assert "model._target_=broken_cells.Mine can't be" in sentence
    assert reason in sentence
