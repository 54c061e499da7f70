"""An explicit peer is one switch: whatever contradicts it is told in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deqrun.errors import UserError
from deqrun.settings import Settings, load_settings, settings_from
from deqrun.settings.sources import open_sources
from tests.cli.conftest import Launches, Outcome

Deqrun = Callable[..., Outcome]
Refused = Callable[..., str]
MadeRun = Callable[..., Path]


def composed(*overrides: str) -> Settings:
    with open_sources() as sources:
        return load_settings(sources.compose("train", overrides))


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_one_switch_sets_all_that_belongs(kind: str) -> None:
    settings = composed(f"peer={kind}", "peer.layers=5", "model=conv")
    assert settings.name == f"conv-{kind}5-digits"
    assert settings.solver.model_dump() == {"_target_": "deqrun.solvers.Picard", "damping": 1.0}
    assert settings.gradient.target == "deqrun.gradients.Unrolled"
    assert settings.gradient.parameters == {"steps": 5, "damping": 1.0, "checkpoint": 0, "last": None}
    budget = settings.budget
    assert (budget.max_iter, budget.tol, budget.keep, budget.patience) == (5, 0.0, "last", None)
    assert (settings.choices["solver"], settings.choices["gradient"]) == ("picard", "unrolled")
    assert settings.train.jacobian_weight == 0
    assert list(settings.sweep_solvers) == ["picard"]
    tolerances = settings.sweep.tolerances
    assert tolerances == ((0.0,) if kind == "untied" else (*composed().sweep.tolerances, 0.0))


def studies() -> list[str]:
    with open_sources() as sources:
        return sources.groups["study"]


@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("study", studies())
def test_every_study_has_peers(study: str, kind: str) -> None:
    """Whatever solver and gradient a study chose for its DEQ, with whatever parameters."""
    settings, own = composed(f"study={study}", f"peer={kind}"), composed(f"study={study}")
    assert settings.gradient == composed(f"peer={kind}").gradient
    assert (settings.model, settings.dataset, settings.optimizer) == (own.model, own.dataset, own.optimizer)
    assert settings.train.epochs == own.train.epochs
    assert not any("@" in group for group in settings.choices)


def test_what_agrees_with_a_peer_may_be_typed() -> None:
    typed = composed("peer=untied", "solver=picard", "gradient=unrolled", "gradient.checkpoint=2", "budget.tol=0")
    assert typed.gradient.parameters["checkpoint"] == 2
    assert composed("peer=tied", "sweep.solvers=[picard,anderson]", "sweep.tolerances=[1e-3]").sweep_solvers
    assert composed("peer=tied", "train.start=normal", "train.path_noise=0.01").train.start == "normal"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["peer=tied", "solver=anderson"], "solver=anderson does not go with peer=tied"),
        (["peer=tied", "solver.memory=3"], "solver.memory=3 does not go with peer=tied"),
        (["peer=untied", "gradient=implicit"], "leave gradient out"),
        (["peer=untied", "solver@gradient.solver=picard"], "back-propagated through"),
        (["peer=untied", "gradient=unrolled", "gradient.last=2"], "gradient.last=2 does not go with peer=untied"),
        (["peer=tied", "budget.max_iter=9"], "budget.max_iter=9 does not go with peer=tied and peer.layers=8"),
        (["peer=tied", "budget.tol=1e-3"], "it must be 0"),
        (["peer=tied", "budget.keep=best"], "it must be last"),
        (["peer=tied", "train.random_budget=[1,8]"], "train.random_budget=[1, 8] does not go with peer=tied"),
        (["peer=untied", "train.jacobian_weight=0.5"], "it must be 0"),
        (["peer=untied", "train.corrections=2"], "train.corrections=2 does not go with"),
        (["peer=untied", "train.start=previous"], "it must be zeros"),
        (["peer=untied", "sweep.solvers=[picard,anderson]"], "give sweep.solvers=[picard]"),
        (["peer=untied", "sweep.tolerances=[1e-3]"], "give sweep.tolerances=[0]"),
        (["peer=tied", "peer.match=parameters"], "nothing to match"),
        (["peer=untied", "peer.match=null"], "give parameters or multiply_adds"),
        (["peer=untied", "peer.match=paramters"], "the nearest is parameters"),
        (["peer=untied", "peer.layers=0"], "peer.layers=0 is out of range"),
        (["peer.layers=4"], "give peer=tied or peer=untied"),
        (["peer.kind=tied"], "give peer=tied"),
        (["peer=united"], "the nearest is untied"),
        (["model=conv", "peer=untied", "peer.layers=400"], "give fewer layers, or match=multiply_adds"),
    ],
)
def test_a_contradiction_is_told(refused: Refused, overrides: list[str], reason: str) -> None:
    assert reason in refused("train", *overrides)


def test_a_config_that_was_edited_cannot_be_half_a_peer() -> None:
    sections: dict[str, Any] = composed("peer=untied").sections() | {"allow_foreign_targets": False}
    anderson = {"_target_": "deqrun.solvers.Anderson"}
    with pytest.raises(UserError, match=r"solver._target_=deqrun.solvers.Anderson does not go with peer=untied"):
        settings_from(sections | {"solver": anderson})
    with pytest.raises(UserError, match=r"gradient.steps=7 does not go with"):
        settings_from(sections | {"gradient": sections["gradient"] | {"steps": 7}})


def test_a_sweep_of_untied_layers_asks_layer_by_layer(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp", "peer=untied")
    assert deqrun("sweep", f"run={run}", "sweep=quick").code == 0
    [settings] = launches.settings
    assert (settings.sweep.tolerances, list(settings.sweep_solvers)) == ((0.0,), ["picard"])
    assert settings.sweep.iterations == (1, 2, 4, 8, 16)
    assert (settings.peer.kind, settings.name) == ("untied", "mlp-untied8-digits")


def test_a_sweep_of_tied_layers_may_ask_any_solver(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp", "peer=tied")
    assert deqrun("sweep", f"run={run}").code == 0
    assert list(launches.settings[0].sweep_solvers) == ["picard", "anderson"]


@pytest.mark.parametrize(
    ("kind", "override", "reason"),
    [
        ("untied", "sweep.solvers=[anderson]", "untied layers have no fixed point"),
        ("untied", "solver.damping=0.5", "solver.damping=0.5 does not go with peer=untied"),
        ("tied", "solver=anderson", "sweep.solvers asks with others"),
        ("tied", "peer.layers=4", "peer.layers=4 can't change: the run was trained before"),
    ],
)
def test_a_sweep_cannot_contradict_the_peer_either(
    refused: Refused, made_run: MadeRun, kind: str, override: str, reason: str
) -> None:
    run = made_run("model=mlp", f"peer={kind}")
    assert reason in refused("sweep", f"run={run}", override)


def test_a_peer_goes_on_as_it_began(
    deqrun: Deqrun, refused: Refused, launches: Launches, made_run: MadeRun, workspace: Path
) -> None:
    run = made_run("model=mlp", "peer=untied")
    assert "differs from the run's own peer.layers=8" in refused(
        "train", f"run={run}", "resume=true", "peer=untied", "peer.layers=4"
    )
    assert "differs from the run's own peer=untied" in refused("train", f"run={run}", "resume=true", "peer=tied")
    assert deqrun("train", f"run={run}", "resume=true", "model=mlp", "peer=untied").code == 0
    assert launches.settings[0].peer.kind == "untied"
