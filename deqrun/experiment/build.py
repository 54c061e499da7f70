"""From settings to the objects of a run: solvers, data set, cell, gradient, optimizer, model.

A `_target_` is resolved only where its name begins with deqrun or torch, and constructed only where that is a
class defined there, of the kind that its place asks for, with the parameters that it is given.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from torch import nn
from torch.optim import Optimizer

from deqrun.datasets import Dataset, DataUnavailable
from deqrun.errors import UserError, nearest, one_line, unknown
from deqrun.experiment.data.changes import MatchedDataset
from deqrun.experiment.data.record import read_record
from deqrun.experiment.devices import require_device
from deqrun.gradients import Gradient
from deqrun.models import (
    DEQ,
    BaselineDescription,
    Cell,
    CellDescription,
    describe,
    describe_baseline,
    split_by_decay,
    untied_baseline,
)
from deqrun.settings import TRUSTED_PACKAGES, ComponentSettings, Settings
from deqrun.settings.trust import is_packaged, is_trusted
from deqrun.solvers import Budget, Solver

TOO_LARGE = ("can't allocate memory", "calculation overflowed", "Overflow when unpacking")
"""PyTorch's words, in a RuntimeError or a ValueError, for a tensor that no memory holds."""


def build_budget(settings: Settings) -> Budget:
    """The budget of a solve: of training or, with `train.segments`, of all segments of a batch together."""
    return Budget(**settings.budget.model_dump() | {"max_iter": settings.solve_iterations})


def build_solver(settings: Settings) -> Solver:
    """The solver of training."""
    return construct(settings.solver, Solver, "solver", settings)


def build_sweep_solvers(settings: Settings) -> dict[str, Solver]:
    """The solvers of the sweep by name."""
    return {
        name: construct(component, Solver, f"sweep_solvers.{name}", settings)
        for name, component in settings.sweep_solvers.items()
    }


_handed_over: list[tuple[Settings, Dataset]] = []


def hand_over(settings: Settings, dataset: Dataset) -> None:
    """Keep a data set that was read for a check, for the next `build_dataset` of the same settings."""
    _handed_over[:] = [(settings, dataset)]


def build_dataset(settings: Settings) -> Dataset:
    """The data set, matched with the asked run's where `data_changed` says so.

    No data is loaded but for a matched one, and one that a check has read is taken over.
    """
    # A check has read it already: take it, once.
    if _handed_over and _handed_over[0][0].dataset == settings.dataset and _same_question(settings):
        return _handed_over.pop()[1]
    dataset = construct(settings.dataset, Dataset, "dataset", settings)
    # Other data than the run's are matched by class only where that was asked for.
    if settings.data_changed == "refuse" or settings.run is None:
        return dataset
    record = read_record(settings.run)
    return dataset if record is None else MatchedDataset(dataset, record, settings.run)


def _same_question(settings: Settings) -> bool:
    kept = _handed_over[0][0]
    return (kept.run, kept.data_changed) == (settings.run, settings.data_changed)


def build_cell(settings: Settings, dataset: Dataset) -> Cell:
    """The cell, or the net of untied layers in its place; its input shape, number of classes and of answers are those
    of the data set."""
    baseline, make = settings.baseline, partial(build_own_cell, settings, dataset)
    if baseline.kind != "untied" or baseline.layers is None or baseline.match is None:
        return make()
    # As many layers as fit the DEQ's parameters or multiply-adds.
    try:
        return untied_baseline(make, baseline.layers, baseline.match)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(one_line(f"baseline: {error}")) from error


