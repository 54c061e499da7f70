"""`deqrun new` writes examples that work, overwrites nothing, and says which command to run next."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome
from tests.prepared import Deqrun as Prepared
from tests.usual import usual

Deqrun = Callable[..., Outcome]
ROOT = Path(__file__).parents[2]

WRITTEN = {
    "cell": ["mine.py", "model/mine.yaml", "test_mine.py"],
    "dataset": ["dataset/mine.yaml", "mine.py", "test_mine.py"],
    "solver": ["mine.py", "solver/mine.yaml", "test_mine.py"],
    "study": ["study/mine.yaml"],
}


@pytest.fixture(autouse=True)
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("mine", None)


@pytest.mark.parametrize("kind", usual(WRITTEN, nightly=("dataset", "solver", "study")))
def test_the_example_is_trained_and_tested(deqrun: Deqrun, workspace: Path, kind: str) -> None:
    outcome = deqrun("new", kind, "mine", "--output", "parts")
    assert (outcome.code, outcome.err) == (0, "")
    files = sorted(str(path.relative_to("parts")) for path in Path("parts").rglob("*") if path.is_file())
    assert files == WRITTEN[kind]
    (following,) = [line for line in outcome.out.splitlines() if line.startswith("next ")]
    words = shlex.split(following.removeprefix("next"))
    tiny = ["train.epochs=1", "sweep=none", "tracker=none", "run=run", "device=cpu", "model.width=8", "model=mlp"]
    overrides = [word for word in words[1:] if not word.startswith("train.")]
    added = tiny[:-2] if kind in ("cell", "study") else tiny[:-1]
    added.append("allow_foreign_targets=true")
    trained = Prepared(*overrides, *added, folder=workspace, environment=_environment(workspace))
    _, err = trained.communicate(timeout=240)
    assert trained.returncode == 0, err
    assert json.loads(Path("run/status.json").read_text())["status"] == "completed"
    if kind != "study":
        command = ["-q", "-p", "no:cacheprovider", "parts/test_mine.py"]
        tested = Prepared(*command, folder=workspace, environment=_environment(workspace), program="pytest")
        out, _ = tested.communicate(timeout=240)
        assert tested.returncode == 0, out
        assert "1 passed" in out


def _environment(workspace: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(workspace / "config")}


@pytest.mark.parametrize("there", ["mine.py", "model/mine.yaml", "test_mine.py"])
def test_nothing_is_overwritten(refused: Callable[..., str], workspace: Path, there: str) -> None:
    path = workspace / there
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert refused("new", "cell", "mine") == (
        f"deqrun: {there} exists, and nothing is overwritten; give another name or --output folder.\n"
    )
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "deqrun new takes a kind and a name, and was given 0 words; as in deqrun new cell my_cell."),
        (["cell"], "deqrun new takes a kind and a name, and was given 1 words; as in deqrun new cell my_cell."),
        (["sell", "x"], "sell is not a kind of part; allowed: cell, dataset, solver, study; the nearest is cell."),
        (["cell", "My-Cell"], "the nearest is my_cell."),
        (["cell", "../x"], "the nearest is x."),
        (["cell", "class"], "the nearest is my_class."),
        (["cell", "torch"], "the nearest is my_torch."),
        (["cell", "x", "--force"], "--force is not a flag of deqrun new; there is --output FOLDER."),
        (["cell", "x", "--output"], "--output needs a folder, as in --output mine."),
    ],
)
def test_what_is_mistyped_is_told(refused: Callable[..., str], arguments: list[str], sentence: str) -> None:
    assert refused("new", *arguments).endswith(f"{sentence}\n")
