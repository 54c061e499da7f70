"""Parameters of a question: their types and ranges; and runs that diverge, which are a result."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from deqrun.errors import UserError
from deqrun.studies.asking import check_ask
from tests.studies.conftest import Counting, Outcome


def asked(context: Any, *, samples: int, tol: float, lengths: Sequence[int], scales: Sequence[float]) -> None:
    """A question with a parameter of every type."""


GOOD: dict[str, Any] = {"samples": 3, "tol": 0.5, "lengths": [16, 32], "scales": [1, 1.5]}


def test_what_fits_is_taken() -> None:
    check_ask("asked", asked, GOOD)
    check_ask("asked", asked, GOOD | {"tol": 1, "scales": (0.0,)})


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("samples", -5, "a whole number, at least 1"),
        ("samples", 0, "a whole number, at least 1"),
        ("samples", 2.5, "a whole number, at least 1"),
        ("samples", True, "a whole number, at least 1"),
        ("samples", None, "a whole number, at least 1"),
        ("samples", "many", "a whole number, at least 1"),
        ("samples", [1], "a whole number, at least 1"),
        ("samples", 10**9, "at most 10,000,000"),
        ("tol", -1e-3, "a finite number, at least 0"),
        ("tol", float("nan"), "a finite number, at least 0"),
        ("tol", float("inf"), "a finite number, at least 0"),
        ("tol", "small", "a finite number, at least 0"),
        ("lengths", [], "a list, in which each is a whole number, at least 1"),
        ("lengths", 16, "a list, in which each is a whole number, at least 1"),
        ("lengths", [16, 0], "a list, in which each is a whole number, at least 1"),
        ("lengths", [16, 16], "a list in which nothing stands twice"),
        ("lengths", {"a": 1}, "a list, in which each is a whole number, at least 1"),
        ("scales", [1.0, float("nan")], "a list, in which each is a finite number, at least 0"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(key: str, value: Any, needed: str) -> None:
    with pytest.raises(UserError) as refused:
        check_ask("asked", asked, GOOD | {key: value})
    assert str(refused.value).startswith(f"ask.{key}={value} is out of range: asked needs ")
    assert needed in str(refused.value)


def test_what_is_missing_or_unknown_is_told() -> None:
    with pytest.raises(UserError, match=r"asked needs ask\.tol, which nothing sets"):
        check_ask("asked", asked, {key: value for key, value in GOOD.items() if key != "tol"})
    with pytest.raises(UserError, match="the nearest is samples"):
        check_ask("asked", asked, GOOD | {"sampels": 3})


def test_a_run_that_diverges_is_a_result_and_the_others_go_on(
    deqrun: Callable[..., Outcome], workspace: Path, counting: Counting
) -> None:
    """The loss of one variant overflows: the other is trained and asked, and resuming trains nothing again."""
    words = ["study=tiny", "run=here", "variants.fast=['optimizer.lr=1e25']"]
    first = deqrun("train", *words)
    assert first.code == 0, first.err
    assert [run.label for run in counting.contexts[-1].runs] == ["slow"]
    content = json.loads((workspace / "here" / "answer.json").read_text())
    assert list(content["diverged_in_training"]) == ["fast"]
    assert "is not finite at step" in content["diverged_in_training"]["fast"]
    assert "Not asked, since training diverged: 1 run (fast)." in (workspace / "here" / "answer.md").read_text()
    (workspace / "here" / "answer.json").unlink()
    again = deqrun("train", "run=here", "resume=true")
    assert again.code == 0, again.err
    assert "run 1/2" not in again.out  # nothing is trained


def test_a_seed_that_one_variant_lost_is_left_out_of_all(
    deqrun: Callable[..., Outcome], workspace: Path, counting: Counting
) -> None:
    assert deqrun("train", "study=tiny", "run=here", "seeds=2").code == 0
    (workspace / "here" / "parts").mkdir(exist_ok=True)
    (workspace / "here" / "parts" / "fast-1.diverged").write_text("The loss is not finite at step 3 (epoch 1).")
    (workspace / "here" / "answer.json").unlink()
    status = workspace / "here" / "status.json"
    status.write_text(status.read_text().replace("completed", "interrupted"))
    assert deqrun("train", "run=here", "resume=true").code == 0
    assert [run.label for run in counting.contexts[-1].runs] == ["slow-0", "fast-0"]


def test_where_all_diverge_the_study_says_so(
    deqrun: Callable[..., Outcome], workspace: Path, counting: Counting
) -> None:
    outcome = deqrun("train", "study=tiny", "run=here", "variants.fast=null", "variants.slow=['optimizer.lr=1e25']")
    assert outcome.code == 2
    assert "no seed was trained to its end. The loss is not finite at step" in outcome.err
    assert outcome.err.count("\n") == 1