def build_own_cell(settings: Settings, dataset: Dataset, **changes: Any) -> Cell:
    """The cell that `model` describes, whatever its baseline; changes take the place of its own parameters."""
    # The data's shape decides the cell's; both may be of the user's own.
    try:
        shape = {"input_shape": tuple(dataset.input_shape), "num_classes": dataset.num_classes}
    except DataUnavailable as error:  # a text's vocabulary is its file's
        raise UserError(str(error)) from error
    except TypeError as error:
        raise UserError(
            f"dataset={dataset.name} has no input_shape; deqrun check dataset=… says what is wrong."
        ) from error
    # A cell that answers at positions is told how many; another can't be asked there.
    target = resolve(settings.model.target, "model", trust_all=settings.allow_foreign_targets)
    if _takes_output_shape(target, dataset):
        shape["output_shape"] = tuple(dataset.output_shape)
    elif dataset.output_shape:
        raise UserError(
            f"model={settings.choices.get('model')} answers once per sample, but dataset={dataset.name} asks for "
            f"{' x '.join(map(str, dataset.output_shape))} answers; allowed are models that answer at every position, "
            "as model=recall and model=transformer do."
        )
    model = settings.model.model_copy(update={"parameters": settings.model.parameters | changes})
    return construct(model, Cell, "model", settings, **shape)


def _takes_output_shape(target: Callable[..., Any], dataset: Dataset) -> bool:
    """Whether a cell's constructor takes `output_shape`, by its name; or, where it is needed, among **kwargs."""
    parameters = inspect.signature(target).parameters
    others = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    return "output_shape" in parameters or (others and bool(dataset.output_shape))


def at_difficulty(settings: Settings, difficulty: int | None) -> Settings:
    """The same settings with data of this difficulty; None: the run's own. Raises UserError where it has none."""
    if difficulty is None:
        return settings
    name = construct(settings.dataset, Dataset, "dataset", settings).difficulty
    if name is None:
        raise UserError(
            f"sweep.difficulties=[{difficulty}] was given, but dataset={settings.choices.get('dataset')} has no "
            "difficulty; prefix_sums (length), mazes (size), sudoku (holes), copy_memory (blanks), group_words "
            "(length) and arithmetic (digits) have one."
        )
    parameters = settings.dataset.parameters | {name: difficulty}
    return settings.model_copy(update={"dataset": settings.dataset.model_copy(update={"parameters": parameters})})


def _check_difficulties(settings: Settings) -> None:
    """The weights fit the data of every difficulty that the sweep asks for."""
    if not settings.sweep.difficulties:
        return
    # Compare shapes of weights, without any data.
    own = _weight_shapes(settings)
    for difficulty in settings.sweep.difficulties:
        other = _weight_shapes(at_difficulty(settings, difficulty))
        name = next((name for name in own if own[name] != other.get(name)), None)
        if name is not None:
            raise UserError(
                f"sweep.difficulties: model={settings.choices.get('model')} can't be asked at {difficulty}, as its "
                f"weights depend on the size of the input ({name} is {list(own[name])} as trained and would be "
                f"{list(other.get(name, ()))}); allowed are models whose weights don't, as convolutions' don't."
            )


def _check_symmetries(settings: Settings) -> None:
    """The data set knows symmetries, where the sweep asks for them."""
    if settings.sweep.symmetries and not build_dataset(settings).symmetric:
        raise UserError(
            f"sweep.symmetries={settings.sweep.symmetries} was given, but dataset={settings.choices.get('dataset')} "
            "knows no symmetries; sudoku, mazes and puzzles do (else give sweep.symmetries=null)."
        )


