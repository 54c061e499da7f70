"""Findings say what the numbers say, and no more."""

import math
from dataclasses import replace

import numpy as np

from deqrun.inference import DIFFERENCE, Estimate, from_interval, mean_interval
from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord, Summary
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.report.finding import Finding, enough_cell, judged, of_change
from deqrun.report.findings import accuracy_change, findings
from deqrun.report.page_parts import note
from tests.records.conftest import repeated


def rows(record: RunRecord, title: str) -> list[tuple[str, ...]]:
    """Quantity, value, interval, n, what is shown, and how it was chosen, of each finding under a heading."""
    return [finding.cells[1:] for finding in findings(record) if finding.title == title]


def cell(budget: int, accuracy: float, n: int = 100) -> SweepCell:
    return SweepCell("picard", "zeros", "validation", budget, 1e-3, n, accuracy)


def test_accuracy_at_the_training_budget(tiny_record: RunRecord) -> None:
    assert rows(tiny_record, "Training budget") == [
        (
            "test accuracy, 1 iteration at most to 1e-2",
            "50.0 %",
            "15.0 to 85.0 %",
            "4",
            "",
            "checkpoint of epoch 2, best on validation (86.0 %, n = 100)",
        )
    ]


def test_enough_is_within_one_standard_error_of_the_best() -> None:
    """√(0.9 · 0.1 / 100) = 0.03: at least 87 % is enough, 86.9 % is not."""
    cells = [cell(1, 0.80), cell(2, 0.869), cell(3, 0.871), cell(4, 0.90), cell(5, 0.85)]
    assert enough_cell(cells).max_iter == 3
    # With 10,000 samples the standard error is 0.003, and only the best is enough.
    assert enough_cell([replace(c, n=10_000) for c in cells]).max_iter == 4


def test_enough_iterations_are_chosen_on_validation_and_reported_on_test(tiny_record: RunRecord) -> None:
    """Anderson: best 90 % at 3, standard error 3 points, so 88 % at 2 is enough and 86 % at 1 is not."""
    anderson, picard = rows(tiny_record, "Enough iterations")
    assert anderson == (
        "test accuracy, 2 iterations of anderson",
        "50.0 %",
        "40.0 to 60.0 %",
        "4",
        "",
        "fewest within one standard error of the best on validation, 90.0 % at 3 (n = 100); 3.0 evaluations",
    )
    assert picard[:2] == ("test accuracy, 2 iterations of picard", "25.0 %")
    assert "90.0 % at 2" in picard[-1]


def test_a_fall_and_a_change_that_is_not_shown(tiny_record: RunRecord) -> None:
    """Picard loses 30 of 40. With one more lost and one more gained the mean is −30/42, the sum of squares about it
    32 − 900/42, and Student's interval −0.7143 ± 2.0195 · √((32 − 900/42) / 41 / 42) = −0.7143 ± 0.1582.

    Anderson gains 1 of 4: 1/6 ± 2.5706 · √((3 − 1/6) / 5 / 6) = 0.1667 ± 0.7900 has zero in it.
    """
    anderson, _ = rows(tiny_record, "Thinking longer")
    _, picard = rows(repeated(tiny_record, 10), "Thinking longer")
    how = "from the training budget to the largest of the grid, tolerance 1e-2"
    what = "test accuracy from 1 to 3 iterations of "
    assert picard == (f"{what}picard", "−75.0 points", "−87.3 to −55.6", "40", "falls", how)
    assert anderson == (f"{what}anderson", "+25.0 points", "−62.3 to +95.7", "4", "not shown", how)


def test_all_differences_are_one_family(tiny_record: RunRecord) -> None:
    """A difference at p = 0.03 is shown by itself, and not beside another whose p is 0.04: 0.03 > 0.05 / 2."""
    one = Finding("", "", "", change=Estimate(1.0, 0.1, 1.9, 9, p=0.03))
    two = Finding("", "", "", change=Estimate(-1.0, -1.9, -0.1, 9, p=0.04), saving=True)
    assert [finding.shown for finding in judged([one])] == ["rises"]
    assert [finding.shown for finding in judged([two])] == ["more"]
    assert [finding.shown for finding in judged([one, two, Finding("", "", "")])] == ["not shown", "not shown", ""]


def test_a_table_of_differences_that_are_none_shows_one_in_at_most_a_twentieth_of_worlds() -> None:
    """300 worlds of four paired differences of 359 samples: 5 % and three standard errors are 8.8 %."""
    draw = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        changes = [mean_interval(draw.integers(-1, 2, size=359), DIFFERENCE) for _ in range(4)]
        last = changes[-1]
        changes[-1] = from_interval(last.mean, last.low, last.high, last.n)  # as a file of rows gives it back
        false += any(row.shown != "not shown" for row in judged([of_change("", "", one, "") for one in changes]))
    assert false / 300 <= 0.088


