"""Findings say what the numbers say, and no more."""

import math
from dataclasses import replace

import numpy as np

from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord, Summary
from deqrun.records.trajectory import Trajectory, TrajectoryKey
from deqrun.report.findings import Finding, accuracy_change, enough_cell, findings
from tests.records.conftest import repeated


def sentences(record: RunRecord, title: str) -> list[str]:
    return [finding.sentence for finding in findings(record) if finding.title == title]


def cell(budget: int, accuracy: float, n: int = 100) -> SweepCell:
    return SweepCell("picard", "zeros", "validation", budget, 1e-3, n, accuracy)


def test_accuracy_at_the_training_budget(tiny_record: RunRecord) -> None:
    assert sentences(tiny_record, "Accuracy at the training budget") == [
        "Test accuracy is 50.0 % (95 % interval 15.0 to 85.0 %, n = 4) at the training budget of at most 1 "
        "iteration "
        "to tolerance 1e-2, for the checkpoint of epoch 2, which validation chose (86.0 %, n = 100)."
    ]


def test_enough_is_within_one_standard_error_of_the_best() -> None:
    """√(0.9 · 0.1 / 100) = 0.03: at least 87 % is enough, 86.9 % is not."""
    cells = [cell(1, 0.80), cell(2, 0.869), cell(3, 0.871), cell(4, 0.90), cell(5, 0.85)]
    assert enough_cell(cells).max_iter == 3
    # With 10,000 samples the standard error is 0.003, and only the best is enough.
    assert enough_cell([replace(c, n=10_000) for c in cells]).max_iter == 4


def test_enough_iterations_are_chosen_on_validation_and_reported_on_test(tiny_record: RunRecord) -> None:
    """Anderson: best 90 % at 3, standard error 3 points, so 88 % at 2 is enough and 86 % at 1 is not."""
    anderson, picard = sentences(tiny_record, "Iterations that are enough")
    assert anderson == (
        "On validation (n = 100) 2 iterations of anderson give 88.0 %, within one standard error of the "
        "best (90.0 % at "
        "3), at 3.0 evaluations a sample. Test accuracy there is 50.0 % (95 % interval 40.0 to 60.0 %, n = "
        "4)."
    )
    assert "2 iterations of picard give 90.0 %, the best of all budgets" in picard
    assert "Test accuracy there is 25.0 %" in picard


def test_a_fall_and_no_detectable_change(tiny_record: RunRecord) -> None:
    """Picard loses 30 of 40. With one more lost and one more gained the mean is −30/42, the sum of squares about it
    32 − 900/42, and Student's interval −0.7143 ± 2.0195 · √((32 − 900/42) / 41 / 42) = −0.7143 ± 0.1582.

    Anderson gains 1 of 4: 1/6 ± 2.5706 · √((3 − 1/6) / 5 / 6) = 0.1667 ± 0.7900 has zero in it.
    """
    anderson, _ = sentences(tiny_record, "Thinking longer than in training")
    _, picard = sentences(repeated(tiny_record, 10), "Thinking longer than in training")
    assert picard == (
        "From 1 to 3 iterations of picard test accuracy falls: −75.0 points, 95 % interval −87.3 to −55.6 "
        "(paired over the same 40 samples, tolerance 1e-2)."
    )
    assert anderson == (
        "From 1 to 3 iterations of anderson test accuracy shows no detectable change: +25.0 points, 95 % "
        "interval −62.3 "
        "to +95.7 (paired over the same 4 samples, tolerance 1e-2)."
    )


def test_the_same_answers_leave_room_for_others(tiny_record: RunRecord) -> None:
    """None of four changes; one lost and one gained beside them give 0 ± 2.5706 · √(2 / 5 / 6)."""
    steady = {
        key: replace(trajectory, correct=np.ones_like(trajectory.correct))
        for key, trajectory in tiny_record.trajectories.items()
    }
    assert sentences(replace(tiny_record, trajectories=steady), "Thinking longer than in training")[1] == (
        "From 1 to 3 iterations of picard test accuracy shows no detectable change: 0.0 points, 95 % interval −66.4 to "
        "+66.4 (paired over the same 4 samples, tolerance 1e-2)."
    )


def test_a_rise_is_called_a_rise() -> None:
    correct = np.array([[False] * 20, [True] * 15 + [False] * 5])
    residual = np.array([[1.0] * 20, [0.5] * 20], dtype=np.float32)
    nfe = np.array([[1] * 20, [2] * 20], dtype=np.int32)
    change = accuracy_change(Trajectory(residual, nfe, correct, np.arange(2.0)), 0, 1)
    assert change.mean == 0.75
    assert change.low > 0
    assert not change.includes_zero


def test_overthinking_gap_starts_from_what_validation_likes(tiny_record: RunRecord) -> None:
    """Picard is best on validation at 2; from there to 3 one of four test answers is lost: −1/6 ± 0.7900, as above."""
    anderson, picard = sentences(tiny_record, "Overthinking gap")
    assert anderson == (
        "With anderson no budget does better on validation (n = 100) than the largest, 3 iterations: no "
        "overthinking seen."
    )
    assert picard == (
        "With picard validation (n = 100) is best at 2 iterations (90.0 %). Going on to 3, test accuracy "
        "shows no "
        "detectable change: −25.0 points, 95 % interval −95.7 to +62.3 (paired over 4 samples)."
    )


