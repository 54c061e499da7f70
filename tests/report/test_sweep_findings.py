"""Findings and figures of halting, breadth, precision and difficulty, from rows small enough to reckon by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from deqrun.inference import wilson
from deqrun.records.halting_rules import RULES
from deqrun.records.rows import BreadthRow, HaltingRow, SavingRow, SweepCell
from deqrun.records.run import RunRecord, Summary
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.report.charts import (
    accuracy_by_difficulty,
    accuracy_by_halting,
    breadth_figures,
    calibration_of_the_head,
    specification,
)
from deqrun.report.findings import findings
from deqrun.report.page_parts import sweep_columns
from deqrun.report.sweep_tables import axis_tables, savings_table
from deqrun.report.tables import plain_text
from tests.records.conftest import repeated


def rows(record: RunRecord, title: str) -> list[tuple[str, ...]]:
    """Quantity, value, interval, n, what is shown, and how it was chosen, of each finding under a heading."""
    return [finding.cells[1:] for finding in findings(record) if finding.title == title]


def row(split: str, rule: str, threshold: float, nfe: float, accuracy: float, chosen: bool) -> HaltingRow:
    at = HaltingRow(
        "anderson",
        "zeros",
        split,
        rule,
        threshold,
        100,
        accuracy,
        accuracy - 0.1,
        accuracy + 0.05,
        nfe,
        2 * nfe,
        0.9,
        chosen,
    )
    if not chosen or split != "test" or rule in ("budget", "oracle"):
        return at
    return replace(
        at, saved=6 - nfe, saved_low=5 - nfe, saved_high=7 - nfe, gained=-0.01, gained_low=-0.03, gained_high=0.0
    )


HALTING = tuple(
    row(split, *rest)
    for split in ("validation", "test")
    for rest in (
        ("kl", 0.1, 1.5, 0.5, False),
        ("kl", 0.01, 2.5, 0.9, True),
        ("residual", 0.1, 3.5, 0.91, True),
        ("budget", 6.0, 6.0, 0.9, True),
        ("budget", 9.0, 9.0, 0.92, False),
        ("oracle", float("nan"), 0.5, 0.99, False),
    )
)


def test_the_rule_that_is_cheapest_on_validation_is_reported_on_test(tiny_record: RunRecord) -> None:
    saved, gained, oracle = rows(replace(tiny_record, halting=HALTING), "Stopping by itself")
    assert saved == (
        "evaluations saved, anderson stops on the change of the answer's distribution (KL)",
        "3.5",
        "2.5 to 4.5",
        "100",
        "fewer",
        "cheapest rule on validation at equal accuracy; 2.5 evaluations in place of the 6.0 of 6 iterations",
    )
    assert gained == (
        "test accuracy with that rule, anderson",
        "−1.0 points",
        "−3.0 to 0.0",
        "100",
        "not shown",
        "90.0 %, and 90.0 % at the fixed budget; paired",
    )
    assert oracle[:2] == ("test accuracy of the oracle, anderson", "99.0 %")
    assert oracle[-1].startswith("0.5 evaluations; ")
    assert rows(tiny_record, "Stopping by itself") == []


def drawn(spec: Any) -> list[dict[str, Any]]:
    return [value for values in spec["datasets"].values() for value in values]


def test_the_halting_chart_has_a_line_a_rule_and_marks_what_was_chosen(tiny_record: RunRecord) -> None:
    record = replace(tiny_record, halting=HALTING)
    figure = accuracy_by_halting(record)
    assert figure is not None
    spec = specification(figure.chart)
    lines, marks = spec["layer"][0], spec["layer"][2]
    assert {row["rule"] for row in spec["datasets"][lines["data"]["name"]]} == {"kl", "residual", "budget"}
    assert [row["threshold"] for row in spec["datasets"][marks["data"]["name"]]] == ["0.01 nats", "0.1", "6 iterations"]
    close = accuracy_by_halting(record, close=True)
    assert close is not None
    assert close.name == "halting_close"
    assert accuracy_by_halting(tiny_record) is None


BREADTH = tuple(
    BreadthRow("anderson", split, name, b, k, 50, a, a - 0.1, a + 0.1, float(b * k), 0.7, 0.6, 0.8, 0.1, 0.97, 0.5)
    for split in ("validation", "test")
    for name in ("mean", "vote")
    for b, k, a in ((1, 2, 0.6), (1, 4, 0.7), (2, 2, 0.95 if name == "vote" else 0.8), (2, 4, 0.96))
)


def test_breadth_is_chosen_on_validation_and_read_on_test(tiny_record: RunRecord) -> None:
    """0.96 − √(0.96 · 0.04 / 50) = 0.932: the vote of 2 × 2 reaches it at half the cost, no single start does."""
    spread, broad, single = rows(replace(tiny_record, breadth=BREADTH), "Depth and breadth")
    assert spread == (
        "test accuracies of 2 starts, 4 iterations of anderson each",
        "60.0 to 80.0 %",
        "",
        "50",
        "",
        "standard deviation 10.0 points; some start is right on 97.0 %, every start on 50.0 %",
    )
    assert broad == (
        "test accuracy, 2 starts by vote, 2 iterations of anderson",
        "95.0 %",
        "85.0 to 105.0 %",
        "50",
        "",
        "cheapest within one standard error of the best on validation; 4.0 evaluations",
    )
    assert single[:2] == ("one start of anderson", "not enough")


def saving(goal: str, **changed: Any) -> SavingRow:
    row = SavingRow("anderson", "test", goal, 0.68, 40, "vote", 4, 8, 0.1, 100, 0.7, 0.6, 0.79, 32.0)
    deep = {"deep_iter": 64, "deep_accuracy": 0.69, "deep_nfe_mean": 60.0, "deep_start": "zeros"}
    ends = {
        "saved": 28.0,
        "saved_low": 26.0,
        "saved_high": 30.0,
        "gained": 0.01,
        "gained_low": -0.04,
        "gained_high": 0.06,
    }
    return replace(row, **{**deep, **ends, **changed})


def test_savings_are_differences_of_the_familys_and_tell_what_depth_does_not_reach(tiny_record: RunRecord) -> None:
    beyond = replace(SavingRow("anderson", "test", "all", 0.8, 40, "top", 8, 8, 0.0, 100, 0.81, 0.72, 0.88, 72.0))
    record = replace(tiny_record, savings=(saving("depth"), beyond))
    saved, gained, reached = rows(record, "Depth, breadth and noise")
    assert saved == (
        "evaluations saved, 4 draws by vote with noise 0.1 of 8 iterations of anderson",
        "28.0",
        "26.0 to 30.0",
        "100",
        "fewer",
        "cheapest of 40 cells that reaches 68.0 % on validation, what depth alone reaches; 32.0 evaluations in place "
        "of 60.0 of 64 iterations alone",
    )
    assert gained[1:3] == ("+1.0 points", "−4.0 to +6.0")
    assert gained[4] == "not shown"
    assert reached[:3] == ("test accuracy, 8 draws by top of 8 iterations of anderson", "81.0 %", "72.0 to 88.0 %")
    assert reached[-1].endswith("no depth alone reaches it")
    table = savings_table(record)
    assert table is not None
    text = plain_text(table)
    assert [word for word in ("4 by vote", "28.0 [26.0, 30.0]", "8 by top", "72.0") if word not in text] == []
    assert savings_table(tiny_record) is None
    twice = savings_table(replace(record, savings=(*record.savings, saving("all", saved_low=-0.01))))
    assert twice is not None
    assert plain_text(twice).count("4 by vote") == 1
    # Depth alone saves nothing over itself: no number is told.
    itself = saving("depth", breadth=1, noise=0.0, start="zeros", deep_start="zeros", aggregation="mean")
    alone = savings_table(replace(tiny_record, savings=(itself,)))
    assert alone is not None
    (line,) = (line for line in plain_text(alone).splitlines() if "depth alone  " in line)
    assert line.split()[-1] == "–"


def test_a_cell_that_serves_both_goals_is_told_once_and_views_by_themselves(tiny_record: RunRecord) -> None:
    twice = replace(
        tiny_record, savings=(saving("depth"), saving("all"), saving("depth", start="symmetries", noise=0.0))
    )
    assert len(rows(twice, "Depth, breadth and noise")) == 2
    views = rows(twice, "Symmetries")
    assert views[0][0] == "evaluations saved, 4 views by vote of 8 iterations of anderson"
    assert "training sample" not in views[0][-1]
    sudoku = replace(twice, summary=replace(twice.summary, dataset="sudoku"))
    assert "a view of a test sample may be a training sample" in rows(sudoku, "Symmetries")[0][-1]
    alone = replace(tiny_record, savings=(saving("depth", breadth=1, noise=0.0, start="zeros"),))
    assert [row[1] for row in rows(alone, "Depth, breadth and noise")] == ["none"]


def test_maps_share_a_scale_and_join_what_costs_the_same(tiny_record: RunRecord) -> None:
    figures = breadth_figures(replace(tiny_record, breadth=BREADTH))
    assert [figure.name for figure in figures] == ["breadth_mean", "breadth_vote", "breadth_spread"]
    for figure in figures[:2]:
        spec = specification(figure.chart)
        assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == [0.6, 0.96]
        joined = [row for row in drawn(spec) if "compute" in row]
        assert [(row["compute"], row["breadth"], row["max_iter"]) for row in joined] == [(4, 1, 4), (4, 2, 2)]
    assert breadth_figures(tiny_record) == []


def test_the_chart_of_noise_has_a_line_for_each_number_of_draws(tiny_record: RunRecord) -> None:
    """At 4 iterations, by the vote that validation finds best with 2 draws; maps and findings stay without noise."""
    shaken = tuple(replace(row, noise=0.1, accuracy=row.accuracy - 0.02) for row in BREADTH)
    better = replace(shaken[-1 - len(BREADTH) // 2], accuracy=0.99)
    assert (better.split, better.aggregation, better.breadth) == ("validation", "vote", 2)
    record = replace(tiny_record, breadth=(*BREADTH, *shaken, better))
    *others, figure = breadth_figures(record)
    assert [one.name for one in others] == ["breadth_mean", "breadth_vote", "breadth_spread"]
    assert figure.name == "breadth_noise"
    values = {(row["breadth"], row["noise"], row["accuracy"]) for row in drawn(specification(figure.chart))}
    assert values == {(1, 0.0, 0.7), (1, 0.1, 0.7 - 0.02), (2, 0.0, 0.96), (2, 0.1, 0.96 - 0.02)}
    assert rows(record, "Depth and breadth") == rows(replace(tiny_record, breadth=BREADTH), "Depth and breadth")


def test_other_precisions_and_difficulties_leave_what_is_said_of_the_run_alone(tiny_record: RunRecord) -> None:
    others = tuple(
        replace(cell, accuracy=0.0, precision=precision, difficulty=difficulty)
        for cell in tiny_record.sweep
        for precision, difficulty in (("bfloat16", None), ("float32", 64))
    )
    trajectories = dict(tiny_record.trajectories)
    for key in tiny_record.trajectories:
        half = tiny_record.trajectories[key]
        trajectories[key._replace(precision="bfloat16")] = replace(half, correct=np.zeros_like(half.correct))
    record = replace(tiny_record, sweep=(*others, *tiny_record.sweep), trajectories=trajectories)
    titles = ("Precision", "Difficulty")
    plain = [f.cells[:5] for f in findings(record) if f.title not in titles]
    assert plain == [f.cells[:5] for f in findings(tiny_record)]  # what is shown depends on the family
    assert (record.precisions, record.difficulties) == (["float32", "bfloat16"], [None, 64])
    picard = rows(record, "Precision")[1]
    assert picard[0] == "test accuracy from float32 to bfloat16, 3 iterations of picard"
    assert (picard[1], picard[4]) == ("0.0 points", "not shown")
    anderson = rows(repeated(record, 10), "Precision")[0]
    assert (anderson[0][-8:], anderson[4]) == ("anderson", "falls")
    others_of = {row[0]: row[1] for row in rows(record, "Difficulty")}
    assert others_of["test accuracy difficulty 64, 1 iteration of anderson"] == "0.0 %"
    figure = accuracy_by_difficulty(record)
    assert figure is not None
    assert {row["of"] for row in drawn(specification(figure.chart))} == {"as trained", "64"}
    headings = [column.heading for column in sweep_columns(record)]
    assert headings[:4] == ["split", "solver", "precision", "difficulty"]
    assert [column.heading for column in sweep_columns(tiny_record)][:3] == ["split", "solver", "tolerance"]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (TrajectoryKey("a", "zeros", "test"), "a/zeros/test"),
        (TrajectoryKey("a", "zeros", "test", "float64"), "a/zeros/test/float64/own"),
        (TrajectoryKey("a", "zeros", "test", "float32", 512), "a/zeros/test/float32/512"),
    ],
)
def test_a_key_is_read_back_from_its_path(key: TrajectoryKey, path: str) -> None:
    assert key.path == path
    assert TrajectoryKey.from_path(path) == key


@pytest.mark.parametrize("path", ["a/b", "a/b/c/d", "a/b/c/d/e"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"no trajectory|invalid literal"):
        TrajectoryKey.from_path(path)


def test_rows_from_before_precision_and_difficulty_are_float32_at_the_runs_own(record: RunRecord) -> None:
    assert {(cell.precision, cell.difficulty) for cell in record.sweep} == {("float32", None)}
    assert set(record.trajectories) == {key for key in record.trajectories if key[3:] == ("float32", None)}
    assert (record.halting, record.breadth) == ((), ())
    assert isinstance(record.sweep[0], SweepCell)


def with_head(record: RunRecord, told: list[float]) -> RunRecord:
    """The record with the head's probabilities at the last iterates of the main solver's four test samples."""
    key = next(key for key in record.trajectories if key.solver == "anderson" and key.split == "test")
    before = record.trajectories[key]
    assert isinstance(before, Trajectory)
    head = np.full(before.residual.shape, np.nan, dtype=np.float32)
    head[before.last(), np.arange(before.n)] = told
    return replace(record, trajectories={**record.trajectories, key: replace(before, head=head)})


def test_the_head_s_probabilities_are_compared_with_the_answers(tiny_record: RunRecord) -> None:
    """Right, right, wrong, right at the last iterates; told 0.9, 0.9, 0.3, 0.2: (2 · 0.1 + 0.3 + 0.8) / 4."""
    record = with_head(tiny_record, [0.9, 0.9, 0.3, 0.2])
    (error,) = rows(record, "Halting head")
    assert error[:2] == ("expected calibration error at the last iterate of anderson", "0.325")
    assert error[-1].startswith("means: told 57.5 %, right 75.0 %")
    figure = calibration_of_the_head(record)
    assert figure is not None
    assert "Expected calibration error 0.325" in figure.caption
    drawn_bins = [row for row in drawn(specification(figure.chart)) if "right_low" in row]
    assert [(row["n"], row["right"]) for row in drawn_bins] == [(1, 1.0), (1, 0.0), (2, 1.0)]
    for row in drawn_bins:
        assert (row["right_low"], row["right_high"]) == pytest.approx(wilson(row["right"], row["n"]))
    assert calibration_of_the_head(tiny_record) is None
    assert rows(tiny_record, "Halting head") == []


def test_a_head_that_is_lost_in_a_diverged_sample_is_left_out(tiny_record: RunRecord) -> None:
    (error,) = rows(with_head(tiny_record, [0.9, np.nan, 0.3, 1.0]), "Halting head")
    assert error[3] == "3"


def test_every_halting_rule_has_a_colour_of_its_own(tiny_record: RunRecord) -> None:
    """All rules in one chart, a row each."""
    rows = [replace(HALTING[-6], rule=rule) for rule in (*RULES, "budget")]
    figure = accuracy_by_halting(replace(tiny_record, halting=tuple(rows)))
    assert figure is not None
    scale = specification(figure.chart)["layer"][0]["encoding"]["color"]["scale"]
    assert set(scale["domain"]) == {*RULES, "budget"}
    assert len(set(scale["range"])) == len(scale["domain"])


def asked(record: RunRecord) -> Summary:
    return replace(record.summary, command="deqrun sweep run=made sweep.halting=[residual]")


def told(record: RunRecord) -> str:
    return "".join(plain_text(each) for each in axis_tables(record))


def test_the_terminal_has_each_rule_at_its_chosen_threshold(tiny_record: RunRecord) -> None:
    """The rows of test that validation chose, and the bound; the saving with its interval."""
    record = replace(tiny_record, halting=HALTING, summary=asked(tiny_record))
    chosen = [row for row in HALTING if row.split == "test" and (row.chosen or row.rule == "oracle")]
    lines = [line.split() for line in told(record).splitlines()]
    assert lines[0]
    told_rules = [word for line in lines for word in line[:2] if word in {row.rule for row in HALTING}]
    assert told_rules == [row.rule for row in chosen]
    for row in chosen:
        (line,) = (line for line in lines if row.rule in line[:2])
        assert f"{100 * row.accuracy:.1f}" in line
        assert f"{row.nfe_mean:.1f}" in line
        assert (line[-1] == "–") == np.isnan(row.saved)
    assert "add budget" not in told(record)
    assert told(replace(record, summary=tiny_record.summary)) == ""  # the default's rules are for the report
    alone = replace(record, halting=tuple(row for row in HALTING if row.rule not in ("budget", "oracle")))
    assert "add budget to sweep.halting" in told(alone)


@pytest.mark.parametrize("axis", ["halting", "breadth"])
def test_an_axis_without_validation_says_why_it_has_no_table(tiny_record: RunRecord, axis: str) -> None:
    assert told(tiny_record) == ""
    if axis == "halting":
        text = told(replace(tiny_record, summary=asked(tiny_record)))
    else:
        text = told(replace(tiny_record, breadth=tuple(row for row in BREADTH if row.split == "test")))
    assert text.startswith(f"{axis}: no ")
    assert "sweep.splits=[validation,test]" in " ".join(text.split())
