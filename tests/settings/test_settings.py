"""Settings: typed, frozen, strict, and the same after a trip through config.yaml."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import ValidationError

import deqrun.settings
from deqrun.errors import UserError
from deqrun.settings import ComponentSettings, Settings, load_settings, read_settings, schema, settings_from
from deqrun.settings.sources import ConfigSources, open_sources, packaged_configs


@pytest.fixture
def sources() -> Iterator[ConfigSources]:
    with open_sources() as opened:
        yield opened


@pytest.fixture(scope="module")
def default() -> Settings:
    with open_sources() as opened:
        return load_settings(opened.compose("train", []))


def with_changes(settings: Settings, changes: dict[str, Any]) -> Settings:
    """The settings with some dotted keys changed."""
    sections = settings.sections() | {"allow_foreign_targets": False}
    for key, value in changes.items():
        *path, last = key.split(".")
        section = sections
        for part in path:
            section = section[part]
        section[last] = value
    return settings_from(sections)


def test_every_option_of_every_group_gives_settings_that_config_yaml_keeps(
    sources: ConfigSources, tmp_path: Path
) -> None:
    combinations = [f"{group}={option}" for group, options in sources.groups.items() for option in options]
    assert len(combinations) > 20
    for choice in combinations:
        settings = load_settings(sources.compose("train", [choice]))
        (tmp_path / "config.yaml").write_text(settings.to_yaml())
        assert read_settings(tmp_path / "config.yaml") == settings
        group, _, option = choice.partition("=")
        assert settings.choices[group] == option


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.,=+-]{0,40}", fullmatch=True)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "name": names,
            "seed": st.integers(0, 2**32 - 1),
            "run": st.none() | names,
            "train.epochs": st.integers(1, 10**6),
            "train.clip_norm": st.none() | positive,
            "train.jacobian_weight": st.floats(min_value=0, allow_infinity=False),
            "budget.tol": st.floats(min_value=0, allow_infinity=False),
            "sweep.iterations": st.lists(st.integers(0, 10**6)),
            "sweep.tolerances": st.lists(positive),
            "tracker.project": st.text(),
            "tracker.tags": st.lists(st.text() | st.just("1e-4") | st.just("2030-01-31") | st.just("no")),
            "model.channels": st.lists(st.integers()),
            "model.dropout": st.floats(allow_nan=False) | st.none() | st.booleans() | st.text(),
        },
    )
)
@example({"model.dropout": math.inf, "tracker.tags": ["\x85"]})
def test_config_yaml_is_lossless(default: Settings, tmp_path_factory: pytest.TempPathFactory, changes: Any) -> None:
    settings = with_changes(default, changes)
    path = tmp_path_factory.mktemp("run") / "config.yaml"
    path.write_text(settings.to_yaml(), encoding="utf-8")
    assert read_settings(path) == settings


def test_config_yaml_is_plain_yaml_for_others(default: Settings) -> None:
    settings = with_changes(default, {"tracker.tags": ["1e-4", "no"]})
    assert yaml.safe_load(settings.to_yaml()) == settings.sections()


def test_a_number_that_a_person_writes_is_a_number(default: Settings, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(default.to_yaml().replace("lr: 0.001", "lr: 2e-3"))
    assert read_settings(path).optimizer.parameters["lr"] == 0.002


def test_a_config_that_would_build_objects_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "config.yaml"
    path.write_text(f"name: !!python/object/apply:pathlib.Path.touch ['{mark}']\n")
    with pytest.raises(UserError, match="YAML"):
        read_settings(path)
    assert not mark.exists()


@pytest.mark.parametrize("content", ["", "[1, 2]", "text"])
def test_a_config_is_a_mapping(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match="mapping"):
        read_settings(path)
    with pytest.raises(UserError, match="absent"):
        read_settings(tmp_path / "absent")


def test_settings_cannot_be_changed_in_place(default: Settings) -> None:
    with pytest.raises(ValidationError):
        default.train.epochs = 3


def test_the_defaults_are_those_of_the_yaml_files(default: Settings) -> None:
    written = yaml.safe_load((packaged_configs() / "train.yaml").read_text())
    assert default.train.epochs == written["train"]["epochs"]
    assert default.name == "mdeq-digits"
    assert default.choices["solver"] == "secant"
    assert "study" not in default.choices


def test_hydras_own_compose_gives_the_same_settings(default: Settings) -> None:
    with initialize_config_dir(str(packaged_configs()), version_base="1.3"):
        assert load_settings(compose("train", return_hydra_config=True)) == default
        by_hand = load_settings(compose("train"))
    assert (by_hand.model, by_hand.sweep_solvers) == (default.model, default.sweep_solvers)
    assert by_hand.name == "mdeqcell-digits"


def test_grids_are_put_in_order(default: Settings) -> None:
    changes = {"sweep.iterations": [8, 1, 8, 0], "sweep.tolerances": [1e-3, 0, 1e-1, 1e-3]}
    sweep = with_changes(default, changes).sweep
    assert sweep.iterations == (0, 1, 8)
    assert sweep.tolerances == (0.1, 0.001, 0.0)
    assert not sweep.empty


@pytest.mark.parametrize("key", ["iterations", "tolerances", "solvers", "starts", "splits"])
def test_a_grid_without_one_of_its_axes_is_empty(default: Settings, key: str) -> None:
    assert with_changes(default, {f"sweep.{key}": []}).sweep.empty


@pytest.mark.parametrize(
    ("key", "lowest", "below"),
    [
        ("train.epochs", 1, 0),
        ("train.batch_size", 1, 0),
        ("train.unrolled_warmup_steps", 0, -1),
        ("train.unrolled_depth", 1, 0),
        ("train.jacobian_weight", 0.0, -math.ulp(0.0)),
        ("train.jacobian_frequency", math.ulp(0.0), 0.0),
        ("train.warmup_fraction", 0.0, -math.ulp(0.0)),
        ("train.clip_norm", math.ulp(0.0), 0.0),
        ("budget.max_iter", 0, -1),
        ("budget.tol", 0.0, -math.ulp(0.0)),
        ("budget.patience", 1, 0),
        ("sweep.batch_size", 1, 0),
        ("seed", 0, -1),
        ("threads", 1, 0),
    ],
)
def test_ranges_begin_where_they_should(default: Settings, key: str, lowest: float, below: float) -> None:
    with_changes(default, {key: lowest})
    with pytest.raises(UserError, match=rf"^{key}=.* out of range"):
        with_changes(default, {key: below})


@pytest.mark.parametrize(
    ("key", "highest", "above"),
    [
        ("train.jacobian_frequency", 1.0, math.nextafter(1.0, 2.0)),
        ("train.warmup_fraction", 1.0, math.nextafter(1.0, 2.0)),
        ("seed", 2**32 - 1, 2**32),
    ],
)
def test_ranges_end_where_they_should(default: Settings, key: str, highest: float, above: float) -> None:
    with_changes(default, {key: highest})
    with pytest.raises(UserError, match=rf"^{key}=.* out of range"):
        with_changes(default, {key: above})


@pytest.mark.parametrize("key", ["budget.tol", "train.jacobian_weight", "train.clip_norm"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_numbers_are_finite(default: Settings, key: str, value: float) -> None:
    with pytest.raises(UserError, match=key):
        with_changes(default, {key: value})


def test_a_missing_key_is_named(default: Settings) -> None:
    sections = default.sections() | {"allow_foreign_targets": False}
    del sections["train"]["epochs"]
    with pytest.raises(UserError, match=r"^train\.epochs is missing"):
        settings_from(sections)


def test_an_interpolation_to_nowhere_is_told(sources: ConfigSources) -> None:
    with pytest.raises(UserError, match="nope"):
        load_settings(sources.compose("train", ["tracker.project=${nope}"]))


def test_components_nest_and_know_their_keys(default: Settings) -> None:
    where = dict(default.components())
    assert where["gradient.solver"].target == "deqrun.solvers.Secant"
    assert where["gradient.budget"].target == "deqrun.solvers.Budget"
    assert where["sweep_solvers.picard"].parameters == {"damping": 1.0}


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ({"damping": 1.0}, "no _target_"),
        ({"_target_": 3}, "no _target_"),
        ({"_target_": "deqrun.solvers.Picard", "_partial_": True}, "_partial_"),
        ({"_target_": "deqrun.gradients.Implicit", "solver": {"_target_": "a.B", "_args_": []}}, "solver holds _args_"),
    ],
)
def test_a_component_is_a_target_and_its_parameters(section: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ComponentSettings.model_validate(section)


def test_foreign_targets_are_let_in_by_the_caller_alone(default: Settings, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = default.to_yaml().replace("deqrun.solvers.Picard", "elsewhere.Picard")
    path.write_text(f"{text}allow_foreign_targets: true\n")
    with pytest.raises(UserError, match=r"sweep_solvers\.picard\._target_=elsewhere\.Picard"):
        read_settings(path)
    allowed = read_settings(path, allow_foreign_targets=True)
    assert "allow_foreign_targets" not in allowed.to_yaml()


def test_a_prefix_is_not_a_package(default: Settings) -> None:
    with pytest.raises(UserError, match="torchish"):
        with_changes(default, {"solver._target_": "torchish.Solver"})


def test_the_fingerprint_tells_numbers_apart_and_nothing_else(default: Settings) -> None:
    apart = {"name": "x", "run": "y", "resume": True, "tracker.mode": "online", "device": "cpu", "threads": 3}
    apart |= {
        "train.log_every": 3,
        "train.checkpoint_minutes": None,
        "train.keep_last": 4,
        "train.eval_iterations": [2],
    }
    assert with_changes(default, apart).fingerprint() == default.fingerprint()
    for key, value in {
        "seed": 1,
        "train.epochs": 7,
        "solver.memory": 4,
        "gradient.budget.tol": 0.5,
        "train.ema": 0.9,
    }.items():
        assert with_changes(default, {key: value}).fingerprint() != default.fingerprint()


def test_an_own_solver_is_swept_with_its_own_parameters(sources: ConfigSources) -> None:
    cfg = sources.compose("train", ["solver=anderson", "solver.memory=2", "sweep.solvers=[anderson,picard,anderson]"])
    settings = load_settings(cfg)
    assert settings.sweep.solvers == ("anderson", "picard")
    assert settings.sweep_solvers["anderson"] == settings.solver
    assert OmegaConf.is_config(cfg)


@pytest.mark.parametrize("gradient", ["one_step", "unrolled"])
def test_another_choice_than_the_studys_leaves_nothing_of_it(sources: ConfigSources, gradient: str) -> None:
    """The demo sets the budget of its implicit gradient, prefix_sums the steps of its phantom one, and unrolls none."""
    for study in ("demo", "prefix_sums"):
        settings = load_settings(
            sources.compose("train", [f"study={study}", "train.random_budget=null", f"gradient={gradient}"])
        )
        own = sources.option("gradient", gradient)
        assert settings.gradient.parameters == {key: value for key, value in own.items() if key != "_target_"}


def test_the_studys_own_choice_keeps_its_parameters(sources: ConfigSources) -> None:
    plain = load_settings(sources.compose("train", ["study=demo"]))
    again = load_settings(sources.compose("train", ["study=demo", "gradient=implicit", "model=mdeq"]))
    assert (again.gradient, again.model) == (plain.gradient, plain.model)
    assert plain.sections()["gradient"]["budget"]["max_iter"] == 12


def test_what_was_typed_stays(sources: ConfigSources) -> None:
    typed = ["study=demo", "gradient=one_step", "gradient.budget.max_iter=3"]
    assert load_settings(sources.compose("train", typed)).sections()["gradient"]["budget"]["max_iter"] == 3
    typed = ["study=demo", "gradient=one_step", "+gradient.stepz=3"]
    assert load_settings(sources.compose("train", typed)).gradient.parameters == {"stepz": 3}
    typed = ["study=demo", "gradient=implicit", "solver@gradient.solver=picard"]
    solver = load_settings(sources.compose("train", typed)).sections()["gradient"]["solver"]
    assert solver["_target_"] == "deqrun.solvers.Picard"
    assert load_settings(sources.compose("train", ["study=demo", "model=conv"])).model.target.endswith("ConvCell")


def test_a_run_of_before_there_were_baselines_is_a_deq(default: Settings, tmp_path: Path) -> None:
    """A config.yaml that was written without the section `baseline` is still read, as what it was."""
    sections = default.sections()
    del sections["baseline"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    assert read_settings(tmp_path / "config.yaml") == default


@pytest.mark.parametrize(
    ("tracker", "expected"),
    [({}, 7), ({"name": "none"}, None), ({"mode": "disabled"}, None), ({"log_every": None}, None)],
)
def test_rows_within_epochs_were_once_a_key_of_trackers(
    default: Settings, tmp_path: Path, tracker: dict[str, Any], expected: int | None
) -> None:
    """A config.yaml from then is read as the run was: rows every so many steps where there was a tracker."""
    sections = default.sections()
    for key in ("steps", "log_every", "checkpoint_minutes"):
        del sections["train"][key]
    sections["tracker"] |= {"log_every": 7} | tracker
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    train = read_settings(tmp_path / "config.yaml").train
    assert (train.log_every, train.steps, train.checkpoint_minutes) == (expected, None, None)


def test_a_run_of_before_there_were_groups_of_decay_decays_all(default: Settings, tmp_path: Path) -> None:
    """A config.yaml without the key goes on as it began; a new run leaves out what decay is not for."""
    sections = default.sections()
    assert sections["train"].pop("decay") == "matrices"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(sections))
    assert read_settings(tmp_path / "config.yaml").train.decay == "all"


def test_an_option_is_read_once_and_handed_out_as_a_copy() -> None:
    with (
        open_sources() as sources,
        patch.object(ConfigRepository, "load_config", autospec=True, side_effect=ConfigRepository.load_config) as read,
    ):
        first = sources.option("solver", "anderson")
        first.clear()
        again = sources.option("solver", "anderson")
        assert again["_target_"] == "deqrun.solvers.Anderson"
        assert sources.option("solver", "picard")["_target_"] == "deqrun.solvers.Picard"
        assert read.call_count == 2


@pytest.mark.parametrize("group", ["solver", "gradient"])
def test_an_option_read_alone_is_what_hydra_composes(sources: ConfigSources, group: str) -> None:
    names = sources.groups[group]
    assert [sources.option(group, name) for name in names] == [sources._option_composed(group, name) for name in names]


@pytest.mark.parametrize("text", ["defaults: [picard]\nmemory: 3\n", "memory: 3\nwindow: ${.memory}\n"])
def test_an_option_upon_others_or_with_interpolations_is_composed(tmp_path: Path, text: str) -> None:
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver" / "mine.yaml").write_text(text)
    with open_sources(tmp_path) as sources:
        mine = sources.option("solver", "mine")
        rest = sources.option("solver", "picard") if "picard" in text else {"window": 3}
        assert mine == rest | {"memory": 3}


def test_every_name_of_the_package_is_there_and_no_other() -> None:
    assert {getattr(deqrun.settings, name) for name in deqrun.settings.__all__ if name.endswith("Settings")} == {
        schema.BaselineSettings,
        schema.BudgetSettings,
        schema.ComponentSettings,
        schema.LaunchSettings,
        schema.Settings,
        schema.SweepSettings,
        schema.TrackerSettings,
        schema.TrainSettings,
    }
    with pytest.raises(AttributeError, match="has no attribute 'Setings'"):
        deqrun.settings.Setings  # noqa: B018
