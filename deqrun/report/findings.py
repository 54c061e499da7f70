"""What a run found, in plain words with its numbers.

Each finding says which split it speaks of and how many samples it rests on. What is chosen is chosen on
validation; what is reported for the choice is measured on test. A difference is called one only where its 95 % interval
leaves out zero, corrected for the number of solvers that are compared (Holm). Samples are the unit of all of it.
"""

import math

import numpy as np

from deqrun.inference import DIFFERENCE, Estimate, mean_interval, told
from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord
from deqrun.records.trajectory import Trajectory
from deqrun.report import numbers
from deqrun.report.finding import Finding, change_in_words, enough_cell, interval_in_words
from deqrun.report.sweep_findings import breadth, difficulties, halting, precisions

SHARED_TOLERANCE = 0.9
"""Two solvers are compared at a tolerance that at least this share of the samples reaches with both."""


def findings(record: RunRecord) -> list[Finding]:
    """All that this run's records can support, in the order a reader asks for it."""
    return [
        *accuracy_at_training_budget(record),
        *explicit_net(record),
        *training_solves(record),
        *enough_iterations(record),
        *longer_thinking(record),
        *overthinking_gap(record),
        *evaluations_saved(record),
        *halting(record),
        *breadth(record),
        *difficulties(record),
        *precisions(record),
        *convergence(record),
        *divergence(record),
    ]


def accuracy_at_training_budget(record: RunRecord) -> list[Finding]:
    """Test accuracy at the training budget, for the checkpoint that validation chose."""
    summary = record.summary
    if summary.test_accuracy is None:
        return []
    budget = "" if record.train_max_iter is None else f" of at most {numbers.iterations(record.train_max_iter)}"
    tol = "" if not record.train_tol else f" to tolerance {numbers.tolerance(record.train_tol)}"
    epoch = "" if summary.best_epoch is None else f" of epoch {summary.best_epoch}"
    chosen = ""
    if summary.val_accuracy is not None:
        chosen = f", which validation chose ({_with_n(summary.val_accuracy, summary.n_validation)})"
    bounds = summary.test_accuracy_low, summary.test_accuracy_high
    measured = interval_in_words(summary.test_accuracy, *bounds, summary.n_test)
    sentence = f"Test accuracy is {measured} at the training budget{budget}{tol}, for the checkpoint{epoch}{chosen}."
    return [Finding("Accuracy at the training budget", sentence)]


def explicit_net(record: RunRecord) -> list[Finding]:
    """What a net is that solves for nothing, and what the words of a solve mean of it."""
    kind, layers = record.baseline
    last = record.epochs[-1] if record.epochs else None
    if kind == "tied":
        sentence = (
            f"The net is the cell applied {layers:,} times with one set of weights; training solved for nothing, and "
            f"budgets above {layers:,} apply the same cell further."
        )
        if last is not None and last.residual is not None:
            sentence += (
                f" In epoch {last.epoch} one more application changed the median state by the share "
                f"{numbers.residual(last.residual)}: its residual."
            )
        return [Finding("An explicit net", sentence)]
    if kind == "untied":
        sentence = (
            f"The net has {layers:,} layers with weights of their own and solves for nothing. Iterate k is the state "
            "after k layers, its residual the share by which the next layer changes it, and 0 after the last: "
            "'converged' says that all layers are through."
        )
        ours, deq = record.summary.parameters, record.summary.deq_parameters
        if ours is not None and deq is not None:
            sentence += f" It has {ours:,} parameters, and the DEQ of this cell {deq:,}."
        return [Finding("An explicit net", sentence)]
    return []


def training_solves(record: RunRecord) -> list[Finding]:
    """Whether the median solve of the last epoch, forward and adjoint, ended at its tolerance or above it."""
    last = record.epochs[-1] if record.epochs else None
    if last is None or last.residual is None or record.train_tol is None or record.baseline[0]:
        return []
    ended = "within" if last.residual <= record.train_tol else "above"
    sentence = (
        f"In epoch {last.epoch} the median forward solve of training ended at residual "
        f"{numbers.residual(last.residual)}, "
        f"{ended} the tolerance {numbers.tolerance(record.train_tol)}"
    )
    sentence += "" if last.nfe is None else f", after {numbers.mean(last.nfe)} evaluations on average"
    if last.converged is not None and record.train_tol:
        sentence += f"; {numbers.percent(last.converged)} of them converged"
    if last.adjoint_residual is not None:
        sentence += f"; the median adjoint solve at {numbers.residual(last.adjoint_residual)}"
    if last.adjoint_converged is not None and record.train_tol:
        sentence += f", {numbers.percent(last.adjoint_converged)} of them converged"
    return [Finding("Solves in training", sentence + ".")]


