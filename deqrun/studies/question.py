"""The interface of a question, and the list of all."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deqrun.errors import UserError, unknown
from deqrun.report.answer import Answer
from deqrun.studies.asking import check_ask


@dataclass(frozen=True)
class Question:
    """One question, and the function that answers it.

    asks        the question, in words
    answer      answer(context, **parameters) -> Answer, with a `deqrun.studies.context.Context`; its
                keyword parameters are the keys of `ask` in the study's config
    of_any_run  whether a single trained run can be asked, by `deqrun sweep study=NAME run=DIR`
    check       of the parameters together: the parameters needed instead; None where they will do
    pairs_seeds  whether variants are compared seed by seed: a seed that one of them lost is then left out of all
    """

    asks: str
    answer: Callable[..., Answer]
    of_any_run: bool = False
    pairs_seeds: bool = True
    check: Callable[[Mapping[str, Any]], str | None] | None = None

    @property
    def parameters(self) -> list[str]:
        """The keyword parameters of `answer`."""
        found = inspect.signature(self.answer).parameters.values()
        return [parameter.name for parameter in found if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


def questions() -> list[str]:
    """The names of all questions: the modules of deqrun.studies.questions. Imports none of them."""
    folder = Path(__file__).parent / "questions"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def load_question(name: str, ask: Mapping[str, Any]) -> Question:
    """The question of this name, which takes these parameters. Raises UserError."""
    if name not in questions():
        raise UserError(unknown(f"question={name}", "a question", questions(), name))
    question = importlib.import_module(f"deqrun.studies.questions.{name}").QUESTION
    assert isinstance(question, Question)
    check_ask(name, question.answer, ask)
    if question.check is not None and (needed := question.check(ask)) is not None:
        raise UserError(f"{name} needs {needed}.")
    return question
