"""The test-time sweep: one trajectory per solver and start, from which every (budget, tolerance) cell is derived."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deqrun.analysis.signals import CORE, SignalRecorder
from deqrun.datasets import Dataset, Split
from deqrun.experiment.allocator import release_freed_memory
from deqrun.experiment.evaluate import batch_at, in_evaluation, places
from deqrun.experiment.precision import autocast
from deqrun.experiment.ranks import dealt
from deqrun.experiment.sweep.columns import interval
from deqrun.experiment.sweep.starts import SweepStart
from deqrun.experiment.training.solve_clock import SolveClock
from deqrun.inference import Estimate, mean_interval, share_interval
from deqrun.models import DEQ
from deqrun.records.long_trajectory import AnyTrajectory
from deqrun.records.rows import SweepCell
from deqrun.records.trajectory import Trajectory, TrajectoryKey, joined
from deqrun.solvers import Budget, Solution, Solver, solve
from deqrun.solvers.device import to_host
from deqrun.solvers.precision import warn_if_unreachable


def trace(
    deq: DEQ,
    dataset: Dataset,
    split: Split,
    solver: Solver,
    budget: Budget,
    batch_size: int,
    *,
    start: SweepStart | None = None,
    precision: str = "float32",
    signals: bool | Sequence[str] = False,
) -> Trajectory:
    """Solve every sample of `split` once, reading the head out at every iterate: `trace_parts`, put together."""
    parts = trace_parts(
        deq, dataset, split, solver, budget, batch_size, start=start, precision=precision, signals=signals
    )
    return joined([part for part, _ in parts])


@torch.no_grad()
def trace_parts(
    deq: DEQ,
    dataset: Dataset,
    split: Split,
    solver: Solver,
    budget: Budget,
    batch_size: int,
    *,
    start: SweepStart | None = None,
    precision: str = "float32",
    signals: bool | Sequence[str] = False,
    loss: bool = False,
    ends: bool = False,
    between: Callable[[], object] = lambda: None,
) -> Iterator[tuple[Trajectory, Tensor | None]]:
    """The trajectory of each batch of `split`, and its kept states; the head is read out at every iterate.

    Several ranks take whole batches, and each is given the trajectories of all, in order.

    Iterates depend on neither budget nor tolerance, so one trajectory holds the answer to every smaller budget and
    larger tolerance.

    budget     the largest budget and the smallest tolerance that a cell will ask for
    start      where solves begin; None: the cell's own start
    precision  float32; bfloat16: under autocast, the solver's state in float32; float64: of a model in float64
    signals    names of signals and measures (`deqrun.analysis.signals`) to record, too; True: its `CORE`
    loss       whether to record the loss of each read-out, too
    ends       whether the kept states (batch, *state_shape) are wanted, on the host
    between    called before each batch; whatever it raises ends the trajectory
    """
    device = next(deq.parameters()).device
    start = start or SweepStart()
    if precision == "bfloat16":  # the solver sees the float32 that the cell's values are turned into
        warn_if_unreachable(budget.tol, torch.bfloat16)

    # One solve a batch. The reader sees each iterate as the solve comes by it; nothing is solved twice for a read-out.
    def traced(place: slice) -> tuple[Trajectory, Tensor | None]:
        x, y = batch_at(dataset, split, place, device)
        with autocast(precision, device), deq.cell.fixed_weights():
            reader = _Reader(deq, dataset, y, budget.max_iter + 1, signals, loss)
            f = deq.bind(x)
            z0 = start.begin(deq.start(f), place)
            solution = solve(f, z0, solver=solver, budget=budget, observe=reader)
        return _recorded(solution, reader, precision, budget.min_iter, ends)

    try:
        with in_evaluation(deq):
            yield from dealt(places(split, batch_size), traced, between)
    finally:
        release_freed_memory()


class _Reader:
    """Reads the head out along the way: correct (T+1, batch), signals and loss if asked; the clock stands still."""

    def __init__(
        self,
        deq: DEQ,
        dataset: Dataset,
        targets: Tensor,
        iterates: int,
        signals: bool | Sequence[str],
        loss: bool = False,
    ) -> None:
        self.deq, self.dataset, self.targets = deq, dataset, targets
        asked = dataset.asked(targets)
        # A signal of the halting head is recorded only where the cell has one.
        further = [
            name
            for name in (CORE if isinstance(signals, bool) else signals)
            if name != "head" or deq.cell.has_halting_head
        ]
        recorder = SignalRecorder(iterates, len(targets), asked, further=further, targets=targets)
        self.signals = recorder if signals else None
        self.correct = torch.zeros(iterates, len(targets), dtype=torch.bool, device=targets.device)
        wide = next(deq.parameters()).dtype
        self.loss = torch.zeros(iterates, len(targets), dtype=wide, device=targets.device) if loss else None
        self.clock = SolveClock(iterates, targets.device)

    def __call__(self, k: int, z: Tensor, rows: Tensor) -> None:
        with self.clock.observing(k):
            with self.clock.reading(len(rows)):
                logits = self.deq.cell.readout(z)
            self.correct[k] = self.correct[k - 1]  # a row that stopped keeps its last answer
            self.correct[k, rows] = self.dataset.correct(logits, self.targets[rows])
            if self.loss is not None:
                self.loss[k] = self.loss[k - 1]
                self.loss[k, rows] = self.dataset.loss(logits, self.targets[rows]).to(self.loss)
            if self.signals is not None:
                halt = self.deq.cell.halt_logit(z) if self.deq.cell.has_halting_head else None
                self.signals(k, z, logits, rows, halt)


def _recorded(
    solution: Solution, reader: _Reader, precision: str, min_iter: int, ends: bool
) -> tuple[Trajectory, Tensor | None]:
    """One batch on the host, as long as the budget: behind the last iterate NaN, or the last value; and its states."""
    # One copy to the host for all records of the batch.
    known, iterates = len(solution.residuals), len(reader.correct)
    tables = (solution.residuals, solution.nfes, solution.products, reader.correct[:known])
    signals = [] if reader.signals is None else reader.signals.tensors()
    losses = [] if reader.loss is None else [reader.loss[:known]]
    states = [solution.z] if ends else []
    copied = iter(to_host([*tables, solution.status, solution.steps, *signals, *losses, *states]))
    residual, nfe, jvps, correct, status, steps = islice(copied, 6)
    signals = list(islice(copied, len(signals)))
    # Behind the last iterate every count and answer stays as it was.
    held = np.minimum(np.arange(iterates), known - 1)
    residuals = np.full((iterates, len(status)), np.nan, dtype=np.float64 if precision == "float64" else np.float32)
    residuals[:known] = residual.numpy()
    named: dict[str, Any] = {} if reader.signals is None else dict(reader.signals.arrays(steps, signals))
    named |= {"loss": next(copied).numpy()[held]} if losses else {}
    part = Trajectory(
        residuals,
        nfe.numpy().astype(np.int32)[held],
        correct.numpy()[held],
        reader.clock.seconds(),
        status.numpy().astype(np.uint8),
        jvps.numpy().astype(np.int32)[held],
        **named,
        min_iter=min_iter,
    )
    return part, next(copied) if ends else None


def cells(
    trajectory: AnyTrajectory, iterations: Sequence[int], tolerances: Sequence[float], *, key: TrajectoryKey, keep: str
) -> list[SweepCell]:
    """The row of every (budget, tolerance), each equal to a separate solve's with that budget and tolerance.

    `seconds` are the time of the trajectory's solve and of one read-out, prorated: the time of iterate k is shared
    equally among the rows that were iterating at k, and a cell takes the shares of the rows that it would still have
    iterated.
    """
    grid = [(max_iter, tol) for tol in tolerances for max_iter in iterations]
    # Of each part the values at the cells, (cells, n): they are few beside its iterates.
    parts = [_at_cells(part, iterations, tolerances, keep) for part in trajectory.parts()]
    at = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
    # A cell without products or losses has NaN there.
    unknown = np.full((len(grid), 1), np.nan)
    columns = {
        "nfe_mean": at["nfe"].mean(axis=1),
        "nfe_p95": np.quantile(at["nfe"], 0.95, axis=1),
        "seconds": _prorated_seconds(trajectory.seconds, at["last"], at["stop"]),
        "converged": at["converged"].mean(axis=1),
        "diverged": at["diverged"].mean(axis=1),
        "residual_median": np.median(at["residual"], axis=1),
        "jvps_mean": at.get("jvps", unknown).mean(axis=1),
    }
    return [
        SweepCell(
            **key._asdict(),
            max_iter=max_iter,
            tol=tol,
            n=trajectory.n,
            **interval("accuracy", share_interval(correct)),
            **{name: column[place].item() for name, column in columns.items()},
            **interval("loss", _mean_loss(losses)),
        )
        for place, (max_iter, tol) in enumerate(grid)
        for correct, losses in [(at["correct"][place], at.get("loss", unknown)[place])]
    ]


def _at_cells(
    part: Trajectory, iterations: Sequence[int], tolerances: Sequence[float], keep: str
) -> dict[str, NDArray[Any]]:
    """Arrays (cells, n) at the iterate where each cell stops, or that it keeps; `last` is (n,)."""
    # Accuracy and loss are of the kept iterate; evaluations and status of the iterate where a row stops.
    last = part.last()
    stop = _stops(part, iterations, tolerances)
    kept = stop if keep == "last" else _at(part.lowest(), stop)
    # In the residual's dtype, as the solver and `Trajectory.stop` compare them.
    tol_C1 = np.repeat(np.array(tolerances, dtype=part.residual.dtype), len(iterations))[:, None]
    residual = _at(part.residual, stop)
    converged = (residual <= tol_C1) & np.isfinite(residual)
    found: dict[str, NDArray[Any]] = {
        "last": last,
        "stop": stop,
        "correct": _at(part.correct, kept),
        "nfe": _at(part.nfe, stop),
        "converged": converged,
        "diverged": part.diverged & (stop == last) & ~converged,
        "residual": _at(part.residual, kept),
    }
    found |= {} if part.jvps is None else {"jvps": _at(part.jvps, stop)}
    return found if part.loss is None else found | {"loss": _at(part.loss, kept)}


def _mean_loss(losses: NDArray[Any]) -> Estimate:
    """Mean and interval of the losses of a cell (n,); NaN where they are not known, without bounds where one is inf."""
    if np.isfinite(losses).all():
        return mean_interval(losses)
    # Student's interval has no meaning beside an infinite loss.
    mean = float(losses.mean(dtype=np.float64))
    ends = (math.nan, math.nan) if math.isnan(mean) else (-math.inf, math.inf)
    return Estimate(mean, *ends, len(losses))


def _stops(part: Trajectory, iterations: Sequence[int], tolerances: Sequence[float]) -> NDArray[np.intp]:
    """(tolerances · iterations, n): `Trajectory.stop` of every cell; the first iterate at most min(max_iter, …)."""
    # The first iterate within each tolerance, found once, serves all budgets.
    reached_KN = np.stack([part.stop(part.iterates, tol) for tol in tolerances])
    ends_I11 = np.array(iterations, dtype=np.intp)[:, None, None]
    return np.minimum(reached_KN, ends_I11).transpose(1, 0, 2).reshape(-1, part.n)


def _at(values_TN: NDArray[Any], index_CN: NDArray[np.intp]) -> NDArray[Any]:
    """(cells, n): of each sample the value at the iterate that each cell names."""
    return np.take_along_axis(values_TN, index_CN, axis=0)


def _prorated_seconds(
    seconds_T: NDArray[np.float64], last_N: NDArray[np.intp], stop_CN: NDArray[np.intp]
) -> NDArray[np.float64]:
    """(cells,) seconds: Σ_k (time of iterate k) · (rows a cell iterates at k) / (rows that were iterating at k)."""
    # Rows still iterating at k are counted from the end: a row counts up to its last iterate.
    spent_T = np.diff(seconds_T, prepend=0.0)
    share_T = spent_T / np.maximum(np.bincount(last_N, minlength=len(spent_T))[::-1].cumsum()[::-1], 1)
    return np.take(share_T.cumsum(), stop_CN).sum(axis=1)