def _weight_shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    state = build_cell(settings, build_dataset(settings)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def build_gradient(settings: Settings) -> Gradient:
    """How the loss at the equilibrium reaches the weights."""
    return construct(settings.gradient, Gradient, "gradient", settings)


def build_optimizer(settings: Settings, model: nn.Module) -> Optimizer:
    """The optimizer of a model's parameters.

    With `train.decay=matrices` the parameters that weight decay is not for are a second group, whose decay is 0; an
    optimizer without weight decay has one group.
    """
    _require_numbers_of_optimizer(settings.optimizer.parameters)
    # Two groups where decay is for matrices alone, one otherwise.
    params: list[Any] = list(model.parameters())
    if settings.train.decay == "matrices" and _has_weight_decay(settings):
        decays, others = split_by_decay(model)
        if decays and others:
            params = [{"params": list(decays.values())}, {"params": list(others.values()), "weight_decay": 0.0}]
        elif others:
            params = [{"params": list(others.values()), "weight_decay": 0.0}]
    return construct(settings.optimizer, Optimizer, "optimizer", settings, params=params)


NEVER_NEGATIVE = ("lr", "weight_decay", "eps", "momentum", "dampening", "lr_decay")
"""Parameters of torch's optimizers that are refused below 0, by a message that names no range."""


def _require_numbers_of_optimizer(parameters: Mapping[str, Any]) -> None:
    for name in NEVER_NEGATIVE:
        value = parameters.get(name)
        if isinstance(value, int | float) and value < 0:
            raise UserError(f"optimizer.{name}={value:g} is not allowed; it must be at least 0.")
    betas = parameters.get("betas")
    if isinstance(betas, list | tuple) and not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas):
        raise UserError(f"optimizer.betas={list(betas)} is not allowed; each must be a number from 0 up to below 1.")


def _has_weight_decay(settings: Settings) -> bool:
    target = resolve(settings.optimizer.target, "optimizer", trust_all=settings.allow_foreign_targets)
    return "weight_decay" in inspect.signature(target).parameters


def decay_groups(settings: Settings, model: nn.Module) -> list[tuple[float, list[tuple[str, int]]]]:
    """(weight decay, (name, numbers) of each parameter) of each group of the optimizer; 0 where it knows no decay."""
    names = {id(parameter): (name, parameter.numel()) for name, parameter in model.named_parameters()}
    groups = build_optimizer(settings, model).param_groups
    return [(float(group.get("weight_decay", 0.0)), [names[id(one)] for one in group["params"]]) for group in groups]


def build_deq(settings: Settings, dataset: Dataset) -> DEQ:
    """The model: its cell, solved by the solver of training within the training budget."""
    deq = DEQ(build_cell(settings, dataset), build_solver(settings), build_budget(settings), build_gradient(settings))
    if settings.train.channels_last:
        order_channels_last(deq)
    return deq


def describe_model(
    settings: Settings, dataset: Dataset, cell: Cell
) -> tuple[CellDescription, BaselineDescription | None]:
    """Size and cost of the cell that is trained and, of an explicit baseline, beside the DEQ's."""
    trained = describe(cell)
    if settings.baseline.layers is None:
        return trained, None
    # The DEQ beside a baseline is only counted: no memory is taken for its weights.
    with torch.device("meta"):
        own = build_own_cell(settings, dataset)
    return trained, describe_baseline(trained, describe(own), settings.baseline.layers)


def order_channels_last(model: nn.Module) -> None:
    """Put the weights of 2-d convolutions into channels-last order; their outputs then have that order, too.

    PyTorch takes the weight's order for the output, whatever the input's, so inputs need not be changed. Where a weight
    has the same numbers in both orders, as of a single channel or a single pixel, it takes the input's.
    """
    for weight in (parameter for parameter in model.parameters() if parameter.dim() == 4):
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def check_components(settings: Settings, seen: set[str]) -> None:
    """Build every component once, so that each speaks for itself before anything starts.

    seen  components built before, as text; added to. The random state is left as it was. Raises UserError.
    """
    require_device(settings)
    # Keyed by what each check depends on, so that the jobs of a grid share those that are equal.
    model = f"{settings.model} {settings.dataset} {settings.baseline}"
    checks: dict[str, Callable[[Settings], object]] = {
        f"dataset {settings.dataset}": build_dataset,
        f"solver {settings.solver}": build_solver,
        f"sweep {settings.sweep_solvers}": build_sweep_solvers,
        f"gradient {settings.gradient}": build_gradient,
        f"budget {settings.budget} {settings.train.segments}": build_budget,
        f"optimizer {settings.optimizer}": lambda one: build_optimizer(one, nn.Linear(1, 1)),
        f"model {model}": lambda one: build_cell(one, build_dataset(one)),
        f"all {model} {settings.solver} {settings.sweep_solvers}": _check_adapts,
        f"head {model} {settings.train} {settings.sweep.halting}": _check_halting_head,
        f"difficulties {model} {settings.sweep.difficulties}": _check_difficulties,
        f"symmetries {settings.dataset} {settings.sweep.symmetries}": _check_symmetries,
    }
    # Building draws weights: the run that follows must find the generator as it was.
    with torch.random.fork_rng(devices=[]):
        for text, check in checks.items():
            if text not in seen:
                check(settings)
                seen.add(text)


