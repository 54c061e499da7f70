"""A run's results as one table: quantity, value, interval, n, and how it was chosen.

Choices are made on validation; their results are measured on test. All differences of the table
are one family: one is shown only where its 95 % interval leaves out zero after Holm's correction. Samples are the unit.
"""

import math
from collections.abc import Iterator

import numpy as np

from deqrun.inference import DIFFERENCE, Estimate, auroc_interval, crossed, mean_interval, wilson
from deqrun.records.long_trajectory import AnyTrajectory
from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.finding import Finding, enough_cell, judged, of_accuracy, of_change, of_saving
from deqrun.report.head import halting_head
from deqrun.report.sweep_findings import breadth, difficulties, halting, precisions, savings

SHARED_TOLERANCE = 0.9
"""Two solvers are compared at a tolerance that at least this share of the samples reaches with both."""


def findings(record: RunRecord) -> list[Finding]:
    """All that this run's records can support, in the order a reader asks for it."""
    return judged(
        [
            *accuracy_at_training_budget(record),
            *training_solves(record),
            *local_stability(record),
            *first_iterate(record),
            *enough_iterations(record),
            *longer_thinking(record),
            *overthinking(record),
            *settled_and_right(record),
            *evaluations_saved(record),
            *halting(record),
            *halting_head(record),
            *breadth(record),
            *savings(record),
            *difficulties(record),
            *precisions(record),
            *convergence(record),
            *divergence(record),
        ]
    )


def accuracy_at_training_budget(record: RunRecord) -> Iterator[Finding]:
    """Test accuracy at the training budget, for the checkpoint that validation chose."""
    summary = record.summary
    if summary.test_accuracy is None:
        return
    budget = "" if record.train_max_iter is None else f", {numbers.iterations(record.train_max_iter)} at most"
    tol = "" if not record.train_tol else f" to {numbers.tolerance(record.train_tol)}"
    how = "" if summary.best_epoch is None else f"checkpoint of epoch {summary.best_epoch}, best"
    if summary.best_epoch == 0:
        how = "weights as given,"
    if summary.val_accuracy is not None:
        n = "" if summary.n_validation is None else f", n = {summary.n_validation:,}"
        how += f" on validation ({numbers.percent(summary.val_accuracy)}{n})"
    yield Finding(
        "Training budget",
        f"test accuracy{budget}{tol}",
        numbers.percent(summary.test_accuracy),
        numbers.percent_range(summary.test_accuracy_low, summary.test_accuracy_high),
        summary.n_test,
        how,
    )
    cell = record.training_cell("test")
    if cell is not None and math.isfinite(cell.loss):
        yield Finding(
            "Training budget",
            f"test loss{budget}{tol}, in nats",
            numbers.significant(cell.loss, 3),
            f"{numbers.significant(cell.loss_low, 3)} to {numbers.significant(cell.loss_high, 3)}",
            cell.n,
            f"mean over the samples; perplexity {numbers.significant(math.exp(min(cell.loss, 700)), 3)}",
        )


def training_solves(record: RunRecord) -> Iterator[Finding]:
    """Whether the median solve of the last epoch, forward and adjoint, ended at its tolerance or above it."""
    last, tol = record.epochs[-1] if record.epochs else None, record.train_tol
    if last is None or last.residual is None or tol is None or record.baseline[0]:
        return
    for what, residual, nfe, converged in (
        ("forward", last.residual, last.nfe, last.converged),
        ("adjoint", last.adjoint_residual, last.adjoint_nfe, last.adjoint_converged),
    ):
        if residual is None:
            continue
        forward = what == "forward"
        parts = (
            [f"{'within' if residual <= tol else 'above'} the tolerance {numbers.tolerance(tol)}"] if forward else []
        )
        parts += [] if converged is None or not tol else [f"{numbers.percent(converged)} converged"]
        parts += [] if nfe is None else [f"{numbers.mean(nfe)} evaluations on average"]
        label = f"median residual of the {what} solves, epoch {last.epoch}"
        yield Finding("Solves in training", label, numbers.residual(residual), how="; ".join(parts))


