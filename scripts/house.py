"""How large the package is, and how its prose reads: executable lines by room, comments, words of docstrings, start-up.

    python scripts/house.py

Executable lines have no docstrings, comments and blank lines. Comments are counted per 100 executable lines of the long
procedures (experiment, cli, solvers/loop.py). Of docstrings: "what", and "that of" or "those of", per 1,000 words.
Start-up: processor time of a command over `import hydra`, medians of nine processes each, in turn.
"""

from __future__ import annotations

import ast
import io
import re
import resource
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "deqrun"
LONG_PROCEDURES = ("experiment/", "cli/", "solvers/loop.py")
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
COMMANDS = {
    "import hydra": ["-c", "import hydra"],
    "deqrun --help": ["-m", "deqrun", "--help"],
    "deqrun train study=demo --cfg job": ["-m", "deqrun", "train", "study=demo", "--cfg", "job"],
}


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Docstrings, and texts below a name that document it."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = statement.value if isinstance(statement, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value


def counted(path: Path) -> tuple[int, int, str]:
    """(executable lines, comments, text of the docstrings) of a file."""
    source = path.read_text(encoding="utf-8")
    texts = list(docstrings(ast.parse(source)))
    lines: set[int] = set()
    comments = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments += not token.string.startswith(("# type:", "# noqa", "# fmt"))
        elif token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for text in texts:
        lines.difference_update(range(text.lineno, (text.end_lineno or text.lineno) + 1))
    return len(lines), comments, " ".join(str(text.value) for text in texts)


def seconds(command: list[str]) -> float:
    """Processor time of a process."""
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, cwd=PACKAGE.parent)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime


def main() -> None:
    lines: Counter[str] = Counter()
    long_lines = long_comments = 0
    prose = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        executable, comments, text = counted(path)
        lines[name.rpartition("/")[0] or "."] += executable
        prose.append(text)
        if name.startswith(LONG_PROCEDURES):
            long_lines, long_comments = long_lines + executable, long_comments + comments
    for room, number in sorted(lines.items()):
        print(f"{room:<26}{number:>7,}")
    print(f"{'executable lines':<26}{sum(lines.values()):>7,}")
    print(f"comments per 100 lines of {', '.join(LONG_PROCEDURES)}: {100 * long_comments / long_lines:.2f}")
    text = " ".join(prose)
    words = len(re.findall(r"[A-Za-z’']+", text))
    for name, pattern in (("what", r"\bwhat\b"), ("that of, those of", r"\b(that|those) of\b")):
        rate = 1000 * len(re.findall(pattern, text, re.IGNORECASE)) / words
        print(f"{name!r} per 1,000 words of docstrings: {rate:.2f} ({words:,} words)")
    rounds = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(9)]
    times = {name: statistics.median(one[name] for one in rounds) for name in COMMANDS}
    for name in list(COMMANDS)[1:]:
        print(f"{name} over import hydra: {times[name] / times['import hydra']:.2f}")


if __name__ == "__main__":
    main()
