"""How often the host waits in real training steps and sweeps, for each model's default config and short budgets."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deqrun.experiment.training.train import TrainingStopped
from deqrun.solvers.device import HOST_CHECK_EVERY
from tests.devices.measure import CASES, SLIM, StepWaits, settings_of, sweep_waits, train_small, training_waits
from tests.pretend_device import counted, install
from tests.usual import usual

DEVICE = install()
MLP = [*CASES["mlp"], *SLIM["mlp"]]
SHORT = ["budget.max_iter=12", "gradient.budget.max_iter=12"]
"""Of a solve that takes them all the host looks at the end and once before."""


BESIDE = 3
"""Waits of a training step beside its solves."""


def assert_bounded(step: StepWaits) -> None:
    assert step.forward_waits <= math.ceil(step.forward_steps / HOST_CHECK_EVERY)
    assert step.adjoint_waits <= math.ceil(step.adjoint_steps / HOST_CHECK_EVERY)
    assert step.beside <= BESIDE


@pytest.mark.parametrize("model", usual(CASES, ["mdeq_large", "eqr_small", "fprm_small", "looped_lm"]))
def test_a_training_step(model: str) -> None:
    for step in training_waits([*CASES[model], *SLIM[model], *SHORT], steps=2):
        assert step.forward_steps >= HOST_CHECK_EVERY
        assert_bounded(step)


OPTIONS = {
    "penalty": ["train.jacobian_weight=1", "train.jacobian_frequency=1"],
    "previous": ["train.start=previous"],
    "mixture": ["train.start=mixture"],
    "budgets": ["train.random_budget=[8,24]", "train.random_budget_per=sample"],
    "noise": ["train.path_noise=0.01", "train.path_damping=0.9"],
    "corrections": ["train.corrections=3"],
    "progressive": ["train.progressive_weight=0.5"],
    "warmup": ["train.unrolled_warmup_steps=2"],
    "phantom": ["gradient=phantom"],
    "one_step": ["gradient=one_step"],
    "unrolled": ["gradient=unrolled"],
    "untied": ["baseline=untied", "baseline.layers=3"],
    "picard": ["solver=picard"],
    "broyden": ["solver=broyden", "solver@gradient.solver=broyden"],
    "secant": ["solver=secant", "solver@gradient.solver=secant"],
    "newton": ["solver=newton", "solver@gradient.solver=newton"],
    "damped": ["solver=damped"],
}


FOR_THE_NIGHT = (
    "budgets",
    "progressive",
    "unrolled",
    "penalty",
    "mixture",
    "warmup",
    "phantom",
    "one_step",
    "untied",
    "picard",
    "secant",
    "damped",
)


@pytest.mark.parametrize("name", usual(OPTIONS, FOR_THE_NIGHT))
def test_options_of_training_add_few_waits(name: str) -> None:
    for step in training_waits([*MLP, *OPTIONS[name]], steps=2):
        assert_bounded(step)


@pytest.mark.parametrize("solver", ["forward_backward", "peaceman_rachford"])
def test_splitting_solvers_read_their_step_size(solver: str) -> None:
    for step in training_waits([*CASES["monotone"], f"solver={solver}", f"solver@gradient.solver={solver}"], steps=2):
        assert step.total <= BESIDE + sum(
            math.ceil(each / HOST_CHECK_EVERY) for each in (step.forward_steps, step.adjoint_steps)
        )


SWEPT_AT_NIGHT = ["mdeq_large", "trm_small", "conv", "monotone", "monotone_conv", "transformer"]
SWEPT_AT_NIGHT += ["eqr_small", "fprm_small", "looped_lm"]


@pytest.mark.parametrize("model", usual(CASES, SWEPT_AT_NIGHT))
def test_a_sweep(model: str, tmp_path: Path) -> None:
    found = sweep_waits([*CASES[model], *SLIM[model], "sweep.iterations=[1,8,16]"], tmp_path, samples=16)
    assert found.steps > 0
    assert found.waits <= found.steps / HOST_CHECK_EVERY


AXES = [
    "sweep.starts=[zeros,normal,other]",
    "sweep.halting=[residual,change,kl,entropy,stable]",
    "sweep.precisions=[float32,bfloat16,float64]",
    "sweep.solvers=[picard,anderson,broyden,secant,damped,newton]",
]


@pytest.mark.parametrize("axis", AXES)
def test_each_axis_of_a_sweep(axis: str, tmp_path: Path) -> None:
    found = sweep_waits([*MLP, "sweep.iterations=[1,4,16,24]", axis], tmp_path, samples=16)
    assert found.waits <= found.steps / HOST_CHECK_EVERY


def test_the_longer_an_epoch_the_fewer_waits_a_step() -> None:
    """Figures of steps are read together: a further step adds its looks, and no read of a figure."""
    overrides = [*MLP, "budget.tol=0", "gradient.budget.tol=0", "train.jacobian_weight=0"]
    totals = []
    for samples in (16 * 2, 16 * 4):
        with counted() as found:
            train_small(settings_of(*overrides), DEVICE, samples)
        totals.append(found["value read"])
    # Two solves of 24 steps with two looks each, and one look for finiteness.
    assert totals[1] - totals[0] == 2 * (2 + 2 + 1)


def test_a_loss_that_is_lost_is_told() -> None:
    with pytest.raises(TrainingStopped, match="loss is not finite at step"):
        train_small(settings_of(*MLP, "optimizer.lr=1e30", "train.clip_norm=null"), DEVICE, 64)
