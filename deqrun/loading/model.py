"""The model of a run, called on tensors of one's own: encoding, budget, solver, and class names included."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deqrun.datasets import Dataset
from deqrun.errors import UserError, one_line, unknown
from deqrun.experiment.build import build_deq, build_solver, build_sweep_solvers
from deqrun.experiment.build import construct as construct_component
from deqrun.experiment.data.record import FILE
from deqrun.experiment.trained import load_best
from deqrun.models import DEQ
from deqrun.records.safe_reading import is_there, read_json
from deqrun.settings import Settings
from deqrun.solvers import Solution, Solver, Status
from deqrun.solvers.device import has_float64

__all__ = ["Answer", "RunModel", "load_model"]


@dataclass(frozen=True)
class Answer:
    """The answer to a batch.

    logits    (batch, classes, *output_shape)
    classes   names of the classes in the order of their numbers
    solution  how each sample was solved: steps, status, residuals of every iterate
    """

    logits: Tensor
    classes: tuple[str, ...]
    solution: Solution

    @property
    def labels(self) -> Tensor:
        """Number of the most likely class, (batch, *output_shape)."""
        return self.logits.argmax(1)

    @property
    def names(self) -> list[Any]:
        """Name of the most likely class: a string a sample, or nested lists where a sample has several answers."""
        return _named(self.labels.tolist(), self.classes)

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, of the same shape."""
        return self.logits.softmax(1)

    @property
    def residual(self) -> Tensor:
        """Residual of the state that was read out, (batch,)."""
        return self.solution.residual

    @property
    def evaluations(self) -> Tensor:
        """Evaluations of the cell that each sample took, (batch,)."""
        return self.solution.nfe

    @property
    def status(self) -> list[str]:
        """Why each sample stopped: converged, exhausted, stalled or diverged."""
        return [Status(code).name.lower() for code in self.solution.status.tolist()]


def _named(labels: list[Any], classes: tuple[str, ...]) -> list[Any]:
    return [_named(label, classes) if isinstance(label, list) else classes[label] for label in labels]


class RunModel:
    """A trained model. Call it as model(x, max_iter=…, tol=…, solver=…); what isn't given is as in training.

    deq      the module, for everything else
    dataset  the data set's encoding and shapes; its samples are not loaded
    classes  names of the classes
    solvers  by name, as `solver=` takes them
    """

    def __init__(self, deq: DEQ, dataset: Dataset, classes: tuple[str, ...], solvers: dict[str, Solver]) -> None:
        self.deq, self.dataset, self.classes, self.solvers = deq, dataset, classes, solvers

    @property
    def device(self) -> torch.device:
        return next(self.deq.parameters()).device

    def encode(self, x: Any) -> Tensor:
        """The model's input, (batch, *input_shape), of samples as the data set stores them, the batch first.

        Raises ValueError where they have another shape or kind.
        """
        shape = tuple(self.dataset.input_shape)
        try:
            given = self._there(x)
            encoded = self.dataset.encode(given)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(one_line(f"x can't be encoded as {self.dataset.name} ({error})")) from error
        if tuple(encoded.shape[1:]) != shape:
            hint = "; x[None] is a batch of one" if tuple(encoded.shape) == shape else ""
            raise ValueError(
                f"x of shape {tuple(given.shape)} becomes {tuple(encoded.shape)}, and the model takes "
                f"(batch, {', '.join(map(str, shape))}){hint}."
            )
        return encoded

    def _there(self, x: Any) -> Tensor:
        """x as a tensor on the model's device, in float32 where the device lacks NumPy's float64."""
        given = torch.as_tensor(x)
        narrow = given.dtype == torch.float64 and not has_float64(self.device)
        return (given.float() if narrow else given).to(self.device)

    def __call__(
        self,
        x: Any,
        *,
        max_iter: int | None = None,
        tol: float | None = None,
        solver: str | Solver | None = None,
        encoded: bool = False,
    ) -> Answer:
        """The answer to samples x, each solved by itself, without gradients.

        x         samples as the data set stores them, (batch, …): a tensor, an array or nested lists
        max_iter  solver steps that a sample may take
        tol       residual at which a sample is done
        solver    a name in `solvers`, or a solver such as deqrun.solvers.Anderson(memory=3)
        encoded   whether x is the model's input already

        Raises ValueError on an x of the wrong shape, UserError on an unknown solver.
        """
        given = self._there(x) if encoded else self.encode(x)
        # Floating-point numbers as wide as the weights: NumPy's are double.
        inputs = given.to(next(self.deq.parameters()).dtype) if given.is_floating_point() else given
        given_limits = {name: value for name, value in (("max_iter", max_iter), ("tol", tol)) if value is not None}
        budget = self.deq.budget.with_(**given_limits)
        with torch.no_grad(), self.deq.cell.fixed_weights():
            f = self.deq.bind(inputs)
            z, solution = self.deq.settle(f, self.deq.start(f), solver=self._solver(solver), budget=budget)
            return Answer(self.deq.cell.readout(z), self.classes, solution)

    def _solver(self, given: str | Solver | None) -> Solver:
        if given is None:
            return self.deq.solver
        if isinstance(given, Solver):
            return given
        if given not in self.solvers:
            raise UserError(unknown(f"solver={given!r}", "a solver of this run", self.solvers, str(given)))
        return self.solvers[given]


def load_model(settings: Settings, run: Path, device: str) -> RunModel:
    """The model of a run with the weights that validation chose, in evaluation mode."""
    dataset: Dataset = construct_component(settings.dataset, Dataset, "dataset", settings)
    names = _recorded_classes(run)
    if names is not None:  # known without the data, even where the data set would read its files for them
        vars(dataset).update(classes=names, num_classes=len(names))
    try:
        place = torch.device(device)
        deq = build_deq(settings, dataset).to(place)
    except (RuntimeError, AssertionError) as error:
        raise UserError(one_line(f"device={device!r} can't be had: {error}")) from error
    load_best(deq, run)
    classes = names or dataset.classes or tuple(map(str, range(dataset.num_classes)))
    solvers = build_sweep_solvers(settings)
    trained = settings.choices.get("solver")
    if trained is not None:
        solvers.setdefault(trained, build_solver(settings))
    return RunModel(deq.eval(), dataset, classes, solvers)


def _recorded_classes(run: Path) -> tuple[str, ...] | None:
    """Names of the classes from data.json; None where it isn't there. Raises UserError where it is damaged."""
    path = run / FILE
    try:
        return tuple(map(str, read_json(path)["classes"])) if is_there(path) else None
    except (OSError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{path}, which names the classes, is damaged ({reason}); put it back from a copy.") from error
