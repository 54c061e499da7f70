"""All answers of the studies on one page, docs/findings.md, with their figures in docs/images/findings/.

    python scripts/findings.py [--size small] [--runs outputs/findings] [--page docs/findings.md] [--threads 2]
                               [--only STUDY …] [overrides of deqrun train …]

Makes each study that is not in the folder --runs yet, one after the other, and goes on with one that was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from deqrun.report.files import write_whole
from deqrun.studies.answering.question import questions

HEAD = """\
# Findings

What the studies of [studies.md](studies.md) answer with `size={size}`, made by `python scripts/findings.py`. Each
answer is about the models that the study trained, which are small; what would change it is said with it.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "full"], default="small")
    parser.add_argument("--runs", type=Path, default=Path("outputs/findings"))
    parser.add_argument("--page", type=Path, default=Path("docs/findings.md"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=questions(), default=questions(), metavar="STUDY")
    arguments, overrides = parser.parse_known_args()
    for name in arguments.only:
        make(name, arguments.runs / f"{name}-{arguments.size}", arguments.size, arguments.threads, overrides)
    folders = [arguments.runs / f"{name}-{arguments.size}" for name in questions()]
    done = [folder for folder in folders if (folder / "answer.json").is_file()]
    write_whole(arguments.page, page(done, arguments.size, arguments.page.parent))
    print(f"{len(done)} answers in {arguments.page}")


def make(name: str, folder: Path, size: str, threads: int, overrides: list[str]) -> None:
    """Make the study, unless it is there, and say what it took."""
    if (folder / "answer.json").is_file():
        return
    words = ["train", f"study={name}", f"size={size}", f"threads={threads}", f"run={folder}", "resume=true"]
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "deqrun", *words, *overrides], check=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{name}: {time.perf_counter() - began:.0f} s by the clock, {cpu:.0f} s of CPU", flush=True)


def page(folders: list[Path], size: str, beside: Path) -> str:
    """The page; each study's first figure is copied beside it."""
    parts = [HEAD.format(size=size)]
    for folder in folders:
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        first = answer["figures"][0]
        picture = Path("images") / "findings" / f"{answer['study']}.png"
        write_whole(beside / picture, (folder / "figures" / f"{first['name']}.png").read_bytes())
        parts.append(section(answer, first, picture))
    made = {json.loads((folder / "answer.json").read_text(encoding="utf-8"))["study"] for folder in folders}
    if missing := [name for name in questions() if name not in made]:
        parts.append(f"## Not made yet\n\n{', '.join(f'`{name}`' for name in missing)}.\n")
    return "\n".join(parts)


def section(answer: dict[str, Any], figure: dict[str, str], picture: Path) -> str:
    """One study: its question, its answer, its figure."""
    sentences = " ".join(answer["answer"])
    by_seed = [f"- seed {seed}: {first}\n" for seed, (first, *_) in answer["numbers"].get("by_seed", {}).items()]
    seeds = f"Each seed by itself:\n\n{''.join(by_seed)}\n" if by_seed else ""
    return (
        f"## {answer['question']}\n\n{sentences}\n\n{seeds}![{figure['title']}]({picture.as_posix()})\n\n"
        f"*{figure['caption']}*\n\nWhat would change it: {answer['would_change']}\n\n"
        f"    deqrun train study={answer['study']}{' size=full' if answer['size'] == 'full' else ''}\n"
    )


if __name__ == "__main__":
    main()
