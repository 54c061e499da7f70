"""The nearest name, and lists that stay readable."""

from __future__ import annotations

import pytest

from deqrun.errors import listing, nearest, one_line, unknown

KEYS = ["model", "solver", "train", "train.epochs", "train.batch_size", "solver.memory", "solver.mixing"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("modle", "model"),
        ("train.epoch", "train.epochs"),
        ("epochs", "train.epochs"),
        ("batchsize", "train.batch_size"),
        ("trian.epochs", "train.epochs"),
        ("solver.memry", "solver.memory"),
        ("solvr.damping", "solver"),
        ("zzz", None),
        ("solver.zzz", "solver"),
    ],
)
def test_the_nearest_key(given: str, expected: str | None) -> None:
    assert nearest(given, KEYS) == expected


def test_siblings_are_nearer_than_strangers() -> None:
    assert nearest("b.size", ["a.size", "b.sizes"]) == "b.sizes"


def test_an_allowed_name_is_nearest_to_itself() -> None:
    assert all(nearest(key, KEYS) == key for key in KEYS)


def test_long_lists_are_cut_and_counted() -> None:
    assert listing("abc") == "a, b, c"
    assert listing([]) == "none"
    assert listing(str(n) for n in range(20)).endswith("15 and 4 more")


def test_the_sentence_has_all_three_parts() -> None:
    sentence = unknown("model=mdqe", "an option of model", ["conv", "mdeq"], "mdqe")
    assert sentence == "model=mdqe is not an option of model; allowed: conv, mdeq; the nearest is mdeq."


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n  b", "a b."),
        ("a.", "a."),
        ("a?", "a?"),
        # A full stop behind a command would be pasted with it.
        ("Stopped. Go on with: deqrun train run=a resume=true", "Stopped. Go on with: deqrun train run=a resume=true"),
        ("Go on with: deqrun train run=a. It is kept", "Go on with: deqrun train run=a. It is kept."),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
