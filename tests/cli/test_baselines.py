"""An explicit baseline is one switch: whatever contradicts it is told in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deqrun.errors import UserError
from deqrun.records.reading import read_run
from deqrun.settings import Settings, load_settings, settings_from
from deqrun.settings.sources import open_sources
from tests.cli.conftest import Launches, Outcome

Deqrun = Callable[..., Outcome]
Refused = Callable[..., str]
MadeRun = Callable[..., Path]


@cache
def composed(*overrides: str) -> Settings:
    with open_sources() as sources:
        return load_settings(sources.compose("train", overrides))


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_one_switch_sets_all_that_belongs(kind: str) -> None:
    settings = composed(f"baseline={kind}", "baseline.layers=5", "model=conv")
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


@pytest.mark.each
@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("study", studies())
def test_every_study_has_baselines(study: str, kind: str) -> None:
    """Whatever solver and gradient a study chose for its DEQ, with whatever parameters."""
    settings, own = composed(f"study={study}", f"baseline={kind}"), composed(f"study={study}")
    assert settings.gradient == composed(f"baseline={kind}").gradient
    assert (settings.model, settings.dataset, settings.optimizer) == (own.model, own.dataset, own.optimizer)
    assert settings.train.epochs == own.train.epochs
    assert not any("@" in group for group in settings.choices)


def test_what_agrees_with_a_baseline_may_be_typed() -> None:
    typed = composed("baseline=untied", "solver=picard", "gradient=unrolled", "gradient.checkpoint=2", "budget.tol=0")
    assert typed.gradient.parameters["checkpoint"] == 2
    assert composed("baseline=tied", "sweep.solvers=[picard,anderson]", "sweep.tolerances=[1e-3]").sweep_solvers
    assert composed("baseline=tied", "train.start=normal", "train.path_noise=0.01").train.start == "normal"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["baseline=tied", "solver=anderson"], "solver=anderson does not go with baseline=tied"),
        (["baseline=tied", "solver.memory=3"], "solver.memory=3 does not go with baseline=tied"),
        (["baseline=untied", "gradient=implicit"], "leave gradient out"),
        (["baseline=untied", "solver@gradient.solver=picard"], "back-propagated through"),
        (
            ["baseline=untied", "gradient=unrolled", "gradient.last=2"],
            "gradient.last=2 does not go with baseline=untied",
        ),
        (
            ["baseline=tied", "budget.max_iter=9"],
            "budget.max_iter=9 does not go with baseline=tied and baseline.layers=8",
        ),
        (["baseline=tied", "budget.tol=1e-3"], "it must be 0"),
        (["baseline=tied", "budget.keep=best"], "it must be last"),
        (["baseline=tied", "train.random_budget=[1,8]"], "train.random_budget=[1, 8] does not go with baseline=tied"),
        (["baseline=untied", "train.jacobian_weight=0.5"], "it must be 0"),
        (["baseline=untied", "train.corrections=2"], "train.corrections=2 does not go with"),
        (["baseline=untied", "train.start=previous"], "it must be zeros"),
        (["baseline=untied", "sweep.solvers=[picard,anderson]"], "give sweep.solvers=[picard]"),
        (["baseline=untied", "sweep.tolerances=[1e-3]"], "give sweep.tolerances=[0]"),
        (["baseline=tied", "baseline.match=parameters"], "nothing to match"),
        (["baseline=untied", "baseline.match=null"], "give parameters or multiply_adds"),
        (["baseline=untied", "baseline.match=paramters"], "the nearest is parameters"),
        (["baseline=untied", "baseline.layers=0"], "baseline.layers=0 is out of range"),
        (["baseline.layers=4"], "give baseline=tied or baseline=untied"),
        (["baseline.kind=tied"], "give baseline=tied"),
        (["baseline=united"], "the nearest is untied"),
        (["peer=tied"], "peer=tied is called baseline=tied now."),
        (["model=conv", "peer.layers=3"], "peer.layers=3 is called baseline.layers=3 now."),
        (["+peer=untied"], "+peer=untied is called +baseline=untied now."),
        (["model=conv", "baseline=untied", "baseline.layers=400"], "give fewer layers, or match=multiply_adds"),
    ],
)
def test_a_contradiction_is_told(refused: Refused, overrides: list[str], reason: str) -> None:
    assert reason in refused("train", *overrides)


def test_a_config_that_was_edited_cannot_be_half_a_baseline() -> None:
    sections: dict[str, Any] = composed("baseline=untied").sections() | {"allow_foreign_targets": False}
    anderson = {"_target_": "deqrun.solvers.Anderson"}
    with pytest.raises(UserError, match=r"solver._target_=deqrun.solvers.Anderson does not go with baseline=untied"):
        settings_from(sections | {"solver": anderson})
    with pytest.raises(UserError, match=r"gradient.steps=7 does not go with"):
        settings_from(sections | {"gradient": sections["gradient"] | {"steps": 7}})


def test_a_sweep_of_untied_layers_asks_layer_by_layer(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp", "baseline=untied")
    assert deqrun("sweep", f"run={run}", "sweep=quick").code == 0
    [settings] = launches.settings
    assert (settings.sweep.tolerances, list(settings.sweep_solvers)) == ((0.0,), ["picard"])
    assert settings.sweep.iterations == (1, 2, 4, 8, 16)
    assert (settings.baseline.kind, settings.name) == ("untied", "mlp-untied8-digits")


def test_a_sweep_of_tied_layers_may_ask_any_solver(deqrun: Deqrun, launches: Launches, made_run: MadeRun) -> None:
    run = made_run("model=mlp", "baseline=tied")
    assert deqrun("sweep", f"run={run}").code == 0
    assert list(launches.settings[0].sweep_solvers) == ["picard", "anderson", "secant"]


@pytest.mark.parametrize(
    ("kind", "override", "reason"),
    [
        ("untied", "sweep.solvers=[anderson]", "untied layers have no fixed point"),
        ("untied", "solver.damping=0.5", "solver.damping=0.5 does not go with baseline=untied"),
        ("tied", "solver=anderson", "sweep.solvers asks with others"),
        ("tied", "baseline.layers=4", "baseline.layers=4 can't change: the run was trained before"),
    ],
)
def test_a_sweep_cannot_contradict_the_baseline_either(
    refused: Refused, made_run: MadeRun, kind: str, override: str, reason: str
) -> None:
    run = made_run("model=mlp", f"baseline={kind}")
    assert reason in refused("sweep", f"run={run}", override)


def test_a_baseline_goes_on_as_it_began(
    deqrun: Deqrun, refused: Refused, launches: Launches, made_run: MadeRun, workspace: Path
) -> None:
    run = made_run("model=mlp", "baseline=untied")
    assert "differs from the run's own baseline.layers=8" in refused(
        "train", f"run={run}", "resume=true", "baseline=untied", "baseline.layers=4"
    )
    assert "differs from the run's own baseline=untied" in refused(
        "train", f"run={run}", "resume=true", "baseline=tied"
    )
    assert deqrun("train", f"run={run}", "resume=true", "model=mlp", "baseline=untied").code == 0
    assert launches.settings[0].baseline.kind == "untied"


def test_a_run_recorded_under_the_former_name_is_still_read(
    deqrun: Callable[..., Outcome], launches: Launches, made_run: Callable[..., Path]
) -> None:
    run = made_run("model=mlp", "baseline=untied", "baseline.layers=3")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("baseline:", "peer:").replace("  baseline: untied", "  peer: untied"))
    (run / "summary.json").write_text('{"peer": "untied", "peer_layers": 3}')
    assert "baseline" not in config.read_text()
    assert read_run(run).baseline == ("untied", 3)
    assert deqrun("sweep", f"run={run}").code == 0
    assert launches.settings[0].baseline.layers == 3
