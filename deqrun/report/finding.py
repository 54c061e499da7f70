"""A finding: one row of a run's table of results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from deqrun.inference import Estimate, Told, one_error_below, told
from deqrun.records.rows import BreadthRow, HaltingRow, SavingRow, SweepCell
from deqrun.report import numbers

SHOWN = {Told.ABOVE: "rises", Told.BELOW: "falls", Told.NOT: "not shown", Told.TOO_FEW: "too few seeds"}
SAVED = {Told.ABOVE: "fewer", Told.BELOW: "more", Told.NOT: "not shown", Told.TOO_FEW: "too few seeds"}
"""Words for a member of a family of differences: a change in accuracy, and evaluations saved."""


@dataclass(frozen=True)
class Finding:
    """One row: a value, its interval, and how it was chosen.

    title     the heading that it stands under
    what      the quantity, with its solver and budget
    value     as a person reads it
    interval  '95.6 to 98.6 %'; empty where there is none
    n         samples that it rests on
    how       how it was chosen or measured
    change    a difference, which is shown only where the family of all differences of the table leaves out zero
    saving    whether the difference counts evaluations saved, rather than accuracy
    shown     whether the family shows the difference, and its side; empty for a value that is no difference
    """

    title: str
    what: str
    value: str
    interval: str = ""
    n: int | None = None
    how: str = ""
    change: Estimate | None = None
    saving: bool = False
    shown: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text: title, quantity, value, interval, n, side that is shown, and how it was chosen."""
        n = "" if self.n is None else f"{self.n:,}"
        return self.title, self.what, self.value, self.interval, n, self.shown, self.how


def judged(found: Sequence[Finding]) -> list[Finding]:
    """The findings, each difference judged in the family of all of them (Holm)."""
    family = [finding.change for finding in found if finding.change is not None]
    sides = iter(told(family))
    return [
        finding if finding.change is None else replace(finding, shown=(SAVED if finding.saving else SHOWN)[next(sides)])
        for finding in found
    ]


def of_accuracy(title: str, what: str, cell: SweepCell | HaltingRow | BreadthRow | SavingRow, how: str) -> Finding:
    """The accuracy of a row."""
    interval = numbers.percent_range(cell.accuracy_low, cell.accuracy_high)
    return Finding(title, what, numbers.percent(cell.accuracy), interval, cell.n, how)


def of_change(title: str, what: str, change: Estimate, how: str) -> Finding:
    """A paired change of accuracy, in percentage points."""
    interval = f"{numbers.points(change.low)} to {numbers.points(change.high)}"
    return Finding(title, what, f"{numbers.points(change.mean)} points", interval, change.n, how, change)


def of_saving(title: str, what: str, saved: Estimate, how: str) -> Finding:
    """Evaluations saved, paired by sample."""
    low, high = (f"{end:.1f}".replace("-", "\N{MINUS SIGN}") for end in (saved.low, saved.high))
    value = f"{saved.mean:.1f}".replace("-", "\N{MINUS SIGN}")
    return Finding(title, what, value, f"{low} to {high}", saved.n, how, saved, saving=True)


def enough_cell(cells: list[SweepCell]) -> SweepCell:
    """The cell of smallest budget whose accuracy is within one standard error of the best one's."""
    best = max(cells, key=lambda cell: cell.accuracy)
    least = one_error_below(best.accuracy, best.n)
    return min((cell for cell in cells if cell.accuracy >= least), key=lambda cell: cell.max_iter)
