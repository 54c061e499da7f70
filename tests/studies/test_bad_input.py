"""Whatever is mistyped of a study ends with one sentence, exit code 2, and an untouched folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deqrun.settings.sources import open_sources
from deqrun.settings.study import load_study_settings
from deqrun.studies.question import load_question, questions
from tests.studies.conftest import Counting

Refused = Callable[..., str]


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (["size=samll"], "the nearest is small"),
        (["seeds=0"], "at least 1"),
        (["jobs=0"], "at least 1"),
        (["jobs=1.5"], "jobs"),
        (["jobs=all"], "jobs"),
        (["ask.tmies=3"], "the nearest is ask.times"),
        (["+ask.tmies=3"], "the nearest is ask.times"),
        (["question=conting"], "the nearest is counting"),
        (["optimizer.lr=1"], "has no effect"),
        (["train.epoch=3"], "the nearest is train.epochs"),
        (["train.epochs=0"], "at least 1"),
        (["solver=andersn"], "the nearest is anderson"),
        (["variants.slow=['optimzer.lr=1']"], "run slow: optimzer.lr=1 is not a key"),
        (["variants.slow=['solver=picrd']"], "the nearest is picard"),
        (["variants.slow=['train.epochs=0']"], "run slow: train.epochs=0 is out of range"),
        (["variants.slow=3"], "variants.slow"),
        (["variants.slow=null", "variants.fast=null"], "has no variants"),
        (["+variants.'a b'=[]"], "variants"),
        (["-m", "run=here", "seed=1,2"], "run="),
    ],
)
def test_a_mistake_is_told(refused: Refused, overrides: list[str], hint: str) -> None:
    assert hint in refused("train", "study=tiny", *overrides)


def test_a_size_without_a_study_is_refused(refused: Refused) -> None:
    assert "size=full has no effect without a study" in refused("train", "model=mlp", "size=full")


@pytest.mark.parametrize("word", ["seeds=3", "jobs=2", "variants={}", "ask={}"])
def test_a_recipe_of_one_run_refuses_the_keys_of_a_study(refused: Refused, word: str) -> None:
    sentence = refused("train", "study=demo", word)
    assert f"{word} has no effect with study=demo, which is one run" in sentence
    assert "-m seed=0,1,2" in sentence


@pytest.mark.usefixtures("counting")
def test_what_a_trained_run_cannot_be_asked(refused: Refused, workspace: Path) -> None:
    assert "needs run=DIR" in refused("sweep", "study=tiny")
    assert "nowhere does not exist" in refused("sweep", "study=tiny", "run=nowhere")
    assert "asks nothing of a trained run" in refused("sweep", "study=demo", "run=nowhere")
    assert "the nearest is demo" in refused("sweep", "study=dmo", "run=nowhere")
    assert "train.epochs=3 can't change" in refused("sweep", "study=tiny", "run=nowhere", "train.epochs=3")


def test_a_study_needs_a_folder_of_its_own(refused: Refused, counting: Counting, workspace: Path) -> None:
    (workspace / "run").mkdir()
    (workspace / "run" / "config.yaml").write_text("name: a run")
    (workspace / "file").write_text("")
    assert "run=run holds a run" in refused("train", "study=tiny", "run=run")
    assert "run=file is a file" in refused("train", "study=tiny", "run=file")


@pytest.mark.each
@pytest.mark.parametrize("name", questions())
@pytest.mark.parametrize("size", ["small", "full"])
def test_every_question_has_a_study_of_its_name_that_gives_it_what_it_takes(name: str, size: str) -> None:
    with open_sources() as sources:
        cfg = sources.compose("train", [f"study={name}", f"size={size}"])
        settings = load_study_settings(cfg)
    assert settings.question == name
    question = load_question(name, settings.ask)
    assert set(settings.ask) == set(question.parameters)
    assert question.asks.endswith("?")


def test_every_study_that_asks_is_a_question() -> None:
    """Each question has the study of its name; a further study may ask the same of other runs."""
    asked = {}
    with open_sources() as sources:
        for option in sources.groups["study"]:
            settings = load_study_settings(sources.compose("train", [f"study={option}"]))
            asked |= {option: settings.question} if settings.question else {}
    assert set(asked.values()) == set(questions())
    assert all(asked[question] == question for question in questions())
