"""The texts of a page: headline numbers, the sweep's rows, and the numbers' origin."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord
from deqrun.report import numbers
from deqrun.report.finding import Finding
from deqrun.report.tables import interval_text, training_cost


@dataclass(frozen=True)
class Headline:
    """One number with its label and its basis."""

    label: str
    value: str
    note: str


def headline(record: RunRecord) -> list[Headline]:
    """The four numbers a reader looks for first, all at the training budget; those not known yet are left out."""
    s = record.summary
    nfe, residual = training_cost(record)
    interval = numbers.percent_range(s.test_accuracy_low, s.test_accuracy_high)
    at_budget = "test, within the training budget"
    found = [
        Headline("Test accuracy", numbers.percent(s.test_accuracy), f"95 % interval {interval}, {_n(s.n_test)}"),
        Headline("Training budget", numbers.count(record.train_max_iter), _tolerance_note(record)),
        Headline("Mean evaluations", numbers.mean(nfe), at_budget),
        Headline("Median residual", numbers.residual(residual), at_budget),
    ]
    return [number for number in found if number.value != numbers.UNKNOWN]


def _n(samples: int | None) -> str:
    return "n not recorded" if samples is None else f"n = {samples:,}"


def _tolerance_note(record: RunRecord) -> str:
    tol = record.train_tol
    return "iterations" if tol is None else f"iterations, tolerance {numbers.tolerance(tol)}"


def subtitle(record: RunRecord) -> str:
    """'mdeq on digits, solver anderson, gradient implicit, weights averaged (EMA 0.999), seed 0'."""
    # Nothing was trained: neither gradient nor seed has a part in the numbers.
    untrained = record.summary.best_epoch == 0
    model, dataset = "weights as given" if untrained else record.choice("model"), record.choice("dataset")
    parts = [" on ".join(name for name in (model, dataset) if name)]
    kind, layers = record.baseline
    parts += [f"{layers} {kind} layers"] if kind else []
    told = ("solver",) if untrained else ("solver", "gradient")
    parts += [f"{group} {name}" for group in told if (name := record.choice(group))]
    parts += [] if record.ema is None else [f"weights averaged (EMA {record.ema:g})"]
    seed = record.summary.seed if record.summary.seed is not None else record.config.get("seed")
    parts += [] if seed is None or untrained else [f"seed {seed}"]
    return ", ".join(part for part in parts if part)


def note(record: RunRecord) -> str:
    """How to read the words of a solve where the run is an explicit baseline; empty for a DEQ."""
    kind, layers = record.baseline
    if kind == "tied":
        return (
            f"An explicit baseline: the cell applied {layers:,} times with one set of weights. Training solved for "
            f"nothing; budgets above {layers:,} apply the same cell further."
        )
    if kind != "untied":
        return ""
    ours, deq = record.summary.parameters, record.summary.deq_parameters
    size = "" if ours is None or deq is None else f" It has {ours:,} parameters; the DEQ of this cell has {deq:,}."
    return (
        f"An explicit baseline: {layers:,} layers with weights of their own. Training solved for nothing. Iterate k is "
        "the state after k layers; its residual is the share by which the next layer changes it, and 0 after the "
        f"last.{size}"
    )


def grouped(found: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Findings by title, in their order."""
    return [(title, list(group)) for title, group in groupby(found, key=lambda finding: finding.title)]


@dataclass(frozen=True)
class Column:
    """A column of the page's sweep table; words stand left, numbers right."""

    heading: str
    texts: list[str]
    words: bool = False


def sweep_columns(record: RunRecord) -> list[Column]:
    """The whole sweep as text: test first, then validation. Start, precision and difficulty have a column where
    there are several."""
    cells = sorted(record.sweep, key=_place)
    variant = [Column("start", [c.start for c in cells], words=True)] if len(record.starts) > 1 else []
    if len(record.precisions) > 1:
        variant.append(Column("precision", [c.precision for c in cells], words=True))
    if len(record.difficulties) > 1:
        names = ["trained" if c.difficulty is None else f"{c.difficulty:,}" for c in cells]
        variant.append(Column("difficulty", names))
    return (
        [
            Column("split", [c.split for c in cells], words=True),
            Column("solver", [c.solver for c in cells], words=True),
            *variant,
            Column("tolerance", [numbers.tolerance(c.tol) for c in cells]),
            Column("budget", [f"{c.max_iter:,}" for c in cells]),
            Column("accuracy % [95 %]", [interval_text(c.accuracy, c.accuracy_low, c.accuracy_high) for c in cells]),
            Column("evals", [numbers.mean(c.nfe_mean) for c in cells]),
            Column("evals, 95 %", [numbers.mean(c.nfe_p95) for c in cells]),
            Column("converged", [numbers.percent(c.converged) for c in cells]),
            Column("diverged", [numbers.percent(c.diverged) for c in cells]),
            Column("residual", [numbers.residual(c.residual_median) for c in cells]),
            Column("time", [numbers.duration(c.seconds) for c in cells]),
            Column("n", [f"{c.n:,}" for c in cells]),
        ]
        if cells
        else []
    )


def _place(cell: SweepCell) -> tuple[object, ...]:
    """Where a cell stands in the table."""
    difficulty = -1 if cell.difficulty is None else cell.difficulty
    variant = (cell.solver, cell.start, cell.precision, difficulty)
    return (cell.split != "test", cell.split, *variant, -cell.tol, cell.max_iter)


def origin(record: RunRecord) -> list[tuple[str, str]]:
    """The facts needed to make this run again."""
    s = record.summary
    facts = [
        ("Command", s.command),
        ("Parameters", _with(numbers.count(s.parameters), f"a state of {numbers.count(s.state_size)} numbers")),
        ("Training", _with(numbers.duration(s.train_seconds), f"{len(record.epochs)} epochs, {_n(s.n_train)}")),
        ("Sweep", _with(numbers.duration(s.sweep_seconds), f"{len(record.sweep):,} cells")),
        ("Seed", s.seed if s.seed is not None else record.config.get("seed")),
        ("Configuration", s.config_hash),
        ("Folder", record.folder.name),
        ("Code", s.git_commit and f"commit {s.git_commit[:12]}{', with changes' if s.git_dirty else ''}"),
        ("Device", s.device),
        ("Versions", ", ".join(f"{name} {version}" for name, version in s.versions.items())),
    ]
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def _with(value: str, rest: str) -> str | None:
    return None if value == numbers.UNKNOWN else f"{value}, {rest}"
