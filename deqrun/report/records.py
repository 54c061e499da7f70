"""What a run folder holds, as typed values: epochs, sweep cells, trajectories, and the run that has them.

Shapes: T iterations, n samples. Residuals are relative unless the run's budget says otherwise; accuracies and
shares are fractions in [0, 1]; times are seconds.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class TrajectoryKey(NamedTuple):
    """What a trajectory is of. difficulty: that of the data where the sweep asked for several; None: the run's own."""

    solver: str
    start: str
    split: str
    precision: str = "float32"
    difficulty: int | None = None

    @property
    def path(self) -> str:
        """The key as text: 'solver/start/split', where it is not float32 and the run's own difficulty with
        '/precision/difficulty' after it, an own difficulty being 'own'. No two keys share one."""
        parts = [self.solver, self.start, self.split]
        if (self.precision, self.difficulty) != ("float32", None):
            parts += [self.precision, "own" if self.difficulty is None else str(self.difficulty)]
        return "/".join(parts)

    @classmethod
    def from_path(cls, path: str) -> "TrajectoryKey":
        """The key that `path` writes. Raises ValueError where the text is none."""
        parts = path.split("/")
        if len(parts) not in (3, 5):
            raise ValueError(f"'{path}' names no trajectory: solver/start/split, or with /precision/difficulty.")
        solver, start, split, precision, difficulty = [*parts, "float32", "own"][:5]
        return cls(solver, start, split, precision, None if difficulty == "own" else int(difficulty))


SIGNALS = ("change", "kl", "entropy", "stable")
"""Arrays of a trajectory that halting rules see beside the residual."""

DIVERGED = 3
"""The code of `deqrun.solvers.Status.DIVERGED` in a trajectory's status."""


@dataclass(frozen=True)
class Epoch:
    """One row of train.jsonl. A value the run doesn't have (an adjoint without one) is None."""

    epoch: int
    step: int | None = None
    loss: float | None = None
    train_accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    learning_rate: float | None = None
    nfe: float | None = None
    residual: float | None = None
    adjoint_nfe: float | None = None
    adjoint_residual: float | None = None
    jacobian_penalty: float | None = None
    grad_norm: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class SweepCell:
    """One row of sweep.jsonl: how a trained model does with one solver, start, budget and tolerance on one split.

    precision and difficulty are those of its trajectory, see `TrajectoryKey`.

    accuracy_low and accuracy_high bound the 95 % interval over the n samples; `converged` and
    `diverged` are fractions of the samples. jvps_mean are Jacobian products, which are no evaluations: 0 for most
    solvers, NaN where a run did not record them.
    """

    solver: str
    start: str
    split: str
    max_iter: int
    tol: float
    n: int
    accuracy: float
    accuracy_low: float = math.nan
    accuracy_high: float = math.nan
    nfe_mean: float = math.nan
    nfe_p95: float = math.nan
    seconds: float = math.nan
    converged: float = math.nan
    diverged: float = math.nan
    residual_median: float = math.nan
    jvps_mean: float = math.nan
    precision: str = field(default="float32", kw_only=True)
    difficulty: int | None = field(default=None, kw_only=True)

    @property
    def key(self) -> TrajectoryKey:
        """The trajectory that the cell is derived from."""
        return TrajectoryKey(self.solver, self.start, self.split, self.precision, self.difficulty)

    @property
    def cost_mean(self) -> float:
        """Mean evaluations and Jacobian products, one for one; products that weren't recorded are not in it."""
        return self.nfe_mean + (0.0 if math.isnan(self.jvps_mean) else self.jvps_mean)


@dataclass(frozen=True)
class HaltingRow:
    """One row of halting.jsonl: how a model does where each sample stops by a halting rule.

    threshold is in the rule's units (`deqrun.analysis.halting`), NaN for the oracle. nfe_mean and nfe_p95 are
    evaluations paid; fired is the share of samples that the rule stopped, rather than their trajectory's end. chosen:
    whether validation chose this threshold for the rule. Of chosen rows of the test split: saved is the mean of the
    evaluations of the chosen fixed budget less the rule's, and gained that of right answers, the rule's less the
    budget's, each with its 95 % interval, paired over the samples; NaN elsewhere.
    """

    solver: str
    start: str
    split: str
    rule: str
    threshold: float
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe_mean: float
    nfe_p95: float
    fired: float
    chosen: bool = False
    saved: float = math.nan
    saved_low: float = math.nan
    saved_high: float = math.nan
    gained: float = math.nan
    gained_low: float = math.nan
    gained_high: float = math.nan
    precision: str = field(default="float32", kw_only=True)
    difficulty: int | None = field(default=None, kw_only=True)

    @property
    def key(self) -> TrajectoryKey:
        """The trajectory that the row is derived from."""
        return TrajectoryKey(self.solver, self.start, self.split, self.precision, self.difficulty)


