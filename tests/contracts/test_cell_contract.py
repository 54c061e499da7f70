"""Wrong cells are told in one sentence each before anything is made; right ones, and deqrun's own, pass."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from deqrun.cli import main
from deqrun.contracts import CELL_CHECKS, Finding, check_cell
from deqrun.experiment.own_parts import cell_findings
from deqrun.settings import load_settings
from deqrun.settings.sources import open_sources
from tests.cli.conftest import Outcome
from tests.contracts.wrong_cells import FAULTS, RIGHT, Right
from tests.usual import usual


@pytest.fixture
def configured(workspace: Path) -> Callable[[type], list[str]]:
    """configured(cell): the arguments that choose it from a config folder."""

    def configure(cell: type) -> list[str]:
        folder = workspace / "mine" / "model"
        folder.mkdir(parents=True)
        (folder / "own.yaml").write_text(f"_target_: {cell.__module__}.{cell.__name__}\n")
        return ["--config-dir", "mine", "model=own", "allow_foreign_targets=true"]

    return configure


@pytest.mark.parametrize("cell", FAULTS, ids=lambda cell: cell.__name__)
def test_a_wrong_cell_is_refused_before_anything_is_made(
    refused: Callable[..., str], configured: Callable[[type], list[str]], cell: type
) -> None:
    sentence = refused("train", *configured(cell))
    assert FAULTS[cell] in sentence
    assert ("docs/models.md" in sentence) or cell.__name__ in sentence


@pytest.mark.parametrize("cell", RIGHT, ids=lambda cell: cell.__name__)
def test_a_right_cell_is_trained(
    deqrun: Callable[..., Outcome], configured: Callable[[type], list[str]], cell: type
) -> None:
    outcome = deqrun("train", *configured(cell))
    assert (outcome.code, outcome.err) == (0, "")


def test_check_prints_a_line_for_each_check(
    deqrun: Callable[..., Outcome], configured: Callable[[type], list[str]]
) -> None:
    from tests.contracts.wrong_cells import DropoutInF

    arguments = configured(DropoutInF)
    outcome = deqrun("check", *arguments)
    lines = outcome.out.splitlines()
    assert outcome.code == 2
    assert lines[0] == "model=own  tests.contracts.wrong_cells.DropoutInF"
    assert lines[1:7] == [f"  {name:<16}ok" for name in list(CELL_CHECKS)[:6]]
    assert lines[7].startswith("  deterministic   f(z; x) of the same z and injection differs between two calls")
    assert lines[-5:] == [f"  {name:<16}not tried, since the part fails before" for name in list(CELL_CHECKS)[7:]]


def test_a_penalty_that_is_off_needs_no_second_derivative(
    deqrun: Callable[..., Outcome], configured: Callable[[type], list[str]]
) -> None:
    from tests.contracts.wrong_cells import OnceOnly

    arguments = configured(OnceOnly)
    assert deqrun("check", *arguments).code == 2
    assert deqrun("check", *arguments, "train.jacobian_weight=0").code == 0


def test_the_cell_that_is_checked_stays_as_it_is() -> None:
    cell = Right(input_shape=(1, 8, 8), num_classes=10)
    before = {name: value.clone() for name, value in cell.state_dict().items()}
    x = torch.randn(3, 1, 8, 8)
    state = torch.random.get_rng_state()
    found = check_cell(cell, x, "train.jacobian_weight=1")
    assert found == [Finding(name) for name in CELL_CHECKS]
    assert cell.training
    assert all(torch.equal(value, before[name]) for name, value in cell.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in cell.parameters())


@pytest.mark.parametrize(
    ("model", "dataset"),
    [
        *((name, "digits") for name in ("conv", "mdeq", "mlp", "monotone", "monotone_conv")),
        pytest.param("mdeq_large", "digits", marks=pytest.mark.nightly),
        *(("recall", name) for name in ("digits", "prefix_sums", "mazes")),
        *(("transformer", name) for name in ("digits", "copy_memory", "sudoku")),
    ],
)
def test_every_cell_of_deqrun_passes(model: str, dataset: str) -> None:
    with open_sources() as sources:
        settings = load_settings(sources.compose("train", [f"model={model}", f"dataset={dataset}"]))
    assert [finding for finding in cell_findings(settings) if finding.outcome != "ok"] == []


# Each fault is refused above.
@pytest.mark.parametrize("cell", usual(FAULTS, nightly=[*FAULTS][::2], name=lambda cell: cell.__name__))
def test_a_wrong_cell_is_described_or_told(
    cell: type, capsys: pytest.CaptureFixture[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "deqrun.experiment.launch")
    (workspace / "mine" / "model").mkdir(parents=True)
    (workspace / "mine" / "model" / "own.yaml").write_text(f"_target_: {cell.__module__}.{cell.__name__}\n")
    code = main(["describe", "--config-dir", "mine", "model=own", "allow_foreign_targets=true"])
    assert (code, capsys.readouterr().err.count("\n")) in [(0, 0), (2, 1)]