def test_the_same_answers_leave_room_for_others(tiny_record: RunRecord) -> None:
    """None of four changes; one lost and one gained beside them give 0 ± 2.5706 · √(2 / 5 / 6)."""
    steady = {
        key: replace(trajectory, correct=np.ones_like(trajectory.correct))
        for key, trajectory in tiny_record.trajectories.items()
    }
    assert rows(replace(tiny_record, trajectories=steady), "Thinking longer")[1][1:5] == (
        "0.0 points",
        "−66.4 to +66.4",
        "4",
        "not shown",
    )


def test_a_rise_is_called_a_rise() -> None:
    correct = np.array([[False] * 20, [True] * 15 + [False] * 5])
    residual = np.array([[1.0] * 20, [0.5] * 20], dtype=np.float32)
    nfe = np.array([[1] * 20, [2] * 20], dtype=np.int32)
    change = accuracy_change(Trajectory(residual, nfe, correct, np.arange(2.0)), 0, 1)
    assert change.mean == 0.75
    assert change.low > 0


def test_overthinking_starts_from_what_validation_likes(tiny_record: RunRecord) -> None:
    """Picard is best on validation at 2; from there to 3 one of four test answers is lost: −1/6 ± 0.7900, as above."""
    anderson, picard = rows(tiny_record, "Overthinking")
    assert anderson[:2] == ("with anderson", "none seen")
    assert anderson[-1] == "no budget does better on validation (n = 100) than the largest, 3"
    assert picard == (
        "test accuracy from 2 to 3 iterations of picard",
        "−25.0 points",
        "−95.7 to +62.3",
        "4",
        "not shown",
        "from the best on validation (90.0 %, n = 100) to the largest",
    )


def test_evaluations_saved_at_the_smallest_tolerance_both_reach(tiny_record: RunRecord) -> None:
    """1e-2 is reached by both on 3 of 4 samples only, so the comparison is at 1e-1: 2 evaluations against 3.

    A saving lies within ±3, so that the interval is that of 40 times 1, one −3 and one 3: 40/42 ± 2.0195 ·
    √((58 − 1600/42) / 41 / 42) = 0.952 ± 0.217.
    """
    assert rows(repeated(tiny_record, 10), "Acceleration") == [
        (
            "evaluations that anderson saves, to 1e-1",
            "1.0",
            "0.7 to 1.2",
            "40",
            "fewer",
            "picard 3.0, anderson 2.0, on the test samples of 40 that reach it with both",
        )
    ]


def test_the_runs_own_solver_is_compared_whatever_its_name(tiny_record: RunRecord) -> None:
    """The same run by another accelerated solver has the same finding with that solver's name."""
    by_anderson = repeated(tiny_record, 10)
    renamed = {
        key._replace(solver="secant") if key.solver == "anderson" else key: trajectory
        for key, trajectory in by_anderson.trajectories.items()
    }
    cells = [replace(c, solver="secant") if c.solver == "anderson" else c for c in by_anderson.sweep]
    summary = replace(by_anderson.summary, solver="secant")
    by_secant = replace(by_anderson, trajectories=renamed, sweep=tuple(cells), summary=summary)
    ((what, *values, how),) = rows(by_anderson, "Acceleration")
    told = (what.replace("anderson", "secant"), *values, how.replace("anderson", "secant"))
    assert rows(by_secant, "Acceleration") == [told]


def test_solvers_without_a_shared_tolerance_are_not_compared(tiny_record: RunRecord) -> None:
    picard = tiny_record.trajectories[TrajectoryKey("picard", "zeros", "test")]
    stuck = replace(picard, residual=np.ones_like(picard.residual))
    record = replace(
        tiny_record, trajectories={**tiny_record.trajectories, TrajectoryKey("picard", "zeros", "test"): stuck}
    )
    ((what, value, _, n, shown, how),) = rows(record, "Acceleration")
    assert (what, value, n, shown) == ("evaluations that anderson saves", "not comparable", "4", "")
    assert how == "no tolerance of the grid is reached by both on 90 % of the samples"


def test_convergence_names_every_tolerance(tiny_record: RunRecord) -> None:
    """Wilson's interval of 3 of 4 is 30.1 to 95.4 %."""
    assert rows(tiny_record, "Convergence")[0] == (
        "converged to 1e-2 within 3 iterations of anderson",
        "75.0 %",
        "30.1 to 95.4 %",
        "4",
        "",
        "100.0 % to 1e-1",
    )
    every = replace(tiny_record, sweep=tuple(replace(cell, converged=1.0) for cell in tiny_record.sweep))
    assert rows(every, "Convergence")[0][-1] == "all converged to every larger tolerance, too"


def test_divergence_is_told_and_so_is_its_absence(tiny_record: RunRecord, record: RunRecord) -> None:
    assert [row[1] for row in rows(tiny_record, "Divergence")] == ["0.0 %", "0.0 %"]
    lost = np.isinf(record.trajectories[TrajectoryKey("broyden", "zeros", "test")].residual).any(axis=0).mean()
    assert lost > 0
    found = {row[0]: row[1] for row in rows(record, "Divergence")}
    assert found["diverged within 64 iterations of broyden"] == f"{100 * lost:.1f} %"


