"""Wrong data sets are told in one sentence each before anything is made; a right one, and deqrun's own, pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deqrun.contracts import DATA_CHECKS
from deqrun.experiment.own_parts import data_findings
from deqrun.settings import load_settings
from deqrun.settings.sources import open_sources
from tests.cli.conftest import Outcome
from tests.contracts.wrong_data import FAULTS, NaNInput, Right
from tests.usual import usual


@pytest.fixture
def configured(workspace: Path) -> Callable[[type], list[str]]:
    """configured(dataset): the arguments that choose it from a config folder."""

    def configure(dataset: type) -> list[str]:
        folder = workspace / "mine" / "dataset"
        folder.mkdir(parents=True)
        (folder / "own.yaml").write_text(f"_target_: {dataset.__module__}.{dataset.__name__}\n")
        return ["--config-dir", "mine", "model=mlp", "dataset=own", "allow_foreign_targets=true"]

    return configure


@pytest.mark.parametrize("dataset", FAULTS, ids=lambda dataset: dataset.__name__)
def test_a_wrong_data_set_is_refused_before_anything_is_made(
    refused: Callable[..., str], configured: Callable[[type], list[str]], dataset: type
) -> None:
    sentence = refused("train", *configured(dataset))
    assert FAULTS[dataset] in sentence
    assert ("docs/datasets.md" in sentence) or dataset.__name__ in sentence


# Each fault is refused above; that no cell is tried hangs on no single one.
@pytest.mark.parametrize("dataset", usual(FAULTS, nightly=[*FAULTS][3:], name=lambda dataset: dataset.__name__))
def test_no_cell_is_tried_on_a_wrong_data_set(
    deqrun: Callable[..., Outcome], configured: Callable[[type], list[str]], dataset: type
) -> None:
    outcome = deqrun("check", *configured(dataset))
    assert outcome.code == 2
    assert FAULTS[dataset] in " ".join((outcome.out + outcome.err).split())


def test_a_right_data_set_is_trained_on(
    deqrun: Callable[..., Outcome], configured: Callable[[type], list[str]]
) -> None:
    outcome = deqrun("train", *configured(Right))
    assert (outcome.code, outcome.err) == (0, "")


def test_check_prints_a_line_for_each_check(
    deqrun: Callable[..., Outcome], configured: Callable[[type], list[str]]
) -> None:
    arguments = [text for text in configured(NaNInput) if text != "model=mlp"]
    outcome = deqrun("check", *arguments)
    assert outcome.code == 2
    assert outcome.out.splitlines()[:7] == [
        "dataset=own  tests.contracts.wrong_data.NaNInput",
        *(f"  {name:<16}ok" for name in list(DATA_CHECKS)[:4]),
        "  finite          input 17 of the train split is not finite (NaN or infinity); leave such samples",
        "                  out, or fill them in (docs/datasets.md).",
    ]


@pytest.mark.parametrize(
    "dataset", ["arithmetic", "copy_memory", "digits", "group_words", "mazes", "prefix_sums", "sudoku"]
)
def test_every_data_set_of_deqrun_passes(dataset: str) -> None:
    with open_sources() as sources:
        settings = load_settings(sources.compose("train", [f"dataset={dataset}"]))
    assert [finding for finding in data_findings(settings) if finding.outcome != "ok"] == []
