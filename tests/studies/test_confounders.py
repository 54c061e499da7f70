"""Settings in which the runs of a study differ besides the one that it asks about."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deqrun.settings import load_settings
from deqrun.settings.sources import open_sources
from deqrun.studies.confounders import confounders
from deqrun.studies.context import StudyRun


def runs(*typed: list[str]) -> list[StudyRun]:
    with open_sources() as sources:
        settings = [load_settings(sources.compose("train", ["model=mlp", *own])) for own in typed]
    return [StudyRun(f"{i}", f"{i}", Path(f"{i}"), one, torch.device("cpu")) for i, one in enumerate(settings)]


@pytest.mark.parametrize(
    ("typed", "apart_from", "found"),
    [
        ([[], []], (), []),
        ([["seed=1"], ["seed=2"]], (), []),
        ([["name=a"], ["name=b"]], (), []),
        ([[], ["train.jacobian_weight=3"]], (), ["train.jacobian_weight"]),
        ([[], ["train.jacobian_weight=3"]], ("train.jacobian_weight",), []),
        ([[], ["train.jacobian_weight=3"]], ("train.jacobian",), ["train.jacobian_weight"]),
        ([[], ["train.jacobian_weight=3"], ["train.batch_size=7"]], (), ["train.batch_size", "train.jacobian_weight"]),
        ([[], ["train.jacobian_weight=3", "budget.max_iter=3"]], ("train",), ["budget.max_iter"]),
        ([[], ["model.width=9"]], (), []),  # what a net is, a study varies on purpose
    ],
)
def test_what_differs_too(typed: list[list[str]], apart_from: tuple[str, ...], found: list[str]) -> None:
    assert confounders(runs(*typed), apart_from) == found


def test_parameters_of_the_data_and_the_optimizer_are_compared() -> None:
    found = confounders(runs([], ["optimizer.lr=0.5"]), ())
    assert [name.rsplit(".", 1)[-1] for name in found] == ["lr"]
    found = confounders(runs(["dataset=prefix_sums"], ["dataset=prefix_sums", "dataset.length=9"]), ())
    assert [name.rsplit(".", 1)[-1] for name in found] == ["length"]
    assert all(name.startswith("dataset.") for name in found)
