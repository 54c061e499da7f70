"""The answer of a study: verdict, key figures, charts and tables, and the files and the page that show them."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from deqrun.inference import Estimate, Told, Unit
from deqrun.records.files import write_whole
from deqrun.report import numbers
from deqrun.report.charts import Figure, png, specification
from deqrun.report.html import environment, vega_bundle
from deqrun.report.page_parts import Column as Column  # a part of an AnswerTable, imported from here

MOST_WORDS, MOST_FIGURES, MOST_BULLETS = 25, 6, 4
"""Limits of a verdict, of the key figures, and of the bullets below them."""


@dataclass(frozen=True)
class KeyFigure:
    """A number that a verdict rests on.

    what  it is, in a few words
    of    its estimate
    form  share (a fraction, written in per cent), points (a difference of fractions), number, times (a ratio), exact
    unit  of a number, such as evaluations
    told  on which side of its reference value it lies, as the study's family of claims tells; None: no claim
    """

    what: str
    of: Estimate
    form: str = "share"
    unit: str = ""
    told: Told | None = None

    @property
    def value(self) -> str:
        """'72.3 %', '+1.4 points', '12.4 evaluations', '0.58 times'; 'none' where it is infinite."""
        return self.written(self.of.mean)

    def written(self, value: float) -> str:
        """A value of this figure, as `value` writes the estimate."""
        if math.isinf(value):
            return "none"
        text = self._number(value)
        if self.form in ("share", "points"):
            return f"{text} {'%' if self.form == 'share' else 'points'}"
        return f"{text} {'times' if self.form == 'times' else self.unit}".strip()

    @property
    def interval(self) -> str:
        """'67.1 to 77.0'; a dash where none can be told, or the number is exact."""
        if self.form == "exact" or not (math.isfinite(self.of.low) and math.isfinite(self.of.high)):
            return numbers.UNKNOWN
        return f"{self._number(self.of.low)} to {self._number(self.of.high)}"

    @property
    def tells(self) -> str:
        """'above 0', 'below 95 %', 'not told from 1', 'too few seeds'; empty where there is no claim."""
        if self.told is None or self.told is Told.TOO_FEW:
            return self.told or ""
        reference = self._number(self.of.versus, plain=True) + (" %" if self.form == "share" else "")
        return f"not told from {reference}" if self.told is Told.NOT else f"{self.told} {reference}"

    def _number(self, value: float, plain: bool = False) -> str:
        if not math.isfinite(value):
            return numbers.UNKNOWN
        if self.form == "share":
            return f"{100 * value:.0f}" if plain else f"{100 * value:.1f}"
        if self.form == "points" and not plain:
            return numbers.points(value)
        return numbers.significant(value)


@dataclass(frozen=True)
class Conclusion:
    """A verdict with the key figures that carry it.

    verdict  one sentence of at most 25 words without parentheses: Yes, No, It depends or Not shown, and of what
    key      at most six figures, those that carry the verdict first
    family   number of comparisons that the verdict was corrected for (Holm); 0 where it makes none
    recipes  number of recipes that were asked, each with the seeds of its figures
    """

    verdict: str
    key: tuple[KeyFigure, ...]
    family: int = 0
    recipes: int = 1

    @property
    def scope(self) -> str:
        """The unit of the verdict: these models, the recipe, or recipes."""
        unit, seeds = self.key[0].of.unit, self.key[0].of.seeds
        if unit is Unit.SEEDS:
            few = "" if self.key[0].of.decides else "; a Yes or a No needs five"
            return f"Of the recipe, {seeds} seeds{few}."
        if unit is Unit.RECIPES:
            return f"Of recipes like these, {seeds} of them."
        if unit is Unit.ROUNDS:
            return "Of this model on this machine."
        models = self.recipes * seeds
        if models == 1:
            return "Of this model."
        each = "" if self.recipes == 1 else f", {'one seed' if seeds == 1 else f'{seeds} seeds'} of each recipe"
        return f"Of these {models} models{each}."


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
    """The answer to a question.

    conclusion    the verdict and its key figures
    would_change  at most four lines: the limits within which the answer was found
    figures       the first stands at the head of the page
    tables        the numbers in full
    numbers       the same for machines; goes into answer.json
    seeds         of the networks that it rests on, in the order of an estimate's own values
    lost          runs that diverged in training and could not be asked, label: reason
    """

    conclusion: Conclusion
    would_change: Sequence[str]
    figures: Sequence[Figure]
    tables: Sequence[AnswerTable] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    lost: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        return self.conclusion.verdict

    @property
    def key_table(self) -> AnswerTable:
        """The key figures as a table: quantity, value, interval, samples, seeds, and the side that is told."""
        key = self.conclusion.key
        told = any(figure.told is not None for figure in key)
        columns = [
            Column("figure", [figure.what for figure in key], words=True),
            Column("value", [figure.value for figure in key]),
            Column("95 % interval", [figure.interval for figure in key]),
            Column("n", [numbers.UNKNOWN if figure.form == "exact" else f"{figure.of.n:,}" for figure in key]),
            Column(_counted(key), [f"{figure.of.seeds}" for figure in key]),
        ]
        if told:
            columns.append(Column("told", [figure.tells for figure in key], words=True))
        return AnswerTable("Key figures", columns, _family_note(self.conclusion) + self._lost_note())

    def _lost_note(self) -> str:
        if not self.lost:
            return ""
        runs = "1 run" if len(self.lost) == 1 else f"{len(self.lost)} runs"
        return f" Not asked, since training diverged: {runs} ({', '.join(self.lost)})."

    @property
    def seeds_table(self) -> AnswerTable | None:
        """Each key figure by seed; None where there is a single one."""
        key = [figure for figure in self.conclusion.key if len(figure.of.own) == len(self.seeds) > 1]
        if not key:
            return None
        columns = [Column("figure", [figure.what for figure in key], words=True)]
        for place, seed in enumerate(self.seeds):
            columns.append(Column(f"seed {seed}", [figure.written(figure.of.own[place]) for figure in key]))
        return AnswerTable("Seeds apart", columns)


def _counted(key: Sequence[KeyFigure]) -> str:
    return "recipes" if key and key[0].of.unit is Unit.RECIPES else "seeds"


def _family_note(conclusion: Conclusion) -> str:
    if not conclusion.family:
        return conclusion.scope
    several = f" Told at 5 % for all {conclusion.family} comparisons together (Holm)." if conclusion.family > 1 else ""
    return f"{conclusion.scope}{several}"


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
    """Question, verdict, key figures and numbers as JSON; numbers that are not finite are null."""
    content = {
        "study": origin.name,
        "size": origin.size,
        "question": origin.question,
        "verdict": answer.verdict,
        "scope": answer.conclusion.scope,
        "comparisons": answer.conclusion.family,
        "key": [_plain_figure(figure) for figure in answer.conclusion.key],
        "would_change": list(answer.would_change),
        "seeds": list(answer.seeds),
        "diverged_in_training": dict(answer.lost),
        "command": origin.command,
        "numbers": plain(answer.numbers),
        "figures": [
            {"name": figure.name, "title": figure.title, "caption": figure.caption} for figure in answer.figures
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain_figure(figure: KeyFigure) -> dict[str, Any]:
    return {"what": figure.what, "text": figure.value, "told": figure.tells, **plain(figure.of)}


def answer_markdown(answer: Answer, origin: Origin) -> str:
    """answer.md: question, verdict, key figures, chart, seeds apart, changes that would overturn it, then the rest."""
    parts = [f"# {origin.question}", *answer_body(answer, origin, [f"figures/{f.name}.png" for f in answer.figures])]
    parts += [f"![{figure.title}](figures/{figure.name}.png)\n\n*{figure.caption}*" for figure in answer.figures[1:]]
    parts += [f"### {table.title}\n\n{markdown_table(table)}" for table in answer.tables]
    return "\n\n".join(parts) + "\n"


def answer_body(answer: Answer, origin: Origin, pictures: Sequence[str]) -> list[str]:
    """The paragraphs of an answer in Markdown, up to its command; `pictures` are the paths of its charts."""
    parts = [f"**{answer.verdict}**", markdown_table(answer.key_table)]
    first = zip(answer.figures[:1], pictures[:1], strict=True)
    parts += [f"![{figure.title}]({path})\n\n*{figure.caption}*" for figure, path in first]
    if (seeds := answer.seeds_table) is not None:
        parts.append(f"Seeds apart:\n\n{markdown_table(seeds)}")
    parts.append("What would change it:\n\n" + "\n".join(f"- {line}" for line in answer.would_change))
    return [*parts, f"    {origin.command}"]


def answer_html(answer: Answer, origin: Origin) -> str:
    """The page: question, verdict, key figures and chart at its head, then tables, then the runs."""
    specs = {figure.name: specification(figure.chart, container=True) for figure in answer.figures}
    return (
        environment()
        .get_template("answer.html.j2")
        .render(title=origin.question, answer=answer, origin=origin, specs=specs, bundle=vega_bundle())
    )


def answer_text(answer: Answer) -> str:
    """The verdict and the key figures for a terminal of 80 columns."""
    lines = [answer.verdict, ""]
    for figure in answer.conclusion.key:
        interval = "" if figure.interval == numbers.UNKNOWN else f"  [{figure.interval}]"
        lines.append(f"  {figure.what}")
        n = "" if figure.form == "exact" else f"  n = {figure.of.n:,}"
        lines.append(f"      {figure.value}{interval}{n}{_told(figure)}")
    return "\n".join([*lines, "", answer.key_table.note])


def _told(figure: KeyFigure) -> str:
    return f"  ({figure.tells})" if figure.tells else ""


def markdown_table(table: AnswerTable) -> str:
    """The table in Markdown, its note below."""
    heads = [column.heading for column in table.columns]
    lines = ["| " + " | ".join(heads) + " |"]
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
