"""`deqrun new KIND NAME`: writes a working example of a part of one's own, with its option and a test."""

from __future__ import annotations

import keyword
import re
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from deqrun.cli.new_templates import TEMPLATES
from deqrun.errors import UserError, unknown
from deqrun.settings.sources import packaged_configs

__all__ = ["run_new"]

TAKEN = ("deqrun", "torch", "numpy", "test", "tests", "model", "dataset", "solver", "study")
"""Names of modules and groups that an example must not take."""


def run_new(arguments: Sequence[str]) -> int:
    """Write the example, and say which command to run next. Raises UserError; nothing is overwritten."""
    kind, name, folder = _read(arguments)
    # All files are looked for before the first is written.
    files = {folder / path: text for path, text in _files(kind, name).items()}
    there = [path for path in files if path.exists() or path.is_symlink()]
    if there:
        raise UserError(f"{there[0]} exists, and nothing is overwritten; give another name or --output folder.")
    try:
        # Mode x: a file that comes into being meanwhile is not written over.
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
            print(f"wrote  {path}")
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror}); give another --output folder.") from error
    where = shlex.quote(str(folder))
    print("next   " + TEMPLATES[kind].next.format(folder=where, name=name))
    if TEMPLATES[kind].code:
        print(f"test   python -m pytest {shlex.quote(str(folder / f'test_{name}.py'))}")
    return 0


def _read(arguments: Sequence[str]) -> tuple[str, str, Path]:
    words, folder = list(arguments), Path()
    if "--output" in words:
        place = words.index("--output")
        if place + 1 >= len(words) or not words[place + 1].strip():
            raise UserError("--output needs a folder, as in --output mine.")
        folder = Path(words[place + 1])
        del words[place : place + 2]
    # Whatever else begins with a dash is a mistake; two words are left, the kind and the name.
    flags = [word for word in words if word.startswith("-")]
    if flags:
        raise UserError(f"{flags[0]} is not a flag of deqrun new; there is --output FOLDER.")
    if len(words) != 2:
        raise UserError(
            f"deqrun new takes a kind and a name, and was given {len(words)} words; as in deqrun new cell my_cell."
        )
    kind, name = words
    if kind not in TEMPLATES:
        raise UserError(unknown(kind, "a kind of part", TEMPLATES))
    # The name becomes a module, a class and an option: it must be free as each of them.
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or _is_taken(kind, name):
        nearest = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_0123456789") or "mine"
        nearest = f"my_{nearest}" if _is_taken(kind, nearest) else nearest[:41]
        raise UserError(
            f"{name} is not a name for a part: allowed are small letters, digits and _, from a letter, and no word, "
            f"module or option that Python or deqrun has; the nearest is {nearest}."
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder} is a file; give a folder.")
    return kind, name, folder


def _is_taken(kind: str, name: str) -> bool:
    """Whether Python or deqrun has a word, a module or an option of this name, which would be found in its place."""
    # Options, modules and words: each would be found in the example's place.
    option = packaged_configs() / TEMPLATES[kind].group / f"{name}.yaml"
    if keyword.iskeyword(name) or name in TAKEN or option.is_file():
        return True
    return bool(TEMPLATES[kind].code) and (name in sys.stdlib_module_names or name in _installed_modules())


@cache
def _installed_modules() -> frozenset[str]:
    """Modules of all installed packages; to find them takes half a second."""
    return frozenset(packages_distributions())


def _files(kind: str, name: str) -> dict[str, str]:
    """Paths and texts of an example; the class is the name in capitals."""
    template = TEMPLATES[kind]
    kind_of_class = "".join(word.capitalize() for word in name.split("_") if word)
    texts = {f"{template.group}/{name}.yaml": template.option}
    if template.code:
        texts |= {f"{name}.py": template.code, f"test_{name}.py": template.test}
    return {path: text.replace("CLASS", kind_of_class).replace("NAME", name) for path, text in texts.items()}
