"""A run folder as typed values: its status, its summary, and the record that holds all its rows.

Residuals are relative unless the run's budget says otherwise; accuracies and shares are fractions in [0, 1]; times
are seconds.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from deqrun.records.long_trajectory import AnyTrajectory
from deqrun.records.rows import BreadthRow, BudgetEvaluation, CurveRow, Epoch, HaltingRow, SavingRow, Step, SweepCell
from deqrun.records.trajectory import TrajectoryKey


@dataclass(frozen=True)
class Summary:
    """summary.json: the run in one row. All None while the run is still training.

    multiply_adds count one evaluation. baseline is none, tied or untied. An explicit
    baseline also has its layers, the parameters of the DEQ beside it, and its multiply-adds per sample.
    spectral_radius is the median of ρ(∂f/∂z) at the returned states of spectral_radius_n test samples, with its 95 %
    interval, the largest, and the share below 1. ema: decay of the average of the weights that was validated, tested
    and swept; None: the weights of the last step were. git_commit and git_dirty are of the folder that the command was
    given in, when it began; device is the name of what it ran on. compilations: graphs that
    train.compile made.
    """

    name: str | None = None
    command: str | None = None
    config_hash: str | None = None
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    git_dirty: bool | None = None
    device: str | None = None
    model: str | None = None
    dataset: str | None = None
    solver: str | None = None
    gradient: str | None = None
    baseline: str | None = None
    baseline_layers: int | None = None
    parameters: int | None = None
    state_size: int | None = None
    multiply_adds: float | None = None
    deq_parameters: int | None = None
    net_multiply_adds: float | None = None
    train_max_iter: int | None = None
    train_tol: float | None = None
    n_train: int | None = None
    n_validation: int | None = None
    n_test: int | None = None
    ema: float | None = None
    best_epoch: int | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    test_accuracy_low: float | None = None
    test_accuracy_high: float | None = None
    spectral_radius: float | None = None
    spectral_radius_low: float | None = None
    spectral_radius_high: float | None = None
    spectral_radius_largest: float | None = None
    spectral_radius_below_one: float | None = None
    spectral_radius_n: int | None = None
    train_seconds: float | None = None
    compilations: int | None = None
    sweep_seconds: float | None = None
    status: str | None = None


@dataclass(frozen=True)
class RunStatus:
    """status.json: running, completed, interrupted or failed, why, and at which epoch."""

    status: str = "unknown"
    reason: str = ""
    epoch: int | None = None


@dataclass(frozen=True)
class RunRecord:
    """All that a run folder says. Missing files are empty values, so that a run in progress can be shown."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    status: RunStatus = RunStatus()
    summary: Summary = Summary()
    epochs: tuple[Epoch, ...] = ()
    sweep: tuple[SweepCell, ...] = ()
    trajectories: Mapping[TrajectoryKey, AnyTrajectory] = field(default_factory=dict)
    halting: tuple[HaltingRow, ...] = ()
    breadth: tuple[BreadthRow, ...] = ()
    savings: tuple[SavingRow, ...] = ()
    steps: tuple[Step, ...] = ()
    curves: tuple[CurveRow, ...] = ()
    evaluations: tuple[BudgetEvaluation, ...] = ()

    @property
    def name(self) -> str:
        """The summary's name, else the config's, else the folder's."""
        return self.summary.name or str(self.config.get("name") or "") or self.folder.name

    def setting(self, group: str, key: str) -> Any:
        """`config[group][key]`, or None where the config has no such entry."""
        entries = self.config.get(group)
        return entries.get(key) if isinstance(entries, dict) else None

    def choice(self, group: str) -> str | None:
        """The run's choice of model, dataset, solver or gradient: from the summary, else from the config."""
        chosen = getattr(self.summary, group) or self.setting("choices", group)
        return None if chosen is None else str(chosen)

    @property
    def baseline(self) -> tuple[str | None, int | None]:
        """'tied' or 'untied' and the number of layers of an explicit net; None of a DEQ."""
        kind = self.summary.baseline or self.setting("baseline", "kind")
        layers = self.summary.baseline_layers or self.setting("baseline", "layers")
        return (str(kind), int(layers)) if kind in ("tied", "untied") and layers else (None, None)

    @property
    def ema(self) -> float | None:
        """Decay of the average of the weights that is validated, tested and swept; None where there is none."""
        value = self.setting("train", "ema") if self.summary.ema is None else self.summary.ema
        return None if value is None else float(value)

    @property
    def train_max_iter(self) -> int | None:
        """Solver steps allowed in training: of one solve, or of the segments of a batch together."""
        given, segments = self.summary.train_max_iter, self.setting("train", "segments") or 1
        if given is not None:
            return int(given)
        value = self.setting("budget", "max_iter")
        return None if value is None else int(value) * int(segments)

    @property
    def train_tol(self) -> float | None:
        """Tolerance of the forward solve in training."""
        given = self.summary.train_tol
        value = self.setting("budget", "tol") if given is None else given
        return None if value is None else float(value)

    @property
    def keep(self) -> str:
        """Which iterate a solve returns: 'best' (the default of a budget) or 'last'."""
        return str(self.setting("budget", "keep") or "best")

    @property
    def solvers(self) -> list[str]:
        """Solvers of the sweep and the trajectories, in alphabetical order."""
        return sorted({cell.solver for cell in self.sweep} | {key[0] for key in self.trajectories})

    @property
    def starts(self) -> list[str]:
        """Starts of the sweep and the trajectories: 'zeros' first, the others in alphabetical order."""
        names = {cell.start for cell in self.sweep} | {key[1] for key in self.trajectories}
        return sorted(names, key=lambda start: (start != "zeros", start))

    @property
    def keys(self) -> set[TrajectoryKey]:
        """Of all cells and trajectories."""
        return {cell.key for cell in self.sweep} | set(self.trajectories)

    @property
    def precisions(self) -> list[str]:
        """Precisions of the sweep and the trajectories: float32 first, the others in alphabetical order."""
        return sorted({key.precision for key in self.keys}, key=lambda name: (name != "float32", name))

    @property
    def difficulties(self) -> list[int | None]:
        """Difficulties of the sweep and the trajectories: None, which is the run's own, and then by size."""
        return sorted({key.difficulty for key in self.keys}, key=lambda value: -1 if value is None else value)

    @property
    def main_precision(self) -> str:
        """The precision that findings, tables and comparisons speak of."""
        return self.precisions[0] if self.keys else "float32"

    @property
    def main_difficulty(self) -> int | None:
        """The difficulty that findings, tables and comparisons speak of: the run's own, else the smallest."""
        return self.difficulties[0] if self.keys else None

    @property
    def main_start(self) -> str:
        """The start that findings, tables and comparisons speak of."""
        return self.starts[0] if self.starts else "zeros"

    @property
    def main_solver(self) -> str | None:
        """The solver the model was trained with where the sweep has it, else the sweep's first."""
        solver = self.choice("solver")
        return solver if solver in self.solvers or not self.solvers else self.solvers[0]

    def smallest_tol(self) -> float | None:
        """The smallest tolerance of the sweep's grid."""
        return min((cell.tol for cell in self.sweep), default=None)

    def cells(
        self,
        split: str,
        solver: str | None = None,
        start: str | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        *,
        precision: str | None = None,
        difficulty: int | None = None,
    ) -> list[SweepCell]:
        """The sweep's cells of a split, narrowed by whatever else is given, by rising budget.

        Of one precision and difficulty: the main ones unless others are given.
        """
        precision = precision or self.main_precision
        difficulty = self.main_difficulty if difficulty is None else difficulty
        chosen = [
            cell
            for cell in self.sweep
            if (cell.split, cell.precision, cell.difficulty) == (split, precision, difficulty)
            and (solver is None or cell.solver == solver)
            and (start is None or cell.start == start)
            and (max_iter is None or cell.max_iter == max_iter)
            and (tol is None or math.isclose(cell.tol, tol, rel_tol=1e-6))
        ]
        return sorted(chosen, key=lambda cell: (cell.solver, cell.start, cell.max_iter, -cell.tol))

    def halting_rows(self, split: str, solver: str) -> list[HaltingRow]:
        """The rows of a solver on a split, from the main start, in the main precision and difficulty."""
        key = TrajectoryKey(solver, self.main_start, split, self.main_precision, self.main_difficulty)
        return [row for row in self.halting if row.key == key]

    def breadth_rows(
        self, split: str, solver: str, noise: float | None = 0.0, symmetries: bool = False
    ) -> list[BreadthRow]:
        """The rows of a solver on a split, in the main precision and difficulty.

        noise       level of the noise; None: every level
        symmetries  of the draws that differ by a symmetry, instead of by their start
        """
        wanted = (solver, split, self.main_precision, self.main_difficulty)
        return [
            row
            for row in self.breadth
            if (row.solver, row.split, row.precision, row.difficulty) == wanted
            and (row.start == "symmetries") == symmetries
            and noise in (None, row.noise)
        ]

    def saving_rows(self, solver: str) -> list[SavingRow]:
        """The savings of a solver, in the main precision and difficulty."""
        wanted = (solver, self.main_precision, self.main_difficulty)
        return [row for row in self.savings if (row.solver, row.precision, row.difficulty) == wanted]

    def trajectory(self, solver: str, split: str = "test") -> AnyTrajectory | None:
        """The solver's trajectory from the main start, in the main precision and difficulty; None where it is
        missing or empty."""
        key = TrajectoryKey(solver, self.main_start, split, self.main_precision, self.main_difficulty)
        found = self.trajectories.get(key)
        return found if found is not None and found.iterates * found.n else None

    def figures(self) -> dict[str, float]:
        """Every number of the run by name: of the last epoch, of the summary, and evaluations to the tolerance.

        evaluations_to_tolerance: half of the test samples need at most so many to the training tolerance, with the
        run's own solver, if it was swept; reached_tolerance: the share that gets there.
        """
        rows = [asdict(self.epochs[-1])] if self.epochs else []
        found = {
            key: value
            for row in (*rows, asdict(self.summary))
            for key, value in row.items()
            if type(value) in (int, float)
        }
        solver, tol = self.choice("solver"), self.train_tol
        trajectory = self.trajectory(solver) if solver is not None else None
        if trajectory is not None and tol:
            needed = trajectory.nfe_to(tol)
            reached = np.isfinite(needed)
            found["reached_tolerance"] = float(reached.mean())
            median = float(np.quantile(np.where(reached, needed, np.inf), 0.5, method="inverted_cdf"))
            if math.isfinite(median):
                found["evaluations_to_tolerance"] = median
        return found

    def training_cell(self, split: str = "test") -> SweepCell | None:
        """The cell of the training solver at the training budget and tolerance, None where the grid lacks it."""
        if self.train_max_iter is None or self.train_tol is None or self.main_solver is None:
            return None
        cells = self.cells(split, self.main_solver, self.main_start, self.train_max_iter, self.train_tol)
        return cells[0] if cells else None


def _numeric(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if "int" in str(field.type) or "float" in str(field.type)]


FIGURES = tuple(dict.fromkeys((*_numeric(Summary), *_numeric(Epoch), "evaluations_to_tolerance", "reached_tolerance")))
"""Names that `RunRecord.figures` may have."""
