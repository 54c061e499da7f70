"""What the further axes of a sweep found: halting rules, starts put together, precisions, difficulties.

As in `findings`, what is chosen is chosen on validation, and what is reported of the choice is measured on test.
"""

import numpy as np

from deqrun.inference import DIFFERENCE, Estimate, mean_interval
from deqrun.records.halting_rules import HALTING_RULES, RULES
from deqrun.records.rows import BreadthRow, HaltingRow
from deqrun.records.run import RunRecord
from deqrun.records.trajectory import TrajectoryKey
from deqrun.report import numbers
from deqrun.report.finding import Finding, change_in_words, enough_cell, interval_in_words


def halting(record: RunRecord) -> list[Finding]:
    """Per solver, what the rule that is cheapest on validation saves against the fixed budget chosen there.

    One target of accuracy holds for all: one standard error below the best on validation.
    """
    found = []
    for solver in record.solvers:
        validation = {row.rule: row for row in record.halting_rows("validation", solver) if row.chosen}
        rules = [row for name, row in validation.items() if name in RULES]
        if not rules or "budget" not in validation:
            continue
        best = min(rules, key=lambda row: (row.nfe_mean, -row.accuracy))
        test = {row.rule: row for row in record.halting_rows("test", solver) if row.chosen or row.rule == "oracle"}
        if best.rule in test and "budget" in test:
            found.append(Finding("Stopping by itself", _halting_sentence(solver, test, best.rule)))
    return found


def _halting_sentence(solver: str, test: dict[str, HaltingRow], rule: str) -> str:
    at, fixed = test[rule], test["budget"]
    saved = Estimate(at.saved, at.saved_low, at.saved_high, at.n)
    gained = Estimate(at.gained, at.gained_low, at.gained_high, at.n)
    verdict = (
        "no detectable saving"
        if saved.includes_zero
        else f"{abs(saved.mean):.1f} {'fewer' if saved.mean > 0 else 'more'}"
    )
    bounds = f"{saved.low:.1f} to {saved.high:.1f}".replace("-", "\N{MINUS SIGN}")
    sentence = (
        f"Of the rules, chosen on validation at equal accuracy, with {solver} the cheapest stops "
        f"{HALTING_RULES[rule].words}: {numbers.mean(at.nfe_mean)} evaluations a sample where a fixed budget of "
        f"{numbers.iterations(round(fixed.threshold))} takes {numbers.mean(fixed.nfe_mean)}, {verdict} (95 % interval "
        f"of the saving {bounds}). Test accuracy, {numbers.percent(fixed.accuracy)} then, "
        f"{numbers.percent(at.accuracy)} with the rule, {change_in_words(gained)} (paired over {at.n:,} samples)."
    )
    if "oracle" in test:
        oracle = test["oracle"]
        sentence += (
            f" An oracle that stops at the first right answer would take {numbers.mean(oracle.nfe_mean)} and give "
            f"{numbers.percent(oracle.accuracy)}."
        )
    return sentence


def breadth(record: RunRecord) -> list[Finding]:
    """Per solver, the cheapest breadth and depth that validation likes, beside the cheapest depth of one start."""
    found = []
    for solver in record.solvers:
        validation, test = record.breadth_rows("validation", solver), record.breadth_rows("test", solver)
        single = [row for row in validation if row.breadth == 1]
        if not single or not any(row.breadth > 1 for row in validation):
            continue
        target = _one_error_below_the_best(validation)
        broad, deep = _cheapest(validation, target), _cheapest(single, target)
        sentences = [_spread_sentence(solver, test)] if test else []
        measured = {_cell(row): row for row in reversed(test)}  # of one start: by the mean, which needs no residual
        if _cell(broad) in measured:
            sentences.append(_breadth_sentence(measured[_cell(broad)]))
        if deep is None:
            sentences.append("No number of iterations of a single start comes within one standard error of that.")
        elif _cell(deep) != _cell(broad) and _cell(deep) in measured:
            sentences.append(f"Of one start alone: {_breadth_sentence(measured[_cell(deep)])}")
        found.append(Finding("Depth and breadth", " ".join(sentences)))
    return found


