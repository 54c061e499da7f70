"""The compare page: one file that holds its data, its table, and its charts, and fetches nothing.

Everything that a run says reaches the page as JSON, and the document as text nodes; scripts run by their hashes alone.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from deqrun.inference.estimate import LEAST_SEEDS, LEVEL
from deqrun.inference.samples import normal, student
from deqrun.inference.units import RARE_SEED
from deqrun.report.charts.style import CONFIG
from deqrun.report.compare.curves import TRAINING, short
from deqrun.report.compare.recipes import Comparison, Recipe, folded, label_of, ordered
from deqrun.report.compare.runs import METRICS, ComparedRun
from deqrun.report.compare.table import metric_text, plural, sentences
from deqrun.report.html import embedded_json, vega_bundle

__all__ = ["compare_html", "page_data", "policy"]

WEB = Path(__file__).parent / "web"
VENDORED = Path(__file__).parents[1] / "vendor"
BASE = Path(__file__).parents[1] / "templates" / "base.css"
SCRIPTS = ("state.js", "fold.js", "charts.js", "table.js", "page.js")

MOST_SEEDS = 40
"""Seeds for which the page knows Student's quantile; of more, the last stands, which is above the true one."""

POOLED = frozenset({"k", "tol", "n", "x", "epoch", "rule", "agg", "breadth", "difficulty"})
"""Columns that runs of one grid share: each is stored once."""


def compare_html(comparison: Comparison, home: Path | None) -> str:
    """The page, as a file in `home`, from where reports are linked; None: served by `deqrun dashboard`, and alive."""
    data = page_data(comparison, home)
    scripts = [Markup(text) for text in _scripts()]
    return str(
        _environment()
        .get_template("page.html.j2")
        .render(
            title=f"{plural(data['count'], 'run')} compared",
            policy=policy(live=home is None),
            styles=[Markup(text) for text in _styles()],
            scripts=scripts,
            data=embedded_json(data),
        )
    )


@cache
def policy(*, live: bool) -> str:
    """The Content-Security-Policy: scripts by hash, nothing fetched; of a live page its own data."""
    hashes = " ".join(f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'" for text in _scripts())
    connect = "connect-src 'self'; " if live else ""
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; {connect}"
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(WEB)
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


@cache
def _scripts() -> tuple[str, ...]:
    """Vega, Tabulator, and the page's own script, as they stand between their tags."""
    licence, tabulator = (
        (VENDORED / "tabulator" / name).read_text(encoding="utf-8") for name in ("LICENSE", "tabulator.min.js")
    )
    own = "\n".join((WEB / name).read_text(encoding="utf-8") for name in SCRIPTS)
    found = (str(vega_bundle()), f"/*\n{licence}*/\n{tabulator}", f'"use strict";\n(() => {{\n{own}\n}})();')
    assert not any("</script" in text.lower() or "<!--" in text for text in found)
    return tuple(text.replace("\r\n", "\n") for text in found)


@cache
def _styles() -> tuple[str, ...]:
    files = (VENDORED / "tabulator" / "tabulator.min.css", BASE, WEB / "page.css")
    return tuple(path.read_text(encoding="utf-8") for path in files)


def page_data(comparison: Comparison, home: Path | None) -> dict[str, Any]:
    """What the page's script reads: plain JSON, without NaN."""
    recipes = ordered(comparison.recipes, comparison.keys, METRICS[0].name)
    pool = _Pool()
    of = {id(run): place for place, recipe in enumerate(recipes) for run in recipe.runs}
    runs = comparison.runs
    return {
        "live": home is None,
        "count": len(runs),
        "keys": [{"name": key.name, "heading": key.heading, "choice": key.choice} for key in comparison.keys],
        "metrics": [
            {"name": m.name, "heading": m.heading, "better": m.better, "unit": m.unit, "what": m.what} for m in METRICS
        ],
        "training": list(TRAINING),
        "runs": [_run(run, comparison, of.get(id(run)), home, pool) for run in runs],
        "recipes": [_recipe(recipe, runs) for recipe in recipes],
        "notes": sentences(recipes) if recipes else [],
        "left_out": [left.reason for left in comparison.left_out],
        "least_seeds": LEAST_SEEDS,
        "rare_seed": RARE_SEED,
        "normal": normal(LEVEL),
        "student": [round(student(seeds - 1, LEVEL), 5) for seeds in range(2, MOST_SEEDS + 1)],
        "config": CONFIG,
        "pool": pool.columns,
    }


def run_id(folder: Path) -> str:
    """Eight hexadecimal digits that name a run folder, the same whenever the page is made."""
    return sha256(os.path.realpath(folder).encode()).hexdigest()[:8]


def _run(
    run: ComparedRun, comparison: Comparison, recipe: int | None, home: Path | None, pool: _Pool
) -> dict[str, Any]:
    texts = comparison.texts_of(run)
    values = {metric.name: short(run.values[metric.name]) for metric in METRICS}
    single = {m.name: folded([run.values[m.name]], m, run.samples.get(m.name)) for m in METRICS}
    return {
        "id": run_id(run.folder),
        "texts": texts,
        "label": label_of(texts, comparison.keys, run.title),
        "seed": run.seed,
        "state": str(run.state),
        "reason": run.reason,
        "epoch": run.epoch,
        "values": values,
        "shown": {metric.name: metric_text(metric, single[metric.name]) for metric in METRICS},
        "folder": str(run.folder),
        "command": run.command,
        "samples": run.samples,
        "report": _report(run, home),
        "trained": run.trained,
        "recipe": recipe,
        "repeat": recipe is None and run.completed,
        "curves": pool.pooled(run.curves),
    }


def _report(run: ComparedRun, home: Path | None) -> str | None:
    """A relative link to the run's report, from the page's folder or from the dashboard; None where there is none."""
    if home is None:
        return f"run/{run_id(run.folder)}/report.html"
    page = run.folder / "report.html"
    if not page.is_file():
        return None
    try:
        relative = os.path.relpath(page, home)
    except ValueError:  # on another drive
        return None
    return "./" + quote(Path(relative).as_posix())


def _recipe(recipe: Recipe, runs: Sequence[ComparedRun]) -> dict[str, Any]:
    places = {id(run): place for place, run in enumerate(runs)}
    return {
        "id": sha256("\0".join(recipe.texts).encode()).hexdigest()[:8],
        "texts": recipe.texts,
        "label": recipe.label,
        "runs": [places[id(run)] for run in recipe.runs],
        "values": {name: short(value.mean) if value else None for name, value in recipe.values.items()},
        "shown": {metric.name: metric_text(metric, recipe.values[metric.name]) for metric in METRICS},
        "best": recipe.best,
    }


class _Pool:
    """Columns that several curves share, each stored once and named by its place."""

    def __init__(self) -> None:
        self.columns: list[list[Any]] = []
        self._places: dict[tuple[Any, ...], int] = {}

    def pooled(self, part: Any) -> Any:
        """The curves with shared columns replaced by their places in the pool."""
        if not isinstance(part, dict):
            return part
        return {
            name: self._place(value) if name in POOLED and isinstance(value, list) else self.pooled(value)
            for name, value in part.items()
        }

    def _place(self, column: list[Any]) -> int:
        place = self._places.setdefault(tuple(column), len(self.columns))
        if place == len(self.columns):
            self.columns.append(column)
        return place
