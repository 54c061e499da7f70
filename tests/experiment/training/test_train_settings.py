"""The options of training that are typed: what they may be, and the one sentence for what they may not."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from deqrun.errors import UserError
from deqrun.experiment.build import check_components
from deqrun.settings import Settings, load_settings
from deqrun.settings.sources import open_sources

SettingsOf = Callable[..., Settings]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "train.start=zeroes",
            "train.start=zeroes is not allowed; it must be zeros, normal, mixture or previous; the nearest is zeros.",
        ),
        ("train.start_scale=0", "train.start_scale=0 is out of range; it must be more than 0."),
        (
            "train.random_budget=8",
            "train.random_budget is 8; it must be null or two whole numbers [low,high] with "
            "0 <= low <= high, as in [4,24].",
        ),
        ("train.random_budget=[8]", "train.random_budget is [8]; it must be null or two"),
        ("train.random_budget=[1,2,3]", "train.random_budget is [1, 2, 3]; it must be null or two"),
        ("train.random_budget=[9,8]", "train.random_budget is [9, 8]; it must be null or two"),
        ("train.random_budget=[-1,8]", "train.random_budget is [-1, 8]; it must be null or two"),
        ("train.random_budget=[1.5,8]", "train.random_budget is [1.5, 8]; it must be null or two"),
        ("train.random_budget=[false,true]", "train.random_budget is [False, True]; it must be null or two"),
        ("train.random_budget_per=batch", "train.random_budget_per=batch is not allowed; it must be step or sample"),
        ("train.path_damping=0", "train.path_damping=0 is out of range; it must be more than 0."),
        ("train.path_damping=1.2", "train.path_damping=1.2 is out of range; it must be at most 1."),
        ("train.path_noise=-0.1", "train.path_noise=-0.1 is out of range; it must be at least 0."),
        ("train.progressive_weight=1.5", "train.progressive_weight=1.5 is out of range; it must be at most 1."),
        ("train.corrections=-1", "train.corrections=-1 is out of range; it must be at least 0."),
        ("train.corrections=1.5", "train.corrections=1.5 is not allowed; it must be a whole number."),
        ("train.correction_decay=0", "train.correction_decay=0 is out of range; it must be more than 0."),
        ("train.segments=0", "train.segments=0 is out of range; it must be at least 1."),
        ("train.halt_weight=-1", "train.halt_weight=-1 is out of range; it must be at least 0."),
        (
            "train.halt_exploration=0.1",
            "train has halt_exploration=0.1, but one segment, after which every sample ends",
        ),
    ],
)
def test_what_is_not_allowed_is_told(settings_of: SettingsOf, override: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        settings_of(override)
    assert str(raised.value).startswith(sentence.removesuffix("."))
    assert "\n" not in str(raised.value)


def test_a_head_that_decides_is_trained(settings_of: SettingsOf) -> None:
    with pytest.raises(UserError, match=r"has halt_exploration=0\.1, but halt_weight=0, so that"):
        settings_of("train.segments=2", "train.halt_exploration=0.1")
    assert settings_of("train.segments=2", "train.halt_exploration=0.1", "train.halt_weight=0.5").train.segments == 2


@pytest.mark.parametrize("override", ["train.halt_weight=0.5", "sweep.halting=[head]"])
@pytest.mark.parametrize("model", ["mlp", "trm_small", "eqr_small"])
def test_what_asks_a_halting_head_needs_one(model: str, override: str) -> None:
    """One sentence names the key and the cure; with the head there is nothing to say."""
    dataset, seen = "digits" if model == "mlp" else "sudoku", set[str]()
    with open_sources() as sources:
        own = [f"model={model}", f"dataset={dataset}", "sweep.difficulties=null", override]
        with pytest.raises(UserError) as raised:
            check_components(load_settings(sources.compose("train", own)), seen)
        told = str(raised.value)
        assert told.startswith(f"{override} needs a halting head, and model={model} has none as it is configured; ")
        assert "\n" not in told
        if model != "mlp":
            check_components(load_settings(sources.compose("train", [*own, "model.halting_head=true"])), seen)


@pytest.mark.parametrize("budget", ["[0,0]", "[3,3]", "[8,30]"])
def test_budgets_are_two_numbers_in_order(settings_of: SettingsOf, budget: str) -> None:
    low, high = map(int, budget.strip("[]").split(","))
    assert settings_of(f"train.random_budget={budget}").train.random_budget == (low, high)


def test_an_unrolled_depth_that_is_fixed_has_no_random_budget(settings_of: SettingsOf) -> None:
    with pytest.raises(
        UserError, match=r"^train\.random_budget=\[8, 30\] has no effect with gradient\.steps=12, which"
    ):
        settings_of("gradient=unrolled", "gradient.steps=12", "train.random_budget=[8,30]")
    settings_of("gradient=unrolled", "gradient.last=8", "train.random_budget=[8,30]")


def test_unrolled_samples_take_the_same_steps(settings_of: SettingsOf) -> None:
    with pytest.raises(UserError, match=r"gradient=unrolled, .* give train\.random_budget_per=step"):
        settings_of("gradient=unrolled", "train.random_budget=[8,30]", "train.random_budget_per=sample")
    settings_of("gradient=phantom", "train.random_budget=[8,30]", "train.random_budget_per=sample")


def test_a_budget_survives_the_run_folder(settings_of: SettingsOf) -> None:
    """config.yaml holds lists, settings tuples; both say the same run."""
    settings = settings_of("train.random_budget=[8,30]")
    assert settings.sections()["train"]["random_budget"] == [8, 30]


def test_the_commands_in_the_documentation_are_accepted() -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^    deqrun train (.*)$", page, re.MULTILINE)
    assert len(commands) >= 5
    with open_sources() as sources:
        for command in commands:
            check_components(load_settings(sources.compose("train", shlex.split(command))), set())


def test_the_documentation_names_every_option() -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    options = ["start", "start_scale", "random_budget", "random_budget_per", "path_damping", "path_noise"]
    options += ["progressive_weight", "corrections", "correction_decay", "unrolled_warmup_steps", "unrolled_depth"]
    assert [name for name in options if f"`train.{name}" not in page] == []