def _check_halting_head(settings: Settings) -> None:
    """The cell has a halting head where a loss or a rule is for one."""
    weight, rules = settings.train.halt_weight, settings.sweep.halting
    if not (weight > 0 or "head" in rules) or build_cell(settings, build_dataset(settings)).has_halting_head:
        return
    given = f"train.halt_weight={weight}" if weight > 0 else f"sweep.halting=[{','.join(rules)}]"
    other = "train.halt_weight=0" if weight > 0 else "the other rules"
    raise UserError(
        f"{given} needs a halting head, and model={settings.choices.get('model')} has none as it is configured; "
        f"allowed are cells with model.halting_head=true, as trm and eqr, and {other}."
    )


def _check_adapts(settings: Settings) -> None:
    """Every solver can be asked about this cell: the splitting solvers need one that shows its structure."""
    solvers = {"solver": build_solver(settings)}
    solvers |= {f"sweep.solvers: {name}": solver for name, solver in build_sweep_solvers(settings).items()}
    # Only solvers with an `adapt` of their own ask anything of the cell.
    solvers = {where: solver for where, solver in solvers.items() if type(solver).adapt is not Solver.adapt}
    if not solvers:
        return
    dataset = build_dataset(settings)
    cell = build_cell(settings, dataset).eval()
    with torch.no_grad():
        f, z0 = cell.bind(torch.zeros(1, *dataset.input_shape)), torch.zeros(1, *cell.state_shape)
    for where, solver in solvers.items():
        try:
            solver.adapt(f, z0)
        except TypeError as error:
            raise UserError(one_line(f"{where}: {error}")) from error


def construct(component: ComponentSettings, kind: type, where: str, settings: Settings, **supplied: Any) -> Any:
    """The object that a component describes, of the kind that its place asks for.

    component  class and parameters; parameters that are components are constructed first
    where      the component's dotted key, for messages
    supplied   arguments that the program gives and the config may not

    Raises UserError where the class can't be found, isn't trusted or is of another kind, where a parameter is
    not the constructor's or has another type, and where the constructor raises ValueError or TypeError.
    """
    target = resolve(component.target, where, trust_all=settings.allow_foreign_targets)
    if isinstance(target, type) and not issubclass(target, kind):
        raise UserError(f"{where}._target_={component.target} is not a {kind.__name__}, which {where} must be.")
    _check_parameters(target, component.parameters, where, supplied)
    # Parameters that are components first, such as the solver of a gradient.
    arguments = {
        name: construct(value, object, f"{where}.{name}", settings) if isinstance(value, ComponentSettings) else value
        for name, value in component.parameters.items()
    }
    try:
        return target(**arguments, **supplied)
    except DataUnavailable as error:
        raise UserError(str(error)) from error
    # A constructor may raise anything; what is the user's to mend becomes a sentence.
    except Exception as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in TOO_LARGE):
            raise UserError(f"{where} takes more memory than there is; allowed are smaller values of it.") from error
        if isinstance(error, (ValueError, TypeError)):
            raise UserError(one_line(f"{where}: {error}")) from error
        if is_packaged(component.target):
            raise
        raise UserError(one_line(f"{where}: {component.target} can't be constructed ({_reason(error)})")) from error


