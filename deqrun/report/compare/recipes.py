"""Runs folded into recipes: runs that differ in their seed alone are one row, with an interval of their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from deqrun.errors import UserError, unknown
from deqrun.inference import LEAST_SEEDS, mean_interval, shares_of_seeds, wilson
from deqrun.records.folders import LeftOut
from deqrun.report import numbers
from deqrun.report.compare.keys import Key, differing_keys, frozen, value_text
from deqrun.report.compare.runs import METRICS, ComparedRun, Metric

__all__ = ["Comparison", "Folded", "Recipe", "compared", "ordered", "sort_columns"]

ABSENT = numbers.UNKNOWN
"""Stands where a run has no such setting, or no such number."""


@dataclass(frozen=True)
class Folded:
    """A metric over the seeds of a recipe.

    mean       of the seeds' values; of residuals their median, whose scale a single seed can't move
    low, high  ends of the 95 % interval of the mean; None where nothing tells one
    n          seeds
    over       unit of the interval: "seeds" of the recipe, or "samples" that these very models might have been asked
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    over: str = "seeds"


@dataclass(frozen=True)
class Recipe:
    """Completed runs that differ in their seed alone.

    texts   the value of each differing key
    label   a name made of them
    runs    one for each seed
    values  each metric over the seeds; None where a seed lacks it
    best    whether its mean validation accuracy is the highest on its data
    """

    texts: tuple[str, ...]
    label: str
    runs: tuple[ComparedRun, ...]
    values: dict[str, Folded | None]
    best: bool = False