def _one_error_below_the_best(rows: list[BreadthRow]) -> float:
    best = max(rows, key=lambda row: row.accuracy)
    return float(best.accuracy - np.sqrt(best.accuracy * (1 - best.accuracy) / best.n))


def _cheapest(rows: list[BreadthRow], target: float) -> BreadthRow | None:
    reaching = [row for row in rows if row.accuracy >= target]
    return min(reaching, key=lambda row: (row.nfe_mean, -row.accuracy), default=None)


def _cell(row: BreadthRow | None) -> tuple[str, int, int] | None:
    """Which cell of the map a row is; with one start all aggregations are one."""
    if row is None:
        return None
    return ("one" if row.breadth == 1 else row.aggregation, row.breadth, row.max_iter)


def _spread_sentence(solver: str, test: list[BreadthRow]) -> str:
    end = max(test, key=lambda row: (row.breadth, row.max_iter))
    return (
        f"{end.breadth} normal starts with {numbers.iterations(end.max_iter)} of {solver} each: test accuracies from "
        f"{numbers.percent(end.starts_least)} to {numbers.percent(end.starts_most)} (standard deviation "
        f"{100 * end.starts_deviation:.1f} points, n = {end.n:,}); some start is right on "
        f"{numbers.percent(end.some_right)} of the samples, every start on {numbers.percent(end.all_right)}."
    )


def _breadth_sentence(row: BreadthRow) -> str:
    joined = "" if row.breadth == 1 else f" put together by {row.aggregation}"
    measured = interval_in_words(row.accuracy, row.accuracy_low, row.accuracy_high, row.n)
    starts = "1 start" if row.breadth == 1 else f"{row.breadth} starts{joined}"
    return (
        f"Cheapest within one standard error of the best on validation is {starts} with "
        f"{numbers.iterations(row.max_iter)}: {measured} on test, at {numbers.mean(row.nfe_mean)} evaluations."
    )


def precisions(record: RunRecord) -> list[Finding]:
    """Per solver, the paired change of test accuracy from the main precision to each other, and what converges.

    At the largest budget and the smallest tolerance.
    """
    found = []
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
            residual = np.median(other.residual[other.returned(budget, record.keep), np.arange(other.n)])
            sentence = (
                f"From {record.main_precision} to {precision}, with {numbers.iterations(budget)} of {solver}, test "
                f"accuracy {change_in_words(change)} (paired over {change.n:,} samples); the median residual ends at "
                f"{numbers.residual(float(residual))}."
            )
            found.append(Finding("Precision", sentence))
    return found


def difficulties(record: RunRecord) -> list[Finding]:
    """Per difficulty, of the main solver: the smallest budget that validation finds enough, and its test accuracy."""
    if len(record.difficulties) < 2 or record.main_solver is None:
        return []
    parts = []
    for difficulty in record.difficulties:
        named = {"solver": record.main_solver, "start": record.main_start, "tol": record.smallest_tol()}
        cells = record.cells("validation", difficulty=difficulty, **named)  # type: ignore[arg-type]
        if not cells:
            continue
        enough = enough_cell(cells)
        tested = record.cells("test", difficulty=difficulty, max_iter=enough.max_iter, **named)  # type: ignore[arg-type]
        if tested:
            cell = tested[0]
            measured = interval_in_words(cell.accuracy, cell.accuracy_low, cell.accuracy_high, cell.n)
            name = "as trained" if difficulty is None else f"difficulty {difficulty:,}"
            parts.append(f"{name} needs {numbers.iterations(cell.max_iter)} and gets {measured}")
    if not parts:
        return []
    sentence = f"With {record.main_solver}, budgets chosen on validation, accuracies on test: {'; '.join(parts)}."
    return [Finding("Difficulty", sentence)]
