"""The whole sweep of a trained model: every trajectory that its settings ask for, and the rows derived from them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

from tqdm import tqdm

from deqrun.datasets import Dataset
from deqrun.experiment.build import at_difficulty, build_dataset, build_deq, build_sweep_solvers
from deqrun.experiment.precision import in_precision
from deqrun.experiment.ranks import leads, told, wait
from deqrun.experiment.sweep.breadth import breadth_rows, solve_starts
from deqrun.experiment.sweep.halting import halting_rows
from deqrun.experiment.sweep.parts import SweepParts
from deqrun.experiment.sweep.savings import Choice, Measured, choices, depth_alone, measured, rows_alone, saving_rows
from deqrun.experiment.sweep.starts import StartKind, SweepNoise, SweepStart, SweepViews
from deqrun.experiment.sweep.trace import cells, trace_parts
from deqrun.models import DEQ
from deqrun.records.long_trajectory import AnyTrajectory
from deqrun.records.residual_curve import residual_curve
from deqrun.records.rows import BreadthRow, HaltingRow, SavingRow, SweepCell
from deqrun.records.trajectory import SIGNALS, TrajectoryKey
from deqrun.settings import Settings
from deqrun.settings.schema import SweepSettings
from deqrun.solvers import Budget

__all__ = ["SweepResult", "sweep", "sweep_cells", "sweep_halting", "sweep_keys"]

STARTS = ("zeros", "normal", "other")
"""In the order of solving: other begins where zeros ended."""


def sweep_keys(settings: Settings) -> list[TrajectoryKey]:
    """The trajectories to solve, in the order of solving; those with the same model and data set are neighbours."""
    grid = settings.sweep
    starts = sorted(grid.starts, key=STARTS.index)
    return _keys(grid, [(start, split) for split in grid.splits for start in starts])


def breadth_keys(settings: Settings) -> list[TrajectoryKey]:
    """Several draws of each sample at once, in the order of solving: of a model validation, which chooses, comes first.

    Their start is called 'breadth', or 'symmetries' where the draws are views of the sample.
    """
    grid = settings.sweep
    kinds = [kind for kind, asked in zip(DRAWN, (grid.breadth, grid.symmetries), strict=True) if asked]
    splits = sorted(grid.splits, key=lambda split: split == "test")
    return _keys(grid, [(kind, split) for kind in kinds for split in splits])


def _keys(grid: SweepSettings, places: Sequence[tuple[str, str]]) -> list[TrajectoryKey]:
    """Of every solver the starts and splits that are asked for, in each precision and at each difficulty."""
    if grid.empty:
        return []
    return [
        TrajectoryKey(solver, start, split, precision, difficulty)
        for difficulty in grid.difficulties or (None,)
        for precision in grid.precisions
        for solver in grid.solvers
        for start, split in places
    ]


DRAWN = ("breadth", "symmetries")
"""The starts of keys whose samples are drawn several times."""
DERIVED = ("breadth", "savings")
"""The kinds of rows that are made while such a key is solved."""


def draws_of(grid: SweepSettings, key: TrajectoryKey) -> int:
    """How often each sample of a key in `DRAWN` is solved at each level of the noise."""
    return grid.symmetries if key.start == "symmetries" else max(grid.breadth)


def doubled(most: int) -> tuple[int, ...]:
    """1, 2, 4, … below `most`, and `most`."""
    return tuple(sorted({*(2**power for power in range(most.bit_length()) if 2**power < most), most}))


@dataclass(frozen=True)
class SweepResult:
    """All that a sweep yields: the trajectories that are to be kept, and of each kind of `ROW_KINDS` its rows."""

    trajectories: dict[TrajectoryKey, AnyTrajectory]
    rows: dict[str, list[Any]]
    seconds: float


def sweep(settings: Settings, deq: DEQ, dataset: Dataset, parts: SweepParts) -> SweepResult:
    """Solve all that `settings` ask for, and derive every row; trajectories in `parts` are not solved again.

    Several ranks share the batches of each trajectory. The first one writes, and its result alone holds the rows.
    """
    began = time.perf_counter()
    keys, broad = sweep_keys(settings), breadth_keys(settings)
    work = _Sweep(settings, deq, dataset, parts)
    progress = Progress({key: work.size_of(key) for key in [*keys, *broad]})

    # First the trajectories, one for each key: every budget, tolerance and halting rule is read off them.
    for key in keys:
        known = parts.read(key) if leads() else None
        if told(known is not None):
            progress.skip(key)
        else:
            known = work.solve(key, progress.of(key))
        if known is not None:
            work.found[key] = known

    # Then several starts at once, whose answers are put together while they are solved.
    for key in broad:
        finished = parts.read_rows(key, *DERIVED) if leads() else None
        if told(finished is not None):
            progress.skip(key)
        else:
            finished = work.solve_starts(key, progress.of(key))
        if finished is not None:
            work.drawn[key], saved = finished
            work.saved += saved
    progress.close()

    if not leads():
        return SweepResult({}, {}, time.perf_counter() - began)
    found = work.found
    made: dict[str, list[Any]] = {"sweep": sweep_cells(settings, found)}
    if settings.sweep.halting:
        made["halting"] = sweep_halting(settings, found)
    if broad:
        made["breadth"] = [row for rows in work.drawn.values() for row in rows]
        made["savings"] = work.saved
    if settings.sweep.keep == "curves":
        layers = settings.baseline.layers if settings.baseline.kind == "untied" else None
        made["curves"] = [row for key, trajectory in found.items() for row in residual_curve(key, trajectory, layers)]
    return SweepResult(found if settings.sweep.keep == "samples" else {}, made, time.perf_counter() - began)


def swept_grid(settings: Settings) -> tuple[list[int], list[float]]:
    """Iterations, ascending, and tolerances, descending: the grid's, and the training's, by which runs compare.

    A training tolerance of 0 is left out where it wasn't asked for: no row would stop before the largest budget.
    """
    trained, grid = settings.budget, settings.sweep
    own = {trained.tol} - {0.0}
    return sorted({*grid.iterations, settings.solve_iterations}), sorted({*grid.tolerances, *own}, reverse=True)


def sweep_budget(settings: Settings) -> Budget:
    """The budget of every trajectory: the largest and the smallest tolerance of the grid, or else of training."""
    # Every smaller budget and larger tolerance is read off this solve.
    iterations, tolerances = swept_grid(settings)
    own = {"max_iter": iterations[-1], "tol": tolerances[-1] if tolerances else settings.budget.tol}
    return Budget(**settings.budget.model_dump() | own)


def sweep_cells(settings: Settings, trajectories: dict[TrajectoryKey, AnyTrajectory]) -> list[SweepCell]:
    """The grid's rows from its trajectories."""
    iterations, tolerances = swept_grid(settings)
    # Derived, not solved: each trajectory answers for the whole grid.
    return [
        cell
        for key, trajectory in trajectories.items()
        for cell in cells(trajectory, iterations, tolerances, key=key, keep=settings.budget.keep)
    ]