def test_evaluations_saved_at_the_smallest_tolerance_both_reach(tiny_record: RunRecord) -> None:
    """1e-2 is reached by both on 3 of 4 samples only, so the comparison is at 1e-1: 2 evaluations against 3.

    A saving lies within ±3, so that the interval is that of 40 times 1, one −3 and one 3: 40/42 ± 2.0195 ·
    √((58 − 1600/42) / 41 / 42) = 0.952 ± 0.217.
    """
    assert sentences(repeated(tiny_record, 10), "Evaluations saved by Anderson") == [
        "To reach tolerance 1e-1 anderson needs 2.0 evaluations where picard needs 3.0: 1.0 fewer (95 % "
        "interval of the "
        "saving 0.7 to 1.2, paired over the 40 of 40 test samples that reach it with both)."
    ]


def test_solvers_without_a_shared_tolerance_are_not_compared(tiny_record: RunRecord) -> None:
    picard = tiny_record.trajectories[TrajectoryKey("picard", "zeros", "test")]
    stuck = replace(picard, residual=np.ones_like(picard.residual))
    record = replace(
        tiny_record, trajectories={**tiny_record.trajectories, TrajectoryKey("picard", "zeros", "test"): stuck}
    )
    assert sentences(record, "Evaluations saved by Anderson") == [
        "Not comparable: no tolerance of the grid is reached by both on 90 % of the 4 test samples."
    ]


def test_convergence_names_every_tolerance(tiny_record: RunRecord) -> None:
    assert sentences(tiny_record, "Convergence")[0] == (
        "Within 3 iterations anderson converges on 100.0 % to 1e-1, 75.0 % to 1e-2 (test, n = 4)."
    )
    every = replace(tiny_record, sweep=tuple(replace(cell, converged=1.0) for cell in tiny_record.sweep))
    assert sentences(every, "Convergence")[0] == (
        "Within 3 iterations anderson converges on all samples to every tolerance down to 1e-2 (test, n = 4)."
    )


def test_divergence_is_told_and_so_is_its_absence(tiny_record: RunRecord, record: RunRecord) -> None:
    assert sentences(tiny_record, "Divergence") == ["Nothing diverged with anderson, picard (test, n = 4)."]
    lost = np.isinf(record.trajectories[TrajectoryKey("broyden", "zeros", "test")].residual).any(axis=0).mean()
    assert lost > 0
    assert sentences(record, "Divergence") == [
        f"Diverged: broyden on {100 * lost:.1f} % of 360 test samples (within 64 iterations)."
    ]


def test_solves_in_training_are_held_against_the_tolerance(tiny_record: RunRecord) -> None:
    assert sentences(tiny_record, "Solves in training") == [
        "In epoch 2 the median forward solve of training ended at residual 5.0e-2, above the tolerance "
        "1e-2, after 2.0 "
        "evaluations on average; the median adjoint solve at 2.0e-3."
    ]


def test_a_run_without_records_has_no_findings(tiny_record: RunRecord) -> None:
    bare = RunRecord(folder=tiny_record.folder, summary=Summary(name="bare"))
    assert findings(bare) == []


def test_every_finding_of_a_split_says_how_many_samples(record: RunRecord) -> None:
    spoken = [finding for finding in findings(record) if finding.title != "Solves in training"]
    assert len(spoken) > 10
    assert all(isinstance(f, Finding) and ("360" in f.sentence or "180" in f.sentence) for f in spoken)
    assert not any(str(math.nan) in finding.sentence for finding in spoken)


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
    assert sentences(record, "An explicit net") == [
        "The net is the cell applied 2 times with one set of weights; training solved for nothing, and budgets above 2 "
        "apply the same cell further. In epoch 2 one more application changed the median state by the share 5.0e-2: "
        "its residual."
    ]
    assert sentences(record, "Solves in training") == []
    assert sentences(record, "Convergence") == sentences(tiny_record, "Convergence") != []
    [accuracy] = sentences(record, "Accuracy at the training budget")
    assert "tolerance" not in accuracy


def test_an_untied_net_is_said_to_have_no_fixed_point(tiny_record: RunRecord) -> None:
    record = explicit(tiny_record, "untied")
    assert sentences(record, "An explicit net") == [
        "The net has 2 layers with weights of their own and solves for nothing. Iterate k is the state after k layers, "
        "its residual the share by which the next layer changes it, and 0 after the last: 'converged' says that all "
        "layers are through. It has 1,000 parameters, and the DEQ of this cell 1,234."
    ]
    for title in ("Solves in training", "Convergence", "Thinking longer than in training"):
        assert sentences(record, title) == []
        assert title == "Solves in training" or sentences(tiny_record, title) != []


def test_a_deq_is_not_said_to_be_explicit(tiny_record: RunRecord) -> None:
    assert sentences(tiny_record, "An explicit net") == []
