"""Studies of a few seconds: tiny cells on the real digits, and a question that only counts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from deqrun.cli import main
from deqrun.inference import Estimate
from deqrun.report.answer import Answer, Conclusion, KeyFigure
from deqrun.report.charts.answers import Axis, Point, curves
from deqrun.studies.context import Context
from deqrun.studies.question import Question

TINY = """\
# @package _global_
defaults:
  - override /model: mlp
  - override /sweep: none
  - override /tracker: none
name: tiny
question: counting
model: {width: 16}
threads: 1
jobs: 1
train: {epochs: "${sized:1,2}", batch_size: 512, jacobian_weight: 0}
variants:
  slow: [optimizer.lr=1e-4]
  fast: [optimizer.lr=1e-2, solver=picard]
  left_out: ${sized:null,['optimizer.lr=1']}
ask: {times: 2}
"""


@pytest.fixture(autouse=True)
def short_pages(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the usual run the runs of a study have empty pages, which take longer than the runs; its own page is real."""
    shorten_pages(pytestconfig, monkeypatch)


def shorten_pages(config: pytest.Config, patch: pytest.MonkeyPatch) -> None:
    if config.option.markexpr == "not nightly":
        patch.setattr("deqrun.experiment.launch.write_report", lambda folder, record: empty_page(folder))


def empty_page(folder: Path) -> Path:
    page = folder / "report.html"
    page.write_text("<html></html>")
    return page


@dataclass
class Counting:
    """The question `counting`: how many runs there are. `contexts` are those it was given; `fails` it raises."""

    contexts: list[Context] = field(default_factory=list)
    fails: BaseException | None = None

    def answer(self, context: Context, *, times: int) -> Answer:
        self.contexts.append(context)
        if self.fails is not None:
            raise self.fails
        count = times * len(context.runs)
        figure = curves("count", "Runs", "So many.", [Point("a", 1, 1), Point("a", 2, count)], Axis("x"), Axis("y"))
        seeds = sorted({run.settings.seed for run in context.runs})
        own = tuple(float(times * [run.settings.seed for run in context.runs].count(seed)) for seed in seeds)
        key = KeyFigure("runs", Estimate(count, count, count, 7, seeds=len(seeds), own=own), "number")
        conclusion = Conclusion(f"There are {count}.", (key,))
        return Answer(conclusion, ["Another run.", "No run."], [figure], numbers={"count": count})


def put_in_place(counting: Counting, patch: pytest.MonkeyPatch) -> None:
    """The question `counting`, as if it were a module of deqrun.studies.questions."""
    module = ModuleType("deqrun.studies.questions.counting")
    module.QUESTION = Question("How many runs?", counting.answer, of_any_run=True)  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "deqrun.studies.questions.counting", module)
    patch.setattr("deqrun.studies.question.questions", lambda: ["counting", "demanding"])


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    """A question beside the real ones."""
    made = Counting()
    put_in_place(made, monkeypatch)
    return made


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """A folder with the study `tiny`, made once with seed 3, in `here`; tests work on copies of it."""
    root = tmp_path_factory.mktemp("finished")
    (root / "mine" / "study").mkdir(parents=True)
    (root / "mine" / "study" / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        put_in_place(Counting(), patch)
        shorten_pages(pytestconfig, patch)
        patch.chdir(root)
        assert main(["train", "--config-dir", str(root / "mine"), "study=tiny", "run=here", "seed=3"]) == 0
    return root / "here"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, beside one with the config of the study `tiny`."""
    (tmp_path / "mine" / "study").mkdir(parents=True)
    (tmp_path / "mine" / "study" / "tiny.yaml").write_text(TINY)
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def deqrun(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """deqrun(*arguments) in this process, with the study `tiny` at hand."""

    def call(command: str, *arguments: str) -> Outcome:
        capsys.readouterr()
        code = main([command, "--config-dir", str(workspace.parent / "mine"), *arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def refused(deqrun: Callable[..., Outcome], workspace: Path) -> Callable[..., str]:
    """The one line on stderr of a call that must end with code 2 and touch nothing."""

    def call(*arguments: str) -> str:
        before = sorted(workspace.rglob("*"))
        outcome = deqrun(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.count("\n") == 1
        assert "Traceback" not in outcome.err
        assert sorted(workspace.rglob("*")) == before
        return outcome.err

    return call


def answered(folder: Path) -> dict[str, Any]:
    import json

    content: dict[str, Any] = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    return content