def sweep_halting(settings: Settings, trajectories: dict[TrajectoryKey, AnyTrajectory]) -> list[HaltingRow]:
    """Every halting rule at every threshold, of trajectories that have both splits; validation chooses."""
    # Rules are chosen on validation and told of test: both must be there.
    both = [
        (key, trajectory, trajectories[key._replace(split="test")])
        for key, trajectory in trajectories.items()
        if key.split == "validation" and key._replace(split="test") in trajectories
    ]
    return [row for pair in both for row in halting_rows(*pair, settings.sweep.halting)]


class _Sweep:
    """A sweep under way: the trained model, its data at each difficulty, and what has been found so far.

    found  trajectories
    drawn  rows of several draws, by the key that they were solved for
    saved  what draws saved, of all keys
    """

    def __init__(self, settings: Settings, deq: DEQ, dataset: Dataset, parts: SweepParts) -> None:
        self.settings, self.grid, self.deq, self.parts = settings, settings.sweep, deq, parts
        self.solvers, self.budget = build_sweep_solvers(settings), sweep_budget(settings)
        self.found: dict[TrajectoryKey, AnyTrajectory] = {}
        self.drawn: dict[TrajectoryKey, list[BreadthRow]] = {}
        self.saved: list[SavingRow] = []
        self._datasets: dict[int | None, Dataset] = {None: dataset}
        self._last: tuple[tuple[str, int | None], DEQ] | None = None

    def dataset(self, difficulty: int | None) -> Dataset:
        """The data at a difficulty; None: the run's own."""
        # Read once: every solver and precision asks the same samples.
        if difficulty not in self._datasets:
            self._datasets[difficulty] = build_dataset(at_difficulty(self.settings, difficulty))
        return self._datasets[difficulty]

    def model(self, precision: str, difficulty: int | None) -> DEQ:
        """The same weights, in a cell of the difficulty's input shape and in the precision; the last one is kept."""
        if self._last is None or self._last[0] != (precision, difficulty):
            # Another difficulty may need other buffers; the weights are the same.
            deq = self.deq
            if difficulty is not None:
                deq = build_deq(self.settings, self.dataset(difficulty)).to(next(deq.parameters()).device)
                deq.load_state_dict(self.deq.state_dict())
            self._last = (precision, difficulty), in_precision(deq, precision)
        return self._last[1]

    def size_of(self, key: TrajectoryKey) -> tuple[int, int]:
        """Samples of a trajectory, and the cost of one in numbers of its input."""
        # The cost of a sample is taken as the size of its input: enough to say how much time is left.
        dataset = self.dataset(key.difficulty)
        starts = draws_of(self.grid, key) * len(self.grid.noise) if key.start in DRAWN else 1
        return len(dataset.load(key.split)) * starts, math.prod(dataset.input_shape)

    def solve(self, key: TrajectoryKey, advance: Callable[[int], object]) -> AnyTrajectory | None:
        """One trajectory, kept in parts; None of ranks beyond the first.

        From zeros it is kept with the solutions that `other` begins with, if that start is asked for.
        """
        grid, parts, dataset = self.grid, self.parts, self.dataset(key.difficulty)
        split = dataset.load(key.split)
        # The states that solves end with are kept only where another start needs them.
        wanted = key.start == "zeros" and "other" in grid.starts
        solutions = parts.read_solutions(key._replace(start="zeros")) if key.start == "other" else None
        kind = cast("StartKind", key.start)
        traced = trace_parts(
            self.model(key.precision, key.difficulty),
            dataset,
            split,
            self.solvers[key.solver],
            self.budget,
            grid.batch_size,
            start=SweepStart(kind, split=key.split, seed=grid.start_seed, scale=grid.start_scale, solutions=solutions),
            precision=key.precision,
            signals=_recorded_signals(self.settings),
            loss=grid.loss,
            ends=wanted,
        )
        if not leads():
            for part, _ in traced:
                advance(part.n)
            wait()  # for the file of the solutions
            return None
        with ExitStack() as stack:
            # The trajectory is entered first, and so ends last: its file says that all is done.
            writer = stack.enter_context(parts.writing(key))
            ended = stack.enter_context(parts.writing_solutions(key, len(split))) if wanted else None
            for part, states in traced:
                writer.add(part)
                if ended is not None and states is not None:
                    ended(states)
                advance(part.n)
        wait()
        found = parts.read(key)
        assert found is not None
        return found

    def solve_starts(self, key: TrajectoryKey, advance: Callable[[int], object]) -> list[list[Any]] | None:
        """The rows of one solver's draws at every level of noise, of each kind in `DERIVED`; None of later ranks.

        The first normal start is `sweep.starts=[normal]`.
        """
        grid, dataset = self.grid, self.dataset(key.difficulty)
        # Validation has chosen already which cells are compared on test; of depth alone where it was solved.
        chosen, alone = (self._choices(key), self._alone(key)) if key.split == "test" else ([], None)
        # Views of a sample begin where the cell begins: they differ by their symmetry alone.
        views = SweepViews(key.split, grid.start_seed) if key.start == "symmetries" else None
        kind: StartKind = grid.breadth_start if views is None else "zeros"
        # One start for each draw; the levels of the noise share the starts and ε.
        starts = [
            SweepStart(kind, split=key.split, seed=grid.start_seed, scale=grid.start_scale, draw=draw)
            for draw in range(draws_of(grid, key))
        ]
        breadths = grid.breadth if views is None else doubled(grid.symmetries)
        rows: list[BreadthRow] = []
        compared: dict[Any, Measured] = {}
        named = kind if views is None else "symmetries"
        for level in grid.noise:
            solved = solve_starts(
                self.model(key.precision, key.difficulty),
                dataset,
                dataset.load(key.split),
                self.solvers[key.solver],
                self.budget,
                grid.batch_size,
                starts,
                grid.iterations,
                key.precision,
                advance,
                noise=SweepNoise(level, key.split, grid.start_seed),
                views=views,
                head=self.settings.train.halt_weight > 0,
            )
            if leads():
                rows += breadth_rows(solved, breadths, grid.iterations, key, start=named, noise=level)
                # Of each level no more than the chosen cells is held: memory does not grow with the levels.
                compared |= measured(chosen, solved, grid.iterations, level, named)
        if not leads():
            return None
        if alone is not None:
            compared |= measured(chosen, depth_alone(alone, grid.iterations), grid.iterations, 0.0, "zeros")
        finished: list[list[Any]] = [rows, saving_rows(chosen, compared)]
        self.parts.write_rows(key, dict(zip(DERIVED, finished, strict=True)))
        return finished

    def _choices(self, key: TrajectoryKey) -> list[Choice]:
        """What validation chooses among its draws and depth alone; nothing before it is solved."""
        # Choices are by validation rows alone, draws and depth alone side by side.
        validation = key._replace(split="validation")
        alone = self._alone(validation)
        rows = [] if alone is None else rows_alone(alone, self.grid.iterations, validation)
        return choices(self.drawn.get(validation, []), rows)

    def _alone(self, key: TrajectoryKey) -> AnyTrajectory | None:
        """The trajectory that draws from normal starts stand beside; None: the first draw is the cell's own start."""
        own = self.grid.breadth_start == "zeros" or key.start == "symmetries"
        return None if own else self.found.get(key._replace(start="zeros"))


