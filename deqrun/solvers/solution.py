"""The limits of a solve (`Budget`), why a row stopped (`Status`), and the result (`Solution`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

NORMS = ("relative", "absolute", "max")
KEEPS = ("best", "last")


class Status(IntEnum):
    """Why a row stopped; `sentence` is for a person to read."""

    CONVERGED = 0
    EXHAUSTED = 1
    STALLED = 2
    DIVERGED = 3

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "The residual fell to the tolerance.",
    Status.EXHAUSTED: "The iteration budget ran out before the residual reached the tolerance.",
    Status.STALLED: "The residual stopped improving before it reached the tolerance.",
    Status.DIVERGED: "The state became non-finite or grew beyond all scale of its start.",
}


@dataclass(frozen=True)
class Budget:
    """The limits of a solve, and its tolerance.

    max_iter  solver steps, >= 0; 0 returns the start and its residual.
    tol       a row stops at the first iterate whose residual is <= tol; >= 0.
    norm      'relative' (‖f(z) − z‖ / (‖f(z)‖ + ε)), 'absolute' (‖f(z) − z‖), both of the 2-norm, or 'max', relative
              in the norm ‖·‖_∞: no entry of the state may be off by more than the tolerance times the largest one.
    keep      'best' returns the iterate of lowest residual, 'last' the one at which the row stopped.
    patience  None, or the number of steps without an improvement of the best residual by one part
              in a thousand after which a row is STALLED; >= 1.
    min_iter  no row stops as CONVERGED or STALLED before iterate min_iter, >= 0; max_iter stops it all the same.
    row_max_iter, row_tol   None, or (batch,) tensors: each row's own, at most max_iter; `per_row` sets all four.

    Raises ValueError or TypeError on anything else.
    """

    max_iter: int = 50
    tol: float = 1e-4
    norm: str = "relative"
    keep: str = "best"
    patience: int | None = None
    min_iter: int = 0
    row_max_iter: Tensor | None = None
    row_tol: Tensor | None = None

    def __post_init__(self) -> None:
        _require_count("max_iter", self.max_iter, 0)
        if isinstance(self.tol, bool) or not isinstance(self.tol, (int, float)):
            raise TypeError(f"Budget tol must be a number >= 0, got {self.tol!r}.")
        if math.isnan(self.tol) or self.tol < 0:
            raise ValueError(f"Budget tol must be >= 0, got {self.tol}.")
        if self.row_max_iter is not None:
            _require_rows("max_iter", self.row_max_iter, "whole numbers", not self.row_max_iter.is_floating_point())
        if self.row_tol is not None:
            _require_rows("tol", self.row_tol, "floating-point numbers", self.row_tol.is_floating_point())
        if self.norm not in NORMS:
            raise ValueError(f"Budget norm must be 'relative', 'absolute' or 'max', got {self.norm!r}.")
        if self.keep not in KEEPS:
            raise ValueError(f"Budget keep must be 'best' or 'last', got {self.keep!r}.")
        if self.patience is not None:
            _require_count("patience", self.patience, 1)
        _require_count("min_iter", self.min_iter, 0)

    @classmethod
    def per_row(cls, max_iter: Tensor | int = 50, tol: Tensor | float = 1e-4, **others: Any) -> Budget:
        """Each row its own max_iter (long, (batch,)) and tol (float, (batch,)); a number serves all rows."""
        rows: dict[str, Any] = {}
        if isinstance(max_iter, Tensor):
            rows["row_max_iter"], max_iter = max_iter, int(max_iter.max()) if max_iter.numel() else 0
        if isinstance(tol, Tensor):
            rows["row_tol"], tol = tol, float(tol.nan_to_num().min()) if tol.numel() else 0.0
        return cls(max(max_iter, 0), max(tol, 0.0), **others, **rows)

    def with_(self, **changes: object) -> Budget:
        """The same budget with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def _require_rows(name: str, values: Tensor, kind: str, right_kind: bool) -> None:
    if not right_kind or values.dtype == torch.bool:
        raise TypeError(f"Budget {name} of each row must be {kind}, got {values.dtype}.")
    if values.dim() != 1 or not bool((values >= 0).all()):
        raise ValueError(f"Budget {name} of each row must be (batch,) and >= 0, got shape {tuple(values.shape)}.")