@dataclass(frozen=True)
class Comparison:
    """What a comparison shows.

    keys        the settings in which the runs differ
    recipes     completed runs, folded over seeds
    unfinished  runs that failed, were stopped, or go on
    repeats     completed runs that an equal one with the same seed stands for
    left_out    folders that can't be compared
    """

    keys: tuple[Key, ...]
    recipes: tuple[Recipe, ...]
    unfinished: tuple[ComparedRun, ...]
    repeats: tuple[ComparedRun, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def runs(self) -> list[ComparedRun]:
        """All runs of the comparison, recipe by recipe, then those without one."""
        return [run for recipe in self.recipes for run in recipe.runs] + [*self.repeats, *self.unfinished]

    def texts_of(self, run: ComparedRun) -> tuple[str, ...]:
        """A run's value of each key."""
        return texts_of(run, self.keys)


def compared(runs: Sequence[ComparedRun], left_out: Sequence[LeftOut] = ()) -> Comparison:
    """Fold runs over their seeds; recipes come in falling order of their mean validation accuracy."""
    groups = {group for run in runs for group in run.groups}
    keys = tuple(differing_keys([run.settings for run in runs], groups))
    families: dict[object, list[ComparedRun]] = {}
    for run in runs:
        if run.completed:
            families.setdefault(_identity(run), []).append(run)
    recipes, repeats = [], []
    for family in families.values():
        newest = _newest_of_each_seed(family)
        repeats += [run for run in family if run not in newest]
        recipes.append(_recipe(newest, keys))
    recipes = _marked(recipes, keys)
    unfinished = tuple(run for run in runs if not run.completed)
    first = METRICS[0].name
    return Comparison(keys, tuple(ordered(recipes, keys, first)), unfinished, tuple(repeats), tuple(left_out))


def _identity(run: ComparedRun) -> object:
    """Equal for runs that differ in their seed alone."""
    return frozenset((name, frozen(value)) for name, value in run.settings.items())


def _newest_of_each_seed(family: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Of runs with equal settings and seed the newest: the others are the same draw, and no further evidence."""
    newest: dict[int | None, ComparedRun] = {}
    for run in sorted(family, key=lambda run: run.changed):
        newest[run.seed] = run
    return sorted(newest.values(), key=lambda run: -1 if run.seed is None else run.seed)


def texts_of(run: ComparedRun, keys: Sequence[Key]) -> tuple[str, ...]:
    """A run's value of each key as text."""
    return tuple(value_text(run.settings[key.name]) if key.name in run.settings else ABSENT for key in keys)


def label_of(texts: Sequence[str], keys: Sequence[Key], title: str) -> str:
    """'conv, max_iter=12': choices by their value, other settings by name and value; the title where none differs."""
    named = [text if key.choice else f"{key.heading}={text}" for text, key in zip(texts, keys, strict=True)]
    return ", ".join(name for name, text in zip(named, texts, strict=True) if text != ABSENT) or title


def _recipe(runs: Sequence[ComparedRun], keys: Sequence[Key]) -> Recipe:
    texts = texts_of(runs[0], keys)
    values = {
        metric.name: folded([run.values[metric.name] for run in runs], metric, runs[0].samples.get(metric.name))
        for metric in METRICS
    }
    return Recipe(texts, label_of(texts, keys, runs[0].title), tuple(runs), values)


def folded(values: Sequence[float | None], metric: Metric, samples: int | None = None) -> Folded | None:
    """A metric over seeds; None where one of them lacks it, since the others alone would be another selection.

    samples  on which each seed's share was counted; None: not known

    A share of LEAST_SEEDS seeds or more has the recipe's interval (`of_the_recipe`). A share of fewer has Wilson's
    interval over samples, of these models: rather too wide for two models. Evaluations have Student's interval over
    seeds, and none if there is one seed, or if all are equal: they tell no spread. Residuals have none.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    if metric.unit == "residual":
        return Folded(float(np.median(known)), None, None, len(known))
    if metric.unit == "share" and samples:
        if len(known) >= LEAST_SEEDS:
            claim = shares_of_seeds(known, samples)
            return Folded(claim.mean, claim.low, claim.high, len(known))
        mean = float(np.mean(known))
        return Folded(mean, *wilson(mean, samples), len(known), over="samples")
    if metric.unit == "share" or len(set(known)) == 1:  # equal values say nothing of how far other seeds lie
        return Folded(float(np.mean(known)), None, None, len(known))
    interval = mean_interval(known)
    return Folded(interval.mean, interval.low, interval.high, len(known))


def _marked(recipes: Sequence[Recipe], keys: Sequence[Key]) -> list[Recipe]:
    """Mark the highest mean validation accuracy among recipes of the same data; nothing where there is one alone."""
    places = [place for place, key in enumerate(keys) if key.name.partition(".")[0] == "dataset"]
    data = [tuple(recipe.texts[place] for place in places) for recipe in recipes]
    best: dict[tuple[str, ...], float] = {}
    for of, recipe in zip(data, recipes, strict=True):
        if (value := recipe.values["val_accuracy"]) is not None and data.count(of) > 1:
            best[of] = max(best.get(of, -math.inf), value.mean)
    return [
        replace(recipe, best=(value := recipe.values["val_accuracy"]) is not None and value.mean == best.get(of))
        for of, recipe in zip(data, recipes, strict=True)
    ]


def sort_columns(keys: Sequence[Key]) -> list[str]:
    """The columns by which recipes can be sorted."""
    return [*(metric.name for metric in METRICS), "seeds", *(key.name for key in keys)]


def ordered(recipes: Sequence[Recipe], keys: Sequence[Key], column: str, *, reverse: bool = False) -> list[Recipe]:
    """Recipes by a column: metrics best first, others rising. Those without a value come last, whatever the order.

    column  one of `sort_columns`, or a key's heading. Raises UserError for another.
    """
    metric = next((metric for metric in METRICS if column in (metric.name, metric.heading)), None)
    place = next((place for place, key in enumerate(keys) if column in (key.name, key.heading)), None)

    def value(recipe: Recipe) -> tuple[float, str] | None:
        if metric is not None:
            found = recipe.values[metric.name]
            return None if found is None else (-found.mean if metric.better > 0 else found.mean, "")
        if column == "seeds":
            return (-len(recipe.runs), "")
        assert place is not None
        text = recipe.texts[place]
        return None if text == ABSENT else _natural(text)

    if metric is None and place is None and column != "seeds":
        raise UserError(unknown(f"--sort {column}", "a column of this comparison", sort_columns(keys), column))
    known = sorted((r for r in recipes if value(r) is not None), key=lambda r: value(r) or (0, ""), reverse=reverse)
    return known + [recipe for recipe in recipes if value(recipe) is None]


def _natural(text: str) -> tuple[float, str]:
    """Numbers by size, before words by the alphabet."""
    try:
        number = float(text)
    except ValueError:
        return (math.inf, text)
    return (math.inf if math.isnan(number) else number, text)
