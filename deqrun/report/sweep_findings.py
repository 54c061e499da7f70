"""Findings of the further axes of a sweep: halting rules, starts put together, precisions, difficulties.

As in `findings`, choices are made on validation, and their results are measured on test.
"""

import math
from collections.abc import Iterator

import numpy as np

from deqrun.inference import DIFFERENCE, from_interval, mean_interval, one_error_below
from deqrun.records.halting_rules import HALTING_RULES, RULES
from deqrun.records.rows import BreadthRow, SavingRow
from deqrun.records.run import RunRecord
from deqrun.records.trajectory import TrajectoryKey
from deqrun.report import numbers
from deqrun.report.finding import Finding, enough_cell, of_accuracy, of_change, of_saving

APART_BY_LESS = ("sudoku", "mazes")
"""Data sets whose splits may share two samples that a symmetry joins."""


def halting(record: RunRecord) -> Iterator[Finding]:
    """Per solver, evaluations saved by the rule that is cheapest on validation, against the fixed budget chosen there.

    One target of accuracy holds for all: one standard error below the best on validation.
    """
    title = "Stopping by itself"
    for solver in record.solvers:
        validation = {row.rule: row for row in record.halting_rows("validation", solver) if row.chosen}
        test = {row.rule: row for row in record.halting_rows("test", solver) if row.chosen or row.rule == "oracle"}
        rules = [row for name, row in validation.items() if name in RULES]
        best = min(rules, key=lambda row: (row.nfe_mean, -row.accuracy), default=None)
        if best is None or best.rule not in test or "budget" not in test or "budget" not in validation:
            continue
        at, fixed = test[best.rule], test["budget"]
        saved = from_interval(at.saved, at.saved_low, at.saved_high, at.n)
        how = f"cheapest rule on validation at equal accuracy; {numbers.mean(at.nfe_mean)} evaluations in place of the "
        how += f"{numbers.mean(fixed.nfe_mean)} of {numbers.iterations(round(fixed.threshold))}"
        yield of_saving(title, f"evaluations saved, {solver} stops {HALTING_RULES[best.rule].words}", saved, how)
        gained = from_interval(at.gained, at.gained_low, at.gained_high, at.n)
        how = f"{numbers.percent(at.accuracy)}, and {numbers.percent(fixed.accuracy)} at the fixed budget; paired"
        yield of_change(title, f"test accuracy with that rule, {solver}", gained, how)
        if "oracle" in test:
            oracle = test["oracle"]
            how = f"{numbers.mean(oracle.nfe_mean)} evaluations; stops at the first right answer: a bound, no rule"
            yield of_accuracy(title, f"test accuracy of the oracle, {solver}", oracle, how)


def breadth(record: RunRecord) -> Iterator[Finding]:
    """Per solver, the cheapest breadth and depth that validation likes, beside the cheapest depth of one start."""
    for solver in record.solvers:
        validation, test = record.breadth_rows("validation", solver), record.breadth_rows("test", solver)
        if test and not math.isnan(test[0].ends) and test[0].start == "normal":
            end = max(test, key=lambda row: (row.breadth, row.max_iter))
            yield Finding(
                "Depth and breadth",
                f"distinct ends of {end.breadth} starts of {solver}, mean over test samples",
                f"{end.ends:.2f}",
                n=end.n,
                how="ends within a relative distance of 0.01 are one; breadth can only help where there are several",
            )
        single = [row for row in validation if row.breadth == 1]
        if not single or not any(row.breadth > 1 for row in validation):
            continue
        best = max(validation, key=lambda row: row.accuracy)
        target = one_error_below(best.accuracy, best.n)
        broad, deep = _cheapest(validation, target), _cheapest(single, target)
        if test:
            yield _spread(solver, test)
        measured = {_cell(row): row for row in reversed(test)}  # of one start: by the mean, which needs no residual
        if _cell(broad) in measured:
            yield _chosen(solver, measured[_cell(broad)], "cheapest")
        if deep is None:
            how = "no number of iterations comes within one standard error of the best on validation"
            yield Finding("Depth and breadth", f"one start of {solver}", "not enough", how=how)
        elif _cell(deep) != _cell(broad) and _cell(deep) in measured:
            yield _chosen(solver, measured[_cell(deep)], "cheapest of one start")


