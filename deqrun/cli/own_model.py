"""`deqrun sweep cell=package.module:factory checkpoint=FILE`: a model from elsewhere, asked without being trained."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deqrun.errors import UserError
from deqrun.settings.sources import AS_GIVEN, quoted
from deqrun.settings.trust import use_folder

__all__ = ["as_typed", "brings_model", "in_typed_words", "with_model"]

MAKER = "model.model"
"""Key of the component that makes the model."""

ADDED = [*AS_GIVEN, "allow_foreign_targets=true"]
"""Overrides that stand for cell=."""

FIXED = ("model", "optimizer", "gradient", "baseline", "study", "question", "seeds", "variants", "run", "resume")
"""Groups and keys that have no meaning where nothing is trained, or the model comes from elsewhere."""


def brings_model(argv: Sequence[str]) -> bool:
    """Whether the arguments of `deqrun sweep` name a model of the user's own."""
    return any(text.startswith(("cell=", "checkpoint=", "cell.")) for text in argv)


def with_model(argv: Sequence[str]) -> list[str]:
    """The arguments of the `deqrun train` that asks this model; the current folder joins Python's import path.

    Naming code on the command line allows it to run, as `allow_foreign_targets=true` does. Raises UserError.
    """
    # Take apart: the maker, its file, its parameters, and everything else.
    found = {"cell": "", "checkpoint": ""}
    parameters: list[str] = []
    others = []
    for text in argv:
        key, equals, value = text.partition("=")
        if key in found and equals:
            if found[key]:
                raise UserError(f"{key}= was given twice; give it once.")
            found[key] = value.strip("'\"")
        elif key.startswith("cell.") and equals:
            parameters.append(f"+{MAKER}.{key.removeprefix('cell.')}={value}")
        else:
            others.append(text)
    _require_own_keys(others)
    maker = _maker(found["cell"])
    if found["checkpoint"]:
        parameters.insert(0, f"+{MAKER}.checkpoint={quoted(_file(found['checkpoint']))}")
    # The user's module lies in the current folder, as with python -m.
    use_folder(Path.cwd())
    name = f"name={maker.rpartition('.')[2]}"
    return [*ADDED, f"{MAKER}._target_={maker}", *parameters, name, *others]


def as_typed(words: Sequence[str]) -> list[str]:
    """The overrides of a job of `with_model` as they were typed; [] of any other job."""
    maker = next((word for word in words if word.startswith(f"{MAKER}._target_=")), None)
    if maker is None:
        return []
    module, _, name = maker.partition("=")[2].rpartition(".")
    # Undo with_model, so that commands are shown as they were given.
    typed = [f"cell={module}:{name}"]
    for word in words:
        if word in ADDED or word == maker or word == f"name={name}":
            continue
        parameter = word.removeprefix(f"+{MAKER}.")
        shown = word if parameter == word else parameter
        typed.append(shown if parameter == word or parameter.startswith("checkpoint=") else f"cell.{parameter}")
    return typed


@contextmanager
def in_typed_words() -> Iterator[None]:
    """Within, a sentence about the model's component speaks of cell=, as it was typed."""
    try:
        yield
    except UserError as error:
        text = re.sub(rf"{re.escape(MAKER)}\._target_=([\w.]+)\.(\w+)", r"cell=\1:\2", str(error))
        raise UserError(text.replace(f"{MAKER}.", "cell.")) from error


def _maker(given: str) -> str:
    """'package.module.factory' of package.module:factory."""
    if not given:
        raise UserError(
            "checkpoint= and cell.PARAMETER= go with cell=package.module:factory, which makes the model; give cell=, "
            "or run=DIR to ask a run of deqrun's."
        )
    # Say the nearest form where the last dot was meant as a colon.
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", given) is None:
        nearest = (
            f"; the nearest is cell={':'.join(given.rsplit('.', 1))}" if re.fullmatch(r"[\w.]+\.\w+", given) else ""
        )
        raise UserError(f"cell={given} is not of the form package.module:factory, as in cell=my_model:load{nearest}.")
    return given.replace(":", ".")


def _file(given: str) -> str:
    path = Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"checkpoint={given} is not a file; give the file that cell= loads, or leave checkpoint= out.")
    return str(path.resolve())


def _require_own_keys(texts: Sequence[str]) -> None:
    for text in texts:
        key = re.split(r"[=@]", text.lstrip("+~"), maxsplit=1)[0]
        if key == "run":
            raise UserError(
                "cell= and run= both bring a model; leave one of them out (hydra.run.dir=DIR names a folder)."
            )
        # Nothing is trained, so keys of training would be ignored in silence.
        group = key.partition(".")[0]
        if group in FIXED or (group == "train" and key != "train.eval_batch_size"):
            raise UserError(
                f"{text} has no effect with cell=, whose model is not trained; allowed are dataset, solver, budget, "
                "sweep and tracker, and parameters of the model as cell.NAME=VALUE."
            )