def local_stability(record: RunRecord) -> Iterator[Finding]:
    """The spectral radius of the Jacobian at the returned states of some test samples."""
    s = record.summary
    if s.spectral_radius is None:
        return
    interval = ""
    if s.spectral_radius_low is not None and s.spectral_radius_high is not None:
        interval = f"{s.spectral_radius_low:.3g} to {s.spectral_radius_high:.3g}"
    below = s.spectral_radius_below_one
    parts = [] if below is None else [f"below 1 for {numbers.percent(below)}"]
    parts += [] if s.spectral_radius_largest is None else [f"largest {s.spectral_radius_largest:.3g}"]
    parts.append("below 1 plain iteration comes back after a small push")
    yield Finding(
        "Local stability",
        "median spectral radius of ∂f/∂z where the solve ends",
        f"{s.spectral_radius:.3g}",
        interval,
        s.spectral_radius_n,
        "; ".join(parts),
    )


def enough_iterations(record: RunRecord) -> Iterator[Finding]:
    """Per solver, the smallest budget within one standard error of the best on validation, and its test accuracy."""
    for solver in record.solvers:
        cells = _budget_cells(record, solver, "validation")
        if not cells:
            continue
        best = max(cells, key=lambda cell: (cell.accuracy, -cell.max_iter))
        enough = enough_cell(cells)
        how = f"fewest within one standard error of the best on validation, {numbers.percent(best.accuracy)} at "
        how += f"{best.max_iter:,} (n = {best.n:,}); {numbers.mean(enough.nfe_mean)} evaluations"
        what = f"test accuracy, {numbers.iterations(enough.max_iter)} of {solver}"
        tested = record.cells("test", solver, record.main_start, enough.max_iter, enough.tol)
        if tested:
            yield of_accuracy("Enough iterations", what, tested[0], how)


HALF_A_POINT = 0.005
"""Of accuracy: a gain that stays below it is no use of the iterations."""


def first_iterate(record: RunRecord) -> Iterator[Finding]:
    """Test accuracy that the training budget gains over a single iteration, paired by sample.

    A model may read its answer off its first state, and iterate to no effect (arXiv 2607.11116).
    """
    gain, solver, budget = gain_over_one(record), record.main_solver, record.train_max_iter
    if gain is None or solver is None or budget is None:
        return
    what = f"test accuracy from 1 to {numbers.iterations(budget)} of {solver}"
    how = "one iteration against the training budget"
    if abs(gain.mean) < HALF_A_POINT:
        how += "; under half a point in these samples"
    yield of_change("The first iterate", what, gain, how)


def gain_over_one(record: RunRecord) -> Estimate | None:
    """Mean over test samples of correct(training budget) − correct(1 iteration); None where that is not recorded."""
    budget, solver = record.train_max_iter, record.main_solver
    trajectory = record.trajectory(solver) if solver is not None else None
    if trajectory is None or budget is None or budget < 2 or record.baseline[0]:
        return None
    return accuracy_change(trajectory, 1, budget, record.keep)


def longer_thinking(record: RunRecord) -> Iterator[Finding]:
    """Whether test accuracy falls, keeps or rises from the training budget to the largest one, paired by sample."""
    budget, tol = record.train_max_iter, record.smallest_tol()
    for solver in record.solvers:
        largest, trajectory = _largest_budget(record, solver), record.trajectory(solver)
        if trajectory is None or budget is None or largest is None or largest <= budget:
            continue
        if record.baseline[0] == "untied":  # behind its last layer nothing changes
            continue
        change = accuracy_change(trajectory, budget, largest, record.keep)
        what = f"test accuracy from {budget:,} to {numbers.iterations(largest)} of {solver}"
        how = "from the training budget to the largest of the grid" + ("" if tol is None else _at(tol))
        yield of_change("Thinking longer", what, change, how)


