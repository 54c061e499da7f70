"""Tasks one after the other and side by side: the same results, and the same ends where one fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from deqrun.errors import Interrupted, UserError
from deqrun.studies.context import Context
from deqrun.studies.side_by_side import Task, cores, run_side_by_side
from tests.studies import tasks
from tests.studies.conftest import Outcome, answered


def squares(folder: Path, count: int) -> list[Task]:
    return [
        Task(f"square {i}", partial(tasks.write_square, folder / f"{i}", i), folder / "logs" / f"{i}.log")
        for i in range(count)
    ]


def task(do: Callable[[], object], folder: Path, label: str = "failing") -> Task:
    return Task(label, do, folder / "logs" / f"{label}.log")


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_every_task_is_done_once(tmp_path: Path, jobs: int, capfd: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []
    run_side_by_side(squares(tmp_path, 5), jobs, lambda one: done.append(one.label))
    assert [(tmp_path / f"{i}").read_text() for i in range(5)] == ["0", "1", "4", "9", "16"]
    assert sorted(done) == [f"square {i}" for i in range(5)]
    out = capfd.readouterr().out
    if jobs == 1:
        assert done == sorted(done)
        assert out == "".join(f"squaring {i}\n" for i in range(5))
    else:
        logs = [(tmp_path / "logs" / f"{i}.log").read_text() for i in range(5)]
        assert (out, logs) == ("", [f"squaring {i}\n" for i in range(5)])


def test_nothing_to_do_is_done(tmp_path: Path) -> None:
    run_side_by_side([], 4, lambda one: pytest.fail("there is none"))
    run_side_by_side(squares(tmp_path, 1), 4, lambda one: None)  # a single task needs no worker
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_refusal_comes_out_as_such_and_what_waits_is_not_begun(tmp_path: Path, jobs: int) -> None:
    """The refused task is first: with one job nothing else is begun, with two at most the one beside it."""
    failing = task(partial(tasks.refuse, tmp_path / "this"), tmp_path)
    waiting = squares(tmp_path, 6)
    begun = tmp_path / "begun"
    beside = [task(partial(tasks.wait_for_the_end, begun), tmp_path, "beside")] if jobs == 2 else []
    with pytest.raises(UserError, match=r"^this is refused\.$"):
        run_side_by_side([failing, *beside, *waiting], jobs, lambda one: pytest.fail(f"{one.label} was done"))
    assert not any((tmp_path / f"{i}").exists() for i in range(6))


def test_a_task_beside_a_failing_one_is_ended(tmp_path: Path) -> None:
    """It would sleep for ten minutes."""
    begun = tmp_path / "begun"
    both = [
        task(partial(tasks.wait_for_the_end, begun), tmp_path, "long"),
        task(partial(tasks.refuse_when, begun), tmp_path),
    ]
    with pytest.raises(UserError, match="once the other had begun"):
        run_side_by_side([*both, *squares(tmp_path, 3)], 2, lambda one: pytest.fail(f"{one.label} was done"))
    assert not any((tmp_path / f"{i}").exists() for i in range(3))


@pytest.mark.parametrize("do", [tasks.press_ctrl_c, tasks.say_interrupted])
def test_an_interruption_comes_out_as_such(tmp_path: Path, do: Callable[[], object]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([task(do, tmp_path), *squares(tmp_path, 1)], 2, lambda one: None)
    alone = KeyboardInterrupt if do is tasks.press_ctrl_c else Interrupted
    with pytest.raises(alone):
        run_side_by_side([task(do, tmp_path), *squares(tmp_path, 1)], 1, lambda one: None)


def test_a_worker_that_dies_names_its_log(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        run_side_by_side([task(tasks.die, tmp_path), *squares(tmp_path, 1)], 2, lambda one: None)
    assert str(raised.value) == f"failing ended with exit code 3; see {tmp_path / 'logs' / 'failing.log'}."


def test_a_fault_of_the_program_is_in_the_log(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"failing ended with exit code 1; see .*failing\.log\.$"):
        run_side_by_side([task(tasks.break_down, tmp_path), *squares(tmp_path, 1)], 2, lambda one: None)
    log = (tmp_path / "logs" / "failing.log").read_text(encoding="utf-8")
    assert log.startswith("Traceback")
    assert log.endswith("RuntimeError: a fault of the program\n")


def test_cores_are_those_that_the_process_may_use() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert cores() == len(os.sched_getaffinity(0))


# --- measurements of a study


def context(folder: Path, jobs: int) -> Context:
    return Context(folder, "small", (), torch.device("cpu"), jobs=jobs)


@pytest.mark.parametrize("jobs", [1, 2])
def test_measurements_are_taken_once_each(tmp_path: Path, jobs: int) -> None:
    asked = {f"part-{i}": partial(tasks.measure, i) for i in range(3)}
    found = context(tmp_path, jobs).each(asked)
    assert [found[f"part-{i}"]["square"] for i in range(3)] == [0, 1, 4]
    assert all((one["process"] == os.getpid()) == (jobs == 1) for one in found.values())
    again = context(tmp_path, jobs).each({"part-1": tasks.refuse_to_measure, "part-2": tasks.refuse_to_measure})
    assert again == {name: found[name] for name in ("part-1", "part-2")}


def test_a_measurement_that_is_refused_keeps_the_others(tmp_path: Path) -> None:
    asked = {"a": partial(tasks.measure, 3), "b": tasks.refuse_to_measure}
    with pytest.raises(UserError, match="No such measurement"):
        context(tmp_path, 1).each(asked)
    assert context(tmp_path, 1).each({"a": tasks.refuse_to_measure})["a"]["square"] == 9
    assert not (tmp_path / "parts" / "b.json").exists()


# --- a whole study

STUDY = (
    "study=does_anderson_prevent_divergence",
    "model.width=16",
    "sweep=none",
    "tracker=none",
    "seeds=2",
    "train.epochs=1",
    "train.batch_size=512",
    "ask.samples=8",
    "ask.scales=[1,3]",
    "ask.steps=30",
    "threads=1",
)


@pytest.mark.nightly
def test_a_study_side_by_side_has_the_numbers_of_one_made_in_order(deqrun: Callable[..., Outcome]) -> None:
    contents = []
    for jobs in (1, 2):
        outcome = deqrun("train", *STUDY, f"jobs={jobs}", f"run=with_{jobs}")
        assert outcome.code == 0, outcome.err
        assert f"training 2 runs, {jobs} at a time" in outcome.out
        content = answered(Path(f"with_{jobs}"))
        assert f"jobs={jobs}" in content.pop("command")
        contents.append(content)
    assert contents[0] == contents[1]
    assert contents[0]["seeds"] == [0, 1]
    assert not list(Path("with_1").rglob("*.log"))
    assert sorted(path.name for path in Path("with_2").rglob("*.log")) == [
        "model-0.log",
        "model-0.log",
        "model-1.log",
        "model-1.log",
    ]