def _require_count(name: str, value: object, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Budget {name} must be a whole number >= {lowest}, got {value!r}.")
    if value < lowest:
        raise ValueError(f"Budget {name} must be >= {lowest}, got {value}.")


@dataclass
class Solution:
    """The outcome of a solve; every row is a problem of its own.

    z          (batch, …) the kept iterate
    residual   (batch,) true residual of the returned z; inf where it is not finite
    steps      (batch,) solver steps taken until the row stopped
    kept       (batch,) index of the kept iterate: residuals[kept[b], b] == residual[b]
    nfe        (batch,) evaluations of f spent on the row
    jvps       (batch,) Jacobian-vector and vector-Jacobian products spent on it besides; 0 for most solvers
    status     (batch,) codes of Status, uint8
    residuals  (T+1, batch) residual of iterate k in row k, T = max(steps), or the few more that the loop made on an
               accelerator until it knew; NaN after the row stopped
    nfes       (T+1, batch) evaluations spent when iterate k's residual was known; held after the stop
    products   (T+1, batch) of jvps, those spent by then
    adjoint    the Solution of the adjoint solve, once a backward pass has run through `equilibrium`
    """

    z: Tensor
    residual: Tensor
    steps: Tensor
    kept: Tensor
    nfe: Tensor
    jvps: Tensor
    status: Tensor
    residuals: Tensor
    nfes: Tensor
    products: Tensor
    adjoint: Solution | None = None

    @property
    def converged(self) -> Tensor:
        """(batch,) bool: status is CONVERGED."""
        return self.status == int(Status.CONVERGED)

    @property
    def diverged(self) -> Tensor:
        """(batch,) bool: status is DIVERGED."""
        return self.status == int(Status.DIVERGED)

    @classmethod
    def joined(cls, parts: Sequence[Solution]) -> Solution:
        """The solution of a batch that was solved in parts, its rows in their order; adjoints are joined, too."""
        if len(parts) == 1:
            return parts[0]
        longest = max(len(part.residuals) for part in parts)

        def history(name: str, last: bool) -> Tensor:
            """A history of rows as long as the longest: held where counts are held, else NaN."""
            columns = []
            for part in parts:
                column = getattr(part, name)
                tail = column[-1:] if last else torch.full_like(column[-1:], math.nan)
                columns.append(torch.cat([column, tail.expand(longest - len(column), -1)]))
            return torch.cat(columns, dim=1)

        names = ("z", "residual", "steps", "kept", "nfe", "jvps", "status")
        rows = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        adjoints = [part.adjoint for part in parts if part.adjoint is not None]
        return cls(
            **rows,
            residuals=history("residuals", last=False),
            nfes=history("nfes", last=True),
            products=history("products", last=True),
            adjoint=cls.joined(adjoints) if len(adjoints) == len(parts) else None,
        )

    def rows(self, chosen: slice | Tensor) -> Solution:
        """The solution of some of its rows (a slice, or long), with their adjoint."""
        of_rows = ("z", "residual", "steps", "kept", "nfe", "jvps", "status")
        return Solution(
            **{name: getattr(self, name)[chosen] for name in of_rows},
            **{name: getattr(self, name)[:, chosen] for name in ("residuals", "nfes", "products")},
            adjoint=None if self.adjoint is None else self.adjoint.rows(chosen),
        )

    def summary(self) -> str:
        """One line for a person: how many rows ended how, at which median residual."""
        names = [(s.name.lower(), int((self.status == int(s)).sum())) for s in Status]
        counts = ", ".join(f"{count} {name}" for name, count in names if count)
        if not len(self.residual):
            return "no rows"
        return f"{counts}; median residual {float(torch.median(self.residual)):.2e}"