def savings(record: RunRecord) -> Iterator[Finding]:
    """Per solver, evaluations that draws save at equal accuracy, and the accuracy that only draws reach.

    Cells are chosen on validation, and one alone is read on test: no correction for the number of cells is needed.
    """
    for solver in record.solvers:
        seen: set[object] = set()
        for row in record.saving_rows(solver):
            cell = (row.start, row.aggregation, row.breadth, row.max_iter, row.noise)
            if cell in seen:
                continue
            seen.add(cell)
            title = "Symmetries" if row.start == "symmetries" else "Depth, breadth and noise"
            words = f"{_drawn(row)} of {numbers.iterations(row.max_iter)} of {solver}"
            how = f"cheapest of {row.cells:,} cells that reaches {numbers.percent(row.target)} on validation, "
            how += "what depth alone reaches" if row.goal == "depth" else "one standard error below the best of all"
            how += f"; {numbers.mean(row.nfe_mean)} evaluations"
            if row.start == "symmetries" and record.choice("dataset") in APART_BY_LESS:
                how += "; a view of a test sample may be a training sample"
            if not row.deep_iter:
                yield of_accuracy(title, f"test accuracy, {words}", row, f"{how}; no depth alone reaches it")
            elif (row.breadth, row.noise, row.start) == (1, 0.0, row.deep_start):
                yield Finding(title, f"evaluations saved against one draw of {solver}", "none", n=row.n, how=how)
            else:
                how += f" in place of {numbers.mean(row.deep_nfe_mean)} of {numbers.iterations(row.deep_iter)} alone"
                saved = from_interval(row.saved, row.saved_low, row.saved_high, row.n)
                yield of_saving(title, f"evaluations saved, {words}", saved, how)
                gained = from_interval(row.gained, row.gained_low, row.gained_high, row.n)
                both = f"{numbers.percent(row.accuracy)}, and {numbers.percent(row.deep_accuracy)} alone; paired"
                yield of_change(title, f"test accuracy, {words}", gained, both)


def _drawn(row: SavingRow) -> str:
    kind = "view" if row.start == "symmetries" else "draw"
    text = f"1 {kind}" if row.breadth == 1 else f"{row.breadth} {kind}s by {row.aggregation}"
    return text + (f" with noise {row.noise:g}" if row.noise else "")


def _cheapest(rows: list[BreadthRow], target: float) -> BreadthRow | None:
    reaching = [row for row in rows if row.accuracy >= target]
    return min(reaching, key=lambda row: (row.nfe_mean, -row.accuracy), default=None)


def _cell(row: BreadthRow | None) -> tuple[str, int, int] | None:
    """Which cell of the map a row is; with one start all aggregations are one."""
    if row is None:
        return None
    return ("one" if row.breadth == 1 else row.aggregation, row.breadth, row.max_iter)


def _spread(solver: str, test: list[BreadthRow]) -> Finding:
    end = max(test, key=lambda row: (row.breadth, row.max_iter))
    return Finding(
        "Depth and breadth",
        f"test accuracies of {end.breadth} starts, {numbers.iterations(end.max_iter)} of {solver} each",
        numbers.percent_range(end.starts_least, end.starts_most),
        n=end.n,
        how=f"standard deviation {100 * end.starts_deviation:.1f} points; some start is right on "
        f"{numbers.percent(end.some_right)}, every start on {numbers.percent(end.all_right)}",
    )


def _chosen(solver: str, row: BreadthRow, of: str) -> Finding:
    starts = "1 start" if row.breadth == 1 else f"{row.breadth} starts by {row.aggregation}"
    what = f"test accuracy, {starts}, {numbers.iterations(row.max_iter)} of {solver}"
    how = f"{of} within one standard error of the best on validation; {numbers.mean(row.nfe_mean)} evaluations"
    return of_accuracy("Depth and breadth", what, row, how)


def precisions(record: RunRecord) -> Iterator[Finding]:
    """Per solver, the paired change of test accuracy from the main precision to each other, and the residual reached.

    At the largest budget and the smallest tolerance.
    """
    for solver in record.solvers:
        main = record.trajectory(solver)
        for precision in record.precisions[1:]:
            key = TrajectoryKey(solver, record.main_start, "test", precision, record.main_difficulty)
            other, cells = record.trajectories.get(key), record.cells("test", solver, key.start, precision=precision)
            if main is None or other is None or not cells:
                continue
            budget = max(cell.max_iter for cell in cells)
            change = mean_interval(
                other.correct_at(budget, record.keep).astype(np.int8) - main.correct_at(budget, record.keep), DIFFERENCE
            )
            residual = np.median(other.at("residual", other.returned(budget, record.keep)))
            what = (
                f"test accuracy from {record.main_precision} to {precision}, {numbers.iterations(budget)} of {solver}"
            )
            how = f"paired; the median residual ends at {numbers.residual(float(residual))}"
            yield of_change("Precision", what, change, how)


def difficulties(record: RunRecord) -> Iterator[Finding]:
    """Per difficulty, of the main solver: the smallest budget that validation finds enough, and its test accuracy."""
    if len(record.difficulties) < 2 or record.main_solver is None:
        return
    for difficulty in record.difficulties:
        named = {"solver": record.main_solver, "start": record.main_start, "tol": record.smallest_tol()}
        cells = record.cells("validation", difficulty=difficulty, **named)  # type: ignore[arg-type]
        if not cells:
            continue
        enough = enough_cell(cells)
        tested = record.cells("test", difficulty=difficulty, max_iter=enough.max_iter, **named)  # type: ignore[arg-type]
        name = "as trained" if difficulty is None else f"difficulty {difficulty:,}"
        what = f"test accuracy {name}, {numbers.iterations(enough.max_iter)} of {record.main_solver}"
        how = f"fewest within one standard error of the best on validation (n = {enough.n:,})"
        if tested:
            yield of_accuracy("Difficulty", what, tested[0], how)