def enough_iterations(record: RunRecord) -> list[Finding]:
    """Per solver, the smallest budget within one standard error of the best on validation, and its test accuracy.

    The one-standard-error rule of Breiman, Friedman, Olshen and Stone (1984), with the binomial standard
    error √(p(1−p)/n) of the best validation accuracy p, at the smallest tolerance of the grid.
    """
    found = []
    for solver in record.solvers:
        cells = _budget_cells(record, solver, "validation")
        if not cells:
            continue
        best = max(cells, key=lambda cell: (cell.accuracy, -cell.max_iter))
        enough = enough_cell(cells)
        tested = record.cells("test", solver, record.main_start, enough.max_iter, enough.tol)
        sentence = (
            f"On validation (n = {enough.n:,}) {numbers.iterations(enough.max_iter)} of {solver} give "
            f"{numbers.percent(enough.accuracy)}, "
            + (
                "the best of all budgets"
                if enough.accuracy == best.accuracy
                else f"within one standard error of the best ({numbers.percent(best.accuracy)} at {best.max_iter:,})"
            )
            + f", at {numbers.mean(enough.nfe_mean)} evaluations a sample."
        )
        if tested:
            cell = tested[0]
            measured = interval_in_words(cell.accuracy, cell.accuracy_low, cell.accuracy_high, cell.n)
            sentence += f" Test accuracy there is {measured}."
        found.append(Finding("Iterations that are enough", sentence))
    return found


def longer_thinking(record: RunRecord) -> list[Finding]:
    """Whether test accuracy falls, keeps or rises from the training budget to the largest one, paired by sample.

    The solvers are one family (Holm).
    """
    changes = {}
    budget = record.train_max_iter
    for solver in record.solvers:
        largest, trajectory = _largest_budget(record, solver), _trajectory(record, solver)
        if trajectory is None or budget is None or largest is None or largest <= budget:
            continue
        if record.baseline[0] == "untied":  # behind its last layer nothing changes
            continue
        changes[solver, largest] = accuracy_change(trajectory, budget, largest, record.keep)
    sides = told(list(changes.values()))
    return [
        Finding(
            "Thinking longer than in training",
            f"From {budget:,} to {numbers.iterations(largest)} of {solver} test accuracy "
            f"{change_in_words(change, side)} (paired over the same {change.n:,} samples{_at_smallest_tol(record)}).",
        )
        for ((solver, largest), change), side in zip(changes.items(), sides, strict=True)
    ]


def overthinking_gap(record: RunRecord) -> list[Finding]:
    """Accuracy lost on test from the budget that is best on validation to the largest one; solvers are one family."""
    changes, sentences = {}, {}
    for solver in record.solvers:
        cells = _budget_cells(record, solver, "validation")
        trajectory = _trajectory(record, solver)
        if not cells or trajectory is None or len(cells) < 2:
            continue
        best = max(cells, key=lambda cell: (cell.accuracy, -cell.max_iter))
        largest = cells[-1].max_iter
        if best.accuracy == cells[-1].accuracy:
            sentences[solver] = (
                f"With {solver} no budget does better on validation (n = {best.n:,}) than the largest, "
                f"{numbers.iterations(largest)}: no overthinking seen."
            )
        else:
            changes[solver] = accuracy_change(trajectory, best.max_iter, largest, record.keep)
            sentences[solver] = (
                f"With {solver} validation (n = {best.n:,}) is best at {numbers.iterations(best.max_iter)} "
                f"({numbers.percent(best.accuracy)}). Going on to {largest:,}, test accuracy "
            )
    for (solver, change), side in zip(changes.items(), told(list(changes.values())), strict=True):
        sentences[solver] += f"{change_in_words(change, side)} (paired over {change.n:,} samples)."
    return [Finding("Overthinking gap", sentence) for sentence in sentences.values()]


def accuracy_change(trajectory: Trajectory, shorter: int, longer: int, keep: str = "best") -> Estimate:
    """Mean over samples of correct(longer) − correct(shorter), with its interval."""
    after = trajectory.correct_at(longer, keep).astype(np.int8)
    return mean_interval(after - trajectory.correct_at(shorter, keep).astype(np.int8), DIFFERENCE)


