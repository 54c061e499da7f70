"""Tables fit the terminal and say the record's numbers."""

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deqrun.models import MLPCell, UntiedCell, describe, describe_baseline
from deqrun.records.run import RunRecord
from deqrun.report.sweep_tables import difficulty_table
from deqrun.report.tables import (
    description_table,
    end_of_run_table,
    few_budgets,
    interval_text,
    plain_text,
    training_cost,
)


def test_every_table_fits_eighty_columns(record: RunRecord) -> None:
    long = replace(record, summary=replace(record.summary, name="a_name_" * 12, parameters=123_456_789))
    for table in (end_of_run_table(record), end_of_run_table(long)):
        text = plain_text(table)
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text


def test_end_of_run_says_the_training_cell(record: RunRecord) -> None:
    text = plain_text(end_of_run_table(record))
    cell = record.training_cell()
    assert cell is not None
    (line,) = [line for line in text.splitlines() if "12*" in line]
    assert line.split() == [
        "12*",
        *interval_text(cell.accuracy, cell.accuracy_low, cell.accuracy_high).split(),
        f"{cell.nfe_mean:.1f}",
        f"{cell.residual_median:.1e}".replace("e-0", "e-"),
        *f"{100 * cell.converged:.1f} %".split(),
    ]
    assert "digits_mdeq: test, n = 360, tolerance 1e-3" in text


def at_difficulties(record: RunRecord) -> RunRecord:
    """The record, and the same cells at difficulty 64, all wrong there."""
    wrong = {"accuracy": 0.0, "accuracy_low": 0.0, "accuracy_high": 0.0105, "difficulty": 64}
    return replace(record, sweep=(*record.sweep, *(replace(cell, **wrong) for cell in record.sweep)))


def test_every_difficulty_has_its_line(record: RunRecord) -> None:
    assert difficulty_table(record) is None
    table = difficulty_table(at_difficulties(record))
    assert table is not None
    text = plain_text(table)
    assert max(map(len, text.splitlines())) <= 80
    cell = record.training_cell()
    assert cell is not None
    headings, own, harder = (line for line in text.splitlines() if re.match(r" *(difficulty|as trained|64) ", line))
    assert headings.split() == ["difficulty", "n", *["budget", "1", "budget", "12", "budget", "64"]]
    assert interval_text(cell.accuracy, cell.accuracy_low, cell.accuracy_high) in own
    assert re.findall(r"\[.*?\]", harder) == ["[0.0, 1.1]"] * 3


def test_the_table_of_a_run_asked_at_one_other_difficulty_names_it(record: RunRecord) -> None:
    other = replace(record, sweep=tuple(replace(cell, difficulty=64) for cell in record.sweep), trajectories={})
    assert "tolerance 1e-3, difficulty 64" in " ".join(plain_text(end_of_run_table(other)).split())


def test_a_sweep_marks_its_own_solver_and_not_the_one_of_training(record: RunRecord) -> None:
    swept = replace(record, config={**record.config, "run": "outputs/a"})
    assert "* training budget and the sweep's own solver" in plain_text(end_of_run_table(swept))
    assert "* training budget and solver" in plain_text(end_of_run_table(record))


def test_the_cost_of_another_solver_is_not_told_beside_the_accuracy_of_the_own(record: RunRecord) -> None:
    """Of a sweep that asked other solvers alone."""
    assert training_cost(record) != (None, None)
    assert training_cost(replace(record, summary=replace(record.summary, solver="newton"))) == (None, None)


def test_end_of_run_without_a_sweep_says_the_summary(tiny_record: RunRecord) -> None:
    text = plain_text(end_of_run_table(replace(tiny_record, sweep=(), trajectories={})))
    assert "50.0 [15.0, 85.0]" in text


@pytest.mark.parametrize(
    ("budgets", "trained", "expected"),
    [
        ([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64], 12, [1, 6, 12, 24, 64]),
        ([1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64], 64, [1, 32, 64]),
        ([1, 2, 4], 2, [1, 2, 4]),
        ([2, 4], None, [2, 4]),
    ],
)
def test_few_budgets_are_the_ends_and_around_the_training_budget(
    budgets: list[int], trained: int | None, expected: list[int]
) -> None:
    assert few_budgets(budgets, trained) == expected


def test_cost_at_a_training_budget_outside_the_grid_comes_from_the_trajectory(record: RunRecord) -> None:
    """Budget 12 and tolerance 1e-3 are in the grid; without their cells the trajectory must say the same."""
    thinned = replace(record, sweep=tuple(cell for cell in record.sweep if cell.max_iter != 12))
    assert training_cost(thinned) == pytest.approx(training_cost(record), rel=1e-6)
    beyond = replace(record, summary=replace(record.summary, train_max_iter=500))
    assert training_cost(beyond) == (None, None)


def test_description_says_what_was_measured() -> None:
    description: Any = SimpleNamespace(
        name="MLPCell",
        input_shape=(1, 8, 8),
        state_shapes=((16,), (4, 4)),
        state_size=32,
        parameters=1500,
        map_parameters=1000,
        injection_parameters=400,
        readout_parameters=100,
        multiply_adds=12345,
        injection_multiply_adds=678,
        readout_multiply_adds=90,
        untied_layers=None,
    )
    text = plain_text(description_table(cast(Any, description), "digits"))
    assert "MLPCell on digits, input 1 × 8 × 8" in text
    for number in ("1,500", "12,345", "16, 4×4", "678"):
        assert number in text


def test_description_of_a_baseline_has_the_deq_beside_it() -> None:
    net = UntiedCell([MLPCell(input_shape=(6,), num_classes=2, width=3) for _ in range(4)], narrowed={"width": 3})
    deq = MLPCell(input_shape=(6,), num_classes=2, width=5)
    baseline = describe_baseline(describe(net), describe(deq), 4)
    lines = plain_text(description_table(describe(net), "vectors", baseline)).splitlines()
    rows = dict(re.split(r"  +", line.strip()) for line in lines if re.search(r"\S  +\S", line))
    assert lines[0].startswith("4 untied layers of MLPCell on vectors")
    assert rows["parameters"] == f"{4 * 9 + 7 * 3 + 4 * 2}"
    assert rows["of the layers"] == "36"
    assert rows["layers narrowed to"] == "width=3"
    assert rows["parameters of the DEQ beside it"] == f"{25 + 7 * 5 + 6 * 2}"
    assert rows["multiply-adds of one layer, per sample"] == "9"
    assert rows["multiply-adds of the net, per sample"] == f"{6 * 3 + 4 * 9 + 3 * 2}"
    assert rows["multiply-adds of 4 evaluations of the DEQ"] == f"{6 * 5 + 4 * 25 + 5 * 2}"