@dataclass(frozen=True)
class BreadthRow:
    """One row of breadth.jsonl: the answers of `breadth` normal starts after max_iter steps each, put together.

    aggregation: mean, vote or residual (`deqrun.analysis.breadth`). nfe_mean: evaluations of all starts, a sample.
    Of the single starts: mean, least, greatest and standard deviation of their accuracies, and the shares of samples
    that some start, or every one, gets right.
    """

    solver: str
    split: str
    aggregation: str
    breadth: int
    max_iter: int
    n: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe_mean: float
    starts_mean: float = math.nan
    starts_least: float = math.nan
    starts_most: float = math.nan
    starts_deviation: float = math.nan
    some_right: float = math.nan
    all_right: float = math.nan
    precision: str = field(default="float32", kw_only=True)
    difficulty: int | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Trajectory:
    """Every iterate of one solver from one start over the n samples of one split.

    residual (T+1, n): NaN after a row stopped, inf where not finite; float64 where the model was. nfe (T+1, n):
    evaluations spent when that residual was known. correct (T+1, n): whether the read-out of that iterate is right.
    seconds (T+1,): cumulative. status (n,): why the row stopped, as `deqrun.solvers.Status` codes (3: diverged). jvps
    (T+1, n): Jacobian products spent by then, beside the evaluations. change, kl, entropy and stable (T+1, n) are
    what halting rules see, as `deqrun.analysis.signals` defines them. All from status on are None where they weren't
    recorded.
    """

    residual: NDArray[np.floating]
    nfe: NDArray[np.int32]
    correct: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    status: NDArray[np.uint8] | None = None
    jvps: NDArray[np.int32] | None = None
    change: NDArray[np.float32] | None = None
    kl: NDArray[np.float32] | None = None
    entropy: NDArray[np.float32] | None = None
    stable: NDArray[np.int32] | None = None

    @property
    def signals(self) -> dict[str, NDArray[Any]]:
        """What was recorded of what halting rules see, by name."""
        named = {name: getattr(self, name) for name in SIGNALS}
        return {name: array for name, array in named.items() if array is not None}

    @property
    def cost(self) -> NDArray[np.int64]:
        """Evaluations and Jacobian products, one for one, (T+1, n); products that weren't recorded are not in it."""
        nfe = self.nfe.astype(np.int64)
        return nfe if self.jvps is None else nfe + self.jvps

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.residual.shape[1])

    def last(self) -> NDArray[np.intp]:
        """Index of the last iterate of each row, (n,): the number of iterates that have a residual, less one."""
        return np.maximum(np.count_nonzero(~np.isnan(self.residual), axis=0) - 1, 0)

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Whether the row ended by diverging, (n,)."""
        return np.zeros(self.n, dtype=np.bool_) if self.status is None else self.status == DIVERGED

    def stop(self, max_iter: int, tol: float = 0.0) -> NDArray[np.intp]:
        """Index of the iterate at which a solve with this budget and tolerance stops, (n,).

        The first iterate with residual <= tol, else min(max_iter, last).
        """
        end = np.minimum(max_iter, self.last())
        reached = self.residual <= tol  # False where NaN
        first = np.argmax(reached, axis=0)
        return np.where(reached.any(axis=0) & (first <= end), first, end)

    def returned(self, max_iter: int, keep: str = "best", tol: float = 0.0) -> NDArray[np.intp]:
        """Index of the iterate that a solve with this budget and tolerance returns, (n,).

        'best': the first iterate of lowest residual up to where it stops. 'last': the one at which it stops.
        """
        stop = self.stop(max_iter, tol)
        return stop if keep == "last" else np.take_along_axis(self.lowest(), stop[None], axis=0)[0]

    def lowest(self) -> NDArray[np.intp]:
        """(T+1, n): index of the first iterate of lowest residual among 0 … k."""
        known = np.where(np.isnan(self.residual), np.inf, self.residual)
        before = np.minimum.accumulate(known, axis=0)
        new = np.ones_like(known, dtype=np.bool_)
        new[1:] = known[1:] < before[:-1]
        return np.maximum.accumulate(np.where(new, np.arange(len(known))[:, None], 0), axis=0)

    def correct_at(self, max_iter: int, keep: str = "best") -> NDArray[np.bool_]:
        """Whether the answer that a solve with this budget gives is right, (n,)."""
        return self.correct[self.returned(max_iter, keep), np.arange(self.n)]

    def nfe_to(self, tol: float) -> NDArray[np.float64]:
        """Evaluations each row needs to first reach residual <= tol, (n,); NaN where it never does."""
        reached = self.residual <= tol  # False where NaN
        first = np.argmax(reached, axis=0)
        return np.where(reached.any(axis=0), self.nfe[first, np.arange(self.n)], np.nan)


@dataclass(frozen=True)
class Summary:
    """summary.json: the run in one row. All None while the run is still training.

    multiply_adds are those of one evaluation. peer is none, tied or untied; of an explicit peer there are its layers,
    the parameters of the DEQ beside which it stands, and the multiply-adds of the whole net per sample.
    """

    name: str | None = None
    command: str | None = None
    config_hash: str | None = None
    seed: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    dataset: str | None = None
    solver: str | None = None
    gradient: str | None = None
    peer: str | None = None
    peer_layers: int | None = None
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
    best_epoch: int | None = None
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    test_accuracy_low: float | None = None
    test_accuracy_high: float | None = None
    train_seconds: float | None = None
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
    trajectories: dict[TrajectoryKey, Trajectory] = field(default_factory=dict)
    halting: tuple[HaltingRow, ...] = ()
    breadth: tuple[BreadthRow, ...] = ()

    @property
    def name(self) -> str:
        """The summary's name, else the config's, else the folder's."""
        return self.summary.name or str(self.config.get("name") or "") or self.folder.name

    def setting(self, group: str, key: str) -> Any:
        """`config[group][key]`, or None where the config has no such entry."""
        entries = self.config.get(group)
        return entries.get(key) if isinstance(entries, dict) else None

    def choice(self, group: str) -> str | None:
        """What the run took for model, dataset, solver or gradient: from the summary, else from the config."""
        chosen = getattr(self.summary, group) or self.setting("choices", group)
        return None if chosen is None else str(chosen)

    @property
    def peer(self) -> tuple[str | None, int | None]:
        """'tied' or 'untied' and the number of layers of an explicit net; None of a DEQ."""
        kind = self.summary.peer or self.setting("peer", "kind")
        layers = self.summary.peer_layers or self.setting("peer", "layers")
        return (str(kind), int(layers)) if kind in ("tied", "untied") and layers else (None, None)

    @property
    def train_max_iter(self) -> int | None:
        """Solver steps allowed in training."""
        given = self.summary.train_max_iter
        value = self.setting("budget", "max_iter") if given is None else given
        return None if value is None else int(value)

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

    def breadth_rows(self, split: str, solver: str) -> list[BreadthRow]:
        """The rows of a solver on a split, in the main precision and difficulty."""
        wanted = (solver, split, self.main_precision, self.main_difficulty)
        return [row for row in self.breadth if (row.solver, row.split, row.precision, row.difficulty) == wanted]

    def trajectory(self, solver: str, split: str = "test") -> Trajectory | None:
        """The solver's trajectory from the main start, in the main precision and difficulty; None where it is
        missing or empty."""
        key = TrajectoryKey(solver, self.main_start, split, self.main_precision, self.main_difficulty)
        found = self.trajectories.get(key)
        return found if found is not None and found.residual.size else None

    def training_cell(self, split: str = "test") -> SweepCell | None:
        """The cell of the training solver at the training budget and tolerance, None where the grid lacks it."""
        if self.train_max_iter is None or self.train_tol is None or self.main_solver is None:
            return None
        cells = self.cells(split, self.main_solver, self.main_start, self.train_max_iter, self.train_tol)
        return cells[0] if cells else None