def overthinking(record: RunRecord) -> Iterator[Finding]:
    """Accuracy lost on test from the budget that is best on validation to the largest one, paired by sample."""
    for solver in record.solvers:
        cells, trajectory = _budget_cells(record, solver, "validation"), record.trajectory(solver)
        if trajectory is None or len(cells) < 2:
            continue
        best, largest = max(cells, key=lambda cell: (cell.accuracy, -cell.max_iter)), cells[-1].max_iter
        if best.accuracy == cells[-1].accuracy:
            how = f"no budget does better on validation (n = {best.n:,}) than the largest, {largest:,}"
            yield Finding("Overthinking", f"with {solver}", "none seen", how=how)
            continue
        change = accuracy_change(trajectory, best.max_iter, largest, record.keep)
        what = f"test accuracy from {best.max_iter:,} to {numbers.iterations(largest)} of {solver}"
        how = f"from the best on validation ({numbers.percent(best.accuracy)}, n = {best.n:,}) to the largest"
        yield of_change("Overthinking", what, change, how)


def accuracy_change(trajectory: AnyTrajectory, shorter: int, longer: int, keep: str = "best") -> Estimate:
    """Mean over samples of correct(longer) − correct(shorter), with its interval."""
    after = trajectory.correct_at(longer, keep).astype(np.int8)
    return mean_interval(after - trajectory.correct_at(shorter, keep).astype(np.int8), DIFFERENCE)


def settled_and_right(record: RunRecord) -> Iterator[Finding]:
    """Accuracy of the test samples that settled and of the others, the table of both, fates by answer, and whether the
    residual tells right from wrong."""
    budget, tol, solver = record.train_max_iter, record.train_tol, record.main_solver
    trajectory = record.trajectory(solver) if solver is not None else None
    if trajectory is None or budget is None or not tol or record.baseline[0]:
        return
    title = "Settled and right"
    settled = trajectory.at("residual", trajectory.stop(budget, tol)) <= tol
    right = trajectory.at("correct", trajectory.returned(budget, record.keep, tol))
    where = f"to {numbers.tolerance(tol)} within {numbers.iterations(budget)} of {solver}"
    for name, group in (("settled", settled), ("not settled", ~settled)):
        if group.any():
            share, n = float(right[group].mean()), int(group.sum())
            how = f"{int(right[group].sum()):,} right, n = {n:,} of {trajectory.n:,} samples"
            yield _share(title, f"test accuracy of samples {name} {where}", share, n, how)
    # The same as a table of two by two, in shares of all samples; where one side is empty it tells nothing new.
    table = crossed(settled, right)
    cells = (
        ("right and settled", table.both),
        ("right, not settled", table.second),
        ("wrong, though settled", table.first),
        ("wrong, not settled", table.neither),
    )
    for name, cell in cells if 0 < settled.sum() < len(settled) and 0 < right.sum() < len(right) else ():
        interval = numbers.percent_range(cell.low, cell.high)
        yield Finding(title, f"test samples {name}, {where}", numbers.percent(cell.mean), interval, cell.n)
    # The residual as a judge: at the whole budget. A sample that the sweep's own tolerance stopped has no lower one, so
    # residuals below it are ties; where most are, nothing can be told.
    at, least = trajectory.returned(budget, record.keep), record.smallest_tol() or 0.0
    residual, answers = np.maximum(trajectory.at("residual", at), least), trajectory.at("correct", at)
    if 2 <= answers.sum() <= len(answers) - 2 and (residual > least).mean() > 0.5:
        area = auroc_interval(-residual, answers)
        right_answers = int(answers.sum())
        how = (
            f"{right_answers:,} right and {area.n - right_answers:,} wrong answers; the share of their pairs in which "
        )
        how += "the right one has the lower residual; 0.5 tells nothing"
        what = f"AUROC of a low residual for right answers, {numbers.iterations(budget)} of {solver}"
        yield Finding(title, what, f"{area.mean:.2f}", f"{area.low:.2f} to {area.high:.2f}", area.n, how)
    yield from _fates_by_answer(record, solver, trajectory)