def evaluations_saved(record: RunRecord) -> list[Finding]:
    """Evaluations that Anderson saves against Picard at the smallest tolerance that both reach, paired by sample.

    The tolerance is the smallest of the grid that at least 90 % of the samples reach with both solvers; the
    mean is over the samples that do.
    """
    picard, anderson = _trajectory(record, "picard"), _trajectory(record, "anderson")
    if picard is None or anderson is None or picard.n != anderson.n or not record.sweep:
        return []
    title = "Evaluations saved by Anderson"
    for tol in sorted({cell.tol for cell in record.sweep}):
        slow, fast = picard.nfe_to(tol), anderson.nfe_to(tol)
        both = ~np.isnan(slow) & ~np.isnan(fast)
        if both.mean() < SHARED_TOLERANCE:
            continue
        most = float(max(slow[both].max(), fast[both].max()))
        saved = mean_interval(slow[both] - fast[both], (-most, most))
        verdict = (
            "no detectable difference"
            if saved.includes_zero
            else f"{abs(saved.mean):.1f} {'fewer' if saved.mean > 0 else 'more'}"
        )
        sentence = (
            f"To reach tolerance {numbers.tolerance(tol)} anderson needs {fast[both].mean():.1f} evaluations where "
            f"picard needs {slow[both].mean():.1f}: {verdict} (95 % interval of the saving {saved.low:.1f} to "
            f"{saved.high:.1f}, paired over the {saved.n:,} of {picard.n:,} test samples that reach it with both)."
        )
        return [Finding(title, sentence.replace(" -", " \N{MINUS SIGN}"))]
    sentence = (
        f"Not comparable: no tolerance of the grid is reached by both on {numbers.percent(SHARED_TOLERANCE, 0)} of the "
        f"{picard.n:,} test samples."
    )
    return [Finding(title, sentence)]


def convergence(record: RunRecord) -> list[Finding]:
    """Share of test samples that converged to each tolerance of the grid within the largest budget."""
    found = []
    for solver in record.solvers:
        largest = _largest_budget(record, solver)
        cells = record.cells("test", solver, record.main_start, largest)
        cells = [cell for cell in cells if not math.isnan(cell.converged) and cell.tol > 0]
        if largest is None or not cells or record.baseline[0] == "untied":
            continue
        if all(cell.converged == 1 for cell in cells):
            shares = f"all samples to every tolerance down to {numbers.tolerance(cells[-1].tol)}"
        else:
            shares = ", ".join(f"{numbers.percent(c.converged)} to {numbers.tolerance(c.tol)}" for c in cells)
        sentence = f"Within {numbers.iterations(largest)} {solver} converges on {shares} (test, n = {cells[0].n:,})."
        found.append(Finding("Convergence", sentence))
    return found


def divergence(record: RunRecord) -> list[Finding]:
    """Which solvers diverged on how many test samples, at the smallest tolerance and the largest budget."""
    cells = [
        cell
        for solver in record.solvers
        for cell in _budget_cells(record, solver, "test")[-1:]
        if not math.isnan(cell.diverged)
    ]
    if not cells:
        return []
    shares = [
        f"{c.solver} on {numbers.percent(c.diverged)} of {c.n:,} test samples (within {numbers.iterations(c.max_iter)})"
        for c in cells
        if c.diverged > 0
    ]
    if shares:
        return [Finding("Divergence", f"Diverged: {'; '.join(shares)}.")]
    names = ", ".join(cell.solver for cell in cells)
    return [Finding("Divergence", f"Nothing diverged with {names} (test, n = {cells[0].n:,}).")]


def _budget_cells(record: RunRecord, solver: str, split: str) -> list[SweepCell]:
    """Cells of one solver at the smallest tolerance of the grid, by rising budget."""
    return record.cells(split, solver, record.main_start, tol=record.smallest_tol())


def _largest_budget(record: RunRecord, solver: str) -> int | None:
    return max((cell.max_iter for cell in record.cells("test", solver, record.main_start)), default=None)


def _trajectory(record: RunRecord, solver: str) -> Trajectory | None:
    """The solver's trajectory over the test split, None where it is missing or empty."""
    return record.trajectory(solver)


def _at_smallest_tol(record: RunRecord) -> str:
    tol = record.smallest_tol()
    return "" if tol is None else f", tolerance {numbers.tolerance(tol)}"


def _with_n(accuracy: float, n: int | None) -> str:
    return numbers.percent(accuracy) + ("" if n is None else f", n = {n:,}")
