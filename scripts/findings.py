"""All answers of the studies on one page, docs/findings.md, with their figures in docs/images/findings/.

    python scripts/findings.py [--size small] [--runs outputs/findings] [--page docs/findings.md]
                               [--only STUDY …] [overrides of deqrun train …]

Makes each study that is not in the folder --runs yet, one after the other, and goes on with one that was interrupted.
A study trains as many runs at a time as there are cores. Answers of --page whose studies are not in --runs stay.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from deqrun.records.files import write_whole
from deqrun.studies.question import questions

COMMAND = re.compile(r"^    deqrun train study=(\w+)( size=full)?$", re.MULTILINE)
"""The last line of a section."""

HEAD = """\
# Findings

The answers of the studies of [studies.md](studies.md) with `size={size}`, made by `python scripts/findings.py`. Each
verdict is of small models, trained briefly, and says of what it is: of the recipe where five seeds were trained.
[studies.md](studies.md#how-an-answer-is-made) says how a verdict is reached, and how often such verdicts are wrong.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--runs", type=Path, default=Path("outputs/findings"))
    parser.add_argument("--page", type=Path, default=Path("docs/findings.md"))
    parser.add_argument("--only", nargs="+", choices=questions(), default=questions(), metavar="STUDY")
    arguments, overrides = parser.parse_known_args()
    for name in arguments.only:
        make(name, arguments.runs / f"{name}-{arguments.size}", arguments.size, overrides)
    folders = {name: arguments.runs / f"{name}-{arguments.size}" for name in questions()}
    done = {name: folder for name, folder in folders.items() if (folder / "answer.json").is_file()}
    before = arguments.page.read_text(encoding="utf-8") if arguments.page.is_file() else ""
    write_whole(arguments.page, page(done, arguments.size, arguments.page.parent, before))
    print(f"{len(done)} answers made or there, in {arguments.page}")


def make(name: str, folder: Path, size: str, overrides: list[str]) -> None:
    """Make the study, unless it is there, and say what it took."""
    if (folder / "answer.json").is_file():
        return
    where = [f"run={folder}", "resume=true"] if folder.is_dir() else [f"hydra.run.dir={folder}"]
    words = ["train", f"study={name}", f"size={size}", *where]
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "deqrun", *words, *overrides], check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{name}: {time.perf_counter() - began:.0f} s by the clock, {cpu:.0f} s of CPU", flush=True)


def page(folders: Mapping[str, Path], size: str, beside: Path, before: str = "") -> str:
    """The page; each study's first figure is copied beside it.

    before  the page as it was, whose sections of other studies are kept
    """
    kept = {f"{match[1]}": f"## {text}" for text in before.split("\n## ")[1:] if (match := COMMAND.search(text))}
    parts = [HEAD.format(size=size)]
    for name in questions():
        if name in folders:
            parts.append(made(folders[name], name, size, beside))
        elif name in kept:
            parts.append(kept[name].rstrip("\n") + "\n")
    if missing := [name for name in questions() if name not in folders and name not in kept]:
        parts.append(f"## Not made yet\n\n{', '.join(f'`{name}`' for name in missing)}.\n")
    return "\n".join(parts)


def made(folder: Path, name: str, size: str, beside: Path) -> str:
    """The section of a study that is there."""
    answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    first = answer["figures"][0]["name"]
    picture = Path("images") / "findings" / f"{name}.png"
    write_whole(beside / picture, (folder / "figures" / f"{first}.png").read_bytes())
    text = (folder / "answer.md").read_text(encoding="utf-8")
    return section(text, name, size, f"figures/{first}.png", picture.as_posix())


def section(text: str, name: str, size: str, own_picture: str, picture: str) -> str:
    """The head of a study's answer.md, as a section with its picture beside the page and the short command."""
    head, _, _ = text.partition("\n    deqrun ")
    command = f"    deqrun train study={name}{' size=full' if size == 'full' else ''}\n"
    return f"#{head.replace(own_picture, picture)}\n{command}"


if __name__ == "__main__":
    main()