def resolve(target: str, where: str, *, trust_all: bool = False) -> Callable[..., Any]:
    """The class that a dotted name means.

    The name's own beginning is not enough: torch.os.system begins with torch. So unless `trust_all`, what it
    means must be a class that was defined in deqrun or torch. Raises UserError.
    """
    # First by name, so that nothing foreign is imported.
    trusted = is_packaged(target)
    of_the_user = not trusted and is_trusted(target)
    if not (trusted or trust_all or of_the_user):
        raise UserError(
            f"{where}._target_={target} is outside of deqrun and torch; allow_foreign_targets=true admits it."
        )
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        if not trusted and (broken := _broken_import(target, error)):
            raise UserError(f"{where}._target_={target} can't be imported ({broken}).") from error
        raise UserError(_not_found(target, where)) from error
    except Exception as error:  # whatever a user's module does when it is imported
        raise UserError(one_line(f"{where}._target_={target} can't be imported ({_reason(error)})")) from error
    # Then by what was found: its own module, not the one it was imported through.
    defined_in = str(getattr(found, "__module__", "")).partition(".")[0]
    if (trust_all and callable(found)) or (of_the_user and isinstance(found, type)):
        return found
    if of_the_user:
        raise UserError(f"{where}._target_={target} is not a class; name one, as in the configs.")
    if not isinstance(found, type) or defined_in not in TRUSTED_PACKAGES:
        raise UserError(f"{where}._target_={target} is not a class of deqrun or torch; name one, as in the configs.")
    return found


def _reason(error: Exception) -> str:
    """'SyntaxError: invalid syntax (mine.py, line 3)', on one line."""
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


def _broken_import(target: str, error: Exception) -> str:
    """Why a user's module that exists can't be imported: another module that it imports is missing; '' otherwise."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if isinstance(error, ModuleNotFoundError) and missing is not None and not f"{target}.".startswith(f"{missing}."):
        return _reason(error)
    plain = isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError)
    return _reason(error) if plain or isinstance(error, ValueError) else ""


def _not_found(target: str, where: str) -> str:
    # The nearest name in the module, if the module is there.
    module_name, _, name = target.rpartition(".")
    try:
        module = pkgutil.resolve_name(module_name)
    except (ImportError, AttributeError, ValueError):
        return f"{where}._target_={target} can't be found: there is no {module_name}."
    classes = [key for key, value in vars(module).items() if isinstance(value, type)]
    near = nearest(name, classes)
    hint = f"; the nearest is {module_name}.{near}" if near else ""
    return f"{where}._target_={target} can't be found: {module_name} has no {name}{hint}."


def _check_parameters(
    target: Callable[..., Any], parameters: dict[str, Any], where: str, supplied: dict[str, Any]
) -> None:
    # Names first, then types: each with the nearest thing that is allowed.
    try:
        signature = inspect.signature(target, eval_str=True).parameters
    except NameError:  # an annotation that only a type checker can see
        signature = inspect.signature(target).parameters
    # **kwargs takes any name: the constructor itself must say what it doesn't know.
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in signature.values()):
        return
    allowed = [name for name in signature if name not in supplied]
    kind = getattr(target, "__name__", str(target))
    for name, value in parameters.items():
        if name not in allowed:
            raise UserError(unknown(f"{where}.{name}={value}", f"a parameter of {kind}", allowed, name))
        if not isinstance(value, ComponentSettings):
            _check_type(signature[name].annotation, value, f"{where}.{name}")


def _check_type(annotation: Any, value: Any, where: str) -> None:
    """A value has the type that the constructor's annotation asks for, where pydantic can tell."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return
    # Annotations that pydantic can't read are left to the constructor.
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        return
    try:
        adapter.validate_python(value, strict=not isinstance(value, list | dict))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].replace("Input should be", "it must be")
        raise UserError(one_line(f"{where}={value} is not allowed: {reason}")) from error
