"""The answer of a study: its sentences, figures and tables, and the files and the page that show them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from deqrun.report.charts import Figure, png, specification
from deqrun.report.files import write_whole
from deqrun.report.html import environment, vega_bundle
from deqrun.report.page_parts import Column


@dataclass(frozen=True)
class AnswerTable:
    """A table of an answer: columns of texts, of equal lengths."""

    title: str
    columns: Sequence[Column]
    note: str = ""

    def rows(self) -> list[tuple[str, ...]]:
        """The texts by row."""
        return list(zip(*(column.texts for column in self.columns), strict=True))


@dataclass(frozen=True)
class Answer:
    """What a question comes to.

    sentences     the answer, three sentences with their numbers and intervals
    would_change  what would change it: the limits within which it was found
    figures       the first stands at the head of the page
    tables        the numbers in full
    numbers       the same for machines; goes into answer.json
    """

    sentences: tuple[str, str, str]
    would_change: str
    figures: Sequence[Figure]
    tables: Sequence[AnswerTable] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AskedRun:
    """A run that an answer rests on; `folder` is relative to the study's, so that a copied study still links."""

    label: str
    folder: str
    what: str


@dataclass(frozen=True)
class Origin:
    """Where an answer comes from: the study's name and size, its question, its command, versions, and its runs."""

    name: str
    size: str
    question: str
    command: str
    versions: str
    runs: Sequence[AskedRun] = ()


def write_answer(folder: Path, answer: Answer, origin: Origin) -> Path:
    """Write figures/*.png, answer.json, answer.md and report.html into a study's folder; returns the page's path.

    Each file is written whole, answer.json last: it says that the study is done.
    """
    for figure in answer.figures:
        write_whole(folder / "figures" / f"{figure.name}.png", png(figure))
    write_whole(folder / "answer.md", answer_markdown(answer, origin))
    page = write_whole(folder / "report.html", answer_html(answer, origin))
    write_whole(folder / "answer.json", answer_json(answer, origin))
    return page


def answer_json(answer: Answer, origin: Origin) -> str:
    """Question, sentences and numbers as JSON; numbers that are not finite are null."""
    content = {
        "study": origin.name, "size": origin.size, "question": origin.question, "answer": list(answer.sentences),
        "would_change": answer.would_change, "command": origin.command, "numbers": plain(answer.numbers),
        "figures": [{"name": figure.name, "title": figure.title, "caption": figure.caption}
                    for figure in answer.figures],
    }  # fmt: skip
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def answer_markdown(answer: Answer, origin: Origin) -> str:
    """answer.md: the question, the answer, what would change it, figures, tables, the command."""
    parts = [f"# {origin.question}", " ".join(answer.sentences)]
    parts += [f"![{figure.title}](figures/{figure.name}.png)\n\n*{figure.caption}*" for figure in answer.figures[:1]]
    parts += [f"**What would change it.** {answer.would_change}", f"    {origin.command}"]
    parts += [f"![{figure.title}](figures/{figure.name}.png)\n\n*{figure.caption}*" for figure in answer.figures[1:]]
    parts += [_markdown_table(table) for table in answer.tables]
    return "\n\n".join(parts) + "\n"


def answer_html(answer: Answer, origin: Origin) -> str:
    """The page: question, answer and figure at its head, then tables, then the runs."""
    specs = {figure.name: specification(figure.chart, container=True) for figure in answer.figures}
    return (
        environment()
        .get_template("answer.html.j2")
        .render(title=origin.question, answer=answer, origin=origin, specs=specs, bundle=vega_bundle())
    )


def _markdown_table(table: AnswerTable) -> str:
    heads = [column.heading for column in table.columns]
    lines = [f"### {table.title}", "", "| " + " | ".join(heads) + " |"]
    lines.append("|" + "|".join("---" if column.words else "---:" for column in table.columns) + "|")
    lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in table.rows()]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")


def plain(value: Any) -> Any:
    """Dataclasses as objects, arrays as lists, and numbers that are not finite as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
