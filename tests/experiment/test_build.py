"""From settings to objects: the right ones, with the given parameters, or one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deqrun.errors import UserError
from deqrun.experiment import build
from deqrun.gradients import Implicit, OneStep
from deqrun.settings import ComponentSettings, Settings, load_settings
from deqrun.settings.sources import ConfigSources, open_sources
from deqrun.solvers import Budget, Picard, Secant


@pytest.fixture(scope="module")
def sources() -> Iterator[ConfigSources]:
    with open_sources() as opened:
        yield opened


def settings_of(sources: ConfigSources, *overrides: str) -> Settings:
    return load_settings(sources.compose("train", ["model=mlp", *overrides]))


def test_solvers_and_budgets_carry_the_parameters_that_were_given(sources: ConfigSources) -> None:
    settings = settings_of(sources, "solver.memory=3", "budget=deep", "budget.patience=7", "sweep.solvers=[picard]")
    assert build.build_solver(settings) == Secant(memory=3)
    assert build.build_sweep_solvers(settings) == {"picard": Picard()}
    assert build.build_budget(settings) == Budget(64, 1e-4, patience=7)


def test_the_gradient_has_a_solver_and_a_budget_of_its_own(sources: ConfigSources) -> None:
    overrides = ["solver@gradient.solver=picard", "gradient.solver.damping=0.5", "gradient.budget.max_iter=9"]
    gradient = build.build_gradient(settings_of(sources, *overrides))
    assert gradient == Implicit(solver=Picard(0.5), budget=Budget(9, 1e-3))
    assert build.build_gradient(settings_of(sources, "gradient=one_step")) == OneStep()


def test_the_cell_has_the_shape_of_the_data_set(sources: ConfigSources) -> None:
    settings = settings_of(sources, "dataset=cifar100", "model.width=11")
    cell = build.build_cell(settings, build.build_dataset(settings))
    assert (cell.input_shape, cell.num_classes, cell.state_shape) == ((3, 32, 32), 100, (11,))


def test_the_model_has_all_four_parts(sources: ConfigSources) -> None:
    settings = settings_of(sources, "solver=picard")
    deq = build.build_deq(settings, build.build_dataset(settings))
    assert deq.solver == Picard()
    assert deq.budget == Budget(24, 1e-3)
    assert isinstance(deq.gradient, Implicit)
    logits, _ = deq(torch.zeros(2, 1, 8, 8))
    assert logits.shape == (2, 10)


def test_the_optimizer_has_the_parameters_and_the_learning_rate(sources: ConfigSources) -> None:
    layer = nn.Linear(3, 2)
    optimizer = build.build_optimizer(settings_of(sources, "optimizer.lr=0.25", "train.decay=all"), layer)
    [group] = optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.25, 1e-4)
    assert group["params"] == [layer.weight, layer.bias]


MODELS = ["mlp", "conv", "mdeq", "monotone", "recall dataset=prefix_sums", "transformer dataset=copy_memory"]


@pytest.mark.parametrize("model", MODELS)
def test_weight_decay_is_for_matrices_and_kernels(sources: ConfigSources, model: str) -> None:
    """Every parameter is in one group; those without decay are vectors and gains."""
    settings = settings_of(sources, f"model={model.split()[0]}", *model.split()[1:])
    deq = build.build_deq(settings, build.build_dataset(settings))
    groups = build.build_optimizer(settings, deq).param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(decay) == len(list(deq.parameters()))
    for name, parameter in deq.named_parameters():
        left = parameter.dim() < 2 or name.endswith(".gain")
        assert decay[id(parameter)] == (0.0 if left else 1e-4), name
    described = build.decay_groups(settings, deq)
    assert sum(numbers for _, group in described for _, numbers in group) == sum(p.numel() for p in deq.parameters())


def test_a_step_shrinks_the_matrices_alone(sources: ConfigSources) -> None:
    """With gradients of 0 a step of AdamW multiplies by 1 − lr · decay, and moves nothing else."""
    for decay, factor in (("matrices", 1.0), ("all", 0.9)):
        layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        gain, direction = (getattr(layer.parametrizations["weight"], f"original{i}") for i in range(2))
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.fill_(1.0)
        words = ["optimizer.lr=0.1", "optimizer.weight_decay=1.0", f"train.decay={decay}"]
        optimizer = build.build_optimizer(settings_of(sources, *words), layer)
        for parameter in layer.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert torch.allclose(direction, torch.full((2, 3), 0.9))
        for left in (gain, layer.bias):
            assert torch.allclose(left, torch.full_like(left, factor))


def test_an_optimizer_without_decay_has_one_group(sources: ConfigSources) -> None:
    settings = settings_of(sources)
    plain = ComponentSettings.model_validate({"_target_": "torch.optim.Rprop", "lr": 0.1})
    settings = settings.model_copy(update={"optimizer": plain})
    [group] = build.build_optimizer(settings, nn.Linear(3, 2)).param_groups
    assert len(group["params"]) == 2


def test_checking_leaves_the_random_state_as_it_was(sources: ConfigSources) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build.check_components(settings_of(sources), set())
    assert torch.equal(torch.rand(3), expected)


def test_what_was_checked_is_not_built_again(sources: ConfigSources, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    build.check_components(settings_of(sources), seen)
    monkeypatch.setattr(build, "build_cell", lambda *_: pytest.fail("built again"))
    build.check_components(settings_of(sources, "seed=3", "solver=picard"), seen)


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        ({"_target_": "deqrun.solvers.Picard", "dampin": 1.0}, "the nearest is damping"),
        ({"_target_": "deqrun.solvers.Picard", "damping": "x"}, "must be a valid number"),
        ({"_target_": "deqrun.solvers.Picard", "damping": 3.0}, "got 3.0"),
        ({"_target_": "deqrun.solvers.Picrad"}, "the nearest is deqrun.solvers.Picard"),
        ({"_target_": "deqrun.solvres.Picard"}, "there is no deqrun.solvres"),
        ({"_target_": "deqrun.solvers.Budget"}, "is not a Solver"),
        ({"_target_": "deqrun.solvers.solve"}, "is not a class of deqrun or torch"),
        ({"_target_": "torch.os.system"}, "is not a class of deqrun or torch"),
        ({"_target_": "torch.hub.load"}, "is not a class of deqrun or torch"),
        ({"_target_": "os.system"}, "allow_foreign_targets"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_sentence(
    sources: ConfigSources, component: dict[str, Any], reason: str
) -> None:
    settings = settings_of(sources).model_copy(update={"solver": ComponentSettings.model_validate(component)})
    with pytest.raises(UserError) as raised:
        build.build_solver(settings)
    assert reason in str(raised.value)
    assert str(raised.value).startswith("solver")
    assert "\n" not in str(raised.value)


def test_supplied_arguments_are_not_the_configs_to_give(sources: ConfigSources) -> None:
    settings = settings_of(sources)
    sections = settings.model.model_dump() | {"num_classes": 3}
    settings = settings.model_copy(update={"model": ComponentSettings.model_validate(sections)})
    with pytest.raises(UserError, match="num_classes"):
        build.build_cell(settings, build.build_dataset(settings))


@pytest.mark.parametrize("module", ["torchlike", "deqruns", "other"])
def test_a_broken_constructor_is_one_sentence_whatever_its_module_is_called(
    module: str, sources: ConfigSources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that begins as torch's or deqrun's does not make code of a user theirs."""
    (tmp_path / f"{module}.py").write_text(
        "from deqrun.solvers import Picard\n\n\nclass Broken(Picard):\n"
        "    def __init__(self) -> None:\n        raise KeyError('damping')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ComponentSettings(target=f"{module}.Broken", parameters={})
    settings = settings_of(sources, "allow_foreign_targets=true").model_copy(update={"solver": own})
    with pytest.raises(UserError, match=rf"{module}\.Broken can't be constructed \(KeyError: 'damping'\)"):
        build.build_solver(settings)