def _fates_by_answer(record: RunRecord, solver: str | None, trajectory: AnyTrajectory) -> Iterator[Finding]:
    """Where the samples end at the largest budget and the smallest tolerance, of right and of wrong answers."""
    budget, tol = _largest_budget(record, solver or ""), record.smallest_tol()
    if budget is None or not tol:
        return
    settled = trajectory.at("residual", trajectory.stop(budget, tol)) <= tol
    lost = trajectory.diverged & ~settled
    right = trajectory.at("correct", trajectory.returned(budget, record.keep, tol))
    fates = (("settled", settled), ("still moving", ~settled & ~lost), ("diverged", lost))
    if any(of.all() for _, of in fates):
        return
    for name, group in (("right", right), ("wrong", ~right)):
        if group.any():
            n, shares = int(group.sum()), {fate: float(of[group].mean()) for fate, of in fates}
            others = ", ".join(f"{numbers.percent(shares[fate])} {fate}" for fate in ("still moving", "diverged"))
            how = f"after {numbers.iterations(budget)}{_at(tol)}; {others}; n = {n:,} of {trajectory.n:,} samples"
            what = f"test samples answered {name} that settle, {solver}"
            yield _share("Settled and right", what, shares["settled"], n, how)


def evaluations_saved(record: RunRecord) -> Iterator[Finding]:
    """Evaluations that the run's own solver saves against Picard, paired by sample; of a run by Picard, Anderson's.

    The tolerance is the smallest of the grid that both solvers reach on at least 90 % of the samples; the mean is over
    the samples that do.
    """
    name = record.main_solver if record.main_solver not in (None, "picard") else "anderson"
    picard, other = record.trajectory("picard"), record.trajectory(name)
    if picard is None or other is None or picard.n != other.n or not record.sweep:
        return
    title, what = "Acceleration", f"evaluations that {name} saves"
    for tol in sorted({cell.tol for cell in record.sweep}):
        slow, fast = picard.nfe_to(tol), other.nfe_to(tol)
        both = ~np.isnan(slow) & ~np.isnan(fast)
        if both.mean() < SHARED_TOLERANCE:
            continue
        most = float(max(slow[both].max(), fast[both].max()))
        saved = mean_interval(slow[both] - fast[both], (-most, most))
        how = f"picard {slow[both].mean():.1f}, {name} {fast[both].mean():.1f}, on the test samples of {picard.n:,} "
        yield of_saving(title, f"{what}, to {numbers.tolerance(tol)}", saved, how + "that reach it with both")
        return
    how = f"no tolerance of the grid is reached by both on {numbers.percent(SHARED_TOLERANCE, 0)} of the samples"
    yield Finding(title, what, "not comparable", n=picard.n, how=how)


def convergence(record: RunRecord) -> Iterator[Finding]:
    """Share of test samples that converged to each tolerance of the grid within the largest budget."""
    for solver in record.solvers:
        largest = _largest_budget(record, solver)
        cells = record.cells("test", solver, record.main_start, largest)
        cells = [cell for cell in cells if not math.isnan(cell.converged) and cell.tol > 0]
        if largest is None or not cells or record.baseline[0] == "untied":
            continue
        last = cells[-1]
        what = f"converged to {numbers.tolerance(last.tol)} within {numbers.iterations(largest)} of {solver}"
        others = [f"{numbers.percent(cell.converged)} to {numbers.tolerance(cell.tol)}" for cell in cells[:-1]]
        how = (
            "all converged to every larger tolerance, too"
            if all(cell.converged == 1 for cell in cells)
            else ", ".join(others)
        )
        yield _share("Convergence", what, last.converged, last.n, how if others else "")


def divergence(record: RunRecord) -> Iterator[Finding]:
    """The share of test samples that diverged, at the smallest tolerance and the largest budget."""
    for solver in record.solvers:
        for cell in _budget_cells(record, solver, "test")[-1:]:
            if not math.isnan(cell.diverged):
                what = f"diverged within {numbers.iterations(cell.max_iter)} of {solver}"
                yield _share("Divergence", what, cell.diverged, cell.n)


def _share(title: str, what: str, share: float, n: int, how: str = "") -> Finding:
    interval = numbers.percent_range(*wilson(share, n))
    return Finding(title, what, numbers.percent(share), interval, n, how)


def _budget_cells(record: RunRecord, solver: str, split: str) -> list[SweepCell]:
    """Cells of one solver at the smallest tolerance of the grid, by rising budget."""
    return record.cells(split, solver, record.main_start, tol=record.smallest_tol())


def _largest_budget(record: RunRecord, solver: str) -> int | None:
    return max((cell.max_iter for cell in record.cells("test", solver, record.main_start)), default=None)


def _at(tol: float) -> str:
    return f", tolerance {numbers.tolerance(tol)}"
