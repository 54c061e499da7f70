"""More threads or memory than the machine has are refused before anything is built."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from deqrun.experiment import machine_limits

Refused = Callable[..., str]


def test_threads_are_four_for_each_core_at_most(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    for command in (["train"], ["train", "study=is_it_a_contraction"]):
        assert refused(*command, "threads=100000") == (
            "deqrun: threads=100000 is too many for this machine: allowed are 1 to 12, 4 for each of 3 cores "
            "(nearest: 12).\n"
        )


@pytest.mark.parametrize(
    ("overrides", "beginning"),
    [
        (["dataset=mazes", "model=recall", "dataset.size=100001"], "the samples of dataset=mazes take "),
        (["dataset=prefix_sums", "model=recall", "dataset.length=9999999"], "the samples of dataset=prefix_sums"),
        (
            ["dataset=copy_memory", "model=transformer", "dataset.blanks=1000000000"],
            "the samples of dataset=copy_memory take ",
        ),
        (["model=mlp", "model.width=1000000"], "the weights of model=mlp take 14,902.3 GiB"),
        (["model=conv", "model.channels=80000", "model.inner_channels=80000"], "the weights of model=conv take "),
        (["model=monotone", "model.width=2000000"], "the weights of model=monotone take "),
        (
            [
                "dataset=mazes",
                "model=recall",
                "dataset.n_train=8000",
                "dataset.size=99",
                "train.batch_size=8000",
                "model.width=4000",
            ],
            "the states of 8000 samples at a time of model=recall take ",
        ),
    ],
)
def test_more_than_the_memory_is_refused(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, overrides: list[str], beginning: str
) -> None:
    monkeypatch.setattr(machine_limits, "available_memory", lambda: 64 * 2**30)
    sentence = refused("train", *overrides)
    assert sentence.startswith(f"deqrun: {beginning}")
    assert " GiB of memory at least, and 64.0 GiB are free; allowed are smaller values of " in sentence


def test_memory_of_this_machine_is_told() -> None:
    assert 2**20 < machine_limits.available_memory() < 2**45