def _recorded_signals(settings: Settings) -> list[str]:
    """Signals of the rules that are asked for and of a halting head that was trained, and the measures."""
    asked = {*settings.sweep.halting, *(["head"] if settings.train.halt_weight > 0 else [])}
    return [*(name for name in SIGNALS if name in asked), *settings.sweep.measures]


class Progress:
    """One bar over the whole sweep, with the time left."""

    def __init__(self, work: dict[TrajectoryKey, tuple[int, int]]) -> None:
        """work: for each trajectory the number of samples, and the cost of one in any unit."""
        self._work = work
        self._bar = tqdm(
            total=sum(n * cost for n, cost in work.values()),
            leave=False,
            dynamic_ncols=True,
            disable=None,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
        )

    def of(self, key: TrajectoryKey) -> Callable[[int], object]:
        """To be called with the number of samples that were solved."""
        self._bar.set_description(f"sweep {key.path.replace('/', ' ')}")
        return lambda samples: self._bar.update(samples * self._work[key][1])

    def skip(self, key: TrajectoryKey) -> None:
        """Count a trajectory that was solved before."""
        # Solved by an earlier process: it counts as done, but not as fast.
        n, cost = self._work[key]
        if not self._bar.disable:
            self._bar.initial += n * cost  # the time left goes by what this process has done
        self._bar.update(n * cost)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()
