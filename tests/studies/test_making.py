"""A study from its command to its answer: which runs it trains, what it leaves behind, and how it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deqrun.errors import UserError
from deqrun.records.reading import read_run
from deqrun.studies.make import _shared_out
from deqrun.studies.study import Study
from tests.studies.conftest import Counting, Outcome, answered

Deqrun = Callable[..., Outcome]


@pytest.fixture
def made(finished: Path, workspace: Path, counting: Counting) -> Path:
    """The study `tiny`, finished, in the current folder."""
    shutil.copytree(finished, workspace / "here")
    return Path("here")


def test_every_variant_is_an_ordinary_run_with_its_overrides(made: Path) -> None:
    assert sorted(path.name for path in (made / "runs").iterdir()) == ["fast", "slow"]
    slow, fast = (read_run(made / "runs" / label) for label in ("slow", "fast"))
    assert slow.status.status == fast.status.status == "completed"
    assert (slow.name, slow.config["optimizer"]["lr"], slow.choice("solver")) == ("slow", 1e-4, "secant")
    assert (fast.name, fast.config["optimizer"]["lr"], fast.choice("solver")) == ("fast", 1e-2, "picard")
    assert slow.config["seed"] == fast.config["seed"] == 3
    assert "question" not in slow.config
    assert (made / "runs" / "slow" / "report.html").is_file()


def test_the_answer_is_told_in_every_form(made: Path) -> None:
    assert answered(made)["numbers"] == {"count": 4}
    content = answered(made)
    assert (content["verdict"], content["would_change"]) == ("There are 4.", ["Another run.", "No run."])
    (key,) = content["key"]
    assert (key["what"], key["text"], key["mean"], key["n"]) == ("runs", "4", 4, 7)
    text = (made / "answer.md").read_text(encoding="utf-8")
    assert text.startswith("# How many runs?\n\n**There are 4.**\n\n| figure | value | 95 % interval | n | seeds |")
    assert text.index("| runs | 4 | 4 to 4 | 7 | 1 |") < text.index("![Runs](figures/count.png)")
    assert "What would change it:\n\n- Another run.\n- No run.\n" in text
    assert "    deqrun train study=tiny " in text
    assert (made / "figures" / "count.png").read_bytes().startswith(b"\x89PNG")
    page = (made / "report.html").read_text(encoding="utf-8")
    assert page.index("How many runs?") < page.index("There are 4.") < page.index('data-spec="spec-count"')
    assert 'href="runs/slow/report.html"' in page


def test_each_runs_own_command_makes_that_run(made: Path, deqrun: Deqrun, workspace: Path) -> None:
    import shlex

    command = read_run(made / "runs" / "fast").summary.command
    assert command is not None
    words = shlex.split(command)
    assert words[:2] == ["deqrun", "train"]
    assert deqrun("train", "run=alone", *words[2:]).code == 0
    alone, one = read_run(workspace / "alone"), read_run(made / "runs" / "fast")
    assert alone.summary.config_hash == one.summary.config_hash
    assert [row.loss for row in alone.epochs] == [row.loss for row in one.epochs]


def test_runs_that_are_complete_are_not_trained_again(made: Path, deqrun: Deqrun, counting: Counting) -> None:
    """As if it had been killed while it was being answered, and the second run while it was being reported."""
    for file in ("status.json", "answer.json", "report.html", "runs/fast/report.html"):
        (made / file).unlink()
    checkpoints = [made / "runs" / label / "checkpoints" / "last.pt" for label in ("slow", "fast")]
    before = [path.stat().st_mtime_ns for path in checkpoints]
    assert deqrun("train", "study=tiny", "run=here", "seed=3", "resume=true").code == 0
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    assert answered(made)["numbers"] == {"count": 4}
    assert (made / "runs" / "fast" / "report.html").is_file()
    (context,) = counting.contexts
    assert [run.label for run in context.runs] == context.kinds == ["slow", "fast"]
    assert context.once("part", lambda: {"a": (1, 2)}) == {"a": [1, 2]}
    assert context.once("part", lambda: {"a": "measured again"}) == {"a": [1, 2]}


def test_a_study_does_not_go_on_with_changed_data(made: Path, deqrun: Deqrun) -> None:
    """It is told before anything is written: the study and its runs keep their status."""
    for folder in (made, made / "runs" / "fast"):
        (folder / "status.json").write_text('{"status": "interrupted", "reason": "", "epoch": 1}')
    record = made / "runs" / "fast" / "data.json"
    record.write_text(record.read_text().replace('"digest": "', '"digest": "f'))
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    outcome = deqrun("train", "run=here", "resume=true")
    assert outcome.code == 2
    assert outcome.err.startswith("deqrun: study=tiny: run fast: the data of ")
    assert outcome.err.endswith("; a run goes on with its own data, and other data need a new run.\n")
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_what_is_complete_says_so(made: Path, deqrun: Deqrun, counting: Counting) -> None:
    outcome = deqrun("train", "run=here", "resume=true")
    assert outcome.code == 0
    assert "here is complete" in outcome.out
    assert counting.contexts == []


def test_a_compared_study_is_its_runs(made: Path, deqrun: Deqrun, workspace: Path) -> None:
    from deqrun.cli import main

    assert main(["compare", "here", "--output", "compared"]) == 0
    table = (workspace / "compared" / "compare.md").read_text(encoding="utf-8")
    assert "| picard | 0.01 | 1 |" in table  # by what differs, not by the variant's folder
    assert "| secant | 1e-4 | 1 |" in table


def test_a_study_goes_on_with_other_jobs(made: Path, deqrun: Deqrun, counting: Counting) -> None:
    """How many runs at a time changes no number: it is no part of what a study is."""
    assert yaml.safe_load((made / "study.yaml").read_text(encoding="utf-8"))["jobs"] == 1
    (made / "status.json").unlink()
    (made / "answer.json").unlink()
    assert deqrun("train", "run=here", "resume=true", "jobs=2").code == 0
    assert counting.contexts[-1].jobs == 2
    assert answered(made)["numbers"] == {"count": 4}


@pytest.mark.parametrize(
    ("jobs", "threads", "own_cores", "variants", "expected"),
    [
        (None, None, 8, 20, (8, 1)),  # a core each
        (None, None, 8, 3, (3, 1)),  # no more than there are runs
        (None, 4, 8, 20, (2, 4)),
        (None, 16, 8, 20, (1, 16)),
        (3, None, 8, 20, (3, 1)),
        (3, 4, 8, 20, (3, 4)),  # as asked for
        (20, None, 8, 4, (4, 1)),
    ],
)
def test_how_cores_are_shared_out(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    jobs: int | None,
    threads: int | None,
    own_cores: int,
    variants: int,
    expected: tuple[int, int],
) -> None:
    monkeypatch.setattr("deqrun.studies.make.cores", lambda: own_cores)
    study = Study.from_yaml(made / "study.yaml")
    assert study.jobs == 1
    study = replace(study, jobs=jobs, threads=threads, device="cpu", variants=study.variants[:1] * variants)
    assert _shared_out(study) == expected
    assert _shared_out(replace(study, asked=Path("a run"))) == (1, threads)  # which has the machine to itself
    assert _shared_out(replace(study, device="cuda")) == (1, threads)


def test_a_study_is_the_same_after_its_yaml(made: Path) -> None:
    study = replace(Study.from_yaml(made / "study.yaml"), jobs=None)
    (made / "study.yaml").write_text(study.to_yaml(), encoding="utf-8")
    assert Study.from_yaml(made / "study.yaml") == study
    without = "\n".join(line for line in study.to_yaml().splitlines() if not line.startswith("jobs:"))
    (made / "study.yaml").write_text(without, encoding="utf-8")
    assert Study.from_yaml(made / "study.yaml") == study  # as studies were written before there were jobs


def test_a_study_goes_on_as_it_began(made: Path, refused: Callable[..., str]) -> None:
    assert "already holds a study" in refused("train", "study=tiny", "run=here")
    assert "the settings of its run fast" in refused("train", "study=tiny", "run=here", "resume=true", "seed=4")
    assert "ask={'times': 3}" in refused("train", "study=tiny", "run=here", "resume=true", "ask.times=3", "seed=3")
    assert "can't be compared" in refused("train", "run=here", "resume=true", "train.epochs=2")


def test_an_interruption_while_answering_is_told_with_the_studys_command(
    made: Path, deqrun: Deqrun, counting: Counting
) -> None:
    (made / "status.json").unlink()
    (made / "answer.json").unlink()
    counting.fails = KeyboardInterrupt()
    outcome = deqrun("train", "run=here", "resume=true")
    assert outcome.code == 130
    assert f"Go on with: deqrun train run={made.resolve()} resume=true --config-dir " in outcome.err
    counting.fails = None
    assert deqrun("train", "run=here", "resume=true").code == 0
    assert answered(Path("here"))["numbers"] == {"count": 4}


def test_a_trained_run_can_be_asked(made: Path, deqrun: Deqrun, counting: Counting, workspace: Path) -> None:
    outcome = deqrun("sweep", "study=tiny", "run=here/runs/slow", "ask.times=5")
    assert (outcome.code, outcome.err) == (0, "")
    (folder,) = (workspace / "outputs" / "sweep").glob("*/*-tiny")
    assert answered(folder)["numbers"] == {"count": 5}
    (run,) = counting.contexts[-1].runs
    assert run.folder == (workspace / "here" / "runs" / "slow")
    deq, _ = run.model()
    assert deq.cell.state_shape == (16,)
    assert not deq.training


def test_seeds_are_runs_of_their_own(deqrun: Deqrun, counting: Counting) -> None:
    assert deqrun("train", "study=tiny", "run=here", "seeds=2", "seed=5", "variants.slow=null").code == 0
    context = counting.contexts[0]
    assert [(run.label, run.kind, run.settings.seed) for run in context.runs] == [
        ("fast-5", "fast", 5),
        ("fast-6", "fast", 6),
    ]


def test_each_seed_is_shown_by_itself_too(deqrun: Deqrun, counting: Counting) -> None:
    assert deqrun("train", "study=tiny", "run=here", "seeds=2", "seed=5").code == 0
    assert [[run.settings.seed for run in context.runs] for context in counting.contexts] == [[5, 6, 5, 6]]
    answer = answered(Path("here"))
    assert (answer["verdict"], answer["seeds"]) == ("There are 8.", [5, 6])
    assert answer["key"][0]["own"] == [4, 4]
    text = Path("here/answer.md").read_text(encoding="utf-8")
    assert "Seeds apart:\n\n| figure | seed 5 | seed 6 |\n|---|---:|---:|\n| runs | 4 | 4 |" in text


def test_an_error_of_a_run_says_which_and_how_to_go_on(
    deqrun: Deqrun, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object) -> None:
        raise UserError("The loss is not finite.")

    monkeypatch.setattr("deqrun.studies.make.run_train", fails)
    outcome = deqrun("train", "study=tiny", "run=here")
    assert outcome.code == 2
    assert "study=tiny: run slow: The loss is not finite. Go on with: deqrun train run=" in outcome.err
