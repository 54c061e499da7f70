"""The solver interface: a solver is an `init` and a `step`; `loop.solve` does everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

from deqrun.solvers.flat_map import FlatMap

S = TypeVar("S", bound="SolverState | None")
M = TypeVar("M", bound=FlatMap)


class Point(NamedTuple, Generic[M]):
    """Iterate k, for the rows still in the batch: z, fz = f(z), g = fz − z are (rows, D).

    f is the map on flat states, for solvers that need more evaluations or Jacobian products than the loop's one; such
    a solver spends nothing on rows that are not `active` (rows,): they have stopped, and merely ride along.
    """

    k: int
    z: Tensor
    fz: Tensor
    g: Tensor
    residual: Tensor
    f: M
    active: Tensor


class SolverState(ABC):
    """A solver's memory over one solve. Rows are independent; `take` keeps some of them.

    A solver that spends more than the loop's one evaluation per iterate counts it here, per row and over the solve:

    nfe   (rows,) long: further evaluations of f
    jvps  (rows,) long: Jacobian-vector and vector-Jacobian products
    """

    nfe: Tensor | None = None
    jvps: Tensor | None = None

    def room(self) -> Tensor | None:
        """Memory (rows, D) of this state's own into which the loop writes the next g; None: new memory."""
        return None

    def undo(self, lost: Tensor) -> Tensor | None:
        """Rows (rows,) bool whose last step the next one takes back, of those `lost`; None: no row.

        A lost row's f is not finite there, or has grown beyond all scale. The loop calls it diverged unless its step
        was an accelerated one that the solver can replace by a plain step from the iterate before.
        """
        return None

    @abstractmethod
    def take(self, rows: Tensor) -> None:
        """Keep only these rows (LongTensor into the current batch), in place."""


class Solver(ABC, Generic[S, M]):
    """Turns the residual at iterate k into iterate k+1.

    S is the type of its memory (None: it has none), M the map that it evaluates.
    """

    @property
    def takes_layers(self) -> bool:
        """Whether iterate k+1 is f(z_k) and nothing else, so that f may be `Layers`."""
        return False

    @property
    def scale_free(self) -> bool:
        """Whether its steps on y ↦ f(s y) / s are those on f, over s; the loop then brings extreme states to 1."""
        return True

    def adapt(self, f: Callable[[Tensor], Tensor], z0: Tensor) -> M:
        """f on flat states, as the loop evaluates it; a solver that needs more of f than f(z) looks for it here.

        Raises TypeError, before anything is evaluated, where f lacks it.
        """
        return FlatMap(f, z0)  # type: ignore[return-value]  # a solver of another M says how it is made

    @abstractmethod
    def init(self, z: Tensor) -> S:
        """Fresh memory for states z (batch, D); None if the solver remembers nothing."""

    @abstractmethod
    def step(self, state: S, point: Point[M]) -> Tensor:
        """Iterate k+1 (rows, D) in new memory, or `point.fz` itself; never an older iterate's.

        Where the state has no `room` of its own, the memory of `point.g` will do, too.
        """