def test_solves_in_training_are_held_against_the_tolerance(tiny_record: RunRecord) -> None:
    forward, adjoint = rows(tiny_record, "Solves in training")
    assert forward[:2] == ("median residual of the forward solves, epoch 2", "5.0e-2")
    assert forward[-1] == "above the tolerance 1e-2; 2.0 evaluations on average"
    assert adjoint[:2] == ("median residual of the adjoint solves, epoch 2", "2.0e-3")


def test_a_run_without_records_has_no_findings(tiny_record: RunRecord) -> None:
    bare = RunRecord(folder=tiny_record.folder, summary=Summary(name="bare"))
    assert findings(bare) == []


def test_every_finding_of_a_split_says_how_many_samples(record: RunRecord) -> None:
    spoken = [finding for finding in findings(record) if finding.title != "Solves in training"]
    assert len(spoken) > 10
    assert all(finding.n in (180, 358, 359, 360) or "n = " in finding.how for finding in spoken)
    assert not any(str(math.nan) in text for finding in spoken for text in finding.cells)


def explicit(record: RunRecord, kind: str) -> RunRecord:
    """The record as that of a net of two layers, of 1,000 parameters beside a DEQ of 1,234."""
    summary = replace(
        record.summary,
        solver="picard",
        baseline=kind,
        baseline_layers=2,
        parameters=1000,
        deq_parameters=1234,
        train_tol=0.0,
    )
    return replace(record, summary=summary)


def test_a_tied_net_is_said_to_solve_nothing(tiny_record: RunRecord) -> None:
    record = explicit(tiny_record, "tied")
    assert note(record) == (
        "An explicit baseline: the cell applied 2 times with one set of weights. Training solved for nothing; budgets "
        "above 2 apply the same cell further."
    )
    assert rows(record, "Solves in training") == []
    assert rows(record, "Convergence") == rows(tiny_record, "Convergence") != []
    assert rows(record, "Training budget")[0][0] == "test accuracy, 1 iteration at most"


def test_an_untied_net_is_said_to_have_no_fixed_point(tiny_record: RunRecord) -> None:
    record = explicit(tiny_record, "untied")
    assert note(record) == (
        "An explicit baseline: 2 layers with weights of their own. Training solved for nothing. Iterate k is the state "
        "after k layers; its residual is the share by which the next layer changes it, and 0 after the last. It has "
        "1,000 parameters; the DEQ of this cell has 1,234."
    )
    for title in ("Solves in training", "Convergence", "Thinking longer"):
        assert rows(record, title) == []
        assert title == "Solves in training" or rows(tiny_record, title) != []


def test_a_deq_is_not_said_to_be_explicit(tiny_record: RunRecord) -> None:
    assert note(tiny_record) == ""


def test_settled_and_right_of_a_run_reckoned_by_hand(tiny_record: RunRecord) -> None:
    """Anderson at one iteration and 1e-2: no sample settles, two of four are right; at two, three settle."""
    found = [one for one in findings(tiny_record) if one.title == "Settled and right"]
    assert [(one.value, one.n) for one in found[:1]] == [("50.0 %", 4)]
    assert "not settled" in found[0].what
    assert found[1].what.startswith("AUROC")
    assert found[1].value == "0.50"  # all residuals are equal there
    longer = replace(tiny_record, summary=replace(tiny_record.summary, train_max_iter=2))
    found = [one for one in findings(longer) if one.title == "Settled and right"]
    assert [(one.what.split(" to ")[0], one.value, one.n) for one in found[:2]] == [
        ("test accuracy of samples settled", "66.7 %", 3),
        ("test accuracy of samples not settled", "0.0 %", 1),
    ]
    # Settled are 0, 1 and 2, right are 0 and 1.
    assert [(one.what.split(",")[0], one.value, one.n) for one in found[2:6]] == [
        ("test samples right and settled", "50.0 %", 4),
        ("test samples right", "0.0 %", 4),
        ("test samples wrong", "25.0 %", 4),
        ("test samples wrong", "25.0 %", 4),
    ]
    # At the largest budget, three, 0, 1 and 3 are right, of which 3 still moves; 2 is settled and wrong.
    fates = [(one.what, one.value, one.n) for one in found[6:]]
    assert fates == [
        ("test samples answered right that settle, anderson", "66.7 %", 3),
        ("test samples answered wrong that settle, anderson", "100.0 %", 1),
    ]
    assert "; 33.3 % still moving, 0.0 % diverged; n = 3 of 4 samples" in found[6].how
    assert found[6].interval == "20.8 to 93.9 %"  # Wilson's of 2 in 3
    # Three of the four residuals are below the sweep's smallest tolerance, which stopped them: no AUROC is told.
    assert len(found) == 8
    # Of a sweep to 1e-3: 0.005, 0.005, 0.005 and 0.04, the first two right: two pairs tie, two are in order.
    further = tuple(replace(cell, tol=1e-3 if cell.tol == 1e-2 else cell.tol) for cell in longer.sweep)
    found = [one for one in findings(replace(longer, sweep=further)) if one.title == "Settled and right"]
    (area,) = (one for one in found if one.what.startswith("AUROC"))
    assert area.value == "0.75"
    assert area.how.startswith("2 right and 2 wrong answers;")
