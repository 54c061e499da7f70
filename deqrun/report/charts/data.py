"""The numbers that the charts draw, each as a typed row: everything that can be checked without drawing."""

import math
from dataclasses import dataclass, fields

from deqrun.records.frontier import non_dominated
from deqrun.records.rows import SweepCell
from deqrun.records.run import RunRecord

# Panel of the training charts: which columns of train.jsonl it draws, and under which names.
PANELS: dict[str, tuple[tuple[str, str], ...]] = {
    "loss": (("loss", "training"), ("val_loss", "validation")),
    "accuracy": (("train_accuracy", "training"), ("val_accuracy", "validation")),
    "residual": (("residual", "forward"), ("adjoint_residual", "adjoint")),
    "evaluations": (("nfe", "forward"), ("adjoint_nfe", "adjoint")),
    "converged": (("converged", "forward"), ("adjoint_converged", "adjoint")),
    "gradient": (("gradient_share", "largest"),),
}


@dataclass(frozen=True)
class BudgetPoint:
    """Accuracy and loss of one sweep cell at the smallest tolerance, with their intervals; NaN: not recorded."""

    solver: str
    start: str
    max_iter: int
    tol: float
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe_mean: float
    converged: float
    loss: float = math.nan
    loss_low: float = math.nan
    loss_high: float = math.nan

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True)
class FrontierPoint:
    """Cost and accuracy of one sweep cell, and whether no other cell is at least as good in both."""

    solver: str
    start: str
    max_iter: int
    tol: float
    n: int
    nfe_mean: float
    nfe_p95: float
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    converged: float
    residual_median: float
    seconds: float
    frontier: bool


@dataclass(frozen=True)
class TrainingPoint:
    """One value of one training curve."""

    panel: str
    series: str
    epoch: int
    value: float


def budget_points(record: RunRecord, split: str = "test") -> list[BudgetPoint]:
    """Accuracy against budget at the smallest tolerance of the grid."""
    names = [field.name for field in fields(BudgetPoint)]
    cells = record.cells(split, tol=record.smallest_tol())
    return [BudgetPoint(**{name: getattr(cell, name) for name in names}) for cell in cells]


def frontier_points(record: RunRecord, split: str = "test") -> list[FrontierPoint]:
    """Every cell of a split as a point of cost and accuracy; cells whose cost isn't known are left out."""
    names = [field.name for field in fields(FrontierPoint) if field.name != "frontier"]
    cells = [c for c in record.cells(split) if math.isfinite(c.nfe_mean)]
    joined = set(non_dominated([(c.nfe_mean, c.accuracy) for c in cells]))
    return [
        FrontierPoint(**{name: getattr(cell, name) for name in names}, frontier=index in joined)
        for index, cell in enumerate(cells)
    ]


def difficulty_cells(record: RunRecord, split: str = "test") -> list[SweepCell]:
    """Cells of the main solver from the main start at the smallest tolerance, by difficulty; none of a single one."""
    if len(record.difficulties) < 2:
        return []
    own = record.main_solver, record.main_start
    return [
        cell
        for difficulty in record.difficulties
        for cell in record.cells(split, *own, tol=record.smallest_tol(), difficulty=difficulty)
    ]


def training_points(record: RunRecord) -> list[TrainingPoint]:
    """Every finite value of the training curves; a log panel takes only values above zero."""
    return [
        TrainingPoint(panel, series, epoch.epoch, float(value))
        for epoch in record.epochs
        for panel, curves in PANELS.items()
        for attribute, series in curves
        for value in [getattr(epoch, attribute)]
        if value is not None and math.isfinite(value) and (value > 0 or panel != "residual")
    ]
