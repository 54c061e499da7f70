"""Tries a cell on a few samples: shapes, rows apart, one map per solve, derivatives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from deqrun.contracts.finding import Fault, Finding, called, name_of, reason, run_checks
from deqrun.gradients import jacobian_penalty
from deqrun.models import BoundCell, Cell, as_injection, describe

__all__ = ["CELL_CHECKS", "check_cell"]

ROWS = 3
"""Samples that a cell is tried on."""

NEAR = 1e-4
"""Largest difference, as a share of the largest number, that rounding makes: a row is computed alone and in company."""

DOCS = "docs/models.md, 'A cell of your own'"


def check_cell(cell: Cell, x: Tensor, twice: str = "", *, trained: bool = True) -> list[Finding]:
    """Try `cell` on x (batch, *input_shape), in training and in evaluation; the cell itself stays as it is.

    twice    the setting that needs second derivatives of f, as 'train.jacobian_weight=0.5'; '' where none does
    trained  False: it is asked alone, so it is tried in evaluation, without the checks that only training needs
    """
    trial = _Trial(cell, x[:ROWS].to(cell.weights_dtype) if x.is_floating_point() else x[:ROWS], twice, trained)
    checks = {name: method for name, method in CELL_CHECKS.items() if trained or name not in OF_TRAINING}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return run_checks({name: getattr(trial, method) for name, method in checks.items()}, DOCS)


CELL_CHECKS = {
    "state": "check_state_shape",
    "inject": "check_injection",
    "start": "check_start",
    "f": "check_map",
    "read-out": "check_readout",
    "arguments stay": "check_arguments_stay",
    "deterministic": "check_deterministic",
    "rows apart": "check_rows_apart",
    "finite": "check_finite",
    "differentiable": "check_differentiable",
    "twice": "check_twice",
    "shapes alone": "check_on_shapes",
}
"""Name of each check and the method that makes it, in the order in which they are made."""

OF_TRAINING = ("differentiable", "twice", "shapes alone")
"""Checks that a cell whose weights stay as they are does not need."""


class _Trial:
    """A copy of a cell with a batch: its injection and a random state, in evaluation and in training."""

    def __init__(self, cell: Cell, x: Tensor, twice: str, trained: bool) -> None:
        self.own, self.x, self.twice = cell, x, twice
        self.modes = (False, True) if trained else (False,)
        self.batch = len(x)

    def check_state_shape(self) -> None:
        """`state_shape` is a tuple of positive whole numbers, and the cell can be copied."""
        shape = getattr(self.own, "state_shape", None)
        if not isinstance(shape, tuple) or not shape or not all(type(side) is int and side > 0 for side in shape):
            raise Fault(
                f"state_shape is {shape!r}; a cell's constructor sets it to the shape of one sample's state without "
                "the batch, a tuple as in (64,) or (32, 8, 8)"
            )
        self.cell = called("copy.deepcopy of the cell", lambda: copy.deepcopy(self.own))
        self.z = torch.randn(self.batch, *shape).to(self.own.weights_dtype)

    def check_injection(self) -> None:
        """`inject` gives tensors with the batch first."""
        for training in self.modes:
            injection = self._inject(self.x, training)
            if not injection:
                raise Fault("inject returned no tensor; it must return a tuple of one or more")
            for place, part in enumerate(injection):
                if part.dim() == 0 or len(part) != self.batch:
                    raise Fault(
                        f"inject returned {tuple(part.shape)} at place {place} for a batch of {self.batch}; each "
                        "tensor has the batch as its first dimension, so that rows can be taken"
                    )
        self.injection = self._inject(self.x, False)

    def check_start(self) -> None:
        """`initial_state` gives a finite state of floating-point numbers."""
        self.z0 = called("initial_state", lambda: self.cell.initial_state(self.injection))
        self._require_shape("initial_state", self.z0, (self.batch, *self.cell.state_shape))
        _require_finite("initial_state", self.z0)

    def check_map(self) -> None:
        """f keeps the state's shape and dtype."""
        for training in self.modes:
            value = self._f(self.z, self._inject(self.x, training), training)
            self._require_shape("forward", value, (self.batch, *self.cell.state_shape))
            if value.dtype != self.z.dtype:
                raise Fault(
                    f"forward returned {name_of(value.dtype)} for a state of {name_of(self.z.dtype)}; f(z; x) keeps "
                    "the state's dtype"
                )

    def check_readout(self) -> None:
        """The read-out gives a finite logit of every class at every position that is asked."""
        logits = self._readout(self.z)
        self._require_shape("readout", logits, (self.batch, self.cell.num_classes, *self.cell.output_shape))

    def check_arguments_stay(self) -> None:
        """No map writes into its arguments."""
        before = [tensor.clone() for tensor in (self.x, self.z, *self.injection)]
        self._inject(self.x, False)
        self._f(self.z, self.injection, False)
        self._readout(self.z)
        for name, old, new in zip(
            ("x", "z", *["the injection"] * len(self.injection)), before, (self.x, self.z, *self.injection), strict=True
        ):
            if not torch.equal(old.nan_to_num(), new.nan_to_num()):
                raise Fault(
                    f"the cell writes into {name}; solvers keep what they give to it, so no in-place operation "
                    "may touch an argument"
                )

    def check_deterministic(self) -> None:
        """f is one map within a solve, in training, too; in evaluation all three maps are the same each time."""
        for training in reversed(self.modes):
            injection = self._inject(self.x, training)
            first, second = (self._f(self.z, injection, training) for _ in range(2))
            if not _same(first, second):
                when = "in training, as dropout does" if training else "in evaluation"
                raise Fault(
                    f"f(z; x) of the same z and injection differs between two calls {when}; a solve needs one map, so "
                    "draw random numbers and dropout masks in inject, and keep no state in forward"
                )
        maps = {"inject": lambda: _joined(self._inject(self.x, False)), "readout": lambda: self._readout(self.z)}
        for name, call in maps.items():
            if not _same(call(), call()):
                raise Fault(
                    f"{name} differs between two calls in evaluation; random numbers are for training alone, "
                    "where self.training is True"
                )

    def check_rows_apart(self) -> None:
        """A row alone and in company gives the same, with the weights as they are and with others."""
        for shaken in (False, True):
            if shaken:
                _shake(self.cell)
            for training in self.modes:
                self._require_rows_apart(training)
        self.cell = copy.deepcopy(self.own)

    def check_finite(self) -> None:
        """The first states from the start, and their logits, are finite."""
        z = self.z0
        for k in range(1, 4):
            z = self._f(z, self.injection, False)
            _require_finite(f"f, evaluated {k} time{'s' * (k > 1)} from the start,", z)
        _require_finite("readout", self._readout(z))
        _require_finite("f at a normal state", self._f(self.z, self.injection, False))

    def check_differentiable(self) -> None:
        """f depends on z, logits depend on weights, and both derivatives are finite."""
        weights = [parameter for parameter in self.cell.parameters() if parameter.requires_grad]
        if not weights:
            raise Fault("the cell has no weights to train; set nn.Parameter or layers as its attributes")
        z = self.z.clone().requires_grad_()
        with self._mode(True):
            value = called("forward", lambda: self.cell(z, as_injection(self.cell.inject(self.x))))
            (by_state,) = called("the derivative of f", lambda: _gradients(value, [z]))
            if by_state is None:
                raise Fault(
                    "f(z; x) has no derivative by z; it must depend on z by torch operations, without detach(), "
                    ".data, NumPy or torch.no_grad()"
                )
            logits = called("readout", lambda: self.cell.readout(value))
            by_weights = called("the derivative of the logits", lambda: _gradients(logits, weights))
        if all(gradient is None for gradient in by_weights):
            raise Fault("no weight has a derivative of the logits; readout must depend on z by torch")
        for gradient in (by_state, *by_weights):
            if gradient is not None:
                _require_finite("the derivative of f and readout", gradient)

    def check_twice(self) -> None:
        """Second derivatives exist where the settings need them."""
        if not self.twice:
            return
        with self._mode(True):
            f = BoundCell(self.cell, as_injection(self.cell.inject(self.x)))
            try:
                penalty = jacobian_penalty(f, self.z)
                if penalty.requires_grad:
                    penalty.backward()
            except Exception as error:
                raise Fault(
                    f"f can't be differentiated twice ({reason(error)}), and {self.twice} needs it; allowed are torch "
                    "operations that have a second derivative, or train.jacobian_weight=0"
                ) from error
        for gradient in [parameter.grad for parameter in self.cell.parameters() if parameter.grad is not None]:
            _require_finite(f"the second derivative of f, which {self.twice} needs,", gradient)

    def check_on_shapes(self) -> None:
        """The cell's size and cost can be told from shapes alone, as each run's summary does."""
        try:
            describe(self.own)
        except Exception as error:
            raise Fault(
                f"the cell can't be followed by shapes alone ({reason(error)}); inject, forward and readout make new "
                "tensors on their arguments' device, and read no numbers out of tensors, as .item(), float() or if do"
            ) from error

    def _require_rows_apart(self, training: bool) -> None:
        injection = self._inject(self.x, training)
        maps: dict[str, Callable[[slice], Tensor]] = {
            "f": lambda rows: self._f(self.z[rows], tuple(part[rows] for part in injection), training)
        }
        if not training:  # injection and read-out may have batch norm, as published models do
            maps |= {
                "inject": lambda rows: _joined(self._inject(self.x[rows], False)),
                "initial_state": lambda rows: self.cell.initial_state(tuple(part[rows] for part in injection)),
                "readout": lambda rows: self._readout(self.z[rows]),
            }
        for name, compute in maps.items():
            together = compute(slice(None))
            for row in range(self.batch):
                alone = called(f"{name}, given one row alone,", partial(compute, slice(row, row + 1)))
                if not _near(alone[0], together[row]):
                    raise Fault(
                        f"{name} of a row depends on the rows beside it{' in training' * training}; each sample is "
                        "its own problem, so f takes group or layer norm instead of batch norm, dimension 0 is never "
                        "mixed, and attention has batch_first=True"
                    )

    def _inject(self, x: Tensor, training: bool) -> tuple[Tensor, ...]:
        with self._mode(training), torch.no_grad():
            given = called("inject", lambda: self.cell.inject(x))
        parts = given if isinstance(given, (tuple, list)) else [given]
        wrong = [type(part).__name__ for part in parts if not isinstance(part, Tensor)]
        if wrong:
            among = " in a tuple" if isinstance(given, (tuple, list)) else ""
            raise Fault(f"inject returned a {wrong[0]}{among}; it must return a tensor or a tuple of tensors")
        return as_injection(given)

    def _f(self, z: Tensor, injection: tuple[Tensor, ...], training: bool) -> Tensor:
        with self._mode(training), torch.no_grad():
            hint = f"; its second argument is the tuple that inject returned, here of {len(injection)}"
            return _tensor("forward", called("forward", lambda: self.cell(z, injection), hint))

    def _readout(self, z: Tensor) -> Tensor:
        with self._mode(False), torch.no_grad():
            return _tensor("readout", called("readout", lambda: self.cell.readout(z)))

    @contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        self.cell.train(training)
        with self.cell.fixed_weights():
            yield

    def _require_shape(self, name: str, given: object, shape: tuple[int, ...]) -> None:
        value = _tensor(name, given)
        if tuple(value.shape) != shape:
            raise Fault(
                f"{name} returned the shape {tuple(value.shape)} for a batch of {self.batch}; it must return {shape}"
            )
        if not value.is_floating_point():
            raise Fault(f"{name} returned {name_of(value.dtype)}; it must return floating-point numbers")


def _tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise Fault(f"{name} returned a {type(value).__name__}; it must return a tensor")
    return value


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """(batch, numbers): all tensors of an injection side by side."""
    return torch.cat([part.flatten(1).double() if part.dim() > 1 else part[:, None].double() for part in parts], dim=1)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())


def _near(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding; numbers that are not finite are another check's."""
    if one.shape != other.shape:
        return False
    one, other = one.double().nan_to_num(), other.double().nan_to_num()
    return bool((one - other).abs().max() <= NEAR * max(1.0, float(other.abs().max()))) if one.numel() else True


def _shake(cell: Cell) -> None:
    """Move every weight a little, so that no path is closed by a zero with which it begins."""
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.is_floating_point():
                parameter.add_(0.05 * torch.randn_like(parameter))


def _gradients(value: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not value.requires_grad:
        return [None] * len(inputs)
    return torch.autograd.grad(value, inputs, torch.randn_like(value), retain_graph=True, allow_unused=True)


def _require_finite(name: str, value: Tensor) -> None:
    if not bool(value.isfinite().all()):
        raise Fault(
            f"{name} gives numbers that are not finite on finite data; a cell must not divide by 0, nor grow "
            "without bound"
        )
